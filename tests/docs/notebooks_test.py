"""The notebooks run from top to bottom without a warning, and their stored outputs are small."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text(notebook):
    return "".join(o.text for o in outputs(notebook) if o.output_type == "stream")


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A folder with the packages of this checkout, of which only the library is installed."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "supjax").symlink_to(ROOT / "supjax")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("TINY_NOTEBOOKS", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax-tests"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    return tmp_path


@notebooks
def test_a_notebook_runs_on_a_fresh_checkout(path, checkout):
    notebook = nbformat.read(path, as_version=4)
    stored = notebook.copy()
    resources = {"metadata": {"path": str(checkout / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert not [o for o in outputs(notebook) if o.get("name") == "stderr"]
    assert len(outputs(notebook)) >= len(outputs(stored)) > 0
    assert "superposed" in text(notebook)


@notebooks
def test_stored_outputs_are_small_and_name_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom before storing"
    for output in outputs(notebook):
        assert output.output_type in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr"
        assert len(nbformat.from_dict(output).get("text", "")) < 10_000
        assert all(len(data) < 100_000 for data in output.get("data", {}).values())
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())


@notebooks
def test_links_of_a_notebook_resolve(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#\s]+)", prose):
        assert (path.parent / target).exists(), target


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"quickstart", "own_model", "gpt"}
