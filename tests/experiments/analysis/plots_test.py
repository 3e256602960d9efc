"""The pictures of an analysis, from plain arrays."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.analysis import plots


def drawn(figure):
    """Save a figure, check that it is wide enough and shows something on white; return its text."""
    file = io.BytesIO()
    figure.savefig(file)
    pixels = np.asarray(Image.open(file).convert("L"))
    assert pixels.shape[1] >= 1000
    assert 0.01 < (pixels < 250).mean() < 0.95
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    for axes in figure.axes:
        texts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        texts += [t.get_text() for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    for legend in figure.legends:
        texts += [t.get_text() for t in legend.get_texts()]
    return texts


@pytest.mark.parametrize("equal", [False, True], ids=["differing", "all equal"])
def test_distances_are_written_into_their_cells(equal):
    table = np.full((3, 3), 0.25) if equal else np.array([[0, 0.5, 0.013], [1, 0, 2], [3, 4, 0]])
    texts = drawn(plots.distance_figure({"one": table, "two": table}, ["a", "b", "c"]))
    assert {"one", "two", "a", "b", "c"} <= set(texts)
    assert texts.count("0.25" if equal else "0.013") >= (18 if equal else 2)


def test_a_path_marks_what_it_passes_half_way():
    positions = np.array([0, 0.25, 0.5, 0.75, 1])
    loss, accuracy = np.array([3.0, 2, 1, 2, 3]), np.linspace(0.5, 0.7, 5)
    paths = {"straight": (positions, loss, accuracy), "around": (positions, loss / 2, accuracy)}
    figure = plots.path_figure(paths, ["first", "second"], "validation", "middle")
    assert {"validation loss (nats)", "validation accuracy", "first", "middle"} <= set(
        drawn(figure)
    )
    (mark,) = [line for line in figure.axes[0].lines if line.get_label() == "middle"]
    assert mark.get_xydata().tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("stretch", [0.1, 1.0, 8.0], ids=["flat", "square", "high"])
def test_a_plane_marks_its_networks(stretch):
    x, y = np.linspace(-1, 1, 4), stretch * np.linspace(-1, 1, 3)
    loss = 0.1 + x[None] ** 2 + (y[:, None] / stretch) ** 2
    points = {"a": (0.0, 0.0), "b": (0.5, 0.0), "c": (0.0, stretch / 2), "mean": (0.2, 0.0)}
    figure = plots.plane_figure(x, y, loss, points, "test")
    assert {"a", "b", "c", "mean", "test loss (nats)"} <= set(drawn(figure))


def test_a_plane_without_any_slope_is_drawn():
    x = np.linspace(0, 1, 2)
    points = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (0.0, 1.0)}
    drawn(plots.plane_figure(x, x, np.full((2, 2), 0.5), points, "test"))


def test_reliability_shows_scores_and_leaves_empty_intervals_out():
    bins = {"counts": [0, 3, 1], "confidence": [0.0, 0.5, 0.9], "accuracy": [0.0, 0.4, 1.0]}
    found = {"ece": 0.0123, "nll": 0.5, "brier": 0.25, "bins": bins}
    figure = plots.reliability_figure({"one": found, "two": found}, "test")
    titles = [text for text in drawn(figure) if text.startswith("one")]
    assert titles == ["one\nECE 1.23 %   NLL 0.5000   Brier 0.2500"]
    assert len(figure.axes[0].patches) == 2


def test_operations_are_labelled_by_the_share_that_is_left():
    dense, sparse = np.array([4e6, 1e6, 0.0]), np.array([1e6, 1e6, 0.0])
    figure = plots.flops_figure(["conv", "fc", "unused"], dense, sparse)
    assert {"25 %", "100 %", "0 %", "conv", "fc"} <= set(drawn(figure))
    assert "5 million operations dense, 2 million sparse" in figure.get_suptitle()


@pytest.mark.parametrize("cycles", [[], [(2.0, 3.0), (3.0, 4.0)]], ids=["none", "two"])
def test_exploration_shades_the_cycles(cycles):
    epochs, rates = np.linspace(0, 4, 5), np.array([0.1, 0.2, 0.2, 0.3, 0.3])
    figure = plots.exploration_figure(epochs, rates, np.full(5, 0.1), cycles)
    texts = drawn(figure)
    assert {"epoch", "share of the maskable weights"} <= set(texts)
    assert texts.count("cycle") == bool(cycles)
    assert len(figure.axes[0].patches) == len(cycles)
