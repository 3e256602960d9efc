"""What a ticket file may hold, and headers that contradict themselves or the arrays."""

import json
import re

import jax
import numpy as np
import pytest

from supjax.ticket_io.format import pack, read_header, sha256, unpack, write_header
from supjax.types import Ticket

ONES = np.ones(2, np.float32)


def nested(depth):
    tree = ONES
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    ("ticket", "metadata", "kind", "message"),
    [
        (Ticket({0.5: ONES}, {0.5: None}), {}, TypeError, "keys must be strings, integers or"),
        (Ticket({"a": {b"x": ONES}}, {}), {}, TypeError, "keys must be strings, integers or tup"),
        (Ticket({"a": {1: ONES, "b": ONES}}, {}), {}, ValueError, "the keys at 'a' cannot be"),
        (
            Ticket({}, {}, {"bn": {"name": "x"}}),
            {},
            TypeError,
            "leaves must be numeric arrays, got str at 'bn/name'",
        ),
        (
            Ticket({"activation": jax.nn.relu}, {"activation": None}),
            {},
            TypeError,
            "leaves must be numeric arrays, got custom_jvp at 'activation'",
        ),
        (
            Ticket({"k": jax.random.key(0)}, {"k": None}),
            {},
            TypeError,
            "leaves must be numeric arrays, got PRNGKeyArray at 'k'",
        ),
        (
            Ticket({"w": ONES.astype("longdouble")}, {"w": None}),
            {},
            TypeError,
            "leaves must be numeric arrays, got",
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
        (Ticket({"w": ONES}, {}), {}, ValueError, "masks and params differ: masks have no leaf"),
        (
            Ticket({"w": ONES, "f": None}, {"w": None, "f": ONES > 0}),
            {},
            ValueError,
            "there is a mask but no weight at 'f'",
        ),
        (Ticket(nested(3000), nested(3000)), {}, ValueError, "a tree of the ticket is nested too"),
        (Ticket({}, {}), [1], TypeError, "metadata must be a dict, got list"),
        (Ticket({}, {}), {"f": print}, TypeError, "metadata must fit into JSON"),
        (Ticket({}, {}), {"f": {(1, 2): 3}}, TypeError, "metadata must fit into JSON"),
    ],
)
def test_bad_tickets_end_in_one_line(ticket, metadata, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}") as caught:
        write_header(pack(ticket, metadata)[0])
    assert "\n" not in str(caught.value)


def header(version=1, **changes):
    """The JSON of a ticket of one dense leaf of two ones, changed."""
    fields = {
        "format": "supjax-ticket",
        "version": version,
        "params": {"dict": {"w": 0}},
        "batch_stats": {"dict": {}},
        "leaves": [["float32", [2], None]],
        "metadata": {},
        **(
            {"digests": {"masks": sha256(b""), "values.float32": sha256(ONES)}}
            if version == 2
            else {}
        ),
        **changes,
    }
    return json.dumps(fields).encode()


def reader(**arrays):
    """Reads the arrays that the header of these tests speaks of, or others instead."""
    held = {"masks": np.zeros(0, np.uint8), "values.float32": ONES, **arrays}
    return lambda name, dtype, count: held[name]


@pytest.mark.parametrize("version", [1, 2])
def test_the_example_of_these_tests_is_a_ticket(version):
    found = read_header(header(version))
    assert found.params == {"w": 0}
    leaves, masks = unpack(found, reader())
    assert [leaf.tolist() for leaf in leaves] == [[1, 1]]
    assert masks == [None]


BAD_RECORDS = [
    None,
    [],
    ["float32", [2]],
    ["float32", [2], None, None],
    ["float33", [2], None],
    ["object", [2], None],
    ["f4", [2], None],
    [["float32"], [2], None],
    ["float32", 2, None],
    ["float32", [-2], None],
    ["float32", [2.0], None],
    ["float32", ["2"], None],
    ["float32", [True], None],
    ["float32", [2**63], None],
    ["float32", [1] * 65, None],
    ["float32", [2], 3],
    ["float32", [2], -1],
    ["float32", [2], True],
    ["float32", [2], 1.0],
]
BAD_TREES = [
    0.0,
    "0",
    True,
    [0],
    {},
    {"set": [0]},
    {"dict": [0]},
    {"list": {"w": 0}},
    {"list": [0], "tuple": [0]},
    {"items": [0]},
    {"items": [[None, 0]]},
    {"items": [[[0.5], 0]]},
]
BAD_NUMBERS = [None, *({"list": numbers} for numbers in ([], [0, 0], [0, 1], [1], [-1]))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(format="other"), "its format is not 'supjax-ticket'"),
        (header(version=3), "format version 3 needs a newer supjax"),
        (header(version="1"), "its format version is '1'"),
        (header(version=0), "its format version is 0"),
        (header(version=True), "its format version is True"),
        (b"[]", "its format is not 'supjax-ticket'"),
        (b"{", "Expecting property name"),
        (b"\xff", "codec can't decode"),
        (header(extra=1), "its header has an unknown field 'extra'"),
        (header(digests={}), "its header has an unknown field 'digests'"),
        (header(2, digests=None), "its digests are not those of its members"),
        (header(2, digests={"masks": ""}), "its digests are not those of its members"),
        (header(metadata=float("nan")), "its metadata is no dict"),
        (header(metadata=[]), "its metadata is no dict"),
        (header(leaves={}), "its leaves are no list"),
        *[(header(leaves=[record]), "its header describes no leaf") for record in BAD_RECORDS],
        *[(header(params=tree), "its header (describes no tree|has a key)") for tree in BAD_TREES],
        *[(header(params=tree), "its trees do not name every leaf") for tree in BAD_NUMBERS],
        (header(batch_stats={"list": [0]}), "its trees do not name every leaf once"),
        (
            header(params=None, batch_stats={"list": [0]}, leaves=[["float32", [2], 2]]),
            "its batch statistics have masks",
        ),
    ],
)
def test_other_headers_are_refused(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_header(content)
    assert "\n" not in str(caught.value)


def test_a_header_says_how_much_there_is_before_anything_is_read():
    found = read_header(header(leaves=[["float32", [10**6, 10**12], 2]]))
    lengths = {name: length for name, (_, length) in found.members.items()}
    assert lengths == {"masks": 125 * 10**15, "values.float32": 2}
    assert found.nbytes == 5 * 10**18


@pytest.mark.parametrize(
    ("record", "arrays", "message"),
    [
        (["float32", [9], 2], {"masks": np.uint8([1, 0])}, "masks and header contradict"),
        (["float32", [9], 2], {"masks": np.uint8([0, 127])}, "masks and header contradict"),
        (["bool", [2], None], {"values.bool": np.uint8([1, 2]).view(bool)}, "more than 0 and 1"),
    ],
)
def test_arrays_that_contradict_the_header_are_refused(record, arrays, message):
    with pytest.raises(ValueError, match=message):
        unpack(read_header(header(leaves=[record])), reader(**arrays))


def test_an_array_of_another_ticket_is_named():
    with pytest.raises(ValueError, match=r"^member 'values\.float32' is not the one that its hea"):
        unpack(read_header(header(2)), reader(**{"values.float32": ONES + 1}))
