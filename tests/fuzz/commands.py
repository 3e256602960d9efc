"""Command lines of every kind, run in forks of one process that has imported the commands once.

    python -m tests.fuzz.commands

reads `["main", ["--config.seed=1"]]` line by line and answers `[exit status, output]`.
"""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from experiments.command_line import CONFIGS, run_command
from experiments.configs.fields import FIELDS

ROOT = Path(__file__).parents[2]

COMMANDS = ("main", "seeds", "evaluate", "analyse", "report", "sweep", "prepare_data")
"""Those that `some_line` keeps from starting processes, downloads and training."""

SECONDS = 100
"""After so many a command counts as one that hangs."""


class Server:
    """The process that runs command lines."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def run(self, command: str, words: list[str]) -> tuple[int, str]:
        """Return exit status and output of a command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, words]) + "\n")
        self._process.stdin.flush()
        status, output = json.loads(self._process.stdout.readline())
        return status, output

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def write_files(folder: Path) -> list[str]:
    """Files that a command may be given in the place of a config, a ticket or a folder."""
    contents = {
        "text.py": "hello",
        "empty.py": "",
        "syntax.py": "def get_config(:\n",
        "raises.py": "def get_config():\n    raise KeyError('x\\ny')\n",
        "number.py": "def get_config():\n    return 3\n",
        "imports.py": "import no_such_module\n\ndef get_config():\n    return 3\n",
        "other.py": "import ml_collections\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict({'a': 1})\n",
        "note.txt": "no config",
        "binary.npz": "PK\x03\x04\0\0",
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    (folder / "config.json").write_text("[")
    (folder / "folder").mkdir()
    return [*(str(folder / name) for name in contents), str(folder / "folder"), str(folder)]


def some_line(rng: random.Random, files: list[str]) -> tuple[str, list[str]]:
    """A command and its words; no line of them finds a data set to start on."""
    command = rng.choice(COMMANDS)
    path = rng.choice([*files, "", "/nowhere/at/all", "/dev/null", "a\nb", "x" * 300, "\udcff"])
    wild = ["", "x", "0", "-1", "1e400", "nan", "True", "None", "(1,2)", "[1]", "{}", "0.5", "é"]
    wild += [str(2**31), str(2**32), str(10**400), "'", '"', "a b", "\n", "-" * 9, "lambda: 0"]
    field = rng.choice([field.name for field in FIELDS if field.name != "dataset"])
    if rng.random() < 0.3:
        field = rng.choice([field[:-1], field + ".x", "x." + field, "", ".", "a b", field.upper()])
    argument = rng.choice(["", ":", ":x", ":method=set", ":sparsity=x", ":runlocal,seed=", ":=,="])
    value = rng.choice(wild)
    kinds = [
        [f"--config.{field}={value}"],
        [f"--config.{field}", value],
        [f"--noconfig.{field}"],
        [f"--config.topology.options.{rng.choice(['rounds', 'x', ''])}={value}"],
        [f"--config={path}"],
        [f"--config={CONFIGS / 'digits.py'}{argument}"],
        [f"--workdir={path}"],
        [f"--ticket={path}"],
        [f"--seeds={rng.choice(wild)}"],
        [f"--split={value}"],
        [f"--{rng.choice(['confg', 'x', 'config.', 'seed', '-'])}={value}"],
        [rng.choice(["--", "-", "x", path, "--=", "-x"])],
    ]
    words = [word for _ in range(rng.randint(0, 4)) for word in rng.choice(kinds)]
    digits = f"--config={CONFIGS / 'digits.py'}"
    first = [digits] if command == "evaluate" and rng.random() < 0.5 else []
    if command == "sweep":
        first = ["--dry_run", "--grid", rng.choice(["seed=0,1", "method=set;x=1", "x", "=", *wild])]
    if command == "prepare_data":
        first = [f"--dataset={rng.choice(['own', *wild])}", f"--data_dir={files[-1]}/data"]
        first += [f"--from={rng.choice([*files, '~nobody/x', '/dev/zero'])}"]
    if command in ("main", "seeds") or first[:1] == [digits]:
        first += ["--config.dataset=nosuch"]
    return command, [word.replace("\0", "") for word in [*first, *words]]


def _run(command: Any, words: list[str]) -> tuple[int, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in enumerate((nothing, writer, writer)):
            os.dup2(target, number)
        sys.argv = [f"{command.__name__}.py", *words]
        status = 0
        try:
            takes_folders = command.__name__.endswith(("report", "sweep"))
            run_command(command.define_flags, command.main, arguments=takes_folders)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="backslashreplace") as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def _serve() -> None:
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # no device has been opened yet
    importlib.import_module("tensorflow_datasets")  # once, and not for every unknown data set
    modules = {name: importlib.import_module(f"experiments.{name}") for name in COMMANDS}
    for line in sys.stdin:
        name, words = json.loads(line)
        print(json.dumps(_run(modules[name], words)), flush=True)


if __name__ == "__main__":
    _serve()
