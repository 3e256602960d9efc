"""The command as a stranger types it: what is wrong is one line, and says what is allowed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGITS = "--config=experiments/configs/digits.py"
CIFAR = "--config=experiments/configs/cifar10_vgg16.py"

REFUSED = {
    "--wrkdir=x": ["unknown flag --wrkdir", "--config", "--workdir"],
    "digits": ["unexpected argument 'digits'"],
    "--config=experiments/configs/digit.py": ["no config file", "digits.py", "imagenet_rn50.py"],
    f"{DIGITS}:methd=set": ["unknown config argument 'methd'", "method", "sparsity", "runlocal"],
    f"{DIGITS}:epochs=ten": ["epochs must be of type int", "'ten'"],
    "--config.methd=set": ["unknown field --config.methd", "method", "sparsity"],
    "--config.sup_tickets.hihg=1": ["unknown field --config.sup_tickets.hihg", "high", "low"],
    "--config.seed.x=1": ["unknown field --config.seed.x"],
    f"--config.seed=1 {DIGITS}": ["--config.seed=1", "before a value for --config"],
    "--config.sparsity=high": ["--config.sparsity=high", "float"],
    "--config.method=rgl": ["method must be one of dense, dsr", "set, set_itop", "'rgl'"],
    "--config.sparsity=1.2": ["sparsity must be in [0, 1)", "1.2"],
    "--config.sup_tickets.cycle_epochs=500": ["cycle_epochs must not exceed", "got 500"],
    "--config.sup_tickets.cycle_fraction=1.0": ["cycle_fraction must leave epochs", "1.0"],
    "--config.batch_size=63": ["batch_size must divide by the 4 device(s)", "63"],
    "--config.runtime.devices=5": ["runtime.devices is 5", "4 cpu device(s)"],
    "--config.dataset=cifr10": ["unknown data set 'cifr10'", "cifar10", "digits"],
    f"{CIFAR} --config.runtime.data_dir=/nowhere": ["not prepared in /nowhere", "prepare_data"],
    "--config.batch_size=4000": ["batch_size must be between 1 and 1242", "4000"],
    f"{DIGITS}:method=gmp --config.topology.update_every=5000": ["ramp", "5000 steps"],
    "--processes=2": ["--coordinator=HOST:PORT", "--process=0..N-1"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit status and output of every refused command line, from one process that forks."""
    workdir = tmp_path_factory.mktemp("refused") / "run"
    command_lines = [[*line.split(), f"--workdir={workdir}"] for line in REFUSED]
    found = subprocess.run(
        [sys.executable, ROOT / "tests" / "command_server.py"],
        input=json.dumps(command_lines),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "4"},
    )
    assert not workdir.exists()
    return dict(zip(REFUSED, json.loads(found.stdout), strict=True))


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_run_is_told_in_one_line_before_anything_is_compiled(line, answers):
    status, output = answers[line]
    assert status == 2, output
    told, compiled = output.splitlines()
    assert told.startswith("error: ")
    assert len(told) < 500
    for part in REFUSED[line]:
        assert part in told
    assert compiled == "compiled 0"
