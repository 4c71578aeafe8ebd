"""What goes wrong with one store, result or figure: said in a sentence, never the end of a page."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

from traj.stores import DamagedStore, is_damage, is_known

Failed = Callable[[str, Exception], None]
"""Is told where something went wrong, and what. The report goes on without it."""

T = TypeVar("T")
Of = TypeVar("Of")


def warn(where: str, error: Exception) -> None:
    """Warn of what went wrong."""
    warnings.warn(f"{where}: {sentence(error)}", stacklevel=2)


def sentence(error: Exception) -> str:
    """Say in one sentence what went wrong."""
    first = printable(next(iter(str(error).strip().splitlines()), ""))
    return first if is_known(error) else f"{type(error).__name__}: {first}"


def printable(text: str) -> str:
    """Write letters that a page or a figure cannot hold, such as line ends and half letters, by their numbers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def attempt(what: Callable[[], T], where: str, failed: Failed, remarks: list[str]) -> T | None:
    """Do something; where it fails, say so, leave a remark and give None."""
    try:
        return what()
    except Exception as error:
        error = _of_store(where, error)
        failed(where, error)
        remarks.append(f"{printable(where)}: {sentence(error)}")
        return None


def without_faulty(
    make: Callable[[Mapping[str, Of]], T], of: Mapping[str, Of], what: str, failed: Failed
) -> tuple[T | None, list[str]]:
    """Make something of several things by name; where it fails, of those with which alone it does not fail.

    Gives what was made, None where nothing could be, and sentences that say what is left out and why.
    """
    try:
        return make(of), []
    except Exception as error:
        whole = error
    at_fault: dict[str, Exception] = {}
    for name in of:
        try:
            make({name: of[name]})
        except Exception as error:
            at_fault[name] = _of_store(name, error)
    others = {name: one for name, one in of.items() if name not in at_fault}
    made = None
    if at_fault and others:
        try:
            made = make(others)
        except Exception as error:
            whole, at_fault = error, {}
    if not at_fault:
        failed(f"“{what}”", whole)
        return None, [f"“{what}” cannot be drawn: {sentence(whole)}"]
    for name, fault in at_fault.items():
        failed(f"{name}, “{what}”", fault)
    return made, [f"{name} is not in “{what}”: {sentence(fault)}" for name, fault in at_fault.items()]


def _of_store(name: str, error: Exception) -> Exception:
    """Name the store whose bytes are wrong."""
    if is_damage(error):
        return DamagedStore(f"the store {name} is damaged ({error}); run `traj verify` on it")
    return error
