"""Mathematics: stores in, results out, lazily. One file, one quantity, one function of the file's name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traj.analysis._quantity import Quantity

NUMERICS = 4
"""Raised by hand when a quantity's numbers change, so that saved results are known to be old."""

STUDENT = 2.3646
"""Errors of a jackknife in half a 95 % band: Student's quantile for seven degrees of freedom, eight groups less one."""

FOLDER = Path(__file__).parent


def quantities() -> list[str]:
    """List the quantities: the public files of this folder, none of them imported."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def summary(name: str) -> str:
    """Read the first line of a quantity's docstring, without importing it.

    Raises InputError for an unknown name.
    """
    _require(name)
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(function) or "").split("\n")[0]


def load(name: str) -> Quantity:
    """Import one quantity.

    Raises InputError for an unknown name.
    """
    _require(name)
    from traj.analysis._quantity import Quantity

    module = import_module(f"traj.analysis.{name}")
    found = getattr(module, name)
    return found if isinstance(found, Quantity) else _wrapped(found, module)


def _wrapped(function: Callable[..., Any], module: ModuleType) -> Quantity:
    """Make a quantity of a function that is not marked yet."""
    from traj.analysis._quantity import Quantity

    options = inspect.signature(function).parameters
    quantity = Quantity(
        function,
        reads="sweep" if "baseline" in options else getattr(module, "KIND", "trajectories"),
        numerics=NUMERICS,
        title=function.__name__,
        source="",
        reads_with={"against": "trajectories"} if "against" in options else {},
    )
    quantity.takes_memory(getattr(module, "working_bytes", lambda ds, **options: 0))
    return quantity


def _require(name: str) -> None:
    if name not in quantities():
        from traj.stores import InputError  # takes seconds to import, and help needs none of it

        raise InputError(f"unknown quantity {name!r}; expected one of {', '.join(quantities())}")
