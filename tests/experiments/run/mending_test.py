"""Repair as an option of a run: what it changes, what it keeps, and what it refuses."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import supjax
from experiments import models
from experiments.errors import ConfigError
from experiments.models import MODEL_NAMES, create_model
from experiments.models.fits import network_shapes
from experiments.models.layers import Network, dense
from experiments.records.folder import PRETRAINED, REPAIRED, RunFolder
from experiments.records.summary import render_table
from experiments.run.build import build, check_repairable, open_dataset
from supjax.ticket_io import load_metadata, load_ticket
from tests.helpers.tiny_runs import SMALLER, run_tiny, same_masks, tiny_config

REPAIR = {"sup_tickets.repair": True, "sup_tickets.high": 0.2}


@pytest.fixture(scope="module", params=["without batch norm", "with batch norm"])
def mended(request, tmp_path_factory):
    """A finished run with repair: its folder, its summary and its fields."""
    workdir = tmp_path_factory.mktemp("mending") / "run"
    fields = REPAIR | (SMALLER if request.param == "without batch norm" else {})
    return RunFolder(workdir), run_tiny(workdir, fields), fields


def preactivations(config, tickets):
    """Deviations of every layer's channels, in training mode, on 1000 training images."""
    dataset = open_dataset(config)
    layers = supjax.linen_preactivations(build(config, dataset).model, train=True)
    images = dataset.normalize(np.asarray(dataset.train.images[:1000]))
    found = [layers({"params": t.params, "batch_stats": t.batch_stats}, images) for t in tickets]
    return [{k: np.asarray(z).reshape(-1, z.shape[-1]).std(0) for k, z in f.items()} for f in found]


def test_the_result_is_repaired_and_as_sparse_as_before(mended):
    folder, summary, _ = mended
    names = [network["name"] for network in summary["networks"]]
    assert summary["result"] == "superposed 0-2, repaired"
    assert names[-3:] == ["superposed 0-2", summary["result"], "ensemble of 2 tickets"]
    before, after = folder.load_ticket("superposed_2"), folder.load_ticket(REPAIRED)
    assert same_masks(before, after)
    assert supjax.count_active(after.params) <= supjax.count_active(after.masks)
    result = load_ticket(folder.result_file)
    assert jax.tree.all(jax.tree.map(np.array_equal, result.params, after.params))
    assert not np.array_equal(
        after.params["fc1" if "fc1" in after.params else "fc"]["bias"],
        before.params["fc1" if "fc1" in before.params else "fc"]["bias"],
    )


def test_its_activations_are_nearer_to_those_of_its_members(mended):
    folder, _, fields = mended
    names = (PRETRAINED, "ticket_1", "ticket_2", "superposed_2", REPAIRED)
    *members, before, after = preactivations(tiny_config(fields), map(folder.load_ticket, names))
    far = {}
    for name, network in {"before": before, "after": after}.items():
        gaps = [
            np.abs(np.log(network[path] / np.mean([m[path] for m in members], axis=0)))
            for path in network
        ]
        far[name] = float(np.mean(np.concatenate(gaps)))
    assert far["after"] < 0.5 * far["before"]


def test_the_summary_says_so(mended):
    folder, summary, _ = mended
    assert summary["repair"] == {"members": 3, "images": 8 * 152}
    text = " ".join(render_table(summary, terminal=False).split())
    assert "repair activations of 3 members on 1216 training images" in text
    metadata = load_metadata(folder.result_file)
    assert metadata["name"] == REPAIRED
    assert "accuracy" not in metadata  # that of the network before


def test_a_choice_is_made_among_repaired_candidates(tmp_path):
    chosen = {"sup_tickets.select": "guard", "sup_tickets.force_select": True}
    summary = run_tiny(tmp_path, REPAIR | SMALLER | chosen)
    assert summary["result"] == "chosen by guard"
    kinds = {network["kind"]: network for network in summary["networks"]}
    losses = {c["name"]: c["loss"] for c in summary["choice"]["candidates"]}
    repaired, before = (kinds[kind]["validation"]["loss"] for kind in ("repaired", "superposed"))
    assert losses["superposition of all tickets"] == pytest.approx(repaired, rel=1e-4)
    assert repaired != pytest.approx(before, rel=1e-4)


class OwnKernel(Network):
    """A layer whose kernel belongs to no module that yields its channels."""

    @nn.compact
    def __call__(self, x, train):
        del train
        x = x.reshape(len(x), -1)
        kernel = self.param("kernel", nn.initializers.normal(), (x.shape[-1], 8))
        return dense(x @ kernel, self.num_classes, dtype=self.dtype, name="fc")


def test_a_network_whose_layers_cannot_be_found_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(models._NETWORKS, "lenet_300_100", (OwnKernel, {}))
    config = tiny_config(REPAIR | SMALLER)
    line = (
        "sup_tickets.repair must be False for model.name lenet_300_100: what its layer 'kernel' "
        "yields cannot be found"
    )
    with pytest.raises(ConfigError, match=f"^{line}$"):
        build(config, open_dataset(config))


KINDS = ("lenet5", "mlp", "resnet20", "resnet18", "vgg16", "wrn16_8")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_network_here_can_be_repaired(name):
    assert name in MODEL_NAMES
    shape = (32, 32, 3)
    model = create_model(name, 10, width=0.25)
    check_repairable(name, model, network_shapes(model, shape), shape)
