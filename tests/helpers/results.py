"""Two runs that are the same but for rounding."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.records.metrics import read_metrics
from supjax.ticket_io import load_ticket
from tests.helpers.tiny_runs import FILES, read_json, same_masks


def assert_same_results(first: Path, second: Path) -> None:
    """Masks to the bit, numbers to rounding, accuracies to an example or two."""
    for name in FILES:
        ours, theirs = (load_ticket(run / "tickets" / f"{name}.npz") for run in (first, second))
        assert same_masks(ours, theirs), name
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            (ours.params, ours.batch_stats),
            (theirs.params, theirs.batch_stats),
        )
    for ours, theirs in zip(read_metrics(first), read_metrics(second), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"images_per_second"}:
            assert_near(name, ours[name], theirs[name])
    networks = [read_json(run / "summary.json")["networks"] for run in (first, second)]
    for ours, theirs in zip(*networks, strict=True):
        assert ours["name"] == theirs["name"]
        for name in ("accuracy", "loss"):
            assert_near(name, ours["test"][name], theirs["test"][name])


def assert_near(name: str, ours: str | float, theirs: str | float) -> None:
    if isinstance(theirs, float):
        theirs = pytest.approx(theirs, rel=1e-4, abs=0.01 if name == "accuracy" else 0)
    assert ours == theirs, name
