"""Mathematics: stores in, results out, lazily. One file, one quantity, one function of the file's name."""

from __future__ import annotations

import ast
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traj.analysis._offered import Offered

if TYPE_CHECKING:
    from traj.analysis._quantity import Landmark, Look, Number, Quantity, Series, Table, quantity

__all__ = [
    "Landmark",
    "Look",
    "Number",
    "Quantity",
    "Series",
    "Table",
    "clashes",
    "load",
    "quantities",
    "quantity",
    "summary",
    "usable",
]

FOLDER = Path(__file__).parent


def _is_quantity(found: Any) -> bool:
    from traj.analysis._quantity import Quantity

    return isinstance(found, Quantity)


OFFERED = Offered("traj.analysis", "quantity", _is_quantity, "not marked by @traj.analysis.quantity")


def quantities() -> list[str]:
    """List the quantities, none of them imported: the public files of this folder, and those of other packages."""
    return sorted({*_ours(), *OFFERED.names()})


def clashes() -> list[str]:
    """Say which quantities of other packages are left out because ours have their names, a line each."""
    return OFFERED.clashes(_ours())


def summary(name: str) -> str:
    """Read the first line of a quantity's docstring, without importing it.

    Raises InputError for an unknown name.
    """
    _require(name)
    if name not in _ours():
        return OFFERED.summary(name)
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(function) or "").split("\n")[0]


def load(name: str) -> Quantity:
    """Import one quantity.

    Raises InputError for an unknown name, and where another package's quantity cannot be used.
    """
    _require(name)
    found: Quantity
    found = getattr(import_module(f"traj.analysis.{name}"), name) if name in _ours() else OFFERED.load(name)
    return found


def usable() -> dict[str, Quantity]:
    """Import all quantities, those of other packages as far as they can be used."""
    from traj.stores import InputError

    found = {}
    for name in quantities():
        with suppress(InputError):
            found[name] = load(name)
    return found


def _ours() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def _require(name: str) -> None:
    if name not in _ours() and name not in quantities():
        from traj.stores import InputError  # takes seconds to import, and help needs none of it

        raise InputError(f"unknown quantity {name!r}; expected one of {', '.join(quantities())}")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Bring what a quantity is made with when it is asked for: help imports no numpy."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("traj.analysis._quantity"), name)
