"""What the landmarks say, in words, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from traj.analysis._quantity import Landmark
from traj.pipeline.report import markup
from traj.pipeline.report.picture import Row


def meaning(mark: Landmark) -> str:
    """Say what a landmark is, and of which curve or family."""
    return mark.meaning if not mark.of or mark.of in mark.meaning else f"{mark.meaning} ({mark.of})"


def in_order(name: str, marks: Sequence[Landmark], colours: Mapping[str, str]) -> str:
    """Say in which order things happen in one run, as far as the intervals tell; nothing where nothing is known."""
    there = sorted((mark for mark in marks if not np.isnan(mark.log_snr)), key=lambda mark: mark.log_snr)
    items = ""
    for number, (before, mark) in enumerate(zip([None, *there], there, strict=False)):
        doubt = before is not None and not _apart(before, mark)
        said = f' <span class="doubt">(before or after {number}: cannot tell)</span>' if doubt else ""
        items += f"<li>{escape(meaning(mark))}: log SNR {place(mark)}, t = {mark.timestep:.4g}{said}</li>"
    head = f"<p>In {markup.named(name, colours)}, from noise to image, with intervals of 95 %:</p>"
    return f"{head}<ol>{items}</ol>" if items else ""


def between_runs(rows: Sequence[Row], colours: Mapping[str, str]) -> str:
    """Say where runs surely differ; nothing where no landmark is of several runs."""
    several = [row for row in rows if sum(_sure(mark) for mark in row.marks.values()) > 1]
    if not several:
        return ""
    items, alike = "", 0
    for row in several:
        marks = sorted(row.marks.items(), key=lambda named: named[1].log_snr)
        later = {
            first: [markup.named(second, colours) for second, other in marks if _earlier(mark, other)]
            for first, mark in marks
        }
        differ = [
            f"earlier in {markup.named(first, colours)} than in {', '.join(names)}"
            for first, names in later.items()
            if names
        ]
        alike += not differ
        items += f"<li>{escape(row.meaning)}: {'; '.join(differ)}</li>" if differ else ""
    if not items:
        return "<p>Which run is earlier, cannot be told of any landmark: the intervals overlap.</p>"
    rest = f"<li>of {alike} other landmarks it cannot be told, the intervals overlap</li>" if alike else ""
    return f"<p>Between runs, by log SNR:</p><ul>{items}{rest}</ul>"


def unsaid(rows: Sequence[Row]) -> str:
    """Say what cannot be said: landmarks that are not reached, and those of which nobody knows how sure they are."""
    never: list[str] = []
    unsure: list[str] = []
    for row in rows:
        for what, names in (
            (never, [name for name, mark in row.marks.items() if np.isnan(mark.log_snr)]),
            (unsure, [name for name, mark in row.marks.items() if not np.isnan(mark.log_snr) and not _sure(mark)]),
        ):
            if names:
                whose = "in all runs" if len(names) == len(row.marks) > 1 else f"in {', '.join(names)}"
                what.append(f"{row.meaning}, {whose}")
    said = [
        f"<li>{what}: {escape('; '.join(those))}.</li>"
        for what, those in (("Not reached, or not seen", never), ("How sure it is, is not known", unsure))
        if those
    ]
    return f"<p>What cannot be said:</p><ul>{''.join(said)}</ul>" if said else ""


def place(mark: Landmark) -> str:
    """Write the log SNR of a landmark with its interval."""
    ends = f" ({_signed(mark.low)} to {_signed(mark.high)})" if _sure(mark) else " (interval not known)"
    return f"<b>{_signed(mark.log_snr)}</b>{ends}"


def _signed(value: float) -> str:
    if np.isinf(value):
        return "the end" if value > 0 else "the start"
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _sure(mark: Landmark) -> bool:
    return not np.isnan([mark.log_snr, mark.low, mark.high]).any()


def _apart(one: Landmark, other: Landmark) -> bool:
    """Whether the intervals of two landmarks leave no doubt which is earlier."""
    return _earlier(one, other) or _earlier(other, one)


def _earlier(one: Landmark, other: Landmark) -> bool:
    """Whether one landmark is surely earlier than another."""
    return _sure(one) and _sure(other) and one.high < other.low
