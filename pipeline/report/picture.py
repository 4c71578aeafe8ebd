"""The one picture: all landmarks of all runs on one axis, under what the network predicts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traj.analysis._drawing.axis import Places, table
from traj.analysis._drawing.style import STYLE, WIDTH, legible
from traj.analysis._quantity import Landmark, Look
from traj.pipeline.report.montages import strip

LEFT, RIGHT, BOTTOM, LINE = 3.9, 0.15, 0.5, 0.16
"""Inches: left and right of the axis, beneath it, and of a line of text."""

LETTERS, COLUMNS, SAMPLES = 62, 11, 2
"""Of a line of text at the left, and what the strip shows."""


class Row(NamedTuple):
    """One landmark: the title of its quantity, what it means, and where it lies in every run that has it."""

    quantity: str
    meaning: str
    marks: Mapping[str, Landmark]


def picture(rows: Sequence[Row], look: Look, shown: xr.Dataset | None, places: Mapping[str, Places]) -> Figure:
    """Draw rows of landmarks, each a marker with its interval of 95 %, hollow where that is not known.

    Above them are predictions of the run that is shown, if any. places lay the log SNR of each run on the axis.
    """
    along = np.empty(0) if shown is None else look.axis.places(*table(shown))(shown["log_snr"])
    names = [name for name in look.colours if any(name in row.marks for row in rows)]
    markers = {name: look.markers[name] or "o" for name in names}
    low, high = _range(rows, places, along)
    cell = (WIDTH - LEFT - RIGHT) / COLUMNS
    top = 0.2 + 0.22 * -(-len(names) // 5)
    pictures = 0.0 if shown is None else cell * min(SAMPLES, shown.sizes["sample"])
    heights = [max(LINE * len(wrap(row.meaning, LETTERS)), 0.13 * len(row.marks)) + 0.1 for row in rows]
    titles = [k == 0 or rows[k - 1].quantity != row.quantity for k, row in enumerate(rows)]
    below = sum(heights) + 0.3 * sum(titles)
    total = top + pictures + 0.1 + below + BOTTOM
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, total))
        wide = 1 - (LEFT + RIGHT) / WIDTH
        axis = figure.add_axes((LEFT / WIDTH, BOTTOM / total, wide, below / total))
        axis.set(xlim=(low, high), ylim=(below, 0), yticks=[], xlabel=look.axis.label())
        look.axis.write_numbers(axis)
        axis.spines["left"].set_visible(False)
        y = 0.0
        for row, height, titled in zip(rows, heights, titles, strict=True):
            if titled:
                _text(axis, y + 0.17, row.quantity, weight="bold")
                y += 0.3
            axis.axhline(y, color="#e4e4e4", lw=0.6)
            _text(axis, y + height / 2, "\n".join(wrap(row.meaning, LETTERS)))
            for k, (name, mark) in enumerate(row.marks.items()):
                middle = y + height * (k + 1) / (len(row.marks) + 1)
                _mark(axis, middle, _placed(mark, places[name]), look.colours[name], markers[name])
            y += height
        if shown is not None:
            above = figure.add_axes((LEFT / WIDTH, (BOTTOM + below + 0.1) / total, wide, pictures / total))
            _strip(above, shown, along, low, high)
        handles = [
            Line2D([], [], color=look.colours[name], marker=markers[name], label=legible(name)) for name in names
        ]
        figure.legend(handles=handles, loc="upper right", ncols=min(len(handles), 5) or 1)
    return figure


def _placed(mark: Landmark, places: Places) -> np.ndarray:
    """Lay a landmark and the ends of its interval on the axis."""
    return places([mark.log_snr, mark.low, mark.high])


def _range(rows: Sequence[Row], places: Mapping[str, Places], along: np.ndarray) -> tuple[float, float]:
    """Find the part of the axis that holds all landmarks and most of the run that is shown."""
    ends = [x for row in rows for name, mark in row.marks.items() for x in _placed(mark, places[name])]
    known = along[np.isfinite(along)]
    ends += [*np.quantile(known, [0.01, 1])] if known.size else []
    finite = [x for x in ends if np.isfinite(x)] or [-1, 1]
    margin = 0.03 * (max(finite) - min(finite)) or 1
    return min(finite) - margin, max(finite) + margin


def _text(axis: Axes, y: float, text: str, weight: str = "normal") -> None:
    """Write at the left of an axis."""
    place = -(LEFT - 0.05) / (WIDTH - LEFT - RIGHT)
    plain = text.replace("$", r"\$")
    axis.text(place, y, plain, transform=axis.get_yaxis_transform(), va="center", fontsize=8, weight=weight)


def _mark(axis: Axes, y: float, placed: np.ndarray, colour: str, marker: str) -> None:
    low, high = axis.get_xlim()
    if np.isnan(placed[0]):
        axis.text(low, y, " not reached", color=colour, va="center", fontsize=7)
        return
    place, *ends = np.clip(placed, low, high)
    known = not np.isnan(ends).any()
    if known:
        axis.plot(ends, [y, y], color=colour, lw=3, alpha=0.4, solid_capstyle="butt")
    axis.plot(place, y, marker, color=colour, markersize=6, mfc=colour if known else "white", clip_on=False)


def _strip(axis: Axes, run: xr.Dataset, along: np.ndarray, low: float, high: float) -> None:
    """Lay predictions of a run, whose states are along the axis, over the places they were made at."""
    width = (high - low) / COLUMNS
    centres = low + (np.arange(COLUMNS) + 0.5) * width
    apart = np.abs(along[:, None] - centres)
    there = centres[apart.min(axis=0) < width / 2]
    images = strip(run, apart.argmin(axis=0)[apart.min(axis=0) < width / 2], SAMPLES)
    for row, line in enumerate(images):
        for x, image in zip(there, line, strict=True):
            axis.imshow(image, extent=(x - 0.48 * width, x + 0.48 * width, row + 0.98, row + 0.02), aspect="auto")
    axis.set(xlim=(low, high), ylim=(len(images), 0), xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
