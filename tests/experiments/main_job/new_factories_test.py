"""A rule or method that somebody adds runs through the main job, with all of its arguments."""

import functools
from typing import Unpack

import numpy as np
import pytest

from experiments.configs import rules
from experiments.configs.fields import FIELDS, one_of
from experiments.errors import ConfigError, InterruptedRunError
from experiments.run.build import build, open_dataset
from supjax.superposition import SUPERPOSITIONS, averaging_rule, cima
from supjax.topologies import METHODS, method, set
from supjax.topologies.engine import Shared
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.counting_rule import counting
from tests.helpers.tiny_runs import NORMAL_STEPS, SMALLER, run_tiny, tiny_config

COUNTING = {**SMALLER, "method": "set", "sup_tickets.average": "counting"}


@pytest.fixture
def registries(monkeypatch):
    """Both registries, empty again of what a test enters; the config takes every name in them."""
    monkeypatch.setattr("supjax.superposition.engine.SUPERPOSITIONS", SUPERPOSITIONS)
    for registry in (SUPERPOSITIONS, METHODS):
        for name in ("counting", "noted", "noted_rule"):
            monkeypatch.setitem(registry, name, None)
            del registry[name]
