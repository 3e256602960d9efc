"""What the pages say runs: every block of Python, every command, every link."""

import importlib.util
import re

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
    page_name,
    prose,
)
from tests.helpers.registry import restored

PRELUDE = {
    "README.md": "import jax.numpy as jnp\nparams, tickets = {'kernel': jnp.ones((4, 5))}, []\n"
}
"""What a page takes for granted before its first block."""

pages = pytest.mark.parametrize("page", PAGES, ids=page_name)


@pages
def test_blocks_of_python_run_in_order(page):
    namespace = {}
    exec(PRELUDE.get(page_name(page), ""), namespace)
    outside = jax.numpy_rank_promotion("allow")  # as it is outside of this suite
    with outside, restored(METHODS, SUPERPOSITIONS, KNOWN_SETS):
        for block in blocks(page.read_text()):
            if block.language == "python":
                source = "\n" * block.line + block.code
                exec(compile(source, page, "exec"), namespace)


@pages
def test_every_block_is_of_a_known_kind(page):
    text = page.read_text()
    assert {block.language for block in blocks(text)} <= {"python", "sh", ""}
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
    assert {"README.md", "docs/index.md", "docs/methods/rigl.md"} <= names
    assert sum(len(blocks(page.read_text())) for page in PAGES) > 30
