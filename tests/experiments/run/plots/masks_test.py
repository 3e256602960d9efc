"""Pictures of masks: numbers, order and legibility."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run.plots.masks import chance_overlap, layer_density_figure, mask_overlap_figure
from supjax.masks import iou


def draw_masks(seed, densities):
    rng = np.random.default_rng(seed)
    return {name: {"kernel": rng.random((40, 50)) < d} for name, d in densities.items()}


def row_labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_layers_are_rows_in_natural_order():
    masks = draw_masks(0, {"conv10": 0.1, "conv2": 0.5, "head": 1.0})
    masks["head"]["bias"] = None
    other = jax.tree.map(jnp.zeros_like, masks)
    figure = layer_density_figure({"before": masks, "after": other})
    figure.canvas.draw()
    assert row_labels(figure) == ["conv2", "conv10", "head"]
    panel = figure.axes[0]
    before, after = (c.get_offsets() for c in panel.collections if c.get_label() in "before after")
    found = [masks[name]["kernel"].mean() for name in ("conv2", "conv10", "head")]
    np.testing.assert_allclose(before, np.stack([found, [0, 1, 2]], axis=1))
    np.testing.assert_allclose(after, [[0, 0], [0, 1], [0, 2]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
    low, high = panel.get_xlim()
    assert low < 0
    assert high > 1


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("layers", [1, 54])
def test_no_two_labels_overlap(layers, empty):
    densities = {f"stage{i // 12}_block{i % 12}": 1 / (i + 1) for i in range(layers)}
    densities |= {f"empty{i}": 0.0 for i in range(empty)}
    figure = layer_density_figure({"final network": draw_masks(0, densities)})
    figure.canvas.draw()
    panel = figure.axes[0]
    shown = [
        label
        for label, place in zip(panel.get_xticklabels(), panel.get_xticks(), strict=True)
        if panel.get_xlim()[0] <= place <= panel.get_xlim()[1]
    ]
    for labels in (shown, panel.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert boxes
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_overlap_is_written_into_every_cell():
    masks = [draw_masks(seed, {"a": 0.3, "b": 0.6}) for seed in range(3)]
    figure = mask_overlap_figure({f"ticket {i}": found for i, found in enumerate(masks)})
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{float(iou(a, b)):.2f}" for a in masks for b in masks]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "ticket 0",
        "ticket 1",
        "ticket 2",
    ]


def test_numbers_of_many_tickets_fit_their_cells():
    masks = draw_masks(0, {"a": 0.3})
    figure = mask_overlap_figure({f"ticket {i}": masks for i in range(12)})
    figure.canvas.draw()
    cell = figure.axes[0].bbox.width / 12
    assert all(text.get_window_extent().width < cell for text in figure.axes[0].texts)


def test_chance_overlap_is_what_random_masks_have():
    densities = {"a": 0.05, "b": 0.5, "c": 0.9}
    first, second = (draw_masks(seed, densities) for seed in (1, 2))
    assert chance_overlap(first) == pytest.approx(iou(first, second), abs=0.02)
