"""Figures of decisions between classes: traces in the source's layout, profiles of classes, peaks of pairs."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from traj.analysis._decisions.words import BESIDE, WRITTEN, class_names, curves
from traj.analysis._drawing import panels, style
from traj.analysis._drawing.axis import Places, table
from traj.analysis._quantity import Look, Results, Series

STYLES = ("-", "--", "-.", ":")
"""Lines of decisions, which have colours as well."""

ROWS = 5
"""Most panels of classes above each other."""


def traces(results: Results, look: Look) -> Figure | None:
    """Draw rates of decisions beside the posterior of single samples, one panel for each true class."""
    heights = [0.75 * min(ROWS, max(result.sizes["class"], 4)) + 0.9 for result in results.values()]
    with mpl.rc_context(style.STYLE):
        figure = Figure(figsize=(style.WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (run, result) in zip(parts, results.items(), strict=True):
            left, right = part.subfigures(1, 2, width_ratios=(1, 1.1))
            to = look.axis.places(*table(result))
            panels.lie_over(_rates(left, run, result, look, to), {run: result}, look)
            panels.lie_over(_posteriors(right, result, look, to), {run: result}, look)
    return figure


def _rate(result: xr.Dataset) -> tuple[str, str]:
    """Name the rate of decisions whose peaks were sought, and say what it is."""
    if result.attrs["per"] == "tau":
        return "entropy_rate", "bits decided per unit of τ"
    return "entropy_rate_log_snr", "bits decided per unit of log SNR"


def _class_colours(count: int) -> list[str]:
    """Give classes colours of their own, those of runs and decisions being others."""
    few = count <= 10
    palette = (
        mpl.colormaps["tab10"](np.arange(count)) if few else mpl.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    )
    return [mpl.colors.to_hex(colour) for colour in palette]


def _rates(part: SubFigure, run: str, result: xr.Dataset, look: Look, to: Places) -> Axes:
    axis = part.subplots()
    name, words = _rate(result)
    found = curves(result, name)
    palette = style.colours([one.on for one in found])
    for k, one in enumerate(found):
        colour = palette[one.on]
        line = panels.Line(one.on, colour, to(one.log_snr), one.value, one.low, one.high, STYLES[k % len(STYLES)])
        panels.draw(axis, line)
        axis.plot([], [], line.style, color=colour, label=one.on)
        _mark_peak(axis, result.sel(decision=one.on), "", one, colour, to)
    axis.set(xlabel=look.axis.label(), ylabel=words)
    axis.set_title(style.legible(run), loc="left", color=look.colours[run])
    axis.set_ylim(bottom=0)
    axis.legend(loc="best", title="decision")
    return axis


def _posteriors(part: SubFigure, result: xr.Dataset, look: Look, to: Places) -> Axes:
    names = class_names(result)
    rows = min(len(names), ROWS)
    columns = -(-len(names) // rows)
    x = to(result["log_snr"].to_numpy())
    thinned = np.unique(np.linspace(0, len(x) - 1, panels.POINTS // 2).round().astype(int))
    axes = part.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    palette = _class_colours(len(names))
    of = result["label"] if result.attrs["labelled"] else result["decided_class"]
    order = list(range(len(names)))[::-1]
    for axis in axes.T.flat[len(names) :]:
        axis.set_visible(False)
    for axis, true in zip(axes.T.flat, order, strict=False):
        there = np.flatnonzero(of.to_numpy() == result["class"].to_numpy()[true])[: BESIDE + 1]
        if not there.size:
            axis.text(0.5, 0.5, "no sample", ha="center", transform=axis.transAxes, color="#777777")
        posterior = result["posterior"].isel(sample=there, timestep=thinned).to_numpy()
        for sample in posterior[1:]:
            axis.plot(x[thinned], sample[:, true], color=palette[true], lw=0.7, alpha=0.35)
        for k, colour in enumerate(palette if len(posterior) else []):
            axis.plot(x[thinned], posterior[0, :, k], color=colour, lw=1.8 if k == true else 1.1, zorder=3)
        axis.text(0.02, 0.84, f"true class {names[true]}", transform=axis.transAxes, fontsize=8)
    axes[0, 0].set(ylim=(-0.04, 1.04), yticks=(0, 1))
    part.supxlabel(look.axis.label(), fontsize=8)
    handles = [mpl.lines.Line2D([], [], color=palette[k], label=style.legible(names[k])) for k in order]
    part.legend(handles=handles, loc="outside right center", title="P of class", title_fontsize=8)
    first: Axes = axes[0, 0]
    return first


# --- classes ------------------------------------------------------------------------------------------------------


def classes(results: Results, look: Look) -> Figure | None:
    """Draw the surprise at each class and how fast it falls, over the axis, a row for each run."""
    figure, axes = style.rows_of(list(results), 2, 3.2, look, named=len(results) > 1)
    for row, result in zip(axes, results.values(), strict=True):
        names = class_names(result)
        palette, to = _class_colours(len(names)), look.axis.places(*table(result))
        rate, words = _rate(result)
        variables = ("class_entropy", "surprise (bit)"), (f"class_{rate}", words)
        for axis, (name, label) in zip(row, variables, strict=True):
            for k, one in enumerate(curves(result, name, "class")):
                axis.plot(to(one.log_snr), one.value, color=palette[k], label=style.legible(names[k]))
                if name != "class_entropy":
                    _mark_peak(axis, result.isel({"class": k}), "class_", one, palette[k], to)
            axis.set(ylabel=label)
            axis.set_ylim(bottom=0)
            panels.lie_over(axis, results, look)
        style.legend_beside(row[1])
    for axis in axes[-1]:
        axis.set_xlabel(look.axis.label())
    return figure


def _mark_peak(axis: Axes, result: xr.Dataset, of: str, series: Series, colour: str, to: Places) -> None:
    """Mark where a rate, smoothed, is highest, with its interval."""
    place, low, high = (float(result[f"{of}peak{end}_log_snr"]) for end in ("", "_low", "_high"))
    if np.isfinite(place):
        y = series.value[series.log_snr == place][0]
        axis.plot(to([low, high]), [y, y], color=colour, lw=3.5, alpha=0.5, solid_capstyle="butt")
        axis.plot(to(place), y, "D", color=colour, markersize=5.5, markeredgecolor="white", zorder=5)


# --- pairs --------------------------------------------------------------------------------------------------------


def pairs(results: Results, look: Look) -> Figure | None:
    """Draw the matrix of peaks of pairs for each run."""
    shown = {run: result for run, result in results.items() if np.isfinite(result["pair_peak_log_snr"]).any()}
    if not shown:
        return None
    places = [result["pair_peak_log_snr"].to_numpy() for result in shown.values()]
    low, high = (float(end([end(p[np.isfinite(p)]) for p in places])) for end in (np.min, np.max))
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    with mpl.rc_context({**style.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(style.WIDTH * (0.55 if columns == 1 else 1), 4.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, (run, result) in zip(axes.flat, shown.items(), strict=False):
            drawn = axis.pcolormesh(result["pair_peak_log_snr"].to_numpy(), cmap="viridis", vmin=low, vmax=high)
            axis.set_aspect("equal")
            axis.invert_yaxis()
            names = class_names(result)
            middle = np.arange(len(names)) + 0.5
            axis.set_xticks(middle, names)
            axis.set_yticks(middle, names)
            axis.set(xlabel="class", ylabel="other class")
            axis.set_title(style.legible(run), loc="left", color=look.colours[run])
            if len(names) <= WRITTEN:
                _write(axis, result, low, high)
        figure.colorbar(drawn, ax=axes, label="log SNR where the two part", shrink=0.8)
    return figure


def _write(axis: Axes, result: xr.Dataset, low: float, high: float) -> None:
    """Write timesteps of peaks above the diagonal, and the ends of their intervals beneath it."""
    places = result["pair_peak_log_snr"].to_numpy()
    peak, first, last = (result[f"pair_peak{end}_timestep"].to_numpy() for end in ("", "_low", "_high"))
    for (k, j), timestep in np.ndenumerate(peak):
        told = f"{timestep:g}" if k < j else f"{first[k, j]:g} to\n{last[k, j]:g}"
        if np.isfinite(timestep if k < j else first[k, j]):
            colour = "black" if places[k, j] > low + 0.6 * (high - low) else "white"
            size = 7 if k < j else 5.5
            axis.text(j + 0.5, k + 0.5, told, ha="center", va="center", fontsize=size, color=colour)
