"""How figures look, and what several of them share: colours, panels of curves, images side by side."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
POINTS, FEW_POINTS = 500, 60
"""Most points drawn of a line, and as many as get a dot each."""

LONGEST = 60
"""Most letters of a name in a figure."""

CELL = 64
"""Pixels an image among others gets, about."""

LOG_SNR_LABEL = "log SNR of $x_t$   (denoising →)"


class Curve(NamedTuple):
    """One run's line in a panel: places, values, standard errors, and how it is drawn.

    Half the band is `in_band` errors wide; in the place of errors there may be its low and high ends, (2, place).
    Values that reach the cap stand for infinity and are not drawn.
    """

    run: str
    x: np.ndarray
    value: np.ndarray
    error: np.ndarray
    line: str = "-"
    marker: str = ""
    cap: float = np.inf
    in_band: float = 2


Panel = tuple[str, Sequence[Curve]]
"""A title, and what is drawn under it."""


def colours(runs: Sequence[str]) -> dict[str, str]:
    """Give every run its colour, the same in all figures."""
    palette = OKABE_ITO if len(runs) <= len(OKABE_ITO) else mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    return {run: mpl.colors.to_hex(colour) for run, colour in zip(runs, palette, strict=False)}


def look_of(results: Results) -> Look:
    """Give results a look of their own, apart from any report."""
    return Look(colours(list(results)), dict.fromkeys(results, ""))


def band(value: np.ndarray, error: np.ndarray, in_band: float) -> np.ndarray:
    """Give the low and high ends of a band about a curve, from errors or as they are."""
    return error if error.ndim == 2 else np.stack([value - in_band * error, value + in_band * error])


def data_uri(figure: Figure) -> str:
    """Turn a figure into an SVG image that a page can hold, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page itself has the name beside its colour
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def panels(
    rows: Sequence[Sequence[Panel]],
    colours: Mapping[str, Any],
    x_label: str,
    y_labels: Sequence[str],
    sharey: bool | Literal["row"] = "row",
) -> tuple[Figure, np.ndarray]:
    """Draw rows of panels with one legend; those of a row share their label of y, and by default that axis."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(rows[0]), sharey=sharey, squeeze=False)
        drawn = [curve for row in rows for _, curves in row for curve in curves]
        for axis, (title, curves) in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
            axis.set_title(title, loc="left")
            for curve in curves:
                draw(axis, curve, colours[curve.run])
            if not curves:
                axis.text(0.5, 0.5, "not computed", ha="center", transform=axis.transAxes, color="#777777")
        for axis in axes[-1]:
            axis.set_xlabel(x_label)
        for axis, label in zip(axes[:, 0], y_labels, strict=True):
            axis.set_ylabel(label)
        legend(figure, {curve.run: curve.marker for curve in drawn}, colours)
    return figure, axes


def legend(figure: Figure, markers: Mapping[str, str], colours: Mapping[str, Any]) -> None:
    """Name the runs above a figure, by colour and marker."""
    handles = [
        Line2D([], [], color=colours[run], lw=2, marker=marker, label=legible(run)) for run, marker in markers.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 7) or 1)


def legible(name: str) -> str:
    """Write a name that may hold anything as the text of a figure: no formula, not too long, left out by no legend."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"
    plain = short.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def draw(axis: Axes, curve: Curve, colour: Any) -> None:
    """Draw a curve with its band."""
    kept = np.unique(np.linspace(0, len(curve.x) - 1, POINTS).round().astype(int))
    x, value = curve.x[kept], np.where(curve.value[kept] < curve.cap, curve.value[kept], np.nan)
    ends = band(value, curve.error[..., kept], curve.in_band)
    axis.fill_between(x, *np.where(np.isnan(ends), value, ends), color=colour, alpha=0.18, lw=0)
    few = len(x) <= FEW_POINTS
    marker, size = (curve.marker, 4.5) if curve.marker else ("." if few else "", 3.5)
    axis.plot(x, value, curve.line, color=colour, marker=marker, markersize=size, markevery=1 if few else 0.08)


def on(result: xr.Dataset, name: str, *variables: str) -> list[np.ndarray]:
    """Take variables of a result, as computed on x_t or pred_x0."""
    return [result[variable].sel(on=name).to_numpy() for variable in variables]


def time_label(results: Mapping[str, xr.Dataset]) -> str:
    """Name the time axis: the timestep, where all networks are fed just that."""
    same = all(np.array_equal(result["model_time"], result["timestep"]) for result in results.values())
    return "timestep" if same else "timestep as fed to the network"


def over_time_and_log_snr(axes: np.ndarray, results: Mapping[str, xr.Dataset]) -> None:
    """Turn columns of two, over model_time and over log SNR, the way the process runs, and label them."""
    for row in axes:
        row[0].invert_xaxis()
        without_outset(row[1], results)
    axes[-1, 0].set_xlabel(f"{time_label(results)}   (denoising →)")
    axes[-1, 1].set_xlabel(LOG_SNR_LABEL)


def without_outset(axis: Axes, results: Mapping[str, xr.Dataset]) -> None:
    """Leave the first hundredth of steps beyond the edge: a cosine schedule begins at a log SNR of -23."""
    axis.set_xlim(left=left_edge(results) - 0.3)


def left_edge(results: Mapping[str, xr.Dataset]) -> float:
    """Find the lowest log SNR that is drawn, 0 where none is finite."""
    among = [result["log_snr"].to_numpy() for result in results.values()]
    return min((float(np.quantile(x[np.isfinite(x)], 0.01)) for x in among if np.isfinite(x).any()), default=0)


def of_images(store: xr.Dataset | None) -> TypeGuard[xr.Dataset]:
    """Whether there is a store and its events are images, which alone can be shown side by side."""
    return store is not None and event_dims(store["x_0"].dims) == IMAGE_DIMS


def displayed(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map images (row, column, channel, y, x) to colours (row, column, y, x, 3) from 0 to 1, white what is no number.

    Where high is not above low, the images' own range takes their place.
    """
    if not low < high:
        numbers = images[np.isfinite(images)]
        low, high = (numbers.min(), numbers.max()) if numbers.size and np.ptp(numbers) else (-1, 1)
    unit = np.nan_to_num((images - low) / (high - low), nan=1.0).clip(0, 1)
    rgb = unit if unit.shape[2] == 3 else unit[:, :, :1].repeat(3, axis=2)
    return np.moveaxis(rgb, 2, -1)


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
