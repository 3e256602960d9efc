"""Ticket files by strangers: parts of two tickets, sizes from nowhere, numbers of no use."""

import itertools
import json
import os
import re
import shutil
import socket
import struct
import tracemalloc
import uuid
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.ticket_io import ROOM, check_ticket, load_metadata, load_ticket, save_ticket
from supjax.types import Ticket
from tests.supjax.ticket_io_fuzz import (
    CLASSES,
    as_version_1,
    bits,
    fuzz,
    npy,
    payload,
    unzipped,
    with_header,
    zipped,
)


def make(seed):
    """A ticket and its metadata; another seed changes numbers only."""
    rng = np.random.default_rng(seed)
    mask = rng.permutation(24).reshape(4, 6) < 12
    params = {
        "kernel": np.where(mask, rng.normal(size=(4, 6)), 0).astype(np.float32),
        "bias": rng.normal(size=6).astype(jnp.bfloat16),
    }
    ticket = Ticket(params, {"kernel": mask, "bias": None}, {"bn": {"var": np.ones(3)}})
    return ticket, {"seed": seed}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Two ticket files of one network."""
    path = tmp_path_factory.mktemp("two") / "ticket.npz"
    found = []
    for seed in range(2):
        save_ticket(path, *make(seed))
        found.append(path.read_bytes())
    return found


def message(path, content, read=load_ticket):
    """The one line by which a file is refused, without the part that all have."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert len(text) < 700
    return text.removeprefix(f"{path} is no readable ticket: ")


def old_leaves():
    """What tests/vectors/ticket_v1.npz was written from, by supjax at commit 8b7aceb."""
    kernel = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4) / 8
    mask = np.arange(24).reshape(2, 3, 4) % 3 == 0
    params = {
        "conv": {
            "kernel": np.where(mask, kernel, np.float32(0)),
            "bias": np.float32([1, -0.0, 1e-45]),
        },
        "heads": [
            np.asarray([1.5, 0, -2], jnp.bfloat16),
            (np.asarray([0.5, 3], jnp.float8_e4m3fn), np.asarray(7, np.float16)),
        ],
        "none": None,
        "empty": np.zeros((0, 3), np.float64),
        "flags": np.array([True, False]),
    }
    masks = jax.tree.map(lambda _: None, params)
    masks["conv"]["kernel"] = mask
    masks["heads"][0] = np.array([True, False, True])
    stats = {"bn": {"mean": np.float32([0.25]), "var": np.float32([2]), "count": np.int32(9)}}
    return Ticket(params, masks, stats)


NO_DIGEST = r"is of format version 1, which has checksums but no digest: save it again to add one$"


def test_a_file_of_the_first_format_loads_and_says_that_it_has_no_digest(golden_folder, tmp_path):
    path = golden_folder / "ticket_v1.npz"
    with pytest.warns(UserWarning, match=NO_DIGEST) as said:
        found = load_ticket(path)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert bits(found) == bits(old_leaves())
    with pytest.warns(UserWarning, match=NO_DIGEST) as said:
        assert load_metadata(path) == {"name": "old", "accuracy": 0.5}
    assert said[0].filename == __file__
    save_ticket(tmp_path / "new", found)
    assert bits(load_ticket(tmp_path / "new", like=found)) == bits(found)


def test_old_files_of_float8_e5m2_can_be_read_at_last(tmp_path):
    """The old writer called the dtype `<f1`, which nobody knows, itself included."""
    weights = np.array([1.5, -0.0], jnp.float8_e5m2)
    save_ticket(tmp_path / "new", Ticket({"w": weights}, {"w": None}))
    members = unzipped(as_version_1((tmp_path / "new").read_bytes()))
    name = "values.float8_e5m2.npy"
    members[name] = members[name].replace(b"'|u1'", b"'<f1'")
    (tmp_path / "old").write_bytes(zipped(members.items()))
    with pytest.warns(UserWarning, match=NO_DIGEST):
        assert bits(load_ticket(tmp_path / "old").params) == bits({"w": weights})


def test_no_mixture_of_two_tickets_is_a_ticket(contents, tmp_path):
    members = [unzipped(content) for content in contents]
    names = list(members[0])
    assert len(names) == 6
    for choice in itertools.product(members, repeat=len(names)):
        mixed = {name: of[name] for name, of in zip(names, choice, strict=True)}
        content = zipped(mixed.items())
        if mixed in members:
            (tmp_path / "m").write_bytes(content)
            expected = make(members.index(mixed))[0]
            assert bits(load_ticket(tmp_path / "m")) == bits(expected)
        else:
            found = message(tmp_path / "m", content)
            assert re.search("is not the one that|is another one's", found)


def renamed(members, old, new):
    return [(new if name == old else name, data) for name, data in members.items()]


def changed_records(members, change):
    """A file of version 1 whose header is changed."""
    fields = json.loads(payload(members["header.npy"]))
    change(fields)
    return zipped(with_header(members, json.dumps(fields).encode(), True).items())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: zipped([*m.items(), ("x.npy", b"")]), "it has an unknown member 'x': copy it"),
        (lambda m: zipped([*m.items(), ("x", b"")]), "it has a member 'x' too many: save it anew"),
        (lambda m: zipped([*m.items(), ("masks.npy", b"")]), "it has a member 'masks.npy' too"),
        (lambda m: zipped(renamed(m, "masks.npy", "x.npy")), "it has an unknown member 'x'"),
        (lambda m: zipped(renamed(m, "header.npy", "x.npy")), "it has no member 'header'"),
        (lambda m: zipped([*m.items()][:-1]), "it has no member 'digest': copy it again or"),
        (lambda m: zipped(m.items(), zipfile.ZIP_BZIP2), "member 'header' is not stored or defl"),
        (lambda m: zipped(m.items(), zipfile.ZIP_LZMA), "member 'header' is not stored or defl"),
        (lambda m: zipped({**m, "masks.npy": b"x"}.items()), "member 'masks' does not hold the 3"),
        (
            lambda m: zipped({**m, "masks.npy": m["masks.npy"].replace(b",)", b"1)")}.items()),
            "member 'masks' is no one-dimensional array: save it anew",
        ),
        (
            lambda m: zipped({**m, "values.float32.npy": m["values.bfloat16.npy"]}.items()),
            "member 'values.float32' does not hold the 12 entries of '<f4' that its header speaks",
        ),
        (
            lambda m: changed_records(m, lambda h: h["leaves"][1].__setitem__(2, 11)),
            "member 'values.float32' does not hold the 11 entries of '<f4' that its header speaks",
        ),
        (
            lambda m: changed_records(m, lambda h: h.update(metadata=None)),
            "its metadata is no dict: copy it again or save it anew",
        ),
        (
            lambda m: changed_records(m, lambda h: h.update(params="x" * 9999)),
            "its header describes no tree: 'xxx",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_to_do(contents, tmp_path, change, expected):
    assert message(tmp_path / "x", change(unzipped(contents[0]))).startswith(expected)


def test_a_damaged_member_is_named(contents, tmp_path):
    for name in unzipped(contents[0]):
        start = contents[0].index(name.encode()) + len(name) + 1
        broken = contents[0][:start] + b"\xff\xff" + contents[0][start + 2 :]
        found = message(tmp_path / "x", broken)
        assert found.startswith(f"member '{name.removesuffix('.npy')}' is damaged (")
        assert found.endswith("): copy the file again")


def test_other_kinds_of_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        for read in (load_ticket, load_metadata):
            with pytest.raises(ValueError, match=f"^{path} is no readable ticket: it is no regul"):
                read(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device"):
            load_ticket(tmp_path / "socket")
    with pytest.raises(IsADirectoryError):
        load_ticket(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_ticket(tmp_path / "missing")
    with pytest.raises(TypeError):
        load_ticket(0)


def test_odd_file_names_stay_on_one_line(tmp_path):
    odd = tmp_path / "a\nb"
    odd.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"^'.*a\\nb' is no readable ticket: "):
        load_ticket(odd)
    long = tmp_path / ("ü" * 127)
    save_ticket(os.fsencode(long), *make(0))
    assert bits(load_ticket(os.fsencode(long))) == bits(make(0)[0])
    assert load_metadata(str(long)) == {"seed": 0}


def wide(weights):
    """A file of version 1 that speaks of so many weights, none kept: masks of zeros deflate."""
    fields = {
        "format": "supjax-ticket",
        "version": 1,
        "params": {"list": [0]},
        "batch_stats": None,
        "leaves": [["float32", [weights], 0]],
        "metadata": {},
    }
    members = [
        ("header.npy", npy(json.dumps(fields).encode())),
        ("masks.npy", npy(bytes(-(-weights // 8)))),
        ("values.float32.npy", npy(b"").replace(b"'|u1'", b"'<f4'")),
    ]
    return zipped(members)


def claims(content, name, size):
    """The file with another size of a member in its directory."""
    place = content.rindex(name.encode()) - 46 + 24
    return content[:place] + struct.pack("<I", size) + content[place + 4 :]


def shaped(leaf, *shape):
    """Makes a file whose header gives a leaf another shape."""

    def change(header):
        header["leaves"][leaf][1] = shape

    return lambda content: changed_records(unzipped(content), change)


def long_text(content):
    members = unzipped(content)
    return zipped({**members, "header.npy": npy(b" " * (1 << 26))}.items())


def long_member(content):
    members = unzipped(content)
    return zipped({**members, "values.float32.npy": npy(bytes(1 << 26))}.items())


def npy_shape(content):
    members, name = unzipped(content), "values.float32.npy"
    many = members[name].replace(b"(12,), }" + b" " * 9, b"(12000000000,), }")
    assert many != members[name]
    return zipped({**members, name: many}.items())


def deep(content):
    members = unzipped(content)
    text = payload(members["header.npy"]).replace(b'"seed":0', b'"x":' + b"[" * 10**6)
    return zipped(with_header(members, text, True).items())


BOMBS = {
    "masks of zeros": lambda c: wide(1 << 28),
    "a shape": shaped(0, 10**9),
    "an impossible shape": shaped(0, *[2**62] * 9),
    "empty but wide": shaped(0, 0, 2**62),
    "a sparse shape": shaped(1, 10**12),
    "a sparse shape of the right size": shaped(1, 2**63 - 1, 0),
    "a member's size": lambda c: claims(c, "values.float32.npy", 0xFFFFFFF0),
    "a deflated member's size": lambda c: claims(c, "masks.npy", 0xFFFFFFF0),
    "the digest's size": lambda c: claims(c, "digest.npy", 1 << 30),
    "a npy shape": npy_shape,
    "a long text": long_text,
    "a long member": long_member,
    "deep JSON": deep,
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_small_file_takes_much_memory(contents, tmp_path, name):
    content = BOMBS[name](contents[0])
    assert len(content) < 1 << 17
    tracemalloc.start()
    try:
        message(tmp_path / "bomb", content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 22


def test_more_memory_is_given_on_request_and_where_the_network_is_as_large(tmp_path):
    weights = ROOM // 5 + 1
    content = wide(weights)
    found = message(tmp_path / "wide", content)
    assert found == (
        f"{tmp_path / 'wide'} has {len(content)} bytes and would take {5 * weights} in memory, "
        f"over {ROOM}: if you trust it, pass max_bytes={5 * weights}"
    )
    like = [jax.ShapeDtypeStruct((weights,), jnp.float32)]
    with pytest.warns(UserWarning, match=NO_DIGEST):
        found = load_ticket(tmp_path / "wide", max_bytes=5 * weights)
    assert found.params[0].shape == (weights,)
    with pytest.warns(UserWarning, match=NO_DIGEST):
        assert load_ticket(tmp_path / "wide", like=like).masks[0].shape == (weights,)
    with pytest.raises(ValueError, match="over 1000: if you trust it, pass max_bytes="):
        load_ticket(tmp_path / "wide", like=like, max_bytes=1000)
    with pytest.raises(ValueError, match="max_bytes must be an integer of at least 1, got '1G'"):
        load_ticket(tmp_path / "wide", max_bytes="1G")


def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def zeros(*_):
        raise MemoryError("Unable to allocate 28 GiB")

    save_ticket(tmp_path / "t", *make(0))
    monkeypatch.setattr(np, "zeros", zeros)
    with pytest.raises(ValueError, match=r"t needs more memory than there is: Unable to alloc"):
        load_ticket(tmp_path / "t")


@pytest.mark.parametrize("kept", [0, 10])
def test_what_is_written_can_be_read_however_sparse(tmp_path, kept):
    weights = np.zeros(ROOM // 5 + 1, np.float32)
    weights[:kept] = 1
    ticket = Ticket([weights], [weights > 0])
    save_ticket(tmp_path / "sparse", ticket)
    assert bits(load_ticket(tmp_path / "sparse")) == bits(ticket)
    assert (tmp_path / "sparse").stat().st_size == pytest.approx(weights.size / 8, rel=0.01)


def test_long_metadata_can_be_read(tmp_path):
    metadata = {"zeros": [0] * 10**6}
    save_ticket(tmp_path / "long", Ticket({}, {}), metadata)
    assert load_metadata(tmp_path / "long") == metadata
    with pytest.raises(ValueError, match=r"^trees and metadata take \d+ bytes, at most \d+ fit$"):
        save_ticket(tmp_path / "long", Ticket({}, {}), {"text": " " * (1 << 26)})
    assert load_metadata(tmp_path / "long") == metadata


def faulty(where, value, dtype=np.float32):
    params, stats = {"w": np.ones(3, dtype)}, {"bn": {"mean": np.ones(2, dtype)}}
    stats["bn"]["var"] = np.ones(2, dtype)
    {"w": params, **dict.fromkeys(("mean", "var"), stats["bn"])}[where][where][1] = value
    return Ticket(params, {"w": None}, stats)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, np.complex64])
@pytest.mark.parametrize(
    ("where", "value", "line"),
    [
        ("w", np.nan, "1 of 3 numbers are NaN or infinite in params at 'w'"),
        ("w", -np.inf, "1 of 3 numbers are NaN or infinite in params at 'w'"),
        ("mean", np.nan, "1 of 2 numbers are NaN or infinite in batch_stats at 'bn/mean'"),
        ("var", np.inf, "1 of 2 numbers are NaN or infinite in batch_stats at 'bn/var'"),
        ("var", -1, "1 of 2 numbers are negative variances in batch_stats at 'bn/var'"),
    ],
)
def test_numbers_of_no_use_are_said_and_kept(tmp_path, where, value, line, dtype):
    ticket = faulty(where, value, dtype)
    with pytest.raises(ValueError, match=f"^{line}$"):
        check_ticket(ticket)
    save_ticket(tmp_path / "t", ticket)
    with pytest.warns(UserWarning, match=f"^{tmp_path / 't'}: {line}$") as said:
        assert bits(load_ticket(tmp_path / "t")) == bits(ticket)
    assert said[0].filename == __file__


def test_numbers_that_are_as_they_may_be_are_not_said():
    check_ticket(faulty("mean", -1))
    check_ticket(faulty("w", -1))
    check_ticket(Ticket({"var": np.float32([-1]), "n": np.int8([-1]), "b": np.array(True)}, {}))


def test_links_in_the_place_of_temporary_names_are_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    victim, link = tmp_path / "victim", tmp_path / ".t.00000000.tmp"
    victim.write_text("precious")
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        save_ticket(tmp_path / "t", *make(0))
    assert victim.read_text() == "precious"
    assert link.is_symlink()
    link.unlink()
    (tmp_path / "t").symlink_to(victim)  # the name itself is replaced, not what it points to
    save_ticket(tmp_path / "t", *make(0))
    assert victim.read_text() == "precious"
    assert load_metadata(tmp_path / "t") == {"seed": 0}


def test_a_short_fuzz_of_every_class_finds_nothing(tmp_path):
    table, lines = fuzz(seed=14, seconds=600, tries=26, folder=tmp_path)
    assert not lines
    assert table.keys() == CLASSES.keys()
    assert all(counts["refused"] for counts in table.values())
    assert table["bombs"].total() == 6
    shutil.rmtree(tmp_path)
