"""Learning rate and accuracy over a run: the figures hold the numbers at the right places."""

import numpy as np
import pytest

from experiments.run.plots.time import accuracy_figure, learning_rate_figure
from supjax.schedules import CyclePlan

PLAN = CyclePlan(normal_steps=80, cycle_steps=10, num_cycles=2)


def train_rows(rates):
    return [
        {"step": i, "kind": "train", "learning_rate": rate, "accuracy": 0.5}
        for i, rate in enumerate(rates, start=1)
    ]


def network(kind, step, validation=None, test=None):
    scores = {"validation": validation, "test": test}
    found = {name: {"accuracy": value} for name, value in scores.items() if value is not None}
    return {"name": kind, "kind": kind, "step": step, **found}


def lines(panel, label):
    return [line for line in panel.get_lines() if line.get_label() == label]


def marks(panel, label):
    return np.concatenate(
        [found.get_offsets() for found in panel.collections if found.get_label() == label]
    )


def draw(figure):
    """Renders the figure and returns its panels."""
    figure.canvas.draw()
    return figure.axes


def test_learning_rate_in_epochs_with_tickets_and_phases():
    rates = np.linspace(0.1, 0.01, 100)
    whole, zoom = draw(learning_rate_figure(train_rows(rates), PLAN, steps_per_epoch=10))
    (line,) = lines(whole, "learning rate")
    np.testing.assert_allclose(line.get_xdata(), np.arange(1, 101) / 10)
    np.testing.assert_allclose(line.get_ydata(), rates)
    for panel in (whole, zoom):
        assert [line.get_xdata()[0] for line in lines(panel, "ticket taken")] == [9, 10]
        spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in panel.patches]
        np.testing.assert_allclose(spans, [(8, 9), (9, 10)])
    low, high = zoom.get_xlim()
    assert 7.5 < low < 8
    assert 10 < high < 10.5
    assert whole.get_xlabel() == zoom.get_xlabel() == "epoch"


def test_a_known_schedule_is_drawn_at_every_step():
    rows = train_rows([0.5])
    figure = learning_rate_figure(rows, PLAN, 10, schedule=lambda step: 1.0 / (1 + step))
    whole, _ = draw(figure)
    (line,) = lines(whole, "learning rate")
    np.testing.assert_allclose(line.get_xdata(), np.arange(1, 101) / 10)
    np.testing.assert_allclose(line.get_ydata(), 1 / np.arange(1, 101), rtol=1e-6)


@pytest.mark.parametrize(
    ("rates", "scale"),
    [([0.1, 0.02], "linear"), ([0.1, 0.001], "log"), ([0.0, 0.1, 0.001], "log"), ([0.0], "linear")],
)
def test_learning_rates_far_apart_are_drawn_on_a_log_scale(rates, scale):
    whole, *_ = draw(learning_rate_figure(train_rows(rates), PLAN))
    assert whole.get_yscale() == scale
    assert whole.get_xlabel() == "training step"


@pytest.mark.parametrize(
    ("plan", "panels"),
    [(PLAN, 2), (CyclePlan(10, 10, 3), 1), (CyclePlan(10, 0, 0), 1), (CyclePlan(0, 5, 2), 1)],
)
def test_a_short_cyclic_phase_has_a_panel_of_its_own(plan, panels):
    assert len(draw(learning_rate_figure(train_rows([0.1] * 9), plan))) == panels


def test_the_legend_names_everything_once():
    figure = learning_rate_figure(train_rows([0.1]), PLAN)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["learning rate", "ticket taken", "cycle"]


def test_networks_are_marked_at_their_step_with_their_validation_accuracy():
    networks = [
        network("pretrained", 80, 0.9, 0.8),
        network("ticket", 90, 0.91, 0.8),
        network("superposed", 90, 0.92, 0.8),
        network("ticket", 100, 0.93, 0.8),
        network("superposed", 100, 0.94, 0.8),
        network("ema", 100, 0.925, 0.8),
        network("tail", 100, 0.935, 0.8),
        network("ensemble", 100, 0.95, 0.8),
    ]
    kinds = {40: "validation", 80: "pretrained", 100: "ticket"}
    validation = [{"step": step, "kind": kind, "accuracy": 0.9} for step, kind in kinds.items()]
    rows = train_rows([0.1] * 100) + validation
    whole, zoom = draw(accuracy_figure(rows, networks, PLAN, steps_per_epoch=10))
    for panel in (whole, zoom):
        np.testing.assert_allclose(marks(panel, "end of normal phase"), [[8, 0.9]])
        np.testing.assert_allclose(marks(panel, "ticket"), [[9, 0.91], [10, 0.93]])
        np.testing.assert_allclose(marks(panel, "superposed"), [[9, 0.92], [10, 0.94]])
        np.testing.assert_allclose(marks(panel, "moving average"), [[10, 0.925]])
        np.testing.assert_allclose(marks(panel, "mean of the last cycle"), [[10, 0.935]])
        (ensemble,) = lines(panel, "ensemble")
        np.testing.assert_allclose(ensemble.get_xydata(), [[8, 0.95], [10, 0.95]])
        (line,) = lines(panel, "validation")
        np.testing.assert_allclose(line.get_xydata(), [[4, 0.9], [8, 0.9], [10, 0.9]])
    assert len(lines(whole, "training batches")[0].get_xdata()) == 100
    low, high = zoom.get_ylim()
    assert 0.88 < low < 0.9
    assert 0.95 < high < 0.97


def test_test_accuracy_stands_in_for_a_missing_validation_split():
    networks = [network("final", 10, test=0.7), network("final", 10)]
    (panel,) = draw(accuracy_figure([], networks, CyclePlan(10, 0, 0)))
    np.testing.assert_allclose(marks(panel, "final network"), [[10, 0.7]])


def test_lost_numbers_are_gaps():
    rows = [*train_rows([0.1, float("nan"), 0.1]), {"step": 3, "kind": "train"}]
    networks = [{"name": "x", "kind": "final", "step": 3, "test": {"accuracy": None}}]
    assert len(draw(learning_rate_figure(rows, PLAN))) == 2
    assert len(draw(accuracy_figure(rows, networks, PLAN))) == 2
    assert len(draw(accuracy_figure([], [], PLAN))) == 2
