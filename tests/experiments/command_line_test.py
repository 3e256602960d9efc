"""The command as a stranger types it: what is wrong is one line, and says what is allowed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command_line import CONFIGS, load_config, set_option, take_options
from experiments.configs.rules import check_config_values
from experiments.errors import ConfigError

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
    "--config.seed=4294967296": ["seed must be an integer in [0, 4294967295], got 4294967296"],
    "--config.seed=-1": ["seed must be an integer in [0, 4294967295], got -1"],
    "--config.epochs=2147483648": ["epochs must be an integer in [1, 1000000]"],
    "--config.optimizer.momentum=inf": ["optimizer.momentum must be in [0, 1), got inf"],
    "--config.topology.ramp_epochs=(1,)": ["topology.ramp_epochs must be two integers", "(1,)"],
    "--config.optimizer.milestones=(0.5,'x')": ["optimizer.milestones must be ascending"],
    "--config.topology.drop-fraction=1": ["unknown field --config.topology.drop-fraction"],
    "--config.topology.options.rounds=3": ["unknown option topology.options.rounds", "stop"],
    "--config.topology.options.density 0.5": ["unknown option topology.options.density", "stop"],
    "--config.topology.options.stop=x": ["topology.options.stop must be int or None, got 'x'"],
    "--config.topology.options.stop 2.5": ["topology.options.stop must be int or None, got 2.5"],
    "--config.topology.options.stop": ["--config.topology.options.stop needs a value"],
    "--config.topology.options.a.b=1": ["unknown field --config.topology.options.a.b"],
    "--config.topology.options={'rounds':3}": ["unknown option topology.options.rounds"],
    "--config.topology.options=3": ["--config.topology.options=3"],
    "--config.topology.options.stop={}": ["topology.options must be names with plain values"],
    "--config.topology.options.stop=1e999": ["topology.options must be names with plain values"],
    f"{DIGITS}:method=mest --config.topology.options.gradient_weight 0.1 --config.batch_size=63": [
        "batch_size must divide by the 4 device(s)"  # the option is no complaint
    ],
    "--processes=2": ["--coordinator=HOST:PORT", "--process=0..N-1"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit status and output of every refused command line, from one process that forks."""
    workdir = tmp_path_factory.mktemp("refused") / "run"
    command_lines = [[*line.split(), f"--workdir={workdir}"] for line in REFUSED]
    found = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "command_server.py"],
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


def given(argument, *words):
    """The config of a command line and the words that are left for absl."""
    config = load_config(f"{CONFIGS}/digits.py:{argument}")
    rest, options = take_options(["main.py", *words])
    for path, value in options:
        set_option(config, path, value)
    return config, rest[1:]


@pytest.mark.parametrize(
    "words",
    [
        ["--config.topology.options.gradient_weight=0.1"],
        ["--config.topology.options.gradient_weight", "0.1"],
        ["-config.topology.options.gradient_weight=0.1"],
        [
            "--config.topology.options.gradient_weight=few",
            "--config.topology.options.gradient_weight=0.1",
        ],
    ],
)
def test_an_option_is_taken_from_the_command_line_in_every_form(words):
    config, rest = given("method=mest", "--config.seed=1", *words, "--workdir=x")
    assert rest == ["--config.seed=1", "--workdir=x"]
    assert config.topology.options.to_dict() == {"gradient_weight": 0.1}
    assert config.is_locked
    assert config.topology.options.is_locked
    check_config_values(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", -3),
        ("1e-3", 0.001),
        ("(1, 2)", (1, 2)),
        ("None", None),
        ("true", True),
        ("False", False),
        ("uniform", "uniform"),
        ("'uniform'", "uniform"),
        ("a=b", "a=b"),
        ("", ""),
        ("(" * 500, "(" * 500),
        ("{[]: 1}", "{[]: 1}"),
    ],
)
def test_an_options_value_is_a_literal_or_else_text(text, value):
    for words in ([f"--config.sup_tickets.options.x={text}"], ["--config.sup_tickets.options.x"]):
        config, _ = given("", *words, *([] if "=" in words[0] else [text]))
        found = config.sup_tickets.options.x
        assert (found, type(found)) == (value, type(value))


def test_an_option_wins_over_the_config_file_whatever_its_type():
    config = load_config(f"{CONFIGS}/digits.py")
    set_option(config, "topology.options.stop", None)
    set_option(config, "topology.options.stop", 7)
    set_option(config, "topology.options.stop", "x")
    assert config.topology.options.stop == "x"


def test_words_after_two_dashes_belong_to_another_command():
    words = ["sweep.py", "--grid=seed=0", "--", "--config.topology.options.stop=3"]
    assert take_options(words) == (words, [])


def test_an_option_without_a_value_is_refused():
    for words in (["--config.topology.options.x"], ["--config.topology.options.x", "--workdir=y"]):
        with pytest.raises(ConfigError, match=r"^--config.topology.options.x needs a value: .*"):
            take_options(words)
