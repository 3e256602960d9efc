"""Ticket files: exact round trips, small files, and nothing lost to damage or a full disk."""

import hashlib
import json
import os
import resource
import warnings
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supjax.ticket_io import load_metadata, load_ticket, save_ticket
from supjax.ticket_io.format import DTYPES
from supjax.types import Ticket

SHAPES = [(), (0,), (1,), (7,), (2, 3), (3, 0, 2), (2, 2, 3, 3)]


@st.composite
def weights_and_masks(draw):
    """A leaf of arbitrary bits and its mask, or None."""
    dtype, shape = draw(st.sampled_from([*DTYPES.values()])), draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = 2 if dtype.kind == "b" else 256
    raw = rng.integers(0, top, (*shape, dtype.itemsize), np.uint8)
    array = raw.view(dtype).reshape(shape)
    if draw(st.booleans()):
        return array, None
    mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    if np.zeros((), dtype) != 0:  # float8_e8m0fnu has no zero and cannot be masked
        return array, None
    return np.where(mask, array, np.zeros((), dtype)), np.asarray(mask)


class Leaf:
    """Marks a `(weight, mask)` pair, so that tuples can be containers."""

    def __init__(self, pair):
        self.weight, self.mask = pair


LEAVES = weights_and_masks().map(Leaf)
TREES = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.dictionaries(st.text(max_size=3), children, max_size=3),
        st.lists(children, max_size=3),
        st.lists(children, max_size=2).map(tuple),
    ),
    max_leaves=6,
)


def bits(tree):
    """The tree's structure, and dtype, shape and bytes of its leaves."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    described = [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in leaves]
    return jax.tree.structure(tree), described


def round_trip(folder, ticket):
    path = folder / "ticket.npz"
    save_ticket(path, ticket)
    return load_ticket(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tickets")


@given(tree=TREES, stats=TREES)
def test_round_trips_are_exact(folder, tree, stats):
    ticket = Ticket(
        params=jax.tree.map(lambda leaf: leaf.weight, tree),
        masks=jax.tree.map(lambda leaf: leaf.mask, tree),
        batch_stats=jax.tree.map(lambda leaf: leaf.weight, stats),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random bits are NaN now and then
        assert bits(round_trip(folder, ticket)) == bits(ticket)


def test_kept_bits_survive_and_the_rest_becomes_zero(folder):
    payload = np.uint32(0x7FC12345).view(np.float32)
    weights = np.array([-0.0, -0.0, payload, np.inf, 0.0], np.float32)
    mask = np.array([True, False, True, True, True])
    ticket = Ticket({"w": jnp.asarray(weights)}, {"w": jnp.asarray(mask)})
    with pytest.warns(UserWarning, match="2 of 5 numbers are NaN or infinite in params at 'w'$"):
        found = round_trip(folder, ticket)
    expected = weights.view(np.uint32).copy()
    expected[1] = 0
    np.testing.assert_array_equal(found.params["w"].view(np.uint32), expected)
    np.testing.assert_array_equal(found.masks["w"], mask)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_every_bit_pattern_of_every_dtype_survives(folder, name, sparse):
    dtype = DTYPES[name]
    raw = np.random.default_rng(0).integers(0, 256, (4096, dtype.itemsize), np.uint8)
    raw[:256, -1] = np.arange(256)  # signs, exponents and NaNs of all kinds
    raw[:256:2, :-1] = 0
    weights = (raw % 2 if dtype.kind == "b" else raw).view(dtype).ravel()
    mask = None
    if sparse and np.zeros((), dtype) == 0:  # float8_e8m0fnu has no zero
        mask = np.arange(weights.size) % 3 > 0
        weights[~mask] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaNs are said
        found = round_trip(folder, Ticket({"w": weights}, {"w": mask}))
    assert bits(found) == bits(Ticket({"w": weights}, {"w": mask}))


def test_files_over_four_gigabytes_have_larger_fields(folder, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    ticket = Ticket({"w": np.arange(1000.0)}, {"w": np.arange(1000) > 0})
    assert bits(round_trip(folder, ticket)) == bits(ticket)


def test_other_layouts_in_memory_are_the_same_ticket(folder):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    for other in (np.asfortranarray(weights), weights.astype(">f4"), weights[:, ::-1][:, ::-1]):
        found = round_trip(folder, Ticket({"w": other}, {"w": None})).params["w"]
        np.testing.assert_array_equal(found, weights)
        assert found.dtype == np.float32
        assert found.dtype.isnative


def test_none_in_a_tree_and_python_numbers(folder):
    found = round_trip(folder, Ticket([1.5, (2,)], [None, (None,)], {"bn": None}))
    assert found == Ticket([1.5, (2,)], [None, (None,)], {"bn": None})


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [16, 64])
def test_a_sparse_ticket_is_small(folder, width, dtype):
    rng = np.random.default_rng(0)
    params, masks, stats = {}, {}, {}
    for i in range(8):
        mask = rng.random((3, 3, width, width)) < 0.05
        kernel = (rng.normal(size=mask.shape) * mask).astype(dtype)
        params[f"layer{i}"] = {"kernel": kernel, "scale": np.ones(width, dtype)}
        masks[f"layer{i}"] = {"kernel": mask, "scale": None}
        stats[f"layer{i}"] = {"mean": np.zeros(width, dtype), "var": np.ones(width, dtype)}
    path = folder / "small.npz"
    save_ticket(path, Ticket(params, masks, stats), {"accuracy": 0.9})
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert path.stat().st_size <= (0.12 if dtype is np.float32 else 0.16) * dense


def test_plain_numpy_reads_the_arrays(folder):
    path = folder / "plain.npz"
    weights = np.array([0, 3, 0, 4], np.float32)
    save_ticket(path, Ticket({"w": weights}, {"w": weights != 0}), {"seed": 1})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["digest", "header", "masks", "values.float32"]
        assert file["digest"].tobytes() == hashlib.sha256(file["header"].tobytes()).digest()
        np.testing.assert_array_equal(file["values.float32"], [3, 4])
        assert json.loads(file["header"].tobytes())["metadata"] == {"seed": 1}


def test_metadata_and_bytes_are_reproducible(folder):
    ticket = Ticket({"w": np.ones(3)}, {"w": None})
    first, second = folder / "a", folder / "b"
    metadata = {"accuracy": jnp.float32(0.5), "seeds": np.arange(2), "name": "é"}
    save_ticket(first, ticket, metadata)
    save_ticket(second, ticket, metadata)
    assert load_metadata(first) == {"accuracy": 0.5, "seeds": [0, 1], "name": "é"}
    assert first.read_bytes() == second.read_bytes()
    save_ticket(first, ticket)
    assert load_metadata(str(first)) == {}


@pytest.fixture(scope="module")
def saved(folder):
    path = folder / "saved.npz"
    rng = np.random.default_rng(1)
    mask = rng.random(300) < 0.1
    weights = rng.normal(size=300).astype(np.float32) * mask
    ticket = Ticket({"w": weights + 0.0, "b": np.ones(1)}, {"w": mask, "b": None})
    save_ticket(path, ticket, {"seed": 3})
    return path.read_bytes(), ticket


ONES = np.ones(2, np.float32)


def refused(path):
    """Whether loading ends in one line that names the file."""
    with pytest.raises(ValueError, match="is no readable ticket: ") as caught:
        load_ticket(path)
    message = str(caught.value)
    return message.startswith(str(path)) and "\n" not in message


def load_or_message(path):
    try:
        return load_ticket(path)
    except ValueError as error:
        return str(error)


def test_every_cut_is_noticed(saved, tmp_path):
    content, _ = saved
    path = tmp_path / "cut.npz"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert refused(path)


@pytest.mark.parametrize("change", [0x01, 0xFF])
def test_no_changed_byte_gives_another_ticket(saved, tmp_path, change):
    content, ticket = saved
    path = tmp_path / "changed.npz"
    harmless = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        found = load_or_message(path)
        if isinstance(found, str):
            assert found.startswith(f"{path} is no readable ticket: ")
            assert "\n" not in found
        else:
            harmless += 1  # dates, attributes and other fields that say nothing about the arrays
            assert bits(found) == bits(ticket)
    assert harmless < len(content) / 5


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("not a ticket")
    assert refused(path)
    with pytest.raises(ValueError, match="is no readable ticket: File is not a zip file"):
        load_metadata(path)
    np.save(tmp_path / "array.npy", ONES)
    assert refused(tmp_path / "array.npy")
    np.savez(tmp_path / "pickle.npz", header=np.array([{"a": 1}]))
    assert refused(tmp_path / "pickle.npz")
    np.savez(tmp_path / "other.npz", w=ONES)
    assert load_or_message(tmp_path / "other.npz").endswith(
        "is no readable ticket: it has no member 'header': it was not written by save_ticket"
    )
    save_ticket(path, Ticket({}, {}, {"bn": ONES}))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "part.npz", "w") as part:
        part.writestr("header.npy", whole.read("header.npy"))
    assert "it has no member 'masks': copy it again" in load_or_message(tmp_path / "part.npz")
    with pytest.raises(FileNotFoundError):
        load_ticket(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("ticket", "kind", "message"),
    [
        ({"w": ONES}, TypeError, r"^save_ticket takes a supjax.Ticket, got dict$"),
        (Ticket({0.5: ONES}, {0.5: None}), TypeError, r"^keys must be strings, integers or tup"),
        (Ticket({"w": ONES}, {"w": ONES < 0}), ValueError, "outside the mask must be zero"),
    ],
)
def test_a_refused_ticket_writes_nothing(tmp_path, ticket, kind, message):
    with pytest.raises(kind, match=message):
        save_ticket(tmp_path / "ticket.npz", ticket)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_ticket(tmp_path / "nowhere" / "ticket.npz", Ticket({}, {}))


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "ticket.npz"
    old = Ticket({"w": ONES}, {"w": None})
    save_ticket(path, old)
    large = Ticket({"w": np.ones(100_000)}, {"w": None})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_ticket(path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bits(load_ticket(path)) == bits(old)
    assert list(tmp_path.iterdir()) == [path]
    save_ticket(path, large)
    assert bits(load_ticket(path)) == bits(large)


def test_the_file_is_complete_before_it_takes_its_name(tmp_path, monkeypatch):
    path = tmp_path / "ticket.npz"
    ticket = Ticket({"w": ONES}, {"w": None})
    seen = []

    def replace(source, target):
        seen.append(bits(load_ticket(source)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_ticket(path, ticket)
    assert seen == [bits(ticket)]
    assert not list(tmp_path.iterdir())
