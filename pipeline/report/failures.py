"""What goes wrong with one store, result or file: said in a sentence, never the end of the page."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from html import escape
from typing import TypeVar

from traj.pipeline.report.contents import Material, Run, Section
from traj.stores import DamagedStore, is_damage, is_known

Failed = Callable[[str, Exception], None]
"""Is told where something went wrong, and what. The report goes on without it."""

T = TypeVar("T")


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
        failed(where, error)
        remarks.append(f"{printable(where)}: {sentence(error)}")
        return None


def body(section: Section, material: Material, failed: Failed) -> str:
    """Draw a section; where it fails, without those runs with which alone it fails, and say which and why."""
    try:
        return section.html(material)
    except Exception as error:
        whole = error
    at_fault: list[tuple[Run, Exception]] = []
    for run in material.all:
        try:
            section.html(material.only([run]))
        except Exception as error:
            at_fault.append((run, _of_store(run, error)))
    others = [run for run in material.all if all(run is not other for other, _ in at_fault)]
    drawn = ""
    if at_fault and others:
        try:
            drawn = section.html(material.only(others))
        except Exception as error:
            whole, at_fault = error, []
    for run, fault in at_fault:
        failed(f"{run.name}, “{section.title}”", fault)
    if not at_fault:
        failed(f"“{section.title}”", whole)
    said = [f"{run.name} is not shown here: {sentence(fault)}" for run, fault in at_fault]
    items = "".join(f"<p>{escape(text)}</p>" for text in said or [f"This cannot be drawn: {sentence(whole)}"])
    return f'{drawn}<div class="remarks">{items}</div>'


def _of_store(run: Run, error: Exception) -> Exception:
    """Name the store whose bytes are wrong."""
    if is_damage(error):
        return DamagedStore(f"the store {run.name} is damaged ({error}); run `traj verify` on it")
    return error
