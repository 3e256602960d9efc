"""Damage ticket files in every way known, and count what is not noticed.

`python -m tests.supjax.ticket_io_fuzz --minutes 5 --seed 0` prints a table. A try is clean if the
file is refused by one line that names it, or loads as exactly the ticket that was written (or, if
the damage comes with a digest of its own, as a ticket that saves and loads again), without taking
more memory than a file of its size may.
"""

import argparse
import collections
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supjax.ticket_io import GROWTH, ROOM, load_metadata, load_ticket, save_ticket
from supjax.types import Ticket

Members = dict[str, bytes]


class Sample(NamedTuple):
    """A ticket file as it was written."""

    content: bytes
    ticket: Ticket
    metadata: Any


class Try(NamedTuple):
    """A damaged file.

    Attributes:
      content: its bytes.
      allowed: the samples that it may load as; None if any ticket will do.
    """

    content: bytes
    allowed: tuple[Sample, ...] | None


def bits(tree: Any) -> Any:
    """The tree's structure, and dtype, shape and bytes of its leaves."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in leaves]


def unzipped(content: bytes) -> Members:
    """The members of a file by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A file of these members, with checksums that are right."""
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about two members of one name
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data, method)
        return buffer.getvalue()


def npy(data: bytes) -> bytes:
    """An npy file of bytes."""
    with io.BytesIO() as buffer:
        np.save(buffer, np.frombuffer(data, np.uint8))
        return buffer.getvalue()


def payload(member: bytes) -> bytes:
    """What an npy file holds."""
    return member[10 + int.from_bytes(member[8:10], "little") :]


def with_header(members: Members, text: bytes, redate: bool) -> Members:
    """The members with another header; with a digest of its own if `redate`."""
    changed = {**members, "header.npy": npy(text)}
    if redate and "digest.npy" in changed:
        changed["digest.npy"] = npy(hashlib.sha256(text).digest())
    return changed


def as_version_1(content: bytes) -> bytes:
    """The file as supjax wrote it before there were digests."""
    members = unzipped(content)
    fields = json.loads(payload(members["header.npy"]))
    del fields["digests"], members["digest.npy"]
    fields["version"] = 1
    return zipped(with_header(members, json.dumps(fields).encode(), False).items())


def samples(seed: int, folder: Path, count: int = 6) -> list[tuple[Sample, Sample]]:
    """Pairs of files whose tickets differ in numbers only, of both versions of the format."""
    pairs = []
    for index in range(count):
        shapes = np.random.default_rng([seed, index]).integers(1, 7, (3, 2))
        pair = []
        for member in range(2):
            rng = np.random.default_rng([seed, index, member])
            params = {"list": [], "values": {}}
            masks: dict[str, Any] = {"list": [], "values": {}}
            for name, (rows, columns) in zip("abc", shapes, strict=True):
                mask = rng.permutation(rows * columns).reshape(rows, columns) < rows * columns // 2
                dtype = jnp.bfloat16 if name == "b" else np.float32
                params["values"][name] = np.where(mask, rng.normal(size=mask.shape), 0).astype(
                    dtype
                )
                masks["values"][name] = mask
                params["list"].append(rng.normal(size=columns).astype(dtype))
                masks["list"].append(None)
            stats = {"bn": {"mean": rng.normal(size=3), "count": np.int32(rng.integers(99))}}
            ticket = Ticket(params, masks, stats)
            metadata = {"name": f"ticket {member}", "accuracy": rng.random(), "list": [1, None]}
            save_ticket(folder / "sample", ticket, metadata)
            content = (folder / "sample").read_bytes()
            content = as_version_1(content) if index % 3 == 2 else content
            pair.append(Sample(content, ticket, metadata))
        pairs.append((pair[0], pair[1]))
    return pairs


NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**62, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e300),
    *(float("nan"), float("inf"), "", "w", "float32", "bfloat16", "float64", "bool", "O", "a\nb"),
    *("x" * 5000, [], {}, [[]], [0], [0, 0], [None], {"": 0}, {"dict": {}}, {"list": []}),
    *([2**40, 2**40], [0, 2**62], [1] * 70, {"items": [[0, 0]]}, {"tuple": [0, 1]}, "\ud800"),
]


def mutated(rng: random.Random, value: Any) -> Any:
    """JSON with one place changed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        changed = value.copy()
        choice = rng.random()
        if choice < 0.1:
            del changed[key]
        elif choice < 0.2:
            other = rng.choice(keys)
            changed[key], changed[other] = changed[other], changed[key]
        elif choice < 0.3 and isinstance(changed, list):
            changed.insert(key, rng.choice([rng.choice(NASTY), changed[key]]))
        elif choice < 0.3:
            changed[rng.choice(["x", "kind", "digests", "0"])] = rng.choice(NASTY)
        else:
            changed[key] = mutated(rng, value[key])
        return changed
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 8, 10**6, 10**9])
    return rng.choice(NASTY)


def flipped(rng: random.Random, content: bytes, most: int = 8) -> bytes:
    """Bytes with a few bits flipped."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, most)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bit_flips(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """A few bits anywhere."""
    return Try(flipped(rng, pair[0].content), pair[:1])


def directory(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Bytes of the zip's own records: sizes, offsets, methods, flags."""
    content = bytearray(pair[0].content)
    starts = [i for i in range(len(content)) if content[i : i + 2] == b"PK"]
    for _ in range(rng.randint(1, 3)):
        place = min(rng.choice(starts) + rng.randrange(4, 46), len(content) - 1)
        content[place] = rng.choice([0, 1, 8, 9, 12, 14, 0x7F, 0xFF, rng.randrange(256)])
    return Try(bytes(content), pair[:1])


def cuts(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Ends cut off, pieces missing, doubled or of another file, zeros instead of a page."""
    content, other = pair[0].content, pair[1].content
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    kinds = [
        content[:first],
        content[first:],
        content[:first] + content[last:],
        content[:last] + content[first:],
        content[:first] + other[first:],
        content[:first] + bytes(last - first) + content[last:],
        content + rng.randbytes(first),
        rng.randbytes(first) + content,
        content + other,
    ]
    return Try(rng.choice(kinds), pair)


def swapped(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Members of two tickets, or of two names, in one file with right checksums."""
    one, other = (unzipped(sample.content) for sample in pair)
    if "digest.npy" not in one:  # version 1 has nothing to find this with, and says so
        return bit_flips(rng, pair)
    mixed = {name: rng.choice([one, other])[name] for name in one}
    if rng.random() < 0.3:
        first, second = rng.choices(list(mixed), k=2)
        mixed[first], mixed[second] = mixed[second], mixed[first]
    if rng.random() < 0.1:
        del mixed[rng.choice(list(mixed))]
    if rng.random() < 0.1:
        mixed[rng.choice(["extra.npy", "extra", "values.int8.npy", "../x.npy"])] = b"x"
    members = [*mixed.items()]
    if rng.random() < 0.1:
        members.append(rng.choice([*other.items()]))
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return Try(zipped(members, method), pair)


def preambles(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Other npy preambles, with right checksums."""
    members = unzipped(pair[0].content)
    name = rng.choice(list(members))
    start = members[name][:128]
    if rng.random() < 0.5:
        old, new = rng.choice(
            [
                (b"'<f4'", rng.choice([b"'<i4'", b"'>f4'", b"'|O'", b"'<f8'"])),
                (b"'|u1'", rng.choice([b"'|i1'", b"'|b1'", b"'<f1'"])),
                (b"False", b"True "),
                (b"(", b"(9"),
                (b",)", b"0,)"),
                (b",)", b",9)"),
                (b"\x01\x00", b"\x02\x00"),
            ]
        )
        start = start.replace(old, new, 1)
    else:
        start = flipped(rng, start)
    return Try(zipped({**members, name: start + members[name][128:]}.items()), pair[:1])


def headers(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """The header changed in one to three places, with right checksums, with or without digest."""
    members = unzipped(pair[0].content)
    fields = json.loads(payload(members["header.npy"]))
    for _ in range(rng.randint(1, 3)):
        fields = mutated(rng, fields)
    redate = rng.random() < 0.7
    changed = with_header(members, json.dumps(fields).encode(), redate)
    dated = "digest.npy" in members and not redate
    return Try(zipped(changed.items()), pair[:1] if dated else None)


def metadata(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Metadata of any kind, with a digest of their own."""
    members = unzipped(pair[0].content)
    fields = json.loads(payload(members["header.npy"]))
    fields["metadata"] = mutated(rng, rng.choice([fields["metadata"], rng.choice(NASTY)]))
    changed = with_header(members, json.dumps(fields).encode(), True)
    return Try(zipped(changed.items()), None)


def bombs(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Small files that speak of much, with right checksums and digests."""
    members = unzipped(pair[0].content)
    fields = json.loads(payload(members["header.npy"]))
    kind = rng.randrange(5)
    if kind == 0:  # masks of nothing
        weights = 8 * rng.randint(1, 1 << 24)
        masks = bytes(weights // 8)
        members = {"header.npy": b"", "masks.npy": npy(masks), "values.float32.npy": npy(b"")}
        members["values.float32.npy"] = members["values.float32.npy"].replace(b"'|u1'", b"'<f4'")
        fields |= {"version": 1, "params": {"list": [0]}, "batch_stats": None}
        fields |= {"leaves": [["float32", [weights], 0]]}
        fields.pop("digests", None)
    elif kind == 1:  # a size from nowhere
        leaf = rng.choice(fields["leaves"])
        leaf[1] = [rng.choice([2**20, 2**33, 2**62]) for _ in range(rng.randint(1, 3))]
    elif kind == 2:  # long texts
        fields["metadata"] = {"x": [[]] * rng.choice([10**3, 10**5, 10**6])}
    elif kind == 3:  # deep ones
        depth = rng.choice([10**2, 10**3, 10**4, 10**5])
        text = json.dumps({**fields, "metadata": "@"}).replace('"@"', "[" * depth + "]" * depth)
        return Try(zipped(with_header(members, text.encode(), True).items()), None)
    else:  # many members
        more = [(f"values.float{i}.npy", npy(bytes(1 << 20))) for i in range(rng.randint(1, 40))]
        return Try(zipped([*members.items(), *more]), pair[:1])
    changed = with_header(members, json.dumps(fields).encode(), True)
    return Try(zipped(changed.items()), None)


def strangers(rng: random.Random, pair: tuple[Sample, Sample]) -> Try:
    """Files that are no tickets."""
    arrays = {"w": np.ones(3), "header": np.array([b"{}", b"x"]), "masks": np.ones((2, 2))}
    buffer = io.BytesIO()
    np.savez(buffer, **dict(rng.sample([*arrays.items()], rng.randint(0, 3))))
    text = json.dumps(rng.choice(NASTY)).encode()
    kinds = [
        buffer.getvalue(),
        rng.randbytes(rng.randrange(200)),
        b"PK\x05\x06" + bytes(18),
        zipped([("header.npy", npy(text))]),
        zipped([("header.npy", text)]),
        zipped([], zipfile.ZIP_STORED),
        npy(text),
    ]
    return Try(rng.choice(kinds), ())


CLASSES: dict[str, Callable[[random.Random, tuple[Sample, Sample]], Try]] = {
    "bit flips": bit_flips,
    "zip directory": directory,
    "cuts and splices": cuts,
    "swapped members": swapped,
    "npy preambles": preambles,
    "headers": headers,
    "metadata": metadata,
    "bombs": bombs,
    "no tickets": strangers,
}
RARE = {"bombs": 5}
"""Slow classes: one round in so many."""


def judged(path: Path, given: Try, like: Ticket | None) -> str:
    """Return "refused", "loaded", or what is bad about a try; it is loaded onto a template."""
    path.write_bytes(given.content)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            ticket, found = load_ticket(path, like), load_metadata(path)
    except ValueError as error:
        text = str(error)
        if "\n" in text or not text.startswith(f"{path} ") or len(text) > 700:
            return f"badly said: {text!r}"
        outcome = "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        outcome = "loaded"
        if any(warning.category is not UserWarning for warning in said):
            return f"warns: {[str(warning.message) for warning in said]}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > 3 * max(ROOM, GROWTH * len(given.content)):
        return f"took {peak} bytes for a file of {len(given.content)}"
    if outcome == "loaded":
        if given.allowed is not None:
            expected = [(bits(s.ticket), repr(s.metadata)) for s in given.allowed]
            return outcome if (bits(ticket), repr(found)) in expected else "another ticket"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_ticket(path, ticket, found)
            if bits(load_ticket(path)) != bits(ticket):
                return "a ticket that is none"
    return outcome


def fuzz(
    seed: int, seconds: float, tries: int, folder: Path
) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """Try all classes in turn, until the time or the number of tries of each is over.

    Returns:
      Outcomes by class, and one line for each bad try, whose file is kept in the folder.
    """
    pairs, path = samples(seed, folder), folder / "fuzzed"
    table = {name: collections.Counter[str]() for name in CLASSES}
    lines = []
    end = time.monotonic() + seconds
    for number in range(tries):
        for name, make in CLASSES.items():
            if time.monotonic() > end:
                return table, lines
            if number % RARE.get(name, 1):
                continue
            rng = random.Random(f"{seed} {name} {number}")
            pair = rng.choice(pairs)
            given = make(rng, pair)
            outcome = judged(path, given, rng.choice([None, None, pair[0].ticket]))
            if outcome not in ("refused", "loaded"):
                kept = folder / f"bad_{name.replace(' ', '_')}_{number}"
                kept.write_bytes(given.content)
                lines.append(f"{kept}: {outcome[:300]}")
                outcome = "bad"
            table[name][outcome] += 1
    return table, lines


def main() -> None:
    """Print the table; the exit status says whether a try was bad."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ticket_io_fuzz_"))
    table, lines = fuzz(given.seed, 60 * given.minutes, sys.maxsize, folder)
    total = sum(table.values(), collections.Counter())
    print(f"{'class':<18}{'tries':>8}{'refused':>9}{'loaded':>8}{'bad':>5}")
    for name, counts in [*table.items(), ("all", total)]:
        cells = counts["refused"], counts["loaded"], counts["bad"]
        print(f"{name:<18}{counts.total():>8}{cells[0]:>9}{cells[1]:>8}{cells[2]:>5}")
    print(*lines, sep="\n", end="\n" if lines else "")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
