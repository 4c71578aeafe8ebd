"""Panels of curves over noise levels, one for each part of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing import panels
from traj.analysis._drawing.style import legible
from traj.analysis._quantity import Look, Results

COLUMNS = 3


def over_levels(
    results: Results, look: Look, curves: Sequence[panels.SeriesOf], y_label: str
) -> tuple[Figure, Mapping[str, Axes]]:
    """Draw curves of parts over the axis, in panels by part; each of several kinds of curves has a style of its own.

    The name of a curve is that of its part, with the kind after a comma.
    """
    found: dict[str, list[panels.Line]] = {}
    for run, result in results.items():
        for style, of in zip(panels.STYLES, curves, strict=False):
            for part, series in zip(result["part"].to_numpy().tolist(), of(result), strict=True):
                x = look.axis.places(series.timestep, series.log_snr)(series.log_snr)
                line = panels.Line(run, look.colours[run], x, *series[3:], style, look.markers[run])
                found.setdefault(part, []).append(line)
    columns = min(max(len(found), 2), COLUMNS)
    titles = list(found)
    rows = [titles[k : k + columns] for k in range(0, len(titles), columns)]
    blanks = columns - len(rows[-1])
    grid = [[(legible(title), found[title]) for title in row] for row in rows]
    grid[-1] += [("", [])] * blanks
    figure, axes = panels.panels(grid, [y_label] * len(grid))
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    shown = dict(zip(titles, axes.flat, strict=False))
    for axis in shown.values():
        panels.lie_over(axis, results, look)
        axis.set_xlabel(look.axis.label())
    return figure, shown


def mark(axes: Mapping[str, Axes], results: Results, look: Look, curves: panels.SeriesOf, places: panels.Marks) -> None:
    """Mark landmarks on the curves they are of."""
    for run, result in results.items():
        marks = places(result)
        for part, series in zip(result["part"].to_numpy().tolist(), curves(result), strict=True):
            to = look.axis.places(series.timestep, series.log_snr)
            panels.mark(axes[part], series, [one for one in marks if one.of == series.on], look.colours[run], to)
