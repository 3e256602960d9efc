"""Fuzz everything that a stranger may give to a command.

    python -m tests.fuzz --minutes=10 --seed=0

Prints, by class, how many inputs were tried, how many were clean and how many bad (see `classes`),
and a line for every bad one; the exit status is 1 if there is one. `--only` names a class, and
`--first=12 --tries=13` makes try 12 of it again. Ctrl-C ends it with the table so far.
"""

import argparse
import contextlib
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

from tests.experiments.data.fuzz import quiet_folder
from tests.fuzz.classes import CLASSES
from tests.fuzz.judging import bad

Table = dict[str, Counter[str]]


def fuzz(
    seed: int,
    *,
    tries: int | None = None,
    minutes: float = 0.0,
    first: int = 0,
    only: Sequence[str] = tuple(CLASSES),
    show: Callable[[str], None] = print,
) -> Table:
    """Try the classes in turn; each gets the same share of the time, or number of tries.

    Args:
      seed: of everything that is drawn.
      tries: number at which every class ends; None for as many as fit the minutes.
      minutes: how long.
      first: number at which every class begins.
      only: names of classes.
      show: called with a line for every bad try.

    Returns:
      Class -> counts of `clean` and `bad` tries.
    """
    table: Table = {name: Counter() for name in only}
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        attempts = {}
        for name in only:
            folder = stack.enter_context(quiet_folder())
            attempts[name] = stack.enter_context(CLASSES[name](folder))
        numbers, spent = dict.fromkeys(only, first), dict.fromkeys(only, 0.0)
        end = time.monotonic() + 60 * minutes
        while tries is not None or time.monotonic() < end:
            left = [name for name in only if tries is None or numbers[name] < tries]
            if not left:
                break
            name = min(left, key=spent.__getitem__)
            number, begin = numbers[name], time.monotonic()
            try:
                outcome = attempts[name](number, random.Random(f"{seed} {name} {number}"))
            except KeyboardInterrupt:
                break
            except Exception as error:
                outcome = bad(error)
            spent[name] += time.monotonic() - begin
            numbers[name] += 1
            table[name]["clean" if outcome.clean else "bad"] += 1
            if not outcome.clean:
                show(f"bad: seed {seed}, {name}, try {number}: {outcome.text[:700]}")
    return table


def as_text(table: Table) -> str:
    """Return the table for a terminal."""
    lines = [f"{'class':<24}{'tries':>8}{'clean':>8}{'bad':>6}"]
    for name, row in [*table.items(), ("all", sum(table.values(), Counter()))]:
        lines.append(f"{name:<24}{row.total():>8}{row['clean']:>8}{row['bad']:>6}")
    return "\n".join(lines)


def main() -> int:
    """Fuzz for some minutes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, help="of each class, in the place of minutes")
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--only", choices=list(CLASSES), action="append", help="a class")
    given = parser.parse_args()
    table = fuzz(
        given.seed,
        tries=given.tries,
        minutes=given.minutes,
        first=given.first,
        only=given.only or tuple(CLASSES),
        show=lambda line: print(line, flush=True),
    )
    print(as_text(table))
    return int(any(row["bad"] for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
