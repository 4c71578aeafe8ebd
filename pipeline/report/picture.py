"""The one picture: all landmarks of all runs on one axis of log SNR, under what the network predicts there."""

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

from traj.analysis._drawing import LOG_SNR_LABEL, STYLE, WIDTH, left_edge, legible
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


def picture(rows: Sequence[Row], look: Look, shown: xr.Dataset | None) -> Figure:
    """Draw rows of landmarks, each a marker with its interval of 95 %, hollow where that is not known.

    Above them are predictions of the run that is shown, if any.
    """
    names = [name for name in look.colours if any(name in row.marks for row in rows)]
    markers = {name: look.markers[name] or "o" for name in names}
    low, high = _range(rows, shown)
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
        axis.set(xlim=(low, high), ylim=(below, 0), yticks=[], xlabel=LOG_SNR_LABEL)
        axis.spines["left"].set_visible(False)
        y = 0.0
        for row, height, titled in zip(rows, heights, titles, strict=True):
            if titled:
                _text(axis, y + 0.17, row.quantity, weight="bold")
                y += 0.3
            axis.axhline(y, color="#e4e4e4", lw=0.6)
            _text(axis, y + height / 2, "\n".join(wrap(row.meaning, LETTERS)))
            for k, (name, mark) in enumerate(row.marks.items()):
                _mark(axis, y + height * (k + 1) / (len(row.marks) + 1), mark, look.colours[name], markers[name])
            y += height
        if shown is not None:
            above = figure.add_axes((LEFT / WIDTH, (BOTTOM + below + 0.1) / total, wide, pictures / total))
            _strip(above, shown, low, high)
        handles = [
            Line2D([], [], color=look.colours[name], marker=markers[name], label=legible(name)) for name in names
        ]
        figure.legend(handles=handles, loc="upper right", ncols=min(len(handles), 5) or 1)
    return figure


def _range(rows: Sequence[Row], shown: xr.Dataset | None) -> tuple[float, float]:
    """Find the part of the axis that holds all landmarks and most of the run that is shown."""
    ends = [x for row in rows for mark in row.marks.values() for x in (mark.log_snr, mark.low, mark.high)]
    if shown is not None:
        along = shown["log_snr"].to_numpy()
        ends += [left_edge({"": shown}), *along[np.isfinite(along)][-1:]]
    finite = [x for x in ends if np.isfinite(x)] or [-1, 1]
    margin = 0.03 * (max(finite) - min(finite)) or 1
    return min(finite) - margin, max(finite) + margin


def _text(axis: Axes, y: float, text: str, weight: str = "normal") -> None:
    """Write at the left of an axis."""
    place = -(LEFT - 0.05) / (WIDTH - LEFT - RIGHT)
    plain = text.replace("$", r"\$")
    axis.text(place, y, plain, transform=axis.get_yaxis_transform(), va="center", fontsize=8, weight=weight)


def _mark(axis: Axes, y: float, mark: Landmark, colour: str, marker: str) -> None:
    low, high = axis.get_xlim()
    if np.isnan(mark.log_snr):
        axis.text(low, y, " not reached", color=colour, va="center", fontsize=7)
        return
    place, *ends = np.clip([mark.log_snr, mark.low, mark.high], low, high)
    known = not np.isnan(ends).any()
    if known:
        axis.plot(ends, [y, y], color=colour, lw=3, alpha=0.4, solid_capstyle="butt")
    axis.plot(place, y, marker, color=colour, markersize=6, mfc=colour if known else "white", clip_on=False)


def _strip(axis: Axes, run: xr.Dataset, low: float, high: float) -> None:
    """Lay predictions of a run over the log SNR they were made at."""
    width = (high - low) / COLUMNS
    centres = low + (np.arange(COLUMNS) + 0.5) * width
    apart = np.abs(run["log_snr"].to_numpy()[:, None] - centres).min(axis=0)
    there = centres[apart < width / 2]
    images = strip(run, there, SAMPLES)
    for row, line in enumerate(images):
        for x, image in zip(there, line, strict=True):
            axis.imshow(image, extent=(x - 0.48 * width, x + 0.48 * width, row + 0.98, row + 0.02), aspect="auto")
    axis.set(xlim=(low, high), ylim=(len(images), 0), xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
