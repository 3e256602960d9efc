"""What is fuzzed: for every class of input, a way to make one of it at random and to judge it.

A try is clean if what is odd is told in one line that names it, or if the result is the very thing
that was meant. A traceback, several lines, a message of any length, and other numbers than those
that were written are bad.
"""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.checkpoints.manager import Checkpoints
from experiments.configs.rules import check_config_values
from experiments.data.arrays import ArrayDataset
from experiments.errors import CheckpointError, ConfigError
from experiments.run.build import build, open_dataset
from supjax.topologies import METHODS
from tests.experiments.configs.rules_test import config_with, some_value
from tests.experiments.data.fuzz import Sets
from tests.fuzz.commands import Server, some_line, write_files
from tests.fuzz.judging import Attempt, Outcome, Start, bad, one_line
from tests.fuzz.networks import odd_starts, odd_tickets_scored, torch_files
from tests.helpers.checkpoint_states import bits, make_state
from tests.helpers.tiny_runs import FIELDS, SMALLER, tiny_config
from tests.supjax import ticket_io_fuzz


@contextlib.contextmanager
def ticket_files(folder: Path) -> Iterator[Attempt]:
    """Ticket files, re-packed, damaged, swelled and strange, into `load_ticket`."""
    pairs, names = ticket_io_fuzz.samples(14, folder), list(ticket_io_fuzz.CLASSES)

    def attempt(number: int, rng: random.Random) -> Outcome:
        name = names[number % len(names)]
        if rng.randrange(ticket_io_fuzz.RARE.get(name, 1)):
            name = "headers"
        pair = rng.choice(pairs)
        given = ticket_io_fuzz.CLASSES[name](rng, pair)
        like = rng.choice([None, None, pair[0].ticket])
        found = ticket_io_fuzz.judged(folder / "fuzzed", given, like)
        return Outcome(found in ("refused", "loaded"), f"{name}: {found}")

    yield attempt


@contextlib.contextmanager
def data_sets(folder: Path) -> Iterator[Attempt]:
    """Archives and files of all forms, and prepared sets, into the readers of the commands."""
    sets = Sets(folder)

    def attempt(number: int, rng: random.Random) -> Outcome:
        form, note, outcome = sets.attempt(number, rng)
        return outcome._replace(text=f"{form.name}, {note}: {outcome.text}")

    yield attempt


STEPS = (1, 2, 3)


def state_of(step: int) -> Any:
    return make_state(step, "superposed")


def damaged_file(rng: random.Random, folder: Path) -> None:
    """Damage one file of a folder."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = path.read_bytes()
    place = rng.randrange(len(content) + 1)
    kinds: list[Callable[[], Any]] = [
        lambda: path.write_bytes(ticket_io_fuzz.flipped(rng, content) if content else b"x"),
        lambda: path.write_bytes(content[:place]),
        lambda: path.write_bytes(content[:place] + rng.randbytes(9) + content[place + 9 :]),
        lambda: path.write_bytes(rng.choice([b"", b"{}", b"null", b"[1]", content * 2])),
        path.unlink,
        lambda: (path.unlink(), path.mkdir()),
        lambda: (path.unlink(), path.symlink_to("/nowhere")),
        lambda: (path.unlink(), path.symlink_to("/dev/null")),
        lambda: path.with_name(rng.choice(["x", "7", ".hidden"])).write_bytes(content),
    ]
    rng.choice(kinds)()


def damaged_steps(rng: random.Random, folder: Path) -> None:
    """Rename, copy or replace the folders of steps."""
    one, other = rng.sample([folder / str(step) for step in STEPS], 2)
    kinds: list[Callable[[], Any]] = [
        lambda: shutil.rmtree(one),
        lambda: one.rename(folder / rng.choice(["7", "007", "x", "-1", "3.damaged", "4294967296"])),
        lambda: shutil.copytree(one, folder / "9"),
        lambda: (shutil.rmtree(one), shutil.copytree(other, one)),
        lambda: (shutil.rmtree(one), one.write_text("x")),
        lambda: (shutil.rmtree(one), one.mkdir()),
        lambda: (shutil.rmtree(one), one.symlink_to(rng.choice(["/nowhere", str(other)]))),
    ]
    rng.choice(kinds)()


@contextlib.contextmanager
def checkpoints(folder: Path) -> Iterator[Attempt]:
    """Checkpoints of three steps of which some are damaged, into `restore_latest`."""
    saved, like = folder / "saved", make_state(0, "superposed")
    for step in STEPS:
        Checkpoints(saved).save(step, state_of(step), {"step": step})
    expected = {step: bits(state_of(step)) for step in STEPS}

    def attempt(number: int, rng: random.Random) -> Outcome:
        run = shutil.copytree(saved, folder / "run")
        steps = run / "checkpoints"
        try:
            if rng.random() < 0.2:
                damaged_steps(rng, steps)
            else:
                for _ in range(rng.choice([1, 1, 2, 6])):
                    damaged_file(rng, rng.choice([steps / "3", steps]))
        except (OSError, ValueError, IndexError):
            shutil.rmtree(run)
            return Outcome(True, "two damages that exclude each other")
        try:
            found = Checkpoints(run, primary=number % 2 == 0).restore_latest(like)
            if found is None:
                return Outcome(not any(steps.iterdir()), "no checkpoint is found")
            state, info, reports = found
            clean = bits(state) == expected.get(info["step"]) == expected[int(state.train.step)]
            clean &= all("\n" not in line and len(line) < 600 for line in reports)
            return Outcome(clean, f"step {info['step']}, {reports}")
        except CheckpointError as error:
            return one_line(error, str(run))
        except Exception as error:
            return bad(error)
        finally:
            shutil.rmtree(run)

    yield attempt


@contextlib.contextmanager
def config_values(folder: Path) -> Iterator[Attempt]:
    """Configs with fields of any value at all, into the checks and the parts of a run."""
    dataset = open_dataset(tiny_config())
    host = FIELDS | SMALLER | {"dataset": "digits", "validation_size": 180}
    names = sorted(dict(_flat(config_with({}))))

    def attempt(number: int, rng: random.Random) -> Outcome:
        name = rng.choice(names)
        fields = {"method": rng.choice(sorted(METHODS)), name: some_value(rng)}
        if rng.random() < 0.2:
            fields |= {rng.choice(names): some_value(rng)}
        config = config_with(host | fields)
        try:
            check_config_values(config)
        except ConfigError as error:
            outcome = one_line(error, most=600)
            return outcome._replace(clean=outcome.clean and any(n in str(error) for n in fields))
        except Exception as error:
            return bad(error)
        if number % 16 or fields.get("sup_tickets.start_from"):
            return Outcome(True, "accepted")
        return _built(config, dataset)

    yield attempt


def _built(config: Any, dataset: ArrayDataset) -> Outcome:
    """Judge what the parts of a run say about a config that was accepted."""
    try:
        dataset.steps_per_epoch(config.batch_size)
    except ValueError as error:
        return one_line(error)
    try:
        build(config, dataset)
    except ConfigError as error:
        return one_line(error)
    except Exception as error:
        return bad(error)
    return Outcome(True, "built")


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if hasattr(value, "items") and name != "options":
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextlib.contextmanager
def command_lines(folder: Path) -> Iterator[Attempt]:
    """Command lines with flags, files and values of any kind, in processes of their own."""
    files, server = write_files(folder), Server(folder)

    def attempt(number: int, rng: random.Random) -> Outcome:
        command, words = some_line(rng, files)
        status, output = server.run(command, words)
        lines = output.splitlines()
        clean = status in (1, 2, 4) and output.startswith(("error: ", "cannot prepare "))
        clean = clean and (len(lines) == 1 or lines[0].endswith(" belongs to another config:"))
        clean |= command == "sweep" and status == 0
        clean &= len(output) < 3500  # with file names of any length, and all flags that are known
        return Outcome(clean, f"{command} {words}: {status} {output[-600:]!r}")

    try:
        yield attempt
    finally:
        server.close()


CLASSES: dict[str, Start] = {
    "ticket files": ticket_files,
    "data sets": data_sets,
    "checkpoints": checkpoints,
    "config values": config_values,
    "command lines": command_lines,
    "PyTorch files": torch_files,
    "odd tickets, scored": odd_tickets_scored,
    "odd tickets, started": odd_starts,
}
