"""Networks that somebody else has made: PyTorch checkpoints, and tickets of other networks."""

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import ConfigError
from experiments.evaluate import evaluate
from experiments.models import create_model
from experiments.models.torch_weights import ticket_from_torch, to_torch
from experiments.records.folder import RunFolder
from experiments.run.start import start_of
from supjax.ticket_io import save_ticket
from supjax.types import Ticket
from tests.fuzz.judging import Attempt, Outcome, bad, one_line
from tests.helpers import odd_tickets
from tests.helpers.tiny_runs import tiny_config
from tests.supjax import ticket_io_fuzz


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
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        array = value if numbers else np.ones(3)
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
