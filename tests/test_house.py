"""The rules of the house: which way imports go, and that nothing of this machine is in the project."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import dear
from traj import stores

ROOT = Path(__file__).parents[1]
ROOMS = {"stores": (), "analysis": ("stores",), "pipeline": ("stores", "analysis")}
"""Each room, and which others it may import."""

BASE = {"configs", "parsing", "threads", "estimate", "folder", "garbage"}
"""Files of the pipeline that know of no wing."""

WINGS = {
    "process": (),
    "sources": (),
    "models": ("process", "sources"),
    "readouts": ("process", "models"),
    "making": ("process", "models", "readouts", "sources"),
    "computing": (),
    "report": ("process", "computing"),
}
"""Each wing of the pipeline, and which others it may import; its other files are the command line, on top of all."""

FORBIDDEN = {
    "stores": {"torch", "diffusers", "click", "dask"},
    "analysis": {"torch", "diffusers", "click", "scipy.stats"},  # half a second; scipy.special has what it needs
}
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


@cache
def modules(file):
    """Every module that a file imports, at the top or within."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def wing(parts):
    """The wing of a module of the pipeline, None for the command line and `base` for what every wing may import."""
    return parts[0] if parts and parts[0] in WINGS else "base" if parts and parts[0] in BASE else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    room, *within = file.relative_to(ROOT).with_suffix("").parts
    here = wing(within)
    for name in modules(file):
        top, *parts = name.split(".")
        assert top not in ROOMS, f"{name}: expected traj.{name}"
        assert not {top, name} & FORBIDDEN.get(room, set()), f"{room} imports {name}"
        if top != "traj" or not parts or parts[0] not in ROOMS:
            continue
        assert parts[0] in (room, *ROOMS[room]), f"{room} imports {name}"
        if parts[0] == room == "pipeline" and here and len(parts) > 1:
            there = wing(parts[1:])
            allowed = ("base",) if here == "base" else (here, "base", *WINGS[here])
            assert there in allowed, f"{here} imports {name}"


OTHERS = [file for file in FILES if "stores" not in file.relative_to(ROOT).parts]


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: str(file.relative_to(ROOT)))
def test_other_rooms_use_of_stores_what_it_offers(file):
    for name in modules(file):
        _, _, offered = name.partition("traj.stores.")
        assert not offered or offered in stores.__all__, f"{name}: expected it in stores/__init__.py"
    text = file.read_text()
    for node in ast.walk(ast.parse(text)) if "stores." in text else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stores":
            assert node.attr in stores.__all__, f"stores.{node.attr}"


@pytest.mark.parametrize("room", ["stores", "analysis"])
def test_messages_below_the_command_line_name_none_of_its_options(room):
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"--[a-z]| -o\b", node.value), f"{file}: {node.value}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_one_room(file):
    assert len(file.read_text().splitlines()) <= 450


def test_the_lowest_versions_tried_are_those_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    promised = {}
    for line in map(Requirement, (*project["dependencies"], *extras)):
        lowest = next(Version(one.version) for one in line.specifier if one.operator == ">=")
        assert promised.setdefault(line.name, lowest) == lowest, f"{line.name} has two lower bounds"
    lines = [line for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if not line.startswith("#")]
    tried = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    del promised["torch"], tried["torch"]  # constraints-lowest.txt says why
    assert tried == promised


def test_what_is_listed_as_dear_is_there():
    for test in dear.listed():
        file, function = test.split("::")
        assert f"\ndef {function}(" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["analyze", "--help"], ["verify", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
sys.argv = ["traj", *{arguments!r}]
try:
    from traj.pipeline.cli import main
    main()
except SystemExit:
    pass
heavy = {{"torch", "diffusers", "numba", "xarray", "zarr", "numpy", "dask", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_help_comes_at_once():
    best = min(_help_seconds() for _ in range(5))
    assert best < 0.2


def _help_seconds():
    """Of the processor: on a busy machine they are fewer than those one waits."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([Path(sys.executable).with_name("traj"), "--help"], check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
