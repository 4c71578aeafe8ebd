"""What other packages offer: entry points of a group, each named NAME = module:NAME."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Offered:
    """The functions that other packages offer in a group of entry points, called `what` in messages.

    is_one tells them from other objects, of which messages say that they are `otherwise`.
    """

    group: str
    what: str
    is_one: Callable[[Any], bool]
    otherwise: str

    def names(self) -> list[str]:
        """Name them, none of them imported."""
        return list(dict.fromkeys(entry.name for entry in entries(self.group)))

    def clashes(self, ours: Sequence[str]) -> list[str]:
        """Say in one line each which have the name of one of ours."""
        return [self._unusable(one, "traj has one of this name") for one in entries(self.group) if one.name in ours]

    def summary(self, name: str) -> str:
        """Read the first line of a function's docstring, without importing it or the packages it is in.

        Says in one line why where it cannot be used.
        """
        try:
            entry = self._the_one(name)
            file = _file(entry)
            tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
        except (ImportError, SyntaxError, UnicodeDecodeError, OSError) as error:
            return f"Cannot be used: {_one_line(error)}"
        functions = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == entry.attr)
        doc = next(map(ast.get_docstring, functions), None)
        return doc.split("\n")[0] if doc else f"Of package {_package(entry)}."

    def load(self, name: str) -> Any:
        """Import one.

        Raises InputError, in one line, where its code fails or it is no function of this kind and name.
        """
        from traj.stores import InputError

        entry = next(iter(entries(self.group).select(name=name)))
        try:
            found = self._the_one(name).load()
        except Exception as error:  # whatever code that is not ours may raise
            raise InputError(self._unusable(entry, _one_line(error))) from error
        if not self.is_one(found):
            raise InputError(self._unusable(entry, f"{entry.value} is {self.otherwise}"))
        if found.__name__ != name:
            called = f"the function {entry.value} is called {found.__name__}, expected {name}"
            raise InputError(self._unusable(entry, called))
        return found

    def _the_one(self, name: str) -> EntryPoint:
        first, *others = entries(self.group).select(name=name)
        if others:
            packages = " and ".join(_package(entry) for entry in (first, *others))
            raise ImportError(f"packages {packages} each offer one of this name, uninstall all but one")
        return first

    def _unusable(self, entry: EntryPoint, why: str) -> str:
        return f"{self.what} {entry.name!r} of package {_package(entry)} cannot be used: {why}"


def entries(group: str) -> EntryPoints:
    """Give the entry points of a group."""
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Search all packages on a sys.path, once: there may be hundreds."""
    return entry_points(group=group)


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
