"""Pictures of samples: their quality over what they cost, and the images that are nearest to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import panels as _panels
from traj.analysis._drawing.style import STYLE, WIDTH, beside, displayed, rows_of, tiled
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


def nearest(results: Results, look: Look, order: Sequence[str]) -> Figure | None:
    """Draw samples, and beneath each its nearest image, a row of pairs for each run; None where these are no images."""
    shown = [run for run in order if results[run]["shown_x_0"].dims[1:] == IMAGE_DIMS]
    if not shown:
        return None
    figure, axes = rows_of(shown, 1, 2.6, look, named=len(shown) > 1)
    for axis, run in zip(axes[:, 0], shown, strict=True):
        result = results[run]
        pairs = np.stack([result["shown_x_0"].to_numpy(), result["shown_nearest"].to_numpy()])
        columns = tiled(displayed(pairs, *result.attrs["valid_range"]))
        canvas = beside(*([column] for column in columns))
        axis.imshow(canvas, interpolation="nearest")
        height, width = columns[0].shape[:2]
        middles = np.arange(len(columns)) * (width + width // 4) + width / 2
        ratios = result["nearest_ratio"].to_numpy()[: len(columns)]
        axis.set_xticks(middles, [f"{ratio:.2f}" for ratio in ratios])
        axis.set_yticks([height / 4, 3 * height / 4], ["sample", "nearest image"])
        axis.tick_params(length=0, labelbottom=False, labeltop=True)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[-1, 0].set_xlabel(
        "above each pair: its distance, divided by the mean distance of an image to its nearest other image"
    )
    return figure
