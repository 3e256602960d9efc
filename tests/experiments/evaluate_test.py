"""A ticket file is scored like the network of the run that wrote it."""

import re

import jax
import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.evaluate import evaluate
from supjax.ticket_io import load_metadata, load_ticket, save_ticket
from supjax.types import Ticket
from tests.helpers import odd_tickets
from tests.helpers.tiny_runs import tiny_config
from tests.supjax.ticket_io_fuzz import as_version_1


def scores(line):
    found = re.search(r"accuracy ([\d.]+)%, loss ([\d.]+), density ([\d.]+)$", line)
    return [float(text) for text in found.groups()]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_kept_network_scores_as_in_the_summary(split, finished):
    for network in finished.summary["networks"]:
        if network["kind"] == "ensemble":
            continue
        file = finished.workdir / "tickets" / f"{network['file']}.npz"
        expected = network[split]
        found = scores(evaluate(file, None, split, ""))
        assert found[0] == pytest.approx(100 * expected["accuracy"], abs=0.005)
        assert found[1] == pytest.approx(expected["loss"], abs=5e-5)
        assert found[2] == pytest.approx(network["density"], abs=5e-5)


def test_the_result_is_the_last_superposition(finished):
    last = finished.workdir / "tickets" / "superposed_2.npz"
    assert (finished.workdir / "result.npz").read_bytes() == last.read_bytes()
    metadata = load_metadata(finished.workdir / "result.npz")
    assert (metadata["name"], metadata["step"]) == ("superposed_2", 32)
    assert metadata["config"]["sparsity"] == 0.8


def test_a_ticket_takes_little_room(finished):
    result = finished.workdir / "result.npz"
    ticket = load_ticket(result)
    dense = sum(leaf.nbytes for layer in ticket.params.values() for leaf in layer.values())
    assert result.stat().st_size < 0.2 * dense + dense / 32 + 12_000  # kept, bits, the rest


def test_a_ticket_without_a_config_needs_one(finished, tmp_path):
    bare = tmp_path / "bare.npz"
    save_ticket(bare, load_ticket(finished.workdir / "result.npz"))
    with pytest.raises(ConfigError, match="holds no config: name one with --config"):
        evaluate(bare, None, "test", "")
    assert scores(evaluate(bare, tiny_config(), "test", ""))[0] == pytest.approx(
        100 * finished.summary["networks"][-2]["test"]["accuracy"], abs=0.005
    )


def test_a_ticket_of_another_network_is_refused_by_the_first_difference(finished):
    other = tiny_config({"model.width": 0.5})
    with pytest.raises(
        ConfigError,
        match=r"result.npz does not fit digits_cnn of this config: params at 'bn1",
    ):
        evaluate(finished.workdir / "result.npz", other, "test", "")


def test_a_file_that_is_no_ticket_is_refused(tmp_path):
    (tmp_path / "note").write_text("no ticket")
    with pytest.raises(ConfigError, match="is no readable ticket"):
        evaluate(tmp_path / "note", None, "test", "")
    with pytest.raises(ConfigError, match="No such file"):
        evaluate(tmp_path / "missing", None, "test", "")


def test_an_empty_split_is_refused(finished):
    config = tiny_config({"validation_size": 0})
    with pytest.raises(ConfigError, match="digits has no validation examples"):
        evaluate(finished.workdir / "result.npz", config, "validation", "")


def refusal(file, config=None):
    """The line with which a ticket is refused."""
    with pytest.raises(ConfigError) as error:
        evaluate(file, config, "test", "")
    line = str(error.value)
    assert error.value.exit_code == 2
    assert line.startswith(str(file))
    assert line.isprintable()
    assert len(line) < 700
    return line


@pytest.mark.parametrize(
    "name", [*odd_tickets.odd_stats(), *odd_tickets.odd_params()], ids=lambda name: name
)
def test_a_ticket_that_no_network_can_use_is_refused_by_file_and_member(name, tmp_path):
    ticket = (odd_tickets.odd_stats() | odd_tickets.odd_params())[name]
    save_ticket(tmp_path / "odd.npz", ticket, {"config": odd_tickets.stored_config()})
    line = refusal(tmp_path / "odd.npz")
    assert "params" in line or "batch_stats" in line
    assert re.search(r" at '.*'", line)


@pytest.mark.parametrize("name", odd_tickets.odd_configs())
def test_a_config_of_a_ticket_that_cannot_be_used_is_refused_by_file_and_field(name, tmp_path):
    config = odd_tickets.odd_configs()[name]
    save_ticket(tmp_path / "odd.npz", odd_tickets.good(), {"config": config})
    line = refusal(tmp_path / "odd.npz")
    with pytest.raises(ConfigError, match=r"odd\.npz"):  # whatever else is given
        evaluate(tmp_path / "odd.npz", None, "test", str(tmp_path))
    assert ": its config: " in line or "holds no config: name one with --config" in line


def test_odd_tickets_that_are_whole_networks_are_scored(tmp_path):
    ticket = odd_tickets.good()
    dense = odd_tickets.filled(odd_tickets.shapes()["params"])
    none = jax.tree.map(lambda leaf: None, dense)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(ticket.params)
    }
    flags = {path: odd_tickets.get(ticket.masks, path) for path in flat}
    empty = jax.tree.map(lambda m: None if m is None else np.zeros_like(m), ticket.masks)
    for odd, density in (
        (ticket, 0.5),
        (Ticket(dense, none, ticket.batch_stats), 1),
        (Ticket(flat, flags, ticket.batch_stats), 0.5),
        (Ticket(odd_tickets.masked(dense, empty), empty, ticket.batch_stats), 0),
    ):
        save_ticket(tmp_path / "odd.npz", odd, {"config": odd_tickets.stored_config()})
        assert scores(evaluate(tmp_path / "odd.npz", None, "test", ""))[2] == density


def test_a_ticket_without_a_digest_is_scored_and_said(tmp_path, capsys):
    save_ticket(tmp_path / "old", odd_tickets.good(), {"config": odd_tickets.stored_config()})
    (tmp_path / "old").write_bytes(as_version_1((tmp_path / "old").read_bytes()))
    assert scores(evaluate(tmp_path / "old", None, "test", ""))[2] == 0.5
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path / 'old'} is of format version 1, ")
    assert said.count("\n") == 1
