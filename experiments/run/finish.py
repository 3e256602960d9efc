"""The end of a run: evaluate what it kept, write result and summary, draw the plots."""

import os
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

import supjax
from experiments.records.summary import render_table, write_summary
from experiments.run.build import density_schedule
from experiments.run.host import wait_for_all
from experiments.run.plots import plot_run
from experiments.run.tickets import PRETRAINED, Member, superposed_name, ticket_name, ticket_path
from supjax.analysis import exploration_rate, layer_flops, total_flops, train_flops
from supjax.ticket_io import load_metadata, load_ticket, save_ticket
from supjax.training import TrainState

RESULT_FILE = "result.npz"
"""The final network of a run, in its folder."""

RAMP_POINTS = 200
"""Moments of a run at which the density is read for the mean cost of training."""


def finish_run(run: Any, state: TrainState) -> list[dict[str, Any]]:
    """Evaluate every network that the run kept, and write result, summary, table and plots.

    The validation split served choices during the run; the test split is used here, once.

    Args:
      run: an `experiments.train.Run` whose steps are done.
      state: its last state.

    Returns:
      The summary of every seed.
    """
    wait_for_all("every kept network is on disk")
    plan = run.plan
    scored = []
    for file, entry in kept_networks(plan, run.config.sup_tickets.include_pretrained):
        scored.append(_scored(run, {**entry, "file": file}, [file]))
    cycle_files = [ticket_name(i + 1) for i in range(plan.num_cycles)]
    if len(cycle_files) > 1:
        name = f"ensemble of {len(cycle_files)} tickets"
        entry = {"name": name, "kind": "ensemble", "step": plan.total_steps}
        scored.append(_scored(run, entry, cycle_files))
    ever_active = run.seeds.split(jax.device_get(state.topology.ever_active))
    return [
        _finish(run, member, list(networks), float(exploration_rate(seen)))
        for member, networks, seen in zip(
            run.members, zip(*scored, strict=True), ever_active, strict=True
        )
    ]


def _finish(
    run: Any, member: Member, networks: list[dict[str, Any]], rate: float
) -> dict[str, Any]:
    """Write what one seed has achieved into its folder."""
    plan, workdir = run.plan, member.workdir
    result = superposed_name(plan.num_cycles) if plan.num_cycles else PRETRAINED
    final = load_ticket(ticket_path(workdir, result))
    summary = {
        "result": next(n["name"] for n in networks if n.get("file") == result),
        "networks": networks,
        "exploration_rate": rate,
        "flops": flops(run, final),
        "wall_seconds": run.clock.elapsed,
        "images_per_second": run.clock.images_per_second,
        "plan": {**plan._asdict(), "steps_per_epoch": run.steps_per_epoch},
        "config": member.config.to_dict(),
        "hardware": hardware(run.devices),
        "seeds_together": len(run.members),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }
    if run.primary:
        save_ticket(workdir / RESULT_FILE, final, load_metadata(ticket_path(workdir, result)))
        write_summary(workdir, summary)
        if member.config.runtime.plots:
            plot_run(workdir)
        print(render_table(summary, workdir))
    return summary


def kept_networks(
    plan: supjax.CyclePlan, include_pretrained: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return file name and description of every network that a run of this plan keeps.

    >>> plan = supjax.CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=1)
    >>> [file for file, _ in kept_networks(plan, True)]
    ['pretrained', 'ticket_1', 'superposed_1']
    """
    if plan.num_cycles == 0:
        entry = {"name": "final network", "kind": "final", "step": plan.normal_steps}
        return [(PRETRAINED, entry)]
    entry = {"name": "end of normal phase", "kind": "pretrained", "step": plan.normal_steps}
    kept: list[tuple[str, dict[str, Any]]] = [(PRETRAINED, entry)]
    first = 0 if include_pretrained else 1
    for i, last_step in enumerate(plan.ticket_steps, start=1):
        entry = {"name": f"ticket {i}", "kind": "ticket", "step": last_step + 1}
        kept.append((ticket_name(i), entry))
        members = f"{first}-{i}" if i > first else f"{i}"
        entry = {"name": f"superposed {members}", "kind": "superposed", "step": last_step + 1}
        kept.append((superposed_name(i), entry))
    return kept


def _scored(run: Any, entry: dict[str, Any], files: list[str]) -> list[dict[str, Any]]:
    """Return an entry with every seed's density and held-out scores of its networks together."""
    tickets = [
        tuple(load_ticket(ticket_path(member.workdir, file)) for file in files)
        for member in run.members
    ]
    stacked = run.seeds.stack(tickets)
    splits = [split for split in ("validation", "test") if run.walk.has_split(split)]
    scores = {split: run.walk.evaluate(stacked, split) for split in splits}
    return [
        {
            **entry,
            "density": float(supjax.density(own[0].masks)),
            **{split: scores[split][index] for split in splits},
        }
        for index, own in enumerate(tickets)
    ]


def flops(run: Any, ticket: supjax.Ticket) -> dict[str, float]:
    """Return the forward FLOPs of the dense network, and the run's costs relative to dense ones."""
    layers = image_flops(run.parts.model, run.dataset.image_shape, ticket)
    dense, sparse = total_flops(layers), total_flops(layers, ticket.masks)
    density_at = density_schedule(run.config, run.steps_per_epoch)
    total = run.plan.total_steps
    train = train_flops(
        run.config.method,
        dense,
        sparse,
        update_every=run.config.topology.update_every,
        densities=[float(density_at(i * total // RAMP_POINTS)) for i in range(RAMP_POINTS)],
    )
    return {
        "dense_forward": dense,
        "inference_relative": sparse / dense,
        "train_relative": train / (3 * dense),
    }


def image_flops(model: Any, image_shape: tuple[int, ...], ticket: supjax.Ticket) -> dict[str, int]:
    """Return the operations of one image's dense forward pass by the path of the weight."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def forward(params: Any, image: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": ticket.batch_stats}
        return model.apply(variables, image, train=False)

    return layer_flops(forward, ticket.params, image)


def hardware(devices: int) -> dict[str, Any]:
    """Return what a run computes on.

    >>> hardware(1)["hosts"]
    1
    """
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": devices * jax.process_count(),
        "hosts": jax.process_count(),
        "cpus": os.cpu_count(),
    }
