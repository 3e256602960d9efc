"""Damaged and odd data files from a seed, and what reading them comes to.

    python -m tests.experiments.data.fuzz --minutes=5 --seed=0

Every try takes a small valid set in one of the forms that can be imported or loaded, damages it,
and reads it. The try is clean if it gives the very images and labels of the undamaged set or one
line that says what is wrong, and, for files without any checksum, if the copy is said to be
unverified. Anything else (a traceback, other images without a word, memory taken by what a header
declares) is bad.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import io
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.data import load_dataset
from experiments.data.checks import DataError
from experiments.data.importing import read_source
from experiments.data.importing.source import Source
from tests.experiments.data import odd_sets

_HANGS = 900.0  # Seconds after which a try waits for something that never comes.

MOST_MEMORY = 64 << 20
"""Bytes that reading one of these tiny sets may take, whatever its headers say."""


class Outcome(NamedTuple):
    """What became of a try: `clean` or not, and what was said."""

    clean: bool
    text: str


def digest(images, labels, names, num_classes) -> tuple[str, tuple[str, ...]]:
    """A hash of images and labels, and the classes' names; sets without names are no others."""
    number = {name: index for index, name in enumerate(names or ())}
    total = hashlib.sha256(str(num_classes).encode())
    for split in sorted(images):
        indices = [int(number.get(label, label)) for label in labels[split]]
        total.update(f"{split}{indices}".encode())
        for image in images[split]:
            total.update(bytes(image) if isinstance(image, bytes) else image.tobytes())
    return total.hexdigest(), tuple(names or ())


def read(path: Path, form: odd_sets.Form) -> tuple[tuple[str, tuple[str, ...]], bool]:
    """Read a set as the commands do; its digest, and whether it is said to be unverified."""
    if form.prepared:
        data = load_dataset("tiny", path, validation_size=0)
        splits = {"train": data.train, "test": data.test}
        found = digest(
            {name: split.images for name, split in splits.items()},
            {name: split.labels for name, split in splits.items()},
            data.label_names,
            data.num_classes,
        )
        return found, False
    source: Source = read_source(path)
    examples = {
        name: [split.read(index) for index in range(len(split.keys))]
        for name, split in source.splits.items()
    }
    found = digest(
        {name: [example["image"] for example in every] for name, every in examples.items()},
        {name: [example["label"] for example in every] for name, every in examples.items()},
        source.label_names,
        source.num_classes,
    )
    return found, bool(source.unchecked)


def attempt(path: Path, form: odd_sets.Form, expected: tuple, damage: odd_sets.Damage) -> Outcome:
    """Read a damaged set and judge what came of it."""
    measured = damage.name == "huge sizes"  # For measuring makes reading many times slower.
    if measured:
        tracemalloc.start()
    faulthandler.dump_traceback_later(_HANGS, exit=True, file=sys.__stderr__)
    try:
        found, unverified = read(path, form)
    except (DataError, FileNotFoundError, ValueError) as error:
        text = str(error)
        known = isinstance(error, DataError | FileNotFoundError) or "data set" in text
        clean = known and text.isprintable() and len(text) < 1000 and str(path) in text
        outcome = Outcome(clean, f"{type(error).__name__}: {text}")
    except Exception as error:  # Everything else would be a traceback.
        outcome = Outcome(False, f"{type(error).__name__}: {error}")
    else:
        if found[0] == expected[0] and found[1] in ((), expected[1]):
            outcome = Outcome(True, "same")
        elif (unverified and damage.unseen) or damage.another:
            outcome = Outcome(True, "unverified")
        else:
            outcome = Outcome(False, "other images without a word")
    faulthandler.cancel_dump_traceback_later()
    if measured:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > MOST_MEMORY:
            return Outcome(False, f"took {peak >> 20} MiB; {outcome.text}")
    return outcome


class Sets:
    """Whole sets of every form in a folder, of which copies are damaged and read.

    Attributes:
      cases: every form with each of its damages.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._expected = {}
        self.cases = [(form, damage) for form in odd_sets.FORMS for damage in form.damages]
        for form in odd_sets.FORMS:
            (root / form.name).mkdir()
            with contextlib.redirect_stderr(io.StringIO()):
                self._expected[form.name], _ = read(form.write(root / form.name), form)

    def attempt(self, number: int, rng: random.Random) -> tuple[odd_sets.Form, str, Outcome]:
        """Damage a copy of a set and read it: its form, what was done, and what came of it."""
        form, damage = self.cases[number % len(self.cases)]
        target = self._root / "try"
        shutil.copytree(self._root / form.name, target, symlinks=True)
        path = form.place(target)
        note = damage.apply(rng, target, form)
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = attempt(path, form, self._expected[form.name], damage)
        shutil.rmtree(target)
        return form, note, outcome


@contextlib.contextmanager
def quiet_folder() -> Iterator[Path]:
    """A folder in memory, if there is one, while libraries keep silent."""
    logging.disable(logging.CRITICAL)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # Files there cost less.
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
    logging.disable(logging.NOTSET)


def fuzz(seed: int, tries: int | None = None, minutes: float = 0.0, show=print) -> dict:
    """Damage and read sets.

    Args:
      seed: of everything that is drawn.
      tries: how many, or None for as many as fit the minutes.
      minutes: how long.
      show: called with a line for every bad try.

    Returns:
      `(form, damage) -> Counter(tries=..., clean=..., bad=..., same=..., refused=...)`.
    """
    table: dict[tuple[str, str], Counter] = {}
    end = time.monotonic() + 60 * minutes
    with quiet_folder() as root:
        sets = Sets(root)
        number = 0
        while number < tries if tries is not None else time.monotonic() < end:
            form, note, outcome = sets.attempt(number, random.Random(f"{seed} {number}"))
            damage = sets.cases[number % len(sets.cases)][1]
            row = table.setdefault((form.name, damage.name), Counter())
            row.update(["tries", "clean" if outcome.clean else "bad"])
            row.update(["same" if outcome.text in ("same", "unverified") else "refused"])
            if not outcome.clean:
                show(f"bad: seed {seed} try {number}, {form.name}, {note}: {outcome.text[:500]}")
            number += 1
    return table


def as_text(table: dict) -> str:
    """The table of tries for a terminal: a line for every kind of damage, then for every form."""
    lines = [f"{'':34}{'tries':>8}{'clean':>8}{'(same)':>8}{'(told)':>8}{'bad':>6}"]
    for axis in (1, 0):
        for name in dict.fromkeys(key[axis] for key in table):
            row = sum((count for key, count in table.items() if key[axis] == name), Counter())
            values = (row["tries"], row["clean"], row["same"], row["refused"], row["bad"])
            lines.append("{:34}{:8}{:8}{:8}{:8}{:6}".format(name, *values))
        lines.append("")
    total = sum(table.values(), Counter())
    return "\n".join(lines) + f"all: {total['tries']} tries, {total['bad']} bad"


def main() -> int:
    """Fuzz for some minutes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    table = fuzz(given.seed, minutes=given.minutes, show=lambda line: print(line, file=sys.stderr))
    print(as_text(table))
    return int(any(row["bad"] for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
