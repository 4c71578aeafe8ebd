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
from traj.analysis._quantity import Look, Results

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
            _rates(left, run, result, look.colours[run])
            _posteriors(right, result)
    return figure


def _along(result: xr.Dataset) -> tuple[str, np.ndarray, str]:
    """Give the rate of decisions by what it is per, the values of that, and its words for an axis."""
    if result.attrs["per"] == "tau":
        return "entropy_rate", result["tau"].to_numpy(), "τ, share of noise additions   (denoising →)"
    return "entropy_rate_log_snr", result["log_snr"].to_numpy(), style.LOG_SNR_LABEL


def _per(result: xr.Dataset) -> str:
    return f"bits decided per unit of {'τ' if result.attrs['per'] == 'tau' else 'log SNR'}"


def _class_colours(count: int) -> list[str]:
    """Give classes colours of their own, those of runs and decisions being others."""
    few = count <= 10
    palette = (
        mpl.colormaps["tab10"](np.arange(count)) if few else mpl.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    )
    return [mpl.colors.to_hex(colour) for colour in palette]


def _rates(part: SubFigure, run: str, result: xr.Dataset, run_colour: str) -> None:
    axis = part.subplots()
    name, x, words = _along(result)
    found = curves(result, name)
    palette = style.colours([one.on for one in found])
    for k, one in enumerate(found):
        colour = palette[one.on]
        line = panels.Line(one.on, colour, x, one.value, one.low, one.high, STYLES[k % len(STYLES)])
        panels.draw(axis, line)
        axis.plot([], [], line.style, color=colour, label=one.on)
        ends = [float(result.sel(decision=one.on)[f"peak{end}_timestep"]) for end in ("", "_low", "_high")]
        if np.isfinite(ends[0]):
            positions = [np.flatnonzero(one.timestep == end)[0] if np.isfinite(end) else 0 for end in ends]
            y = one.value[positions[0]]
            if np.isfinite(ends[1]):
                axis.plot(x[positions[1:]], [y, y], color=colour, lw=3.5, alpha=0.55, solid_capstyle="butt")
            axis.plot(x[positions[0]], y, "D", color=colour, markersize=6, markeredgecolor="white", zorder=5)
    axis.set(xlabel=words, ylabel=_per(result))
    axis.set_title(style.legible(run), loc="left", color=run_colour)
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper right" if name == "entropy_rate" else "upper left", title="decision")
    if name == "entropy_rate":
        axis.set_xlim(1, 0)


def _posteriors(part: SubFigure, result: xr.Dataset) -> None:
    names = class_names(result)
    rows = min(len(names), ROWS)
    columns = -(-len(names) // rows)
    _, x, words = _along(result)
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
    if result.attrs["per"] == "tau":
        axes[0, 0].set_xlim(1, 0)
    part.supxlabel(words, fontsize=8)
    handles = [mpl.lines.Line2D([], [], color=palette[k], label=style.legible(names[k])) for k in order]
    part.legend(handles=handles, loc="outside right center", title="P of class", title_fontsize=8)


# --- classes ------------------------------------------------------------------------------------------------------


def classes(results: Results, look: Look) -> Figure | None:
    """Draw the surprise at each class and how fast it falls, over the axis, a row for each run."""
    figure, axes = style.rows_of(list(results), 2, 3.2, look, named=len(results) > 1)
    for row, result in zip(axes, results.values(), strict=True):
        names = class_names(result)
        palette, to = _class_colours(len(names)), look.axis.places(*table(result))
        variables = ("class_entropy", "surprise (bit)"), (f"class_{_along(result)[0]}", _per(result))
        for axis, (name, label) in zip(row, variables, strict=True):
            for k, one in enumerate(curves(result, name, "class")):
                axis.plot(to(one.log_snr), one.value, color=palette[k], label=style.legible(names[k]))
                if name != "class_entropy":
                    _mark_class(axis, result.isel({"class": k}), one.log_snr, one.value, palette[k], to)
            axis.set(ylabel=label)
            axis.set_ylim(bottom=0)
            panels.lie_over(axis, results, look)
        style.legend_beside(row[1])
    for axis in axes[-1]:
        axis.set_xlabel(look.axis.label())
    return figure


def _mark_class(
    axis: Axes, result: xr.Dataset, log_snr: np.ndarray, value: np.ndarray, colour: str, to: Places
) -> None:
    place, low, high = (float(result[f"class_peak{end}_log_snr"]) for end in ("", "_low", "_high"))
    if np.isfinite(place):
        y = value[log_snr == place][0]
        axis.plot(to([low, high]), [y, y], color=colour, lw=3, alpha=0.45, solid_capstyle="butt")
        axis.plot(to(place), y, "D", color=colour, markersize=5, markeredgecolor="white", zorder=5)


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
    places = result["pair_peak_log_snr"].to_numpy()
    for (k, j), timestep in np.ndenumerate(result["pair_peak_timestep"].to_numpy()):
        if np.isfinite(timestep):
            colour = "black" if places[k, j] > low + 0.6 * (high - low) else "white"
            axis.text(j + 0.5, k + 0.5, f"{timestep:g}", ha="center", va="center", fontsize=7, color=colour)
