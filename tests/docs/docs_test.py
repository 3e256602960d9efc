"""What the pages say runs: every block of Python, every command, every link."""

import importlib.util
import os
import re
import subprocess
import sys

import jax
import pytest

from experiments.command_line import check_field
from experiments.data.catalog import KNOWN_SETS
from experiments.sweep import parse_grid
from supjax.superposition import SUPERPOSITIONS
from supjax.topologies import METHODS
from tests.helpers.docs_pages import (
    DOCS,
    PAGES,
    ROOT,
    blocks,
    commands,
    config_of,
    flag_values,
    form_of,
    page_name,
    program,
    prose,
    shown_output,
)
from tests.helpers.registry import restored

pages = pytest.mark.parametrize("page", PAGES, ids=page_name)


def run_here(page):
    """Run a page's program in this process."""
    outside = jax.numpy_rank_promotion("allow")  # as it is outside of this suite
    with outside, restored(METHODS, SUPERPOSITIONS, KNOWN_SETS):
        exec(compile(program(page.read_text()), page, "exec"), {"__name__": page.stem})


def run_alone(page, folder):
    """Run a page's program in a process of its own, as a reader does; return what it prints."""
    file = folder / "program.py"
    file.write_text(program(page.read_text()))
    settings = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pages
def test_a_page_is_a_program_that_runs_and_prints_what_it_shows(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if "jax_num_cpu_devices" in program(page.read_text()):  # read when jax starts
        printed = run_alone(page, tmp_path)
    else:
        run_here(page)
        printed = capsys.readouterr().out
    shown = shown_output(page.read_text())
    assert not shown or form_of(printed) == form_of(shown)


@pages
def test_every_block_is_of_a_known_kind(page):
    text = page.read_text()
    assert {block.language for block in blocks(text)} <= {"python", "sh", "text", ""}
    assert "```" not in prose(text), "a fence is not closed"


@pages
def test_commands_exist_and_take_these_flags(page):
    for words in commands(page.read_text()):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if words[:2] == ["python", "-m"]:
            spec = importlib.util.find_spec(words[2])
            assert spec is not None, words[2]
            if spec.submodule_search_locations:
                spec = importlib.util.find_spec(f"{words[2]}.__main__")
            with open(spec.origin) as file:
                source = file.read()
            if words[2] == "experiments.sweep":  # fields of the runs stand after its own flags
                own = words[: words.index("--")] if "--" in words else words
                assert not any(word.startswith("--config.") for word in own), words
            for flag in flag_values(words):
                known = f'"{flag}"' in source or f'"--{flag}"' in source  # absl, argparse
                assert flag.partition(".")[0] == "config" or known, words


@pages
def test_configs_of_commands_take_these_words_and_fields(page):
    for words in commands(page.read_text()):
        flags = flag_values(words)
        if "config" in flags:
            runs = [run.name for run in parse_grid(flags["grid"])] if "grid" in flags else [""]
            for run in runs:
                config = config_of(flags["config"], run)
            for flag in flags:
                if flag.startswith("config."):
                    check_field(config, flag.removeprefix("config."))


def slug(heading):
    """Return the anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def anchors(page):
    return {slug(h) for h in re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)}


def links(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text()))
    return [target for target in targets if not re.match(r"https?://", target)]


@pages
def test_links_resolve(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_index_lists_every_page():
    index = DOCS / "index.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
    missing = {page_name(page) for page in PAGES if page not in linked and page != index}
    assert not missing


def test_the_pages_are_found_from_a_few_known_ones():
    names = {page_name(page) for page in PAGES}
    assert {"README.md", "docs/index.md", "docs/methods/rigl.md", "docs/guides/nnx.md"} <= names
    assert sum(len(blocks(page.read_text())) for page in PAGES) > 30


def test_every_guide_shows_what_its_program_prints():
    guides = {page_name(page): page.read_text() for page in PAGES if page.parent.name == "guides"}
    assert len(guides) >= 5
    assert all(shown_output(text) for text in guides.values())
    assert shown_output((ROOT / "README.md").read_text())
