"""A ticket file is scored like the network of the run that wrote it."""

import re

import pytest

from experiments.errors import ConfigError, RunError
from experiments.evaluate import evaluate
from supjax.ticket_io import load_metadata, load_ticket, save_ticket
from tests.helpers.tiny_runs import tiny_config


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
    with pytest.raises(RunError, match=r"does not fit digits_cnn of this config: .*bn1/bias"):
        evaluate(finished.workdir / "result.npz", other, "test", "")


def test_a_file_that_is_no_ticket_is_refused(tmp_path):
    (tmp_path / "note").write_text("no ticket")
    with pytest.raises(RunError, match="is no readable ticket"):
        evaluate(tmp_path / "note", None, "test", "")
    with pytest.raises(RunError, match="No such file"):
        evaluate(tmp_path / "missing", None, "test", "")


def test_an_empty_split_is_refused(finished):
    config = tiny_config({"validation_size": 0})
    with pytest.raises(ConfigError, match="digits has no validation examples"):
        evaluate(finished.workdir / "result.npz", config, "validation", "")
