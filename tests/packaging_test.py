"""What an installation holds: the library alone; experiments run from a checkout."""

import configparser
from pathlib import Path

from setuptools import find_namespace_packages, find_packages

ROOT = Path(__file__).parents[1]


def setup_section(name):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser[name]


def included(find):
    options = setup_section("options.packages.find")
    assert setup_section("options")["packages"] == "find:"
    assert options.keys() == {"include"}
    return set(find(str(ROOT), include=options["include"].split()))


def test_a_wheel_holds_every_package_of_the_library_and_no_other():
    in_the_library = (path.parent for path in (ROOT / "supjax").rglob("*.py"))
    folders = {str(path.relative_to(ROOT)).replace("/", ".") for path in in_the_library}
    assert included(find_packages) == folders
    assert included(find_namespace_packages) >= folders
    assert {name.partition(".")[0] for name in included(find_namespace_packages)} == {"supjax"}


def test_a_wheel_holds_the_files_of_the_library_that_are_no_modules():
    data = setup_section("options.package_data")
    others = {path.name for path in (ROOT / "supjax").rglob("*.*") if path.suffix[:4] != ".py"}
    assert data.keys() == {"supjax"}
    assert set(data["supjax"].split()) == {"py.typed"} | others
