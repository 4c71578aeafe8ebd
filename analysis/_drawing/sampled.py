"""Pictures of samples: their quality over what they cost, and the images that are nearest to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing import panels as _panels
from traj.analysis._drawing.style import STYLE, WIDTH, beside, displayed, legible, limits, rows_of, tiled
from traj.analysis._quantity import Look, Results
from traj.stores import IMAGE_DIMS

Interval = Callable[[xr.Dataset, str], tuple[float, float, float]]


def over_cost(
    results: Results, look: Look, order: Sequence[str], panels: Mapping[str, str], interval: Interval
) -> Figure:
    """Draw numbers of runs with their intervals over evaluations, in panels by title; runs of one cost side by side."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
        axes = figure.subplots(2, 2, squeeze=False, sharex=True)
        cost = np.array([float(results[run].attrs["evaluations"]) for run in order])
        apart = 0.015 * max(np.ptp(cost), 1)
        places = cost + [apart * list(cost[:k]).count(here) for k, here in enumerate(cost)]
        for axis, (title, name) in zip(axes.flat, panels.items(), strict=True):
            axis.set_title(title, loc="left")
            known = False
            for run, x in zip(order, places, strict=True):
                value, low, high = interval(results[run], name)
                known |= bool(np.isfinite(value))
                axis.plot([x, x], [low, high], color=look.colours[run], lw=2)
                axis.plot(x, value, look.markers[run] or "o", color=look.colours[run])
            if not known:
                axis.text(0.5, 0.5, "not computed", ha="center", transform=axis.transAxes, color="#777777")
            if name == "mmd":
                axis.axhline(0, color="#777777", lw=0.9, ls=":")
            if name == "nearest_ratio":
                axis.axhline(1, color="#777777", lw=0.9, ls=":")
        for axis in axes[-1]:
            axis.set_xlabel("evaluations of the network, for one sample")
        _panels.legend(figure, {run: (look.colours[run], look.markers[run] or "o") for run in order})
    return figure


def nearest(results: Results, look: Look, order: Sequence[str], above: str, beneath: str) -> Figure | None:
    """Draw samples, and beneath each its nearest image, a row of pairs for each run; None where these are no images.

    Above each pair stands its value of the variable `above`, which `beneath` explains.
    """
    shown = [run for run in order if results[run]["shown_x_0"].dims[1:] == IMAGE_DIMS]
    if not shown:
        return None
    pairs = max(results[run].sizes["shown"] for run in shown)
    figure, axes = rows_of(shown, 1, 0.8 + 2 * (WIDTH - 1) / (1.25 * pairs), look, named=len(shown) > 1)
    for axis, run in zip(axes[:, 0], shown, strict=True):
        result = results[run]
        images = np.stack([result["shown_x_0"].to_numpy(), result["shown_nearest"].to_numpy()])
        columns = tiled(displayed(images, *limits(result)))
        canvas = beside(*([column] for column in columns))
        axis.imshow(canvas, interpolation="nearest")
        height, width = columns[0].shape[:2]
        middles = np.arange(len(columns)) * (width + width // 4) + width / 2
        ratios = result[above].to_numpy()[: len(columns)]
        axis.set_xticks(middles, [f"{ratio:.2f}" for ratio in ratios])
        axis.set_yticks([height / 4, 3 * height / 4], ["sample", "nearest image"])
        axis.tick_params(length=0, labelbottom=False, labeltop=True)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[-1, 0].set_xlabel(beneath)
    return figure


def memorized(results: Results, look: Look, interval: Interval) -> Figure:
    """Draw how distance ratios are distributed, of samples and of held-out images, and the shares below the threshold.

    The runs of the shares stand one below the other.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, max(3.4, 1.8 + 0.32 * len(results))), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row, (run, result) in enumerate(results.items()):
            colour = look.colours[run]
            for name, line in (("distance_ratio", "-"), ("held_out_ratio", "--")):
                if name in result:
                    _cumulate(left, result[name].to_numpy(), colour, line)
            left.axvline(result.attrs["threshold"], color="#777777", lw=0.9, ls=":")
            for name, apart, face in (("memorized", 0.0, colour), ("false_positives", 0.25, "white")):
                share, low, high = interval(result, name)
                right.plot([low, high], [row + apart] * 2, color=colour, lw=2)
                right.plot(share, row + apart, look.markers[run] or "o", color=colour, markerfacecolor=face)
        left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="distance ratio", ylabel="share with this ratio or less")
        right.set(xlim=(-0.02, 1.02), ylim=(len(results) - 0.5, -0.5), xlabel="share that is memorized")
        right.set_yticks(range(len(results)), [legible(run) for run in results])
        right.grid(axis="y", visible=False)
        _panels.legend(figure, {run: (look.colours[run], look.markers[run] or "o") for run in results})
    return figure


def _cumulate(axis: Axes, values: np.ndarray, colour: str, line: str) -> None:
    """Draw the share of values up to each."""
    known = np.sort(values[np.isfinite(values)])
    share = np.arange(len(known) + 1) / max(1, len(known))
    axis.step([0, *known, 1], [*share, 1], line, where="post", color=colour)
