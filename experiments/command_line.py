"""Flags of the commands: whatever is wrong with them is told in one line, with what is allowed."""

import ast
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.configs.fields import OPTION_FIELDS, shown
from experiments.errors import ConfigError, RunError, one_line
from experiments.saying import forgiving_streams, occupy_standard_streams, say
from experiments.stopping import SignalsStop, StoppedError
from supjax.checks import KNOWN, some

CONFIGS = Path(__file__).parent / "configs"

Option = tuple[str, Any]
"""Path and value of an argument of the config's method or average."""


def run_command(
    define_flags: Callable[[], None], command: Callable[..., None], *, arguments: bool = False
) -> None:
    """Define and parse the flags, run the command, and turn what a user can mend into one line.

    Args:
      define_flags: calls absl's `DEFINE_*`; at import it could only fail with a traceback.
      command: does the work; reads `flags.FLAGS`.
      arguments: whether the command takes what is no flag, as a list.
    """

    def parse(argv: list[str]) -> list[str]:
        before = set(flags.FLAGS)
        try:
            define_flags()
            own = sorted(set(flags.FLAGS) - before)
            options: list[Option] = []
            if "config" in own and flags.FLAGS["config"].flag_type() == "config object":
                argv, options = take_options(argv)
            rest = flags.FLAGS(argv)
            for path, value in options:
                set_option(flags.FLAGS["config"].value, path, value)
        except flags.UnrecognizedFlagError as error:
            known = some((f"--{name}" for name in own), KNOWN)
            raise ConfigError(f"unknown flag --{error.flagname}; known: {known}") from error
        except RunError:
            raise
        except Exception as error:  # of flags, and of config files, which are programs
            raise ConfigError(last_line(error)) from error
        if len(rest) > 1 and not arguments:
            raise ConfigError(f"unexpected argument {rest[1]!r}; flags start with --")
        logging.set_verbosity(logging.WARNING)
        return rest

    occupy_standard_streams()
    try:
        with forgiving_streams(), SignalsStop():
            app.run(lambda argv: command(argv[1:]) if arguments else command(), flags_parser=parse)
    except RunError as error:
        say(f"{error.title}: {error}", to_stderr=True)
        _leave(error.exit_code, everywhere=error.everywhere)
    except OSError as error:
        if error.filename is None:
            raise
        say(f"error: {error.strerror}: {error.filename}", to_stderr=True)
        sys.exit(1)
    except StoppedError as error:
        say(f"stopped: {error}; the same command continues", to_stderr=True)
        _leave(128 + error.number)


def _leave(status: int, *, everywhere: bool = False) -> NoReturn:
    """End the process; an orderly exit would wait for other processes that go on."""
    if jax.distributed.is_initialized() and jax.process_count() > 1 and not everywhere:
        os._exit(status)
    sys.exit(status)


def define_config(default: str | None, text: str) -> None:
    """Define `--config`, after a check of the file, its argument and the fields to override.

    Args:
      default: config file, or None.
      text: of the flag's help.

    Raises:
      ConfigError: naming what is unknown, and what is known instead.
    """
    argv, options = take_options(sys.argv)
    given = [(i, arg.partition("=")) for i, arg in enumerate(argv)]
    files = [
        value if equals else "".join(argv[i + 1 : i + 2])
        for i, (name, equals, value) in given
        if name in ("-config", "--config")
    ]
    chosen = files[-1] if files else default
    overrides = [
        match[1]
        for _, (name, _, _) in given
        if (match := re.fullmatch(r"--?(?:no)?config\.(.+)", name))
    ] + [path for path, _ in options]
    if chosen is not None:
        config = load_config(chosen)
        for path in overrides:
            check_field(config, path)
    elif overrides:
        raise ConfigError(f"--config.{overrides[0]} needs a config file: give --config=FILE first")
    config_flags.DEFINE_config_file("config", default, text, lock_config=True, sys_argv=argv)


def take_options(argv: list[str]) -> tuple[list[str], list[Option]]:
    """Take the options out of a command line: they are fields that no config holds beforehand.

    Args:
      argv: may hold `--config.topology.options.NAME=VALUE`, or the value as the next word.

    Returns:
      The other words, and `(path, value)` of the options; a value is a Python literal or else text.

    Raises:
      ConfigError: if the value is missing.

    >>> take_options(["main.py", "--config.topology.options.rounds=10", "--config.seed=1"])
    (['main.py', '--config.seed=1'], [('topology.options.rounds', 10)])
    """
    words = iter(argv)
    rest: list[str] = []
    options: list[Option] = []
    for word in words:
        name, equals, value = word.partition("=")
        found = re.fullmatch(r"--?config\.(.+)", name)
        if word == "--":  # what follows belongs to another command
            return [*rest, word, *words], options
        if found is None or found[1].rpartition(".")[0] not in OPTION_FIELDS:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"{name} needs a value: {name}=VALUE")
        options.append((found[1], _literal(value)))
    return rest, options


def set_option(config: ConfigDict, path: str, value: Any) -> None:
    """Set `topology.options.NAME`, whether the config has it or not."""
    field, _, name = path.rpartition(".")
    with config.unlocked(), config.ignore_type():  # the file may hold another type
        node = config
        for part in field.split("."):
            node = node[part]
        node[name] = value


def load_config(chosen: str) -> ConfigDict:
    """Return the config of `FILE.py` or `FILE.py:argument`.

    Raises:
      ConfigError: for a file that is missing or no config, or an argument that it refuses.

    >>> load_config(f"{CONFIGS}/digits.py:method=set").method
    'set'
    >>> load_config("digits.py")
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: no config file digits.py; in ...: ..., digits.py, ...
    """
    file = chosen.partition(":")[0]
    if "\0" in file or not Path(file).is_file():
        names = sorted(path.name for path in CONFIGS.glob("*.py") if _has_config(path))
        raise ConfigError(f"no config file {one_line(file)}; in {CONFIGS}: {some(names, KNOWN)}")
    scratch = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file("config", chosen, "", scratch, sys_argv=[])
        config = scratch["config"].value
    except Exception as error:  # the file is a program of the user's
        raise ConfigError(f"{one_line(chosen)}: {last_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{chosen}: get_config must return a ConfigDict, got {shown(config)}")
    return config


def check_field(config: ConfigDict, path: str) -> None:
    """Raise a `ConfigError` that lists the known fields if there is none at a dotted path.

    >>> check_field(ConfigDict({"method": "rigl"}), "methd")
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: unknown field --config.methd; known: method
    """
    parent = path.rpartition(".")[0]  # a new option is no new field
    node = config
    for name in (parent if parent in OPTION_FIELDS else path).split("."):
        known = list(node) if isinstance(node, ConfigDict) else []
        if name not in known:
            raise ConfigError(
                f"unknown field --config.{one_line(path)}; known: {some(known, KNOWN, 'none')}"
            )
        node = node[name]


def _literal(text: str) -> Any:
    """Return the Python literal that a text is, or the text; true and false as in other flags."""
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return text


def last_line(error: Exception) -> str:
    r"""Return what an exception says, without the traceback that ml_collections puts into it.

    >>> last_line(ValueError("Traceback: ...\nValueError: unknown method 'rgl'"))
    "unknown method 'rgl'"
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(re.sub(r"^\w+(\.\w+)*Error: ", "", lines[-1].strip()))


def _has_config(path: Path) -> bool:
    return "def get_config(" in path.read_text(encoding="utf-8")
