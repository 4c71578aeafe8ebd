"""The one picture: all landmarks on one axis, from noise to image, under what the network predicts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from traj.analysis._drawing.axis import LOG_SNR, Places, table
from traj.analysis._drawing.montages import strip
from traj.analysis._drawing.style import STYLE, legible
from traj.analysis._quantity import Landmark, Look

WIDE, NARROW = 10.5, 3.9
"""Inches: for talks and large screens, and for phones."""

LEFT, RIGHT, BOTTOM, LINE, GAP = 0.62, 0.12, 0.5, 0.2, 0.09
"""Inches: left and right of the axis, beneath it, of a line of text, and between a marker and its name."""

CELL, SIZE = 0.6, 9
"""Inches an image of the strip has, at most, and points of a name."""

OWN, OTHER = "o", "D"
"""Markers of landmarks of the run that has the colour, and of another run of the same process."""


class Row(NamedTuple):
    """One landmark: what a figure calls it, what it means, and its place in every process that has it.

    others names the processes whose place is that of another run.
    """

    short: str
    meaning: str
    marks: Mapping[str, Landmark]
    others: frozenset[str] = frozenset()


class Strip(NamedTuple):
    """The run whose states and predictions are shown, and its name."""

    name: str
    run: xr.Dataset


def picture(
    rows: Sequence[Row],
    labels: Mapping[str, str],
    look: Look,
    places: Mapping[str, Places],
    shown: Strip | None = None,
    width: float = WIDE,
) -> Figure:
    """Draw rows of landmarks, from the earliest to the latest, each with its name beside its markers.

    A marker has its interval of 95 % as a band, is hollow where that is not known, and points to what lies beyond the
    axis, which is as long as the run that is shown. labels say what each process is,
    places lay its log SNR on the axis. What is not reached takes no room.
    """
    placed = [
        {name: at for name, m in row.marks.items() if not np.isnan((at := places[name]([m.log_snr, m.low, m.high]))[0])}
        for row in rows
    ]
    rows = [row._replace(marks={name: row.marks[name] for name in at}) for row, at in zip(rows, placed, strict=True)]
    there = [k for k, of_row in enumerate(placed) if of_row]
    there.sort(key=lambda k: float(np.mean([x for x, *_ in placed[k].values()])))
    along = np.empty(0) if shown is None else look.axis.places(*table(shown.run))(shown.run["log_snr"])
    low, high = _range([placed[k] for k in there], along)
    inner = width - LEFT - RIGHT
    columns = int(np.ceil(inner / CELL))
    cell = inner / columns
    names = [name for name in labels if any(name in rows[k].marks for k in there)]
    handles = _handles(names, labels, look, [rows[k] for k in there])
    across = 1 if width < WIDE else 3
    top = 0.08 + LINE * -(-len(handles) // across)
    pictures = 0.0 if shown is None else 2 * cell + 0.3
    inch = (high - low) / inner
    beside = [_beside(rows[k].short, placed[k], low, high, inch) for k in there]
    heights = [
        max(0.24, 0.13 * len(rows[k].marks) + 0.08) + LINE * above for k, (*_, above) in zip(there, beside, strict=True)
    ]
    below = sum(heights) + 0.3
    total = top + pictures + below + BOTTOM
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, total))
        axis = figure.add_axes((LEFT / width, BOTTOM / total, inner / width, below / total))
        axis.set(xlim=(low, high), ylim=(below, 0), yticks=[], xlabel=look.axis.words.format("$x_t$"))
        look.axis.write_numbers(axis)
        axis.spines["left"].set_visible(False)
        _ends(axis, look)
        y = 0.3
        for number, (k, height, (x, side, above)) in enumerate(zip(there, heights, beside, strict=True)):
            if number % 2 == 0:
                axis.axhspan(y, y + height, color="#f4f4f4", lw=0, zorder=0)
            first = y + LINE * above
            level = y + LINE / 2 + 0.02 if above else y + height / 2
            axis.text(x, level, legible(rows[k].short), ha=side, va="center", fontsize=SIZE, color="#222222")
            for j, (name, at) in enumerate(placed[k].items()):
                middle = first + (y + height - first) * (j + 1) / (len(placed[k]) + 1)
                _mark(axis, middle, at, look.colours[name], OTHER if name in rows[k].others else OWN)
            y += height
        if shown is not None:
            above_axis = figure.add_axes((LEFT / width, (BOTTOM + below) / total, inner / width, 2 * cell / total))
            _strip(above_axis, shown.run, along, columns)
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=across,
            fontsize=SIZE,
            borderaxespad=0.2,
            handletextpad=0.9,
            columnspacing=1.2,
        )
    return figure


def _handles(names: Sequence[str], labels: Mapping[str, str], look: Look, rows: Sequence[Row]) -> list[Line2D]:
    """Say what colours mean, and markers as far as there are several."""
    found = [
        Line2D([], [], color=look.colours[name], marker=OWN, lw=5, markersize=6, alpha=1, label=legible(labels[name]))
        for name in names
    ]
    style: dict[str, Any] = {"color": "#666666", "lw": 0, "markersize": 6}
    if any(row.others & row.marks.keys() for row in rows):
        found.append(Line2D([], [], marker=OTHER, label="from another run, of a study", **style))
    if any(np.isnan([mark.low, mark.high]).any() for row in rows for mark in row.marks.values()):
        found.append(Line2D([], [], marker=OWN, mfc="white", label="interval not known", **style))
    return found


def _range(placed: Sequence[Mapping[str, np.ndarray]], along: np.ndarray) -> tuple[float, float]:
    """Find the part of the axis that holds most of the run that is shown, or all landmarks where none is.

    A schedule that begins in far more noise would leave no room for what happens in the others.
    """
    known = along[np.isfinite(along)]
    ends = [x for of_row in placed for at in of_row.values() for x in at]
    ends = [*np.quantile(known, [0.01, 1])] if known.size else ends
    finite = [x for x in ends if np.isfinite(x)] or [-1, 1]
    margin = 0.03 * (max(finite) - min(finite)) or 1
    return min(finite) - margin, max(finite) + margin


def _beside(
    name: str, placed: Mapping[str, np.ndarray], low: float, high: float, inch: float
) -> tuple[float, str, int]:
    """Find where a name stands: right of the markers or left of them, or where there is no room on a line above them.

    Gives the place, the side of it that the text is aligned to, and 1 for a line above, else 0.
    """
    ends = np.array([x for at in placed.values() for x in at])
    ends = np.clip(ends[~np.isnan(ends)], low, high)
    points = TextPath((0, 0), legible(name), prop=FontProperties(size=SIZE)).get_extents().width
    width = points / 70 * inch  # not 72: letters that are set in whole pixels take a little more
    first, last = ends.min() - GAP * inch, ends.max() + GAP * inch
    if last + width <= high:
        return float(last), "left", 0
    if first - width >= low:
        return float(first), "right", 0
    return float(np.clip(first, low, max(low, high - width))), "left", 1


def _ends(axis: Axes, look: Look) -> None:
    """Say which end is noise and which is image, and where there is as much of one as of the other."""
    words: dict[str, Any] = {"transform": axis.transAxes, "va": "top", "weight": "bold", "color": "#555555"}
    lower = -0.3 / (axis.get_ylim()[0])
    axis.text(0, lower, "← noise", ha="left", **words)
    axis.text(1, lower, "image →", ha="right", **words)
    low, high = axis.get_xlim()
    if look.axis is LOG_SNR and low < 0 < high:
        axis.axvline(0, color="#999999", lw=0.9, ls=(0, (4, 3)), zorder=1)
        axis.text(
            0,
            0.15,
            "as much noise as image",
            ha="center",
            va="center",
            fontsize=SIZE - 1,
            color="#666666",
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )


def _mark(axis: Axes, y: float, placed: np.ndarray, colour: str, marker: str) -> None:
    low, high = axis.get_xlim()
    place, *ends = np.clip(placed, low, high)
    known = not np.isnan(ends).any()
    if known:
        axis.plot(ends, [y, y], color=colour, lw=5, alpha=0.35, solid_capstyle="butt", zorder=2)
    face = colour if known else "white"
    marker = "<" if placed[0] < low else ">" if placed[0] > high else marker
    axis.plot(place, y, marker, color=colour, markersize=6, mfc=face, mew=1.4, clip_on=False, zorder=3)


def _strip(axis: Axes, run: xr.Dataset, along: np.ndarray, columns: int) -> None:
    """Lay states of a run's first sample, and predictions from them, over the places on the axis they belong to."""
    low, high = axis.figure.axes[0].get_xlim()
    width = (high - low) / columns
    centres = low + (np.arange(columns) + 0.5) * width
    apart = np.abs(along[:, None] - centres)
    near = apart.min(axis=0) < width / 2
    states = apart.argmin(axis=0)[near]
    for row, name in enumerate(("x_t", "pred_x0")):
        for x, image in zip(centres[near], strip(run, name, states), strict=True):
            axis.imshow(image, extent=(x - 0.48 * width, x + 0.48 * width, row + 0.97, row + 0.03), aspect="auto")
    axis.set(xlim=(low, high), ylim=(2, 0))
    axis.set_yticks([0.5, 1.5], ["$x_t$", "predicted\n$x_0$"], fontsize=SIZE - 1)
    numbers = [f"t={t}" if k == 0 else str(t) for k, t in enumerate(run["timestep"].to_numpy()[states])]
    axis.set_xticks(centres[near], numbers, fontsize=SIZE - 2)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, pad=2)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
