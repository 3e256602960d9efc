"""What is fuzzed: for every class of input, a way to make one of it at random and to judge it.

A try is clean if what is odd is told in one line that names it, or if the result is the very thing
that was meant. A traceback, several lines, a message of any length, and other numbers than those
that were written are bad.
"""

import contextlib
import io
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.checkpoints.manager import Checkpoints
from experiments.configs.rules import check_config_values
from experiments.data.arrays import ArrayDataset
from experiments.errors import CheckpointError, ConfigError
from experiments.evaluate import evaluate
from experiments.models import create_model
from experiments.models.torch_weights import ticket_from_torch, to_torch
from experiments.records.folder import RunFolder
from experiments.run.build import build, open_dataset
from experiments.run.start import start_of
from supjax.ticket_io import save_ticket
from supjax.topologies import METHODS
from supjax.types import Ticket
from tests.experiments.configs.rules_test import config_with, some_value
from tests.experiments.data.fuzz import Outcome, Sets
from tests.fuzz.commands import Server, some_line, write_files
from tests.helpers import odd_tickets
from tests.helpers.checkpoint_states import bits, make_state
from tests.helpers.tiny_runs import FIELDS, SMALLER, tiny_config
from tests.supjax import ticket_io_fuzz

Attempt = Callable[[int, random.Random], Outcome]
"""`(number, random numbers of this try) -> what came of it`."""

Start = Callable[[Path], contextlib.AbstractContextManager[Attempt]]
"""`folder -> attempt`; the folder is there until the context ends."""


def one_line(error: Exception, *named: str, most: int = 1000) -> Outcome:
    """Judge a refusal: one printable line of bounded length that holds the words."""
    text = str(error)
    clean = text.isprintable() and len(text) <= most and all(word in text for word in named)
    return Outcome(clean, f"{type(error).__name__}: {text}")


def bad(error: Exception) -> Outcome:
    """Judge any other exception, which would be a traceback."""
    return Outcome(False, f"{type(error).__name__}: {error}")


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


@contextlib.contextmanager
def torch_files(folder: Path) -> Iterator[Attempt]:
    """PyTorch checkpoints with odd names, wrappers and values, into `ticket_from_torch`."""
    model = create_model("digits_cnn", 10, width=0.1)
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes)
    state = to_torch(variables)

    def changed(rng: random.Random, state: dict[Any, Any]) -> Any:
        name = rng.choice(list(state) or ["x"])
        value = state.get(name)
        array = value if isinstance(value, np.ndarray) else np.ones(3)
        odd = [None, "x", 3, [1, [2]], {}, np.array(None), array.astype(complex), np.zeros(0)]
        odd += [array[None], array.T, array.astype("U"), array > 0, array.astype(np.int64), b"x"]
        prefix = rng.choice(["module.", "model.", "_orig_mod.", "net.", "a."])
        kinds: list[Callable[[], Any]] = [
            lambda: state | {name: rng.choice(odd)},
            lambda: {key: value for key, value in state.items() if key != name},
            lambda: state | {rng.choice(["x", 3, None, ("a",), "n_averaged", "a\nb"]): 7},
            lambda: {f"{prefix}{key}": value for key, value in state.items()},
            lambda: {rng.choice(["model", "state_dict", "net", "x"]): state, "epoch": 3},
            lambda: _split(state, name, rng.choice([np.ones_like(array), array, odd[0], "x"])),
            lambda: list(state),
            lambda: {**state, **{f"layer{i}.{'x' * 50}": array for i in range(300)}},
        ]
        return rng.choice(kinds)()

    def attempt(number: int, rng: random.Random) -> Outcome:
        given: Any = dict(state)
        for _ in range(rng.randint(1, 3)):
            if isinstance(given, dict):
                given = changed(rng, given)
        try:
            ticket = ticket_from_torch(given, shapes)
        except ValueError as error:
            return one_line(error)
        except Exception as error:
            return bad(error)
        same = jax.tree.structure(ticket.params) == jax.tree.structure(shapes["params"])
        return Outcome(same, "read")

    yield attempt


def _split(state: dict[Any, Any], name: Any, mask: Any) -> dict[Any, Any]:
    rest = {key: value for key, value in state.items() if key != name}
    return rest | {f"{name}_orig": state.get(name), f"{name}_mask": mask}


def odd_ticket(rng: random.Random) -> tuple[Ticket, dict[str, Any]]:
    """A ticket of the tiny network, or nearly so, with the config of its run, or nearly so."""
    every = [*odd_tickets.odd_stats().values(), *odd_tickets.odd_params().values()]
    ticket = rng.choice([odd_tickets.good(), rng.choice(every)])
    field = rng.choice(["params", "batch_stats"])
    tree = getattr(ticket, field)
    paths = jax.tree_util.tree_flatten_with_path(tree)[0] if isinstance(tree, dict) else []
    if paths and rng.random() < 0.7:
        path, leaf = rng.choice(paths)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        wild = np.array(leaf, copy=True).ravel()
        if wild.size and wild.dtype == np.float32 and wild[-1]:
            wild[-1] = rng.choice([np.nan, np.inf, -1, 0, 3e38, 1e-45])
        odd = [wild.reshape(np.shape(leaf)), np.float64(leaf), np.asarray(leaf)[..., None]]
        with contextlib.suppress(KeyError, TypeError):
            ticket = ticket._replace(**{field: odd_tickets.put(tree, name, rng.choice(odd))})
    config: Any = odd_tickets.stored_config()
    if rng.random() < 0.4:
        config = rng.choice(list(odd_tickets.odd_configs().values()))
    if rng.random() < 0.4:
        config = ticket_io_fuzz.mutated(rng, config) if config else config
    return ticket, {"config": config}


@contextlib.contextmanager
def odd_tickets_scored(folder: Path) -> Iterator[Attempt]:
    """Tickets of other networks, or of none, with configs of any kind, into `evaluate`."""
    file = folder / "odd.npz"

    def attempt(number: int, rng: random.Random) -> Outcome:
        ticket, metadata = odd_ticket(rng)
        try:
            save_ticket(file, ticket, metadata)
        except (TypeError, ValueError) as error:
            return one_line(error)
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                line = evaluate(file, None, "test", str(folder))
        except ConfigError as error:
            return one_line(error, str(file))
        except Exception as error:
            return bad(error)
        return Outcome(not said and line.startswith(str(file)), line)

    yield attempt


@contextlib.contextmanager
def odd_starts(folder: Path) -> Iterator[Attempt]:
    """The same tickets, and what is none, as the start of the cyclic phase alone."""
    file = folder / "odd.npz"
    paths = [str(folder / name) for name in ("none", "text", "empty", "pipe")]
    (folder / "text").write_text("no ticket")
    (folder / "empty").mkdir()
    (folder / "pipe").symlink_to("/dev/zero")

    def attempt(number: int, rng: random.Random) -> Outcome:
        ticket, metadata = odd_ticket(rng)
        with contextlib.suppress(TypeError, ValueError):
            save_ticket(file, ticket, metadata)
        path = rng.choice([str(file), str(file), str(file), *paths])
        if path == str(file) and rng.random() < 0.3:
            file.write_bytes(ticket_io_fuzz.flipped(rng, file.read_bytes()))
        config = tiny_config(odd_tickets.FIELDS | {"sup_tickets.start_from": path})
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                start = start_of([RunFolder(folder / "run", config)], odd_tickets.shapes(), 0.2)
        except ConfigError as error:
            return one_line(error, "sup_tickets.start_from", path)
        except Exception as error:
            return bad(error)
        return Outcome(start is not None and said.getvalue() == "", f"started {said.getvalue()}")

    yield attempt


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
