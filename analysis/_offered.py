"""Quantities of other packages: entry points of the group `traj.analysis`, each named NAME = module:NAME."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traj.analysis._quantity import Quantity

GROUP = "traj.analysis"


def names() -> list[str]:
    """Name the quantities that other packages offer, none of them imported."""
    return list(dict.fromkeys(entry.name for entry in entry_points(group=GROUP)))


def clashes(ours: Sequence[str]) -> list[str]:
    """Say in one line each which quantities of other packages have the name of one of ours."""
    return [_unusable(one, "traj has one of this name") for one in entry_points(group=GROUP) if one.name in ours]


def summary(name: str) -> str:
    """Read the first line of a quantity's docstring, without importing it or the packages it is in.

    Says in one line why where it cannot be used.
    """
    try:
        entry = _the_one(name)
        file = _file(entry)
        tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    except (ImportError, SyntaxError, UnicodeDecodeError, OSError) as error:
        return f"Cannot be used: {_one_line(error)}"
    functions = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == entry.attr)
    doc = next(map(ast.get_docstring, functions), None)
    return doc.split("\n")[0] if doc else f"Of package {_package(entry)}."


def load(name: str) -> Quantity:
    """Import a quantity of another package.

    Raises InputError, in one line, where its code fails or it is no quantity of this name.
    """
    from traj.analysis._quantity import Quantity
    from traj.stores import InputError

    entry = next(iter(entry_points(group=GROUP, name=name)))
    try:
        found = _the_one(name).load()
    except Exception as error:  # whatever code that is not ours may raise
        raise InputError(_unusable(entry, _one_line(error))) from error
    if not isinstance(found, Quantity):
        raise InputError(_unusable(entry, f"{entry.value} is not marked by @traj.analysis.quantity"))
    if found.name != name:
        raise InputError(_unusable(entry, f"the function {entry.value} is called {found.name}, expected {name}"))
    return found


def _the_one(name: str) -> EntryPoint:
    first, *others = entry_points(group=GROUP, name=name)
    if others:
        packages = " and ".join(_package(entry) for entry in (first, *others))
        raise ImportError(f"packages {packages} each offer one of this name, uninstall all but one")
    return first


def _file(entry: EntryPoint) -> Path:
    """Find the file of an entry point's module. Raises ImportError.

    importlib.util.find_spec would import the packages that the module is in.
    """
    parts = entry.module.split(".")
    within: Sequence[str] | None = None
    spec = None
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        spec = next(filter(None, (finder.find_spec(module, within) for finder in sys.meta_path)), None)
        within = (spec and spec.submodule_search_locations) or []
    if spec is None or spec.origin is None:
        raise ImportError(f"there is no module {entry.module}")
    return Path(spec.origin)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _unusable(entry: EntryPoint, why: str) -> str:
    return f"quantity {entry.name!r} of package {_package(entry)} cannot be used: {why}"
