"""Interleaved timing, and the rows it ends in."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

Arm = Callable[[Path], object]
Seconds = Mapping[str, Sequence[float]]


def interleave(arms: Mapping[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Time every arm once per round, in turn and then in reverse, so that drift hits all alike.

    Each arm gets an empty folder of its own; making and removing it is not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name in list(arms)[:: -1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder:
                begun = time.perf_counter()
                arms[name](Path(folder))
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def per_round(above: Sequence[float], below: Sequence[float], scale: float = 1.0) -> list[float]:
    """Divide two arms round by round."""
    return [scale * a / b for a, b in zip(above, below, strict=True)]


@dataclass(frozen=True)
class Target:
    """What a ratio should be."""

    bound: Literal["at most", "at least"]
    value: float

    def met_by(self, ratio: float) -> bool:
        """Compare."""
        return ratio <= self.value if self.bound == "at most" else ratio >= self.value


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, ours, the other side, their ratio round by round."""

    what: str
    ours: str
    against: str
    theirs: str
    ratios: Sequence[float]
    target: Target | None = None

    def cells(self, judge: bool) -> list[str]:
        """Write the row as text; toy sizes are not judged by the target."""
        if not self.ratios:
            return [self.what, self.ours, self.against, self.theirs, "-", "-", ""]
        middle, low, high = median(self.ratios), min(self.ratios), max(self.ratios)
        digits = 0 if middle >= 100 else 1 if middle >= 10 else 3 if middle < 2 else 2
        spread = f" ({low:.{digits}f}-{high:.{digits}f})" if len(self.ratios) > 1 else ""
        judged = "" if self.target is None or not judge else "met" if self.target.met_by(middle) else "MISSED"
        target = "-" if self.target is None else f"{self.target.bound} {self.target.value:g}"
        return [self.what, self.ours, self.against, self.theirs, f"{middle:.{digits}f}{spread}", target, judged]


HEADER = ("what", "ours", "against", "theirs", "ratio, median (min-max)", "target", "")


def table(rows: Sequence[Row], judge: bool) -> str:
    """Write rows as a Markdown table, aligned so that it reads well as plain text too."""
    lines = [list(HEADER), *[row.cells(judge) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def seconds_text(values: Sequence[float]) -> str:
    """Write the median of some times."""
    value = median(values)
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def rate_text(count: float, values: Sequence[float], unit: str) -> str:
    """Write how much was done per second, by the median time."""
    return f"{count / median(values):,.0f} {unit}/s"
