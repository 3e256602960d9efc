import json

import jax
import numpy as np
import pytest

import supjax
from benchmarks import cifar_network, peer_jaxpruner, peer_path, peers
from benchmarks.shapes import random_network


def test_without_peers_it_says_what_to_set(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(peer_path.VARIABLE, raising=False)
    output = tmp_path / "peers.json"
    peers.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    assert written["ratios"] == written["seconds"] == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert peer_path.VARIABLE in line


def test_a_package_that_is_not_there_is_named(capsys):
    assert peer_path._load("no_such_peer") is None
    assert "no_such_peer" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["set", "rigl", "gmp"])
def test_our_mask_update_reaches_its_density(method):
    params = random_network(toy=True, dense_parts=False)
    moved = peer_jaxpruner.our_mask_update(method, params)()
    # halfway through its ramp GMP has 1 - 0.9 (1 - (1/2)^3) of the weights left
    expected = 1 - 0.9 * (1 - 0.5**3) if method == "gmp" else peer_jaxpruner.DENSITY
    assert supjax.density(moved.masks) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("method", list(peer_jaxpruner.METHODS))
def test_our_optimizer_step_moves_the_weights(method):
    params = random_network(toy=True, dense_parts=False)
    weights = peer_jaxpruner.Weights(peer_jaxpruner.optimizer(), params)
    before = jax.device_get(weights.params)
    stepped = peer_jaxpruner.our_step(method, weights)()[0]
    changed = jax.tree.map(lambda old, new: bool(np.any(old != new)), before, stepped)
    assert all(jax.tree.leaves(changed))


def test_our_network_trains_updates_and_superposes(tmp_path):
    network = cifar_network.Network("digits_cnn")
    assert network.train_step(2)().step == 1
    moved, params, _ = network.mask_update()()
    assert supjax.density(moved.masks) == pytest.approx(cifar_network.DENSITY, abs=1e-4)
    assert supjax.count_active(params) <= supjax.count_active(moved.masks)
    tickets = [network.state.ticket, cifar_network.Network("digits_cnn", seed=1).state.ticket]
    in_memory = cifar_network.superposition(tickets)()
    cifar_network.superposition_of_files(tickets, tmp_path)()
    from_file = supjax.load_ticket(tmp_path / "superposed.npz")
    jax.tree.map(np.testing.assert_array_equal, in_memory.params, from_file.params)
