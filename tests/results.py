"""Two runs that are the same but for rounding."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import FILES, read_json, same_masks

from experiments.metrics import read_metrics
from supjax.ticket_io import load_ticket


def assert_same_results(first: Path, second: Path) -> None:
    """Masks to the bit, numbers to rounding."""
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
            expected = theirs[name]
            near = expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-4)
            assert ours[name] == near, name
    networks = [read_json(run / "summary.json")["networks"] for run in (first, second)]
    for ours, theirs in zip(*networks, strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["test"] == pytest.approx(theirs["test"], rel=1e-4)
