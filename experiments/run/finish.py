"""The end of a run: evaluate what it kept, write result and summary, draw the plots."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

import supjax
from experiments.records.folder import (
    PRETRAINED,
    REPAIRED,
    SELECTED,
    RunFolder,
    superposed_name,
    ticket_name,
)
from experiments.records.metrics import read_metrics
from experiments.records.recorder import Recorder
from experiments.records.summary import render_table, write_summary
from experiments.run.adapting import CYCLE
from experiments.run.averages import EMA, TAIL
from experiments.run.build import RunParts
from experiments.run.host import Clock, wait_for_all
from experiments.run.judging import SPLIT, Judge
from experiments.run.mending import Mender
from experiments.run.plots import plot_run
from experiments.run.seed_axis import SeedAxis
from experiments.run.start import start_path
from experiments.run.steps import RunState, Steps
from experiments.saying import say
from supjax.analysis import exploration_rate, layer_flops, total_flops, train_flops
from supjax.ticket_io import load_metadata, save_ticket


def finish_run(
    parts: RunParts,
    steps: Steps,
    seeds: SeedAxis,
    recorder: Recorder,
    clock: Clock,
    state: RunState,
) -> list[dict[str, Any]]:
    """Evaluate every network that the run kept, and write result, summary, table and plots.

    The validation split served choices during the run; the test split is used here, once.

    Args:
      parts: the run's static parts.
      steps: its compiled steps.
      seeds: of the run.
      recorder: of its folders.
      clock: of its time.
      state: its last state.

    Returns:
      The summary of every seed.
    """
    wait_for_all("every kept network is on disk")
    plan, folders = parts.plan, recorder.folders
    cycles = [adapted_cycles(folder) for folder in folders]
    judged = judge_networks(parts, steps, recorder)
    repaired = repair_networks(parts, steps, recorder, [left_out(rows) for rows in cycles])
    kept = [kept_networks(parts, left_out(rows)) for rows in cycles]
    scored = [
        _scored(
            steps, seeds, folders, [{**entry, "file": file} for file, entry in own], [own[0][0]]
        )
        for own in zip(*kept, strict=True)
    ]
    tickets = [ticket_name(i + 1) for i in range(plan.num_cycles)]
    if len(tickets) > 1:
        name = f"ensemble of {len(tickets)} tickets"
        entry = {"name": name, "kind": "ensemble", "step": plan.total_steps}
        scored.append(_scored(steps, seeds, folders, [entry] * len(folders), tickets))
    result = result_name(parts)
    seen = seeds.split(jax.device_get(state.train.topology.ever_active))
    summaries = []
    for index, (folder, ever_active) in enumerate(zip(folders, seen, strict=True)):
        networks = [rows[index] for rows in scored]
        summary = {
            "result": next(n["name"] for n in networks if n.get("file") == result),
            "networks": networks,
            **judged[index],
            **repaired[index],
            **({"cycles": cycles[index]} if cycles[index] else {}),
            "exploration_rate": float(exploration_rate(ever_active)),
            "flops": flops(parts, folder.load_ticket(result)),
            "wall_seconds": clock.elapsed,
            "images_per_second": clock.images_per_second,
            "plan": {**plan._asdict(), "steps_per_epoch": parts.steps_per_epoch},
            **started(parts, folder),
            "config": folder.config.to_dict(),
            "hardware": hardware(steps.devices),
            "seeds_together": len(folders),
            "versions": {
                name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")
            },
        }
        summaries.append(summary)
        if recorder.primary:
            _write(folder, result, summary)
    return summaries


def _write(folder: RunFolder, result: str, summary: dict[str, Any]) -> None:
    """Write what one seed has achieved into its folder, and only then print it."""
    metadata = load_metadata(folder.ticket_file(result))
    save_ticket(folder.result_file, folder.load_ticket(result), metadata)
    write_summary(folder.path, summary)
    if folder.config.runtime.plots:
        plot_run(folder.path)
    say(render_table(summary, folder.path))


def judge_networks(parts: RunParts, steps: Steps, recorder: Recorder) -> list[dict[str, Any]]:
    """Return every seed's blocks `diagnosis` and `choice`, and keep the network that was chosen.

    Without held-out examples, or tickets, there is none of them.
    """
    folders, primary = recorder.folders, recorder.primary
    blocks: list[dict[str, Any]] = [{} for _ in folders]
    if not parts.plan.num_cycles or not steps.source.has_split(SPLIT):
        return blocks
    judge = Judge(parts, steps.source)
    for index, (folder, block) in enumerate(zip(folders, blocks, strict=True)):
        block["diagnosis"] = judge.diagnosis(folder, index)
        if parts.select != "none":
            ticket, block["choice"] = judge.choose(folder, index)
            if primary:
                _keep(folder, SELECTED, ticket, parts.plan.num_cycles)
    wait_for_all("what was chosen is on disk")
    return blocks


def repair_networks(
    parts: RunParts, steps: Steps, recorder: Recorder, without: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Return every seed's block `repair`, and keep its repaired superposition, if that is wanted.

    Args:
      parts: the run's static parts.
      steps: its compiled steps.
      recorder: of its folders.
      without: the tickets that are not in the mean, of every seed.
    """
    folders, last = recorder.folders, parts.plan.num_cycles
    if not (parts.repair and last):
        return [{} for _ in folders]
    mender, blocks = Mender(parts, steps.source), []
    for index, (folder, out) in enumerate(zip(folders, without, strict=True)):
        names = [PRETRAINED] * parts.include_pretrained
        names += [ticket_name(i) for i in range(1, last + 1) if i not in out]
        superposed = folder.load_ticket(superposed_name(last))
        mended = mender(superposed, [folder.load_ticket(name) for name in names], index)
        blocks.append({"repair": {"members": len(names), "images": mender.images}})
        if recorder.primary:
            _keep(folder, REPAIRED, mended, last)
    wait_for_all("what was repaired is on disk")
    return blocks


def _keep(folder: RunFolder, name: str, ticket: supjax.Ticket, last: int) -> None:
    """Save a network that was made of the tickets, with what all of a run's networks have."""
    metadata = load_metadata(folder.ticket_file(superposed_name(last)))
    scores = ("accuracy", "loss")  # of another network
    metadata = {key: value for key, value in metadata.items() if key not in scores}
    save_ticket(folder.ticket_file(name), ticket, {**metadata, "name": name})


def adapted_cycles(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what every cycle of an adaptive run ran with, showed and decided; else nothing."""
    rows = [row for row in read_metrics(folder.path) if row["kind"] == CYCLE]
    return [{k: v for k, v in row.items() if k not in ("step", "kind")} for row in rows]


def left_out(cycles: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the tickets that are not in the mean.

    >>> left_out([{"number": 1, "kept": 1}, {"number": 2, "kept": 0}])
    [2]
    """
    return [cycle["number"] for cycle in cycles if not cycle["kept"]]


def result_name(parts: RunParts) -> str:
    """Return the name of the network that a run has for its result."""
    if not parts.plan.num_cycles:
        return PRETRAINED
    if parts.select != "none":
        return SELECTED
    return REPAIRED if parts.repair else superposed_name(parts.plan.num_cycles)


def started(parts: RunParts, folder: RunFolder) -> dict[str, Any]:
    """Return the block `start_from` of a run that started from a trained network, or nothing."""
    if parts.start is None:
        return {}
    extra = parts.plan.cyclic_steps
    block = {"path": str(start_path(folder)), "density": parts.start.density, "extra_steps": extra}
    return {"start_from": block | {"extra_epochs": extra / parts.steps_per_epoch}}


def members_text(first: int, last: int, without: Sequence[int] = ()) -> str:
    """Return the members of a superposition in words.

    >>> members_text(0, 3), members_text(1, 1), members_text(0, 2, [2, 3])
    ('superposed 0-3', 'superposed 1', 'superposed 0-2 without 2')
    """
    members = f"{first}-{last}" if last > first else f"{last}"
    out = ", ".join(str(number) for number in without if number <= last)
    return f"superposed {members}" + (f" without {out}" if out else "")


def kept_networks(parts: RunParts, without: Sequence[int]) -> list[tuple[str, dict[str, Any]]]:
    """Return file name and description of every network that a seed of a run keeps.

    Args:
      parts: the run's static parts.
      without: the tickets that are not in the mean.
    """
    plan, select = parts.plan, parts.select
    names = {EMA: "moving average", TAIL: "mean of the last cycle"}
    along = [(a, {"name": names[a], "kind": a, "step": plan.total_steps}) for a in parts.shares]
    if plan.num_cycles == 0:
        entry = {"name": "final network", "kind": "final", "step": plan.normal_steps}
        return [(PRETRAINED, entry), *along]
    entry = {"name": "end of normal phase", "kind": "pretrained", "step": plan.normal_steps}
    kept: list[tuple[str, dict[str, Any]]] = [(PRETRAINED, entry)]
    first = 0 if parts.include_pretrained else 1
    for i, last_step in enumerate(plan.ticket_steps, start=1):
        entry = {"name": f"ticket {i}", "kind": "ticket", "step": last_step + 1}
        kept.append((ticket_name(i), entry))
        name = members_text(first, i, without)
        entry = {"name": name, "kind": "superposed", "step": last_step + 1}
        kept.append((superposed_name(i), entry))
    if parts.repair:
        entry = {"name": f"{name}, repaired", "kind": "repaired", "step": plan.total_steps}
        kept.append((REPAIRED, entry))
    if select != "none":
        entry = {"name": f"chosen by {select}", "kind": "selected", "step": plan.total_steps}
        kept.append((SELECTED, entry))
    return [*kept, *along]


def _scored(
    steps: Steps,
    seeds: SeedAxis,
    folders: Sequence[RunFolder],
    entries: Sequence[dict[str, Any]],
    files: Sequence[str],
) -> list[dict[str, Any]]:
    """Return every seed's entry with density and held-out scores of its networks together."""
    tickets = [tuple(folder.load_ticket(file) for file in files) for folder in folders]
    stacked = seeds.stack(tickets)
    splits = [split for split in ("validation", "test") if steps.source.has_split(split)]
    scores = {split: steps.evaluate(stacked, split) for split in splits}
    return [
        {
            **entry,
            "density": float(supjax.density(own[0].masks)),
            **{split: scores[split][index] for split in splits},
        }
        for index, (entry, own) in enumerate(zip(entries, tickets, strict=True))
    ]


def flops(parts: RunParts, ticket: supjax.Ticket) -> dict[str, float]:
    """Return the forward FLOPs of the dense network, and the run's costs relative to dense ones."""
    layers = image_flops(parts.model, parts.dataset.image_shape, ticket)
    dense, sparse = total_flops(layers), total_flops(layers, ticket.masks)
    topology, total = parts.topology, parts.plan.total_steps
    if first := parts.first_step:  # of the cyclic phase alone
        due, total = parts.timeline.topology.due, total - first
        topology = topology._replace(due=lambda step: due(step + first))
    return {
        "dense_forward": dense,
        "inference_relative": sparse / dense,
        "train_relative": train_flops(topology, dense, sparse, total_steps=total) / (3 * dense),
    }


def image_flops(model: Any, image_shape: tuple[int, ...], ticket: supjax.Ticket) -> dict[str, int]:
    """Return the operations of one image's dense forward pass by the path of the weight."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def forward(params: Any, image: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": ticket.batch_stats}
        return model.apply(variables, image, train=False)

    return layer_flops(forward, ticket.params, image)


def hardware(devices: int) -> dict[str, Any]:
    """Return what a run on so many devices computes on.

    >>> hardware(1)["hosts"]
    1
    """
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "hosts": jax.process_count(),
        "cpus": os.cpu_count(),
    }
