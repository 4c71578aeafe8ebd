"""What the landmarks say, in words, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from traj.analysis._drawing.timeline import Row
from traj.analysis._quantity import Landmark
from traj.analysis._statistics.order import AFTER, AGREE, BEFORE, CANNOT_TELL, MARGIN, in_groups
from traj.pipeline.report import markup

if TYPE_CHECKING:
    from traj.pipeline.report.answer import Comparison


MANY = 3
"""Pairs of one run that are named in a sentence; of more, it is said how many there are."""


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


def sentences(found: Sequence[Comparison], colours: Mapping[str, str]) -> str:
    """Say in three sentences what comes in a fixed order over samples, what agrees, and what cannot be told apart.

    What stands between two words “then” is in no order that is sure. Log SNR is in brackets.
    """
    said: dict[str, list[str]] = {BEFORE: [], AGREE: [], CANNOT_TELL: []}
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for one in found:
        here, there = one.first.cell, one.second.cell
        groups.setdefault((here.entry.origin,) if here.entry.origin == there.entry.origin else here.key, []).append(one)
    for group, some in groups.items():
        cells = {(cell.process, *cell.key): cell for one in some for cell, _ in one[:2]}
        if len(group) == 1:  # landmarks of one run
            head = f"in {markup.named(group[0], colours)}"
            names = {key: escape(short(cell.mark)) for key, cell in cells.items()}
        else:
            head = escape(short(some[0].first.cell.mark))
            names = {key: markup.named(cell.entry.origin, colours) for key, cell in cells.items()}
        at = {key: f"{names[key]} ({_signed(cell.mark.log_snr)})" for key, cell in cells.items()}
        pairs = {((a.process, *a.key), (b.process, *b.key)): order.verdict for (a, _), (b, _), order in some}
        surely = {pair for pair, verdict in pairs.items() if verdict == BEFORE}
        surely |= {(second, first) for (first, second), verdict in pairs.items() if verdict == AFTER}
        likely = sorted(cells, key=lambda key: -sum(first == key for first, _ in surely))
        parts = in_groups(likely, lambda *pair, surely=surely: pair in surely)
        if len(parts) > 1:
            said[BEFORE].append(f"{head}: {', then '.join(' or '.join(at[key] for key in part) for part in parts)}")
        for verdict in (AGREE, CANNOT_TELL):
            alike = [f"{names[a]} and {names[b]}" for (a, b), one in pairs.items() if one == verdict]
            alike = [f"{len(alike)} of {len(pairs)} pairs"] if len(alike) > MANY else alike
            said[verdict] += [f"{head}: {', '.join(alike)}"] if alike else []
    heads = {
        BEFORE: ("In a fixed order over samples come", "No two landmarks come in an order that is sure."),
        AGREE: (
            f"To within {MARGIN} of log SNR agree",
            f"No two landmarks surely agree to within {MARGIN} of log SNR.",
        ),
        CANNOT_TELL: ("It cannot be told which comes first", "Of all other pairs it can be told which comes first."),
    }
    return "".join(
        f"<p><b>{head}</b></p><ul>{''.join(f'<li>{one}</li>' for one in said[key])}</ul>"
        if said[key]
        else f"<p>{none}</p>"
        for key, (head, none) in heads.items()
    )


def compared(found: Sequence[Comparison], colours: Mapping[str, str]) -> str:
    """Set every comparison into a table."""
    head = ("first", "second", "samples", "first before", "after", "median log SNR between", "verdict")
    cells = [
        [
            *(
                f"{escape(short(one.cell.mark))}, {markup.named(one.cell.entry.name, colours)}"
                for one in (first, second)
            ),
            *(str(count) for count in order[:3]),
            f"{_signed(order.low)} to {_signed(order.high)}",
            {BEFORE: "first, then second", AFTER: "second, then first"}.get(order.verdict, order.verdict),
        ]
        for first, second, order in found
    ]
    return markup.table(head, cells, numbers=range(2, 6))


def short(mark: Landmark) -> str:
    """Name a landmark in two or three words."""
    return mark.short or mark.name.replace("_", " ")


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
                whose = "wherever it was looked for" if len(names) == len(row.marks) > 1 else f"in {', '.join(names)}"
                what.append(f"{row.meaning}, {whose}")
    said = [
        f"<li>{what}: {escape('; '.join(those))}.</li>"
        for what, those in (("Not reached, or not seen", never), ("Interval not known", unsure))
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
    return _sure(one) and _sure(other) and (one.high < other.low or other.high < one.low)
