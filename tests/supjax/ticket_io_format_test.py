"""What a ticket file may hold, and headers that contradict the arrays."""

import collections
import json
import re

import jax
import numpy as np
import pytest
from flax.core import freeze

from supjax.ticket_io import members, pack, read_header, unpack
from supjax.types import Ticket

Pair = collections.namedtuple("Pair", "w")
ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("ticket", "metadata", "kind", "message"),
    [
        (
            Ticket(Pair(ONES), Pair(None)),
            {},
            TypeError,
            "a ticket file holds dicts, lists and tuples, got Pair: "
            "convert it with flax.serialization.to_state_dict",
        ),
        (
            Ticket(freeze({"w": ONES}), freeze({"w": None})),
            {},
            TypeError,
            "a ticket file holds dicts, lists and tuples, got FrozenDict",
        ),
        (Ticket({1: ONES}, {1: None}), {}, TypeError, "dict keys must be strings, got 1"),
        (
            Ticket({}, {}, {"bn": {"name": "x"}}),
            {},
            TypeError,
            "leaves must be numeric arrays, got str at 'bn/name'",
        ),
        (
            Ticket({"k": jax.random.key(0)}, {"k": None}),
            {},
            TypeError,
            "leaves must be numeric arrays, got PRNGKeyArray at 'k'",
        ),
        (
            Ticket({"w": ONES}, {"w": np.array([True, False])}),
            {},
            ValueError,
            "weights outside the mask must be zero, see 'w'",
        ),
        (
            Ticket({"w": ONES}, {"w": np.ones(3, bool)}),
            {},
            ValueError,
            "mask at 'w' has shape (3,), params have (2,)",
        ),
        (Ticket({"w": ONES}, {"w": ONES}), {}, TypeError, "mask at 'w' must be"),
        (Ticket({"w": ONES}, {}), {}, ValueError, "params and masks differ"),
        (Ticket({}, {}), [1], TypeError, "metadata must be a dict, got list"),
        (Ticket({}, {}), {"f": print}, TypeError, "metadata must fit into JSON"),
    ],
)
def test_bad_tickets_end_in_one_line(ticket, metadata, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}") as caught:
        pack(ticket, metadata)
    assert "\n" not in str(caught.value)


def header(**changes):
    fields = {
        "format": "supjax-ticket",
        "version": 1,
        "params": {"dict": {"w": 0}},
        "batch_stats": {"dict": {}},
        "leaves": [["float32", [2], None]],
        "metadata": {},
        **changes,
    }
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


def values(size=2):
    return {"masks": np.zeros(0, np.uint8), "values.float32": np.zeros(size, np.float32)}


def test_the_example_of_these_tests_is_a_ticket():
    found = unpack(read_header(header()), values())
    assert found.params["w"].tolist() == [0, 0]
    assert found.masks == {"w": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(format="other"), "its format is not 'supjax-ticket'"),
        (header(version=2), "format version 2 needs a newer supjax"),
        (np.frombuffer(b"[]", np.uint8), "its format is not 'supjax-ticket'"),
        (np.frombuffer(b"{", np.uint8), "Expecting property name"),
    ],
)
def test_other_headers_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        read_header(content)


@pytest.mark.parametrize(
    ("leaf", "arrays"),
    [
        (["float32", [2], None], values(3)),
        (["float32", [2], None], values(1)),
        (["float32", [10**12], None], values()),
        (["float32", [10**12], 2], values()),
        (["float32", [2], 2], {**values(), "masks": np.zeros(1, np.uint8)}),
        (["float32", [2], None], {**values(), "masks": np.zeros(1, np.uint8)}),
        (["float32", [2], 2], values()),
    ],
)
def test_headers_that_contradict_the_arrays_are_refused(leaf, arrays):
    spoken_of = read_header(header(leaves=[leaf]))
    assert members(spoken_of) == ["masks", "values.float32"]
    with pytest.raises(ValueError, match=r"^header and arrays contradict each other$"):
        unpack(spoken_of, arrays)
