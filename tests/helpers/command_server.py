"""Runs `experiments.main` many times in forks of one process, which has imported it once.

    echo '[["--config.seed=1"], ["--help"]]' | python command_server.py

Prints, as JSON, the exit status and the output of every command line, and how much it compiled.
"""

import json
import os
import sys
import warnings

from experiments.command_line import run_command
from experiments.main import define_flags, main
from tests.helpers.tiny_runs import Compilations


def run(arguments: list[str]) -> tuple[int, str]:
    """Return exit status and output of one command line; its last line counts compilations."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv = ["main.py", *arguments]
        status = 0
        with Compilations() as compilations:
            try:
                run_command(define_flags, main)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
        print(f"compiled {compilations.count.total()}", flush=True)
        os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # no device has been opened yet
    json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
