"""Panels of curves: over the process, over where forks start, and places marked on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traj.analysis._drawing.axis import LOG_SNR, START, Places, table
from traj.analysis._drawing.series import of_forks
from traj.analysis._drawing.style import MARKERS, STYLE, WIDTH, left_edge, legible
from traj.analysis._quantity import Landmark, Look, Results, Series

POINTS, FEW_POINTS = 500, 60
"""Most points drawn of a line, and as many as get a dot each."""

BINS = 20

STYLES = ("-", "--", ":")
"""Lines of one panel that have the same colour."""


class Line(NamedTuple):
    """A curve in a panel: its name in the legend, its places, values and the ends of its band, and how it is drawn.

    What is not `sure` is dashed.
    """

    label: str
    colour: str
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    style: str = "-"
    marker: str = ""
    sure: np.ndarray | None = None


Panel = tuple[str, Sequence[Line]]
"""A title, and what is drawn under it."""

SeriesOf = Callable[[xr.Dataset], Sequence[Series]]
Marks = Callable[[xr.Dataset], Sequence[Landmark]]


def panels(rows: Sequence[Sequence[Panel]], y_labels: Sequence[str], sharey: bool = True) -> tuple[Figure, np.ndarray]:
    """Draw rows of panels with one legend; those of a row share their label of y, and its axis."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.4 + 2.8 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(rows[0]), sharey="row" if sharey else False, squeeze=False)
        for axis, (title, lines) in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
            axis.set_title(title, loc="left")
            for line in lines:
                draw(axis, line)
            if not lines:
                axis.text(0.5, 0.5, "not computed", ha="center", transform=axis.transAxes, color="#777777")
        for axis, label in zip(axes[:, 0], y_labels, strict=True):
            axis.set_ylabel(label)
        legend(figure, {line.label: (line.colour, line.marker) for row in rows for _, lines in row for line in lines})
    return figure, axes


def legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """Name what is drawn above a figure, by colour and marker."""
    handles = [
        Line2D([], [], color=colour, lw=2, marker=marker, label=legible(label))
        for label, (colour, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6) or 1)


def over_process(
    results: Results,
    look: Look,
    of: SeriesOf,
    y_label: str,
    *,
    places: Marks | None = None,
    unsure: str = "",
    beside: SeriesOf | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draw curves of states over the axis, at the left, and over the process in percent, at the right.

    A row for each variable that they were computed on. places are marked on them. unsure names a variable of the
    results that says where their curves are to be trusted. Curves beside them are dotted.
    """
    found = {run: {series.on: series for series in of(result)} for run, result in results.items()}
    rows = [on for on in ("pred_x0", "x_t") if any(on in by_name for by_name in found.values())]
    rows += sorted({on for by_name in found.values() for on in by_name} - {*rows})

    columns = (look.axis.name, "the process")

    def across(over: str, series: Series) -> np.ndarray:
        return _places(series, look)(series.log_snr) if over == columns[0] else np.linspace(0, 100, len(series.log_snr))

    def lines(on: str, over: str) -> list[Line]:
        drawn = []
        for run, by_name in found.items():
            if on in by_name:
                *_, value, low, high = by_name[on]
                x = across(over, by_name[on])
                sure = results[run][unsure].sel(on=on).to_numpy() if unsure else None
                drawn.append(Line(run, look.colours[run], x, value, low, high, "-", look.markers[run], sure))
        return drawn

    figure, axes = panels(
        [[(f"{on}, over {over}", lines(on, over)) for over in columns] for on in rows], [y_label] * len(rows)
    )
    for on, axis in zip(rows, axes[:, 0], strict=True):
        for run, by_name in found.items():
            if on in by_name and places is not None:
                series, marks = by_name[on], [one for one in places(results[run]) if one.of == on]
                mark(axis, series, marks, look.colours[run], _places(series, look))
    for run, result in results.items():
        for series in () if beside is None else beside(result):
            for over, axis in zip(columns, axes[rows.index(series.on)], strict=True):
                axis.plot(across(over, series), series.value, ":", color=look.colours[run], lw=1)
    for axis in axes[:, 0]:
        lie_over(axis, results, look)
    axes[-1, 0].set_xlabel(look.axis.label())
    axes[-1, 1].set_xlabel("denoising process (%)")
    return figure, axes


def over_starts(
    results: Results, look: Look, titles: Mapping[str, Mapping[str, str]], *, columns: int, places: Marks | None = None
) -> tuple[Figure, np.ndarray]:
    """Draw variables of forks over the place of the axis that these start at, in panels by title.

    Each panel has variables by what they are, the first solid; forks that differ in more than their start have a
    marker for each kind. places are marked on the curves.
    """

    def lines(variables: Mapping[str, str]) -> list[tuple[str, Series, Line]]:
        drawn = []
        for run, result in results.items():
            markers = {"": look.markers[run]}
            for series in of_forks(result, variables):
                what, _, kind = series.on.partition(", ")
                marker = markers.setdefault(kind, MARKERS[(len(markers) - 1) % len(MARKERS)])
                style = STYLES[list(variables).index(what)]
                label = f"{run}, {kind}" if kind else run
                x = _places(series, look)(series.log_snr)
                drawn.append((run, series, Line(label, look.colours[run], x, *series[3:], style, marker)))
        return drawn

    found = {title: lines(variables) for title, variables in titles.items()}
    grid = [[(title, [line for *_, line in found[title]]) for title in row] for row in _rows(list(found), columns)]
    figure, axes = panels(grid, [""] * len(grid), sharey=False)
    for (title, drawn), axis in zip(found.items(), axes.flat, strict=True):
        for run, series, line in drawn:
            if places is not None:
                marks = [one for one in places(results[run]) if one.of == series.on]
                mark(axis, series, marks, line.colour, _places(series, look))
        if len(titles[title]) > 1:
            styles = zip(titles[title], STYLES, strict=False)
            axis.legend(handles=[Line2D([], [], color="#555555", ls=style, label=what) for what, style in styles])
    for axis in axes.flat:
        look.axis.write_numbers(axis)
    for axis in axes[-1]:
        axis.set_xlabel(look.axis.label(START))
    return figure, axes


def _rows(titles: list[str], columns: int) -> list[list[str]]:
    return [titles[k : k + columns] for k in range(0, len(titles), columns)]


def _places(series: Series, look: Look) -> Places:
    return look.axis.places(series.timestep, series.log_snr)


def mark(axis: Axes, series: Series, marks: Sequence[Landmark], colour: str, places: Places) -> None:
    """Mark landmarks on a curve, with their intervals as far as the curve goes."""
    known = series.log_snr[np.isfinite(series.log_snr)]
    for one in marks:
        x = places(one.log_snr)
        if known.size and np.isfinite(x):
            y = series.value[series.log_snr == one.log_snr]
            y = y[0] if y.size else np.interp(x, places(series.log_snr), series.value)
            interval = np.clip([one.low, one.high], known[0], known[-1])
            axis.plot(places(interval), [y, y], color=colour, lw=3.5, alpha=0.55, solid_capstyle="butt")
            axis.plot(x, y, "D", color=colour, markersize=6, markeredgecolor="white", zorder=5)


def draw(axis: Axes, line: Line) -> None:
    """Draw a curve with its band."""
    kept = np.unique(np.linspace(0, len(line.x) - 1, POINTS).round().astype(int))
    x, value, low, high = (values[kept] for values in (line.x, line.value, line.low, line.high))
    axis.fill_between(
        x, *(np.where(np.isnan(end), value, end) for end in (low, high)), color=line.colour, alpha=0.18, lw=0
    )
    few = len(x) <= FEW_POINTS
    marker, size = (line.marker, 4.5) if line.marker else ("." if few else "", 3.5)
    sure = np.full(len(x), True) if line.sure is None else line.sure[kept]
    parts = [(value, "--")] if not sure.all() else []
    parts += [(np.where(sure, value, np.nan), line.style)] if sure.any() else []
    for part, style in parts:
        axis.plot(x, part, style, color=line.colour, marker=marker, markersize=size, markevery=1 if few else 0.08)


def settled(results: Results, look: Look, name: str, places: Marks) -> Figure:
    """Draw where on the axis something is settled in each sample, given pred_x0: a histogram, and the share so far.

    name is the variable that holds the log SNR of it.
    """
    to = {run: look.axis.places(*table(result)) for run, result in results.items()}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        right.set_ylim(0, 1.02)
        first, last = _ends(results, look, to)
        edges = np.linspace(first, last if last > first else first + 1, BINS + 1)
        for run, result in results.items():
            colour, where = look.colours[run], result[name].sel(on="pred_x0").to_numpy()
            there = np.sort(where[np.isfinite(where)])
            share, at = np.arange(1, len(there) + 1) / len(where), to[run](there)
            fill = {"histtype": "stepfilled", "facecolor": (colour, 0.12), "edgecolor": colour, "lw": 1.4}
            left.hist(at.clip(edges[0], edges[-1]), edges, weights=np.full(len(there), 1 / len(where)), **fill)
            x, y = [edges[0], *at, edges[-1]], [0, *share, share.max(initial=0)]
            right.step(x, y, where="post", color=colour)
            along = table(result)
            level = Series("", *along, *[np.full(len(along[0]), 0.5)] * 3)
            mark(right, level, places(result), colour, to[run])
        for axis, label in ((left, "share of samples settled here"), (right, "share settled so far")):
            axis.set(xlabel=look.axis.label(), ylabel=label)
            lie_over(axis, results, look)
        legend(figure, {run: (look.colours[run], look.markers[run]) for run in results})
    return figure


def histograms(results: Results, look: Look, names: Mapping[str, str]) -> Figure:
    """Draw how values are spread over samples, by what they are, for runs that were compared with each other."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots(1, max(len(names), 2), sharey=True, squeeze=False)[0]
        for run, result in results.items():
            for axis, (name, label) in zip(axes, names.items(), strict=False):
                values = result[name].to_numpy().ravel()
                values, colour = values[np.isfinite(values)], look.colours[run]
                axis.hist(values, bins=20, histtype="stepfilled", facecolor=(colour, 0.15), edgecolor=colour, lw=1.4)
                axis.axvline(values.mean() if values.size else np.nan, color=colour, ls="--")
                axis.set_xlabel(label)
        axes[0].set_ylabel("samples")
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        legend(figure, {run: (look.colours[run], look.markers[run]) for run in results})
    return figure


def lie_over(axis: Axes, results: Results, look: Look) -> None:
    """Write the numbers of the axis that curves lie over, and let it begin where it is of interest."""
    look.axis.write_numbers(axis)
    if look.axis is LOG_SNR:
        without_outset(axis, results)


def without_outset(axis: Axes, results: Results) -> None:
    """Leave the first hundredth of steps beyond the edge of log SNR: a cosine schedule begins at -23."""
    axis.set_xlim(left=left_edge(results) - 0.3)


def _ends(results: Results, look: Look, to: Mapping[str, Places]) -> tuple[float, float]:
    """Find the first and the last place that are drawn of results."""
    along = {run: result["log_snr"].to_numpy() for run, result in results.items()}
    known = [to[run](x[np.isfinite(x)]) for run, x in along.items()]
    first = left_edge(results) if look.axis is LOG_SNR else min(x.min(initial=0) for x in known)
    return first, max(x.max(initial=first) for x in known)
