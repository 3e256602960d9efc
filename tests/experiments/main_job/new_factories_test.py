"""A method and a rule that somebody adds run through the main job, with all of their arguments."""

import jax
import numpy as np
import pytest

import supjax
from experiments.command_line import set_option
from experiments.configs import rules
from experiments.configs.fields import one_of
from experiments.errors import InterruptedRunError
from experiments.run.build import build, open_dataset
from experiments.train import train_and_evaluate
from supjax.superposition import SUPERPOSITIONS, averaging_rule
from supjax.ticket_io import load_ticket
from supjax.topologies import METHODS, method
from supjax.types import Schedule
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.counting_rule import counting
from tests.helpers.registry import restored
from tests.helpers.tiny_runs import NORMAL_STEPS, SMALLER, tiny_config

DENSITY = 0.2
CALLS = []
"""What `wandering` was called with."""

OPTIONS = {
    "topology.options": {"stop": 10, "luck": 0.75},
    "sup_tickets.options": {"scope": "layer"},
}


def wandering(
    density: float,
    *,
    update_every: int = 1000,
    drop_fraction: float | Schedule = 0.3,
    stop: int | None = None,
    luck: float = 0.5,
) -> supjax.topologies.TopologyTransform:
    """SET with an argument that no field of the config knows."""
    CALLS.append({"update_every": update_every, "stop": stop, "luck": luck})
    return supjax.topologies.set(
        density, update_every=update_every, drop_fraction=drop_fraction, stop=stop
    )


@pytest.fixture(scope="module", autouse=True)
def entered():
    """Enter both; the rules of fields list what a registry held when they were imported."""
    noting = pytest.MonkeyPatch()
    with restored(METHODS, SUPERPOSITIONS):
        method(wandering)
        averaging_rule(counting)
        names = {"method": METHODS, "sup_tickets.average": SUPERPOSITIONS}
        fields = [
            field._replace(rule=one_of(names[field.name])) if field.name in names else field
            for field in rules.FIELDS
        ]
        noting.setattr(rules, "FIELDS", tuple(fields))
        yield
    noting.undo()


def config(options=OPTIONS):
    fields = {**SMALLER, "method": "wandering", "sup_tickets.average": "counting"}
    made = tiny_config(fields)
    for field, values in options.items():
        for name, value in values.items():
            set_option(made, f"{field}.{name}", value)
    return made


@pytest.fixture(scope="module")
def undisturbed(entered, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("counting")
    CALLS.clear()
    train_and_evaluate(config(), workdir)
    assert CALLS == [{"update_every": 5, "stop": 10, "luck": 0.75}]
    return workdir


def test_a_rule_with_a_state_of_its_own_is_stopped_amid_a_cycle_and_continues(
    undisturbed, stop_at, tmp_path
):
    for step in (NORMAL_STEPS + 5, NORMAL_STEPS + 11):  # before and after the first fold
        stop_at(step)
        with pytest.raises(InterruptedRunError, match=f"saved at step {step},"):
            train_and_evaluate(config(), tmp_path)
    train_and_evaluate(config(), tmp_path)
    found = fingerprints(tmp_path)
    assert any(name.startswith("leaves/superposition/extra/") for name in found)
    assert found == fingerprints(undisturbed)


def test_the_result_is_what_the_rule_makes_of_the_kept_tickets(undisturbed):
    tickets = [
        load_ticket(undisturbed / "tickets" / f"{name}.npz")
        for name in ("pretrained", "ticket_1", "ticket_2")
    ]
    result = load_ticket(undisturbed / "result.npz")
    rule = counting(density=DENSITY, scope="layer")
    expected = supjax.superpose(tickets, average=rule)
    jax.tree.map(np.testing.assert_array_equal, result.masks, expected.masks)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), result, expected
    )
    others = (
        supjax.superpose(tickets, average=counting(density=DENSITY)),
        supjax.superpose(tickets),
    )
    for other in others:
        same = jax.tree.map(np.array_equal, result.params, other.params)
        assert not jax.tree.all(same)


def test_options_reach_the_factories_of_a_run_and_win_over_fields():
    dataset = open_dataset(config())
    parts = {}
    for name, options in {
        "fields alone": {},
        "options": OPTIONS,
        "over a field": {"topology.options": {"update_every": 3}},
    }.items():
        CALLS.clear()
        parts[name] = build(config(options), dataset)
        expected = {"update_every": 5, "stop": None, "luck": 0.5}
        assert [expected | options.get("topology.options", {})] == CALLS
    updates = {
        name: [step for step in range(NORMAL_STEPS) if part.topology.due(step)]
        for name, part in parts.items()
    }
    assert updates == {
        "fields alone": [4, 9, 14],  # update_every 5
        "options": [4, 9],  # until step 10
        "over a field": [2, 5, 8, 11, 14],
    }
