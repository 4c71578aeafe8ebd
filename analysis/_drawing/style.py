"""How figures look, and what several of them share: colours, names, images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing.axis import LOG_SNR
from traj.analysis._quantity import Look, Results
from traj.stores import IMAGE_DIMS, event_dims

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any colour vision; the palette's yellow is left out, being too pale for lines."""

MARKERS = ("o", "s", "^", "D", "v")
"""Tell apart what has the same colour."""

# matplotlib from 3.11 on takes none but its own names as keys
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "traj",
    "text.usetex": False,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}

WIDTH = 10.5
LONGEST = 60
"""Most letters of a name in a figure."""

CELL = 64
"""Pixels an image among others gets, about."""


LOG_SNR_LABEL = LOG_SNR.label()
"""Of what lies over log SNR whatever axis is asked for."""


def colours(runs: Sequence[str]) -> dict[str, str]:
    """Give every run its colour, the same in all figures."""
    palette = OKABE_ITO if len(runs) <= len(OKABE_ITO) else mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    return {run: mpl.colors.to_hex(colour) for run, colour in zip(runs, palette, strict=False)}


def look_of(results: Results) -> Look:
    """Give results a look of their own, apart from any report."""
    return Look(colours(list(results)), dict.fromkeys(results, ""))


def rows_of(
    names: Sequence[str], columns: int, height: float, look: Look, *, named: bool, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Set a row of panels for each of some runs, under its name where `named`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height * len(names) + 0.4), layout="constrained")
        axes = figure.subplots(len(names), columns, squeeze=False, **options)
    for row, name in zip(axes, names, strict=True):
        if named:
            row[0].set_title(legible(name), loc="left", color=look.colours[name])
    return figure, axes


def legend_beside(axis: Axes) -> None:
    """Name the lines of a panel at its right."""
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)


def legible(name: str) -> str:
    """Write a name that may hold anything as the text of a figure: no formula, not too long, left out by no legend."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"
    plain = short.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def left_edge(results: Results) -> float:
    """Find the lowest log SNR that is drawn, 0 where none is finite."""
    among = [result["log_snr"].to_numpy() for result in results.values()]
    return min((float(np.quantile(x[np.isfinite(x)], 0.01)) for x in among if np.isfinite(x).any()), default=0)


def of_images(store: xr.Dataset | None) -> TypeGuard[xr.Dataset]:
    """Whether there is a store and its events are images, which alone can be shown side by side."""
    return store is not None and "x_0" in store and event_dims(store["x_0"].dims) == IMAGE_DIMS


def displayed(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map images (row, column, channel, y, x) to colours (row, column, y, x, 3) from 0 to 1, white what is no number.

    The first three channels are red, green and blue; of fewer, the first is grey. Where high is not above low, the
    images' own range takes their place.
    """
    images = images.astype(np.float32)  # older matplotlib draws no float16
    if not low < high:
        numbers = images[np.isfinite(images)]
        low, high = (numbers.min(), numbers.max()) if numbers.size and np.ptp(numbers) else (-1, 1)
    unit = np.nan_to_num((images - low) / (high - low), nan=1.0).clip(0, 1)
    rgb = unit[:, :, :3] if unit.shape[2] >= 3 else unit[:, :, :1].repeat(3, axis=2)
    return np.moveaxis(rgb, 2, -1)


def limits(result: xr.Dataset) -> tuple[float, float]:
    """Give the range that a result's images are drawn in; latents are drawn in their own."""
    low, high = result.attrs.get("valid_range", (0, 0))
    return low, high


def tiled(images: np.ndarray) -> list[np.ndarray]:
    """Set images (row, column, y, x, 3) about CELL pixels large, with a margin: columns of them."""
    side = max(images.shape[2:4])
    grow, shrink = max(1, round(CELL / side)), max(1, side // CELL)
    images = images[:, :, ::shrink, ::shrink].repeat(grow, axis=2).repeat(grow, axis=3)
    margin = max(1, images.shape[3] // 32)
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=1)
    return [np.concatenate(column) for column in padded.swapaxes(0, 1)]


def beside(*groups: Sequence[np.ndarray]) -> np.ndarray:
    """Lay groups of columns side by side, a little apart."""
    apart = np.ones((groups[0][0].shape[0], groups[0][0].shape[1] // 4, 3))
    parts = [part for group in groups for part in (apart, *group)]
    return np.concatenate(parts[1:], axis=1)


def signed(number: float) -> str:
    """Write a number with its sign."""
    return f"{round(number, 1) + 0.0:+.1f}".replace("-", "−")
