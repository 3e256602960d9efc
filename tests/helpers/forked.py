r"""Runs commands in forks of one process, which has imported what they need, to their very end.

    echo '[["experiments.report", ["runs", "--out=x"], "head"]]' | python -m tests.helpers.forked

Prints, as JSON, exit status and standard error of every command (empty where it is closed). What
becomes of its output is one of `OUTPUTS`.
"""

import io
import json
import os
import runpy
import signal
import sys
import traceback
import warnings
from pathlib import Path

FULL = "/dev/full"

OUTPUTS = ("shown", "head", "full", "both full", "closed", "error closed", "both closed", "ascii")


def redirect(output: str) -> None:
    """Put the standard streams of this process where a shell would."""
    if output == "head":  # a reader that has left
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif "full" in output:
        target = os.open(FULL, os.O_WRONLY)
        for stream in (1, 2) if output == "both full" else (1,):
            os.dup2(target, stream)
    elif "closed" in output:
        numbers = {"closed": [1], "error closed": [2], "both closed": [1, 2]}[output]
        for number, name in ((1, "stdout"), (2, "stderr")):
            if number in numbers:
                os.close(number)
                setattr(sys, name, None)
    elif output == "ascii":
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(encoding="ascii")


def run(module: str, arguments: list[str], output: str) -> tuple[int, str]:
    """Return exit status and standard error of `python -m MODULE ARGUMENTS...`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(writer, 2)
        os.close(writer)
        redirect(output)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()  # to the end of this process, where Python writes out what is left
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as pipe:
        errors = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors


class Forked:
    """A command in a fork, as its own session, beside this process.

    Args:
      module: of `python -m MODULE`.
      arguments: what follows.
      log: file that gets its output.
    """

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for stream, target in enumerate((os.devnull, log, log)):
                flags = os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
                os.dup2(os.open(target, flags, 0o644), stream)
            sys.argv = [module, *arguments]
            status: object = 1
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:  # nothing of what this process was doing before goes on in the fork
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status if isinstance(status, int) else 1)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Return its child processes."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(word) for word in path.read_text(encoding="ascii").split()]
        except OSError:
            return []


def prepare_forks() -> None:
    """Import what the commands need, but compute nothing: what has threads cannot be forked."""
    import sklearn.datasets  # noqa: F401
    import tensorflow_datasets  # noqa: F401
    import tqdm  # noqa: F401

    import experiments.analysis.sections
    import experiments.configs.digits
    import experiments.data.importing
    import experiments.study.plots
    import experiments.train  # noqa: F401

    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)


if __name__ == "__main__":
    prepare_forks()
    found = [run(*each) for each in json.load(sys.stdin)]
    json.dump(found, sys.stdout)
