"""The public names, what they say about themselves, and what may import what."""

import ast
import configparser
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import supjax
from tests.helpers.sources import code_lines, imports

ROOT = Path(supjax.__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "supjax").rglob("*.py")
}
"""Name -> file of every module of the library."""

PUBLIC = {
    f"{namespace.__name__}.{name}": getattr(namespace, name)
    for namespace in (supjax, supjax.topologies, supjax.analysis)
    for name in namespace.__all__
}
DOCUMENTED = {
    name: value
    for name, value in PUBLIC.items()
    if callable(value) and not isinstance(value, type(supjax))
}
documented = pytest.mark.parametrize("name", DOCUMENTED)


def test_lists_of_names_are_sorted_and_free_of_repeats():
    names = [name for name in supjax.__all__ if name != "__version__"]
    assert names == sorted(set(names))
    assert re.fullmatch(r"\d+\.\d+\.\d+", supjax.__version__)


def test_nothing_public_is_left_out():
    listed = set(supjax.__all__)
    found = {
        name
        for name, value in vars(supjax).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert found <= listed


@documented
def test_a_docstring_opens_with_one_line(name):
    lines = inspect.getdoc(DOCUMENTED[name]).splitlines()
    assert lines[0].endswith(".")
    assert len(lines) == 1 or not lines[1]


@documented
def test_a_docstring_shows_an_example(name):
    assert ">>>" in inspect.getdoc(DOCUMENTED[name])


@pytest.mark.parametrize("name", [n for n, f in DOCUMENTED.items() if inspect.isfunction(f)])
def test_a_function_says_what_it_takes_and_returns(name):
    function = DOCUMENTED[name]
    text, signature = inspect.getdoc(function), inspect.signature(function)
    for parameter in signature.parameters:
        assert re.search(rf"^  \**{parameter}: ", text, re.MULTILINE), parameter
    if signature.return_annotation is not None:
        assert re.search(r"^(Returns|Yields):$", text, re.MULTILINE)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


def reachable(module):
    """All modules of the library that a module imports, directly or through others."""
    seen, waiting = set(), [module]
    while waiting:
        new = {name for name in imports(MODULES[waiting.pop()]) if name in MODULES} - seen
        seen |= new
        waiting += new
    return seen


RUNGS = ["types", "trees", "leaf_names", "axes", "filters", "masks"]
RUNGS += ["selection", "prune_grow", "topologies"]


@pytest.mark.parametrize("rung", range(len(RUNGS)))
def test_the_ladder_points_one_way(rung):
    higher = {f"supjax.{name}" for name in RUNGS[rung:]} | {"supjax"}
    assert not reachable(f"supjax.{RUNGS[rung]}") & (higher - {"supjax.topologies"})


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if not m.startswith("supjax.topologies") and m != "supjax")
)
def test_no_module_beside_the_methods_imports_one(module):
    assert not {name for name in reachable(module) if name.startswith("supjax.topologies")}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_stays_below_the_library_line(module):
    roots = {name.partition(".")[0] for name in imports(MODULES[module])}
    allowed = {"jax", "flax", "optax", "numpy", "supjax"} | set(sys.stdlib_module_names)
    assert roots <= allowed
    names_files = ("supjax.ticket_io", "supjax.superposition.members")  # the latter: os.PathLike
    if not module.startswith(names_files):
        assert not roots & {"os", "io", "pathlib", "shutil", "tempfile", "zipfile"}
    assert code_lines(MODULES[module].read_text()) <= 250


def test_only_one_module_maps_over_devices():
    using = [
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "pmap"
    ]
    assert using == ["supjax.parallel"]


def extra_modules():
    """Import names of everything that the optional extras install."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = "\n".join(config["options.extras_require"].values()).split()
    normal = {re.split(r"[<>=]", line)[0].replace("-", "_").lower() for line in lines}
    names = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if any(owner.replace("-", "_").lower() in normal for owner in owners)
    }
    return names | {"tensorflow", "tensorflow_datasets", "ml_collections", "orbax", "experiments"}


WITHOUT_EXTRAS = """
import sys
import jax, flax, optax

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is an extra")

needed = {name.partition(".")[0] for name in sys.modules}
BLOCKED = set(sys.argv[1:]) - needed
assert {"tensorflow", "tensorflow_datasets", "ml_collections", "experiments"} <= BLOCKED
sys.meta_path.insert(0, Blocker())
import supjax

params = {"kernel": jax.numpy.ones((4, 5))}
tx = supjax.sparsify(optax.sgd(0.1), supjax.make_topology("rigl", density=0.5), jax.random.key(0))
assert supjax.density(supjax.sparse_params(params, tx.init(params))) == 0.5
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
"""


def test_the_library_works_without_any_extra():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *sorted(extra_modules())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
