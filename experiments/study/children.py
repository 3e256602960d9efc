"""Processes that stop when the one that started them ends, whatever ends it.

    python -m experiments.study.children FD MODULE ARGUMENT...

is what a child runs: the module, as `python -m MODULE ARGUMENT...` would, beside a thread that
waits for the end of the pipe FD. The only open end to write to is the parent's and nothing is ever
written, so the pipe ends when the parent closes it or is gone, by SIGKILL too. The child then
gets one SIGTERM, from itself.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from experiments.paths import own_file
from experiments.records.folder import take_lock
from experiments.saying import occupy_standard_streams


def open_log(path: Path) -> BinaryIO | None:
    """Open a log to append to, for one process at a time.

    Args:
      path: of the log; its folder is made if it is missing.

    Returns:
      The file, or None if another process writes to it. The lock passes on to a child that
      inherits the file, and ends with it. File systems without locks are not guarded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, "ab", opener=own_file)  # noqa: SIM115  (lives as long as the child)
    if take_lock(log):
        return log
    log.close()
    return None


class Child:
    """A started module, and what it prints.

    Args:
      command: `python -m MODULE ARGUMENT...`, as `start` takes it.
      logs: files of `open_log`, each of which gets all that the child prints; closed here.
      lifeline: see the module.
      environment: variables on top of this process's.
    """

    def __init__(
        self,
        command: Sequence[str],
        logs: Sequence[BinaryIO],
        lifeline: int,
        environment: Mapping[str, str],
    ) -> None:
        python, _, *module = command
        self._log = Path(logs[0].name)
        self._begin = logs[0].tell()
        self._tee: subprocess.Popen[bytes] | None = None
        output: BinaryIO | int = logs[0]
        if len(logs) > 1:
            # A process of its own: it goes on while the child stops after the parent's end.
            self._tee = subprocess.Popen(
                ["tee", "-a", *(log.name for log in logs[1:])],
                stdin=subprocess.PIPE,
                stdout=logs[0],
                stderr=subprocess.DEVNULL,
                pass_fds=[log.fileno() for log in logs[1:]],  # for their locks
                start_new_session=True,
            )
            assert self._tee.stdin is not None
            output = self._tee.stdin.fileno()
        self.process = subprocess.Popen(
            [python, "-m", __name__, str(lifeline), *module],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            pass_fds=[lifeline],
            start_new_session=True,  # signals from a terminal reach the parent alone
        )
        if self._tee is not None and self._tee.stdin is not None:
            self._tee.stdin.close()
        for log in logs:
            log.close()

    def ended(self) -> bool:
        """Say whether the child and all it has printed are through."""
        return self.process.poll() is not None and (
            self._tee is None or self._tee.poll() is not None
        )

    def wait(self) -> None:
        """Wait for the end."""
        self.process.wait()
        if self._tee is not None:
            self._tee.wait()

    def last_line(self) -> str:
        """Return the last line that this child, and none before it, has printed."""
        with self._log.open("rb") as file:
            file.seek(self._begin)
            lines = file.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "no output")


class Children:
    """Context that starts children; at its end those that still run are stopped and waited for."""

    def __init__(self) -> None:
        self.running: list[Child] = []

    def __enter__(self) -> "Children":
        occupy_standard_streams()
        self._lifeline, self._held = os.pipe()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._held)  # one SIGTERM each, and none again if this process dies while it waits
        os.close(self._lifeline)
        for child in self.running:
            child.wait()

    def start(
        self, command: Sequence[str], logs: Sequence[BinaryIO], environment: Mapping[str, str]
    ) -> Child:
        """Start a module; arguments as those of `Child`."""
        child = Child(command, logs, self._lifeline, environment)
        self.running.append(child)
        return child

    def take_ended(self) -> list[Child]:
        """Return the children that have ended since the last call."""
        ended = [child for child in self.running if child.ended()]
        self.running = [child for child in self.running if child not in ended]
        return ended


def _stop_at_the_end_of(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _, number, *sys.argv = sys.argv
    threading.Thread(target=_stop_at_the_end_of, args=(int(number),), daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
