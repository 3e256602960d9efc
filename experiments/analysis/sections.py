"""The parts of a run's analysis: what each has found, and its picture."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import supjax
from experiments.analysis import plots
from experiments.analysis.finished_run import FinishedRun
from experiments.records.metrics import read_metrics
from supjax import analysis

MARGIN = 0.3
"""How far a plane reaches beyond its corners, as a share of their extent."""

Section = tuple[dict[str, Any], Figure]
"""What was found, for the JSON file, and the picture of it."""


def distances(run: FinishedRun, logits: np.ndarray) -> Section:
    """Compare masks and test predictions of every two of the tickets and the superposed network.

    Args:
      run: an opened run.
      logits: of these networks, `(networks, examples, classes)`, the superposed one last.
    """
    masks = [ticket.masks for ticket in (*run.tickets, run.superposed)]
    # One vector a network: `iou` then compiles once, not once for every shape.
    flat = [np.concatenate([np.ravel(m) for m in jax.tree.leaves(tree)]) for tree in masks]
    names = [*ticket_names(len(run.tickets)), "superposed"]
    predictions = list(logits)
    tables = {
        "mask_iou": analysis.pairwise(supjax.iou, flat),
        "disagreement": analysis.pairwise(analysis.disagreement, predictions),
        "kl_divergence": analysis.pairwise(analysis.kl_divergence, predictions),
    }
    titles = (
        "overlap of the masks\n(intersection over union)",
        "test examples that\nget another class (share)",
        "KL divergence, row from column,\nof test predictions (nats)",
    )
    figure = plots.distance_figure(dict(zip(titles, tables.values(), strict=True)), names)
    return {"networks": names, **{name: table.tolist() for name, table in tables.items()}}, figure


def interpolation(run: FinishedRun, points: int) -> Section:
    """Score the networks on the way from ticket to ticket, straight and by the superposed one.

    A single ticket is reached from the end of the normal phase. Batch-norm statistics are
    estimated again at every point.

    Args:
      run: an opened run.
      points: from one network to the next, at least 2.
    """
    stops = dict(zip(ticket_names(len(run.tickets)), run.tickets, strict=True))
    if len(stops) == 1:
        stops = {"end of normal phase": run.pretrained, **stops}
    through = [next(iter(stops.values()))]
    for ticket in list(stops.values())[1:]:
        through += [run.superposed, ticket]
    paths = {
        "straight": _along(run, list(stops.values()), points, 1.0),
        "through the superposed network": _along(run, through, -(-points // 2), 0.5),
    }
    found = {
        name: dict(zip(("position", "loss", "accuracy"), map(np.ndarray.tolist, path), strict=True))
        for name, path in zip(("straight", "through_superposed"), paths.values(), strict=True)
    }
    figure = plots.path_figure(paths, list(stops), run.split, "superposed")
    return {"split": run.split, "networks": list(stops), **found}, figure


def plane(run: FinishedRun, grid: int) -> Section | None:
    """Score a grid of networks on the plane through the last three tickets.

    The end of the normal phase stands in for a third ticket; None if even so there are not three.

    Args:
      run: an opened run.
      grid: points along each axis, at least 2.
    """
    networks = {
        "end of normal phase": run.pretrained,
        **dict(zip(ticket_names(len(run.tickets)), run.tickets, strict=True)),
    }
    corners = list(networks)[-3:]
    if len(corners) < 3:
        return None
    surface = analysis.loss_plane(*(networks[name] for name in corners))
    *projected, distance = analysis.plane_coordinates(surface, run.superposed.params)
    points = {
        **dict(zip(corners, surface.corners.tolist(), strict=True)),
        "superposed": projected,
    }
    low, high = (end(np.array(list(points.values())), axis=0) for end in (np.min, np.max))
    reach = MARGIN * (high - low).max()
    x, y = (np.linspace(low[i] - reach, high[i] + reach, grid) for i in (0, 1))
    loss, accuracy = (
        values.reshape(grid, grid)
        for values in run.scores(analysis.plane_ticket(surface, a, b) for b in y for a in x)
    )
    found = {
        "split": run.split,
        "networks": points,
        "superposed_distance_from_plane": distance,
        **{"x": x.tolist(), "y": y.tolist(), "loss": loss.tolist(), "accuracy": accuracy.tolist()},
    }
    return found, plots.plane_figure(x, y, loss, points, run.split)


def reliability(logits: np.ndarray, labels: np.ndarray) -> Section:
    """Score accuracy and calibration of the networks and of the ensemble of the tickets.

    Args:
      logits: of the tickets and the superposed network, `(networks, examples, classes)`.
      labels: of the test examples.
    """
    answers = with_ensemble(logits)
    found = {
        name: {
            "accuracy": float(np.mean(np.argmax(answer, axis=-1) == labels)),
            **{
                rule.__name__: float(rule(answer, labels))
                for rule in (analysis.nll, analysis.ece, analysis.brier)
            },
            "bins": {
                field: np.asarray(values).tolist()
                for field, values in analysis.reliability_bins(answer, labels)._asdict().items()
            },
        }
        for name, answer in answers.items()
    }
    drawn = list(answers)[-3:]  # the last ticket, the superposed network, the ensemble
    return found, plots.reliability_figure({name: found[name] for name in drawn}, "test")


def operations(run: FinishedRun) -> Section:
    """Count the forward operations of every layer, dense and with the superposed masks."""
    layers = run.layer_flops()
    dense = np.array(list(layers.values()), float)
    sparse = np.array(
        [analysis.total_flops({name: n}, run.superposed.masks) for name, n in layers.items()]
    )
    names = [name.removesuffix("/kernel") for name in layers]
    found = {
        "dense_forward": dense.sum(),
        "sparse_forward": sparse.sum(),
        "layers": {
            name: {"dense": a, "sparse": b} for name, a, b in zip(names, dense, sparse, strict=True)
        },
    }
    return found, plots.flops_figure(names, dense, sparse)


def exploration(run: FinishedRun) -> Section | None:
    """Read R_s over time off the metrics; None if they were written without it."""
    rows = [row for row in read_metrics(run.workdir) if "exploration_rate" in row]
    if not rows:
        return None
    epochs, rates, densities = (
        np.array([row[name] for row in rows], float)
        for name in ("epoch", "exploration_rate", "density")
    )
    phases = run.summary["plan"]
    starts = phases["normal_steps"] + phases["cycle_steps"] * np.arange(phases["num_cycles"])
    cycles = [
        tuple(np.array([s, s + phases["cycle_steps"]]) / phases["steps_per_epoch"]) for s in starts
    ]
    found = {"epoch": epochs.tolist(), "rate": rates.tolist(), "density": densities.tolist()}
    return found, plots.exploration_figure(epochs, rates, densities, cycles)


def ticket_names(count: int) -> list[str]:
    """Return what pictures and tables call the tickets.

    >>> ticket_names(2)
    ['ticket 1', 'ticket 2']
    """
    return [f"ticket {i + 1}" for i in range(count)]


def with_ensemble(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return the answers of tickets, superposed network and ensemble of the tickets by name."""
    *tickets, superposed = logits
    together = np.asarray(analysis.ensemble_log_probabilities(np.stack(tickets)))
    return {
        **dict(zip(ticket_names(len(tickets)), tickets, strict=True)),
        "superposed": superposed,
        f"ensemble of {len(tickets)} ticket{'s' * (len(tickets) > 1)}": together,
    }


def compare(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare superposition, one sparse network, with the ensemble, all tickets at once.

    Args:
      logits: of the tickets and the superposed network, `(networks, examples, classes)`.
      labels: of the test examples.

    Returns:
      Differences superposed - ensemble on the test split, and how often they part.
    """
    *_, superposed, together = with_ensemble(logits).values()
    right = [np.argmax(answer, axis=-1) == labels for answer in (superposed, together)]
    return {
        "accuracy_difference": float(np.mean(right[0]) - np.mean(right[1])),
        "nll_difference": float(analysis.nll(superposed, labels) - analysis.nll(together, labels)),
        "disagreement": float(analysis.disagreement(superposed, together)),
        "kl_divergence": float(analysis.kl_divergence(together, superposed)),
        "only_superposed_right": int(np.sum(right[0] & ~right[1])),
        "only_ensemble_right": int(np.sum(right[1] & ~right[0])),
        "examples": len(labels),
    }


def _along(
    run: FinishedRun, waypoints: Sequence[supjax.Ticket], steps: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, losses and accuracies on a path whose waypoints are `scale` apart."""
    positions = scale * np.array([at for at, _ in analysis.walk(waypoints, steps)])
    return positions, *run.scores(network for _, network in analysis.walk(waypoints, steps))
