"""The figures of a report: 000 Figs 1 to 3, 002 Figs 16 and 17, training losses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import analysis

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any colour vision; the palette's yellow is left out, being too pale for lines."""

STYLE = {
    "svg.hashsalt": "traj",
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

TERMS = (("#222222", "-"), ("#777777", "--"), ("#777777", ":"))
"""Lines of training losses, which are no run's."""

WIDTH = 10.5
POINTS, FEW_POINTS = 500, 60
"""Most points drawn of a line, and as many as get a dot each."""

MONTAGE_COLUMNS, MONTAGE_SAMPLES = 10, 4
CELL = 64
"""Pixels an image of a montage gets, about."""

LOG_SNR_LABEL = "log SNR of $x_t$   (denoising →)"


class Curve(NamedTuple):
    """One run's line in a panel: places, values, standard errors, and whether to trust it.

    Values that reach the cap stand for infinity and are not drawn.
    """

    run: str
    x: np.ndarray
    value: np.ndarray
    error: np.ndarray
    reliable: bool = True
    cap: float = np.inf


def colours(runs: Sequence[str]) -> dict[str, Any]:
    """Give every run its colour, the same in all figures."""
    palette = OKABE_ITO if len(runs) <= len(OKABE_ITO) else mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    return {run: mpl.colors.to_hex(colour) for run, colour in zip(runs, palette, strict=False)}


def data_uri(figure: Figure) -> str:
    """Turn a figure into an SVG image that a page can hold, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def montage(ds: xr.Dataset) -> Figure:
    """Draw what a few samples look like along the way: x_t above, pred_x0 beneath, x_0 last (000 Fig. 1)."""
    steps = np.unique(np.linspace(0, ds.sizes["timestep"] - 1, MONTAGE_COLUMNS).round().astype(int))
    few = ds[["x_t", "pred_x0", "x_0"]].isel(sample=slice(MONTAGE_SAMPLES), timestep=steps).compute()
    limits = ds["x_0"].attrs.get("valid_range", [-1, 1])
    x_0 = few["x_0"].to_numpy()[:, None]
    blocks = []
    for name in ("x_t", "pred_x0"):
        images = _displayed(np.concatenate([few[name].to_numpy(), x_0], axis=1), *limits)
        blocks.append(_tiled(images))
    gap = np.ones((CELL // 4, *blocks[0].shape[1:]))
    canvas = np.concatenate([blocks[0], gap, blocks[1]])
    height, width = canvas.shape[:2]
    cell = width / (len(steps) + 1 + 0.25)
    centres = (np.arange(len(steps)) + 0.5) * cell
    full = cell * (MONTAGE_COLUMNS + 1.25)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, WIDTH * 0.9 * height / full + 0.45), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(canvas, interpolation="none", aspect="equal", vmin=0, vmax=1)
        labels = [
            f"t = {timestep}\nlog SNR {_signed(log_snr)}"
            for timestep, log_snr in zip(few["timestep"].to_numpy(), few["log_snr"].to_numpy(), strict=True)
        ]
        axes.set_xticks([*centres, width - cell / 2], [*labels, "final $x_0$\n"], fontsize=8)
        middle = blocks[0].shape[0] / 2
        axes.set_yticks([middle, height - middle], ["$x_t$", "pred_x0"], rotation=90, va="center", fontsize=10)
        axes.set_xlim(0, full)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def _displayed(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map images (sample, column, channel, y, x) to colours (sample, column, y, x, 3) from 0 to 1."""
    unit = ((images - low) / (high - low)).clip(0, 1)
    rgb = unit if unit.shape[2] == 3 else unit[:, :, :1].repeat(3, axis=2)
    return np.moveaxis(rgb, 2, -1)


def _tiled(images: np.ndarray) -> np.ndarray:
    """Lay images (row, column, y, x, 3) side by side, about CELL pixels each, the last column a little apart."""
    side = max(images.shape[2:4])
    grow, shrink = max(1, round(CELL / side)), max(1, side // CELL)
    images = images[:, :, ::shrink, ::shrink].repeat(grow, axis=2).repeat(grow, axis=3)
    margin = max(1, images.shape[3] // 32)
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=1)
    columns = [np.concatenate(column) for column in padded.swapaxes(0, 1)]
    apart = np.ones((columns[0].shape[0], columns[0].shape[1] // 4, 3))
    return np.concatenate([*columns[:-1], apart, columns[-1]], axis=1)


def stepwise_entropy(results: Mapping[str, xr.Dataset], palette: Mapping[str, Any], over: str) -> Figure:
    """Draw stepwise entropy over the process in percent or over log SNR (000 Fig. 2).

    The upper panels have the pooled, Miller-Madow corrected value, dashed where it is not reliable, the lower ones
    the mean of each image's own; on x_t at the left, on pred_x0 at the right. Bands are two standard errors.
    """
    panels = []
    for values, errors, title in (
        ("stepwise_entropy_miller_madow", "stepwise_entropy_se", "pooled over samples, given {}"),
        ("stepwise_entropy_per_sample_mean", "stepwise_entropy_per_sample_se", "of each image alone, given {}"),
    ):
        for name in ("x_t", "pred_x0"):
            pooled = values.endswith("madow")
            curves = [
                Curve(
                    run,
                    _along(result, over),
                    *_on(result, name, values, errors),
                    bool(result["reliable"]) or not pooled,
                )
                for run, result in results.items()
                if name in result["on"]
            ]
            panels.append((title.format(name), curves))
    label = "denoising process (%)" if over == "progress" else LOG_SNR_LABEL
    figure, axes = _panels(panels, palette, label, "stepwise entropy (bit per pixel)")
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        if over == "log_snr":
            _without_outset(axis, results)
    for run, result in results.items():
        for axis in axes[0]:
            nothing_known = float(result["x_0_entropy"][0, 0])
            axis.axhline(nothing_known, color=palette[run], lw=0.9, ls=":")
    return figure


def similarity(results: Mapping[str, xr.Dataset], quantity: str, palette: Mapping[str, Any]) -> Figure:
    """Draw SSIM or PSNR against x_0 over time and over log SNR, mean and two standard errors (002 Figs 16, 17)."""
    panels = []
    for name in ("pred_x0", "x_t"):
        for over, what in (("model_time", "time"), ("log_snr", "log SNR")):
            curves = [
                Curve(
                    run,
                    _along(result, over),
                    *_on(result, name, f"{quantity}_mean", f"{quantity}_se"),
                    cap=result.attrs.get("cap", np.inf),
                )
                for run, result in results.items()
                if name in result["on"]
            ]
            panels.append((f"{name} against x_0, over {what}", curves))
    figure, axes = _panels(panels, palette, "", "SSIM" if quantity == "ssim" else "PSNR (dB)")
    for row in axes:
        row[0].invert_xaxis()
        _without_outset(row[1], results)
        if quantity == "ssim":
            row[0].set_ylim(min(0, row[0].get_ylim()[0]), 1.02)
    axes[1, 0].set_xlabel(f"{time_label(results)}   (denoising →)")
    axes[1, 1].set_xlabel(LOG_SNR_LABEL)
    return figure


def time_label(results: Mapping[str, xr.Dataset]) -> str:
    """Name the time axis: the timestep, where all networks are fed just that."""
    same = all(np.array_equal(result["model_time"], result["timestep"]) for result in results.values())
    return "timestep" if same else "timestep as fed to the network"


def _without_outset(axis: Axes, results: Mapping[str, xr.Dataset]) -> None:
    """Leave the first hundredth of steps beyond the edge: a cosine schedule begins at a log SNR of -23."""
    axis.set_xlim(left=min(float(np.quantile(result["log_snr"], 0.01)) for result in results.values()) - 0.3)


def _along(result: xr.Dataset, over: str) -> np.ndarray:
    if over == "progress":
        return np.linspace(0, 100, result.sizes["timestep"])
    return result[over].to_numpy()


def _on(result: xr.Dataset, name: str, *variables: str) -> list[np.ndarray]:
    return [result[variable].sel(on=name).to_numpy() for variable in variables]


def _panels(
    panels: Sequence[tuple[str, Sequence[Curve]]], palette: Mapping[str, Any], x_label: str, y_label: str
) -> tuple[Figure, np.ndarray]:
    """Draw two rows of two panels with one legend; those of a row share their y axis."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row")
        for axis, (title, curves) in zip(axes.flat, panels, strict=True):
            axis.set_title(title, loc="left")
            for curve in curves:
                _draw(axis, curve, palette[curve.run])
            if not curves:
                axis.text(0.5, 0.5, "not computed", ha="center", transform=axis.transAxes, color="#777777")
        for axis in axes[1]:
            axis.set_xlabel(x_label)
        for axis in axes[:, 0]:
            axis.set_ylabel(y_label)
        runs = list(dict.fromkeys(curve.run for _, curves in panels for curve in curves))
        handles = [Line2D([], [], color=palette[run], lw=2, label=run) for run in runs]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 7) or 1)
    return figure, axes


def _draw(axis: Axes, curve: Curve, colour: Any) -> None:
    kept = np.unique(np.linspace(0, len(curve.x) - 1, POINTS).round().astype(int))
    x, value, error = curve.x[kept], curve.value[kept], np.nan_to_num(curve.error[kept])
    value = np.where(value < curve.cap, value, np.nan)
    axis.fill_between(x, value - 2 * error, value + 2 * error, color=colour, alpha=0.18, lw=0)
    marker = "." if len(x) <= FEW_POINTS else ""
    axis.plot(x, value, "-" if curve.reliable else "--", color=colour, marker=marker, markersize=3.5)


def _signed(number: float) -> str:
    return f"{round(number, 1) + 0.0:+.1f}".replace("-", "−")


def joint_maps(result: xr.Dataset) -> Figure:
    """Draw joint histograms, x_0 horizontal and the state vertical, on a logarithmic scale (000 Fig. 3)."""
    counts = result["joint_counts"]
    names, moments = result["on"].to_numpy(), result["at"].to_numpy()
    share = counts / counts.sum(("x_0_bin", "state_bin"))
    norm = LogNorm(vmin=float(1 / counts.sum(("x_0_bin", "state_bin")).max()), vmax=float(share.max()))
    side = (WIDTH - 1.8) / len(moments)
    height = side * len(names) + 0.95
    # Laid out by hand: matplotlib's own layout takes longer for so many panels than all else on the page.
    layout = {"left": 0.55 / WIDTH, "right": 1 - 1 / WIDTH, "bottom": 0.45 / height, "top": 1 - 0.4 / height}
    with mpl.rc_context({**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(WIDTH, height))
        spacing = {"wspace": 0.05, "hspace": 0.16}
        axes = figure.subplots(
            len(names), len(moments), squeeze=False, sharex=True, sharey=True, gridspec_kw={**layout, **spacing}
        )
        for row, name in zip(axes, names, strict=True):
            for axis, moment in zip(row, moments, strict=True):
                here = {"on": name, "at": moment}
                grid = share.sel(here).transpose("state_bin", "x_0_bin").to_numpy()
                last = len(grid) - 1
                image = axis.imshow(
                    np.where(grid > 0, grid, np.nan), origin="lower", cmap="viridis_r", norm=norm, interpolation="none"
                )
                axis.plot([0, last], [0, last], color="#888888", lw=0.5, ls=":")
                axis.set_facecolor("#f7f7f7")
                log_snr = float(result["log_snr"].sel(timestep=moment))
                first = f"t = {moment}, log SNR {_signed(log_snr)}\n" if name == names[0] else ""
                r = float(result["joint_correlation"].sel(here))
                axis.set_title(first + (f"r = {r:.2f}" if np.isfinite(r) else "constant"), fontsize=8.5)
                axis.set(xticks=[0, last // 2, last], yticks=[0, last // 2, last])
            row[0].set_ylabel(f"grey level of {name}")
        for axis in axes[-1]:
            axis.set_xlabel("grey level of $x_0$")
        bar = figure.add_axes((1 - 0.85 / WIDTH, 0.25, 0.1 / WIDTH, 0.5))
        figure.colorbar(image, cax=bar, label="share of pixel pairs")
    return figure


def training_losses(losses: Mapping[str, tuple[list[str], np.ndarray]]) -> Figure:
    """Draw the loss terms of each model's training, on a logarithmic scale."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots(1, len(losses), squeeze=False)[0]
        for axis, (model, (columns, rows)) in zip(axes, losses.items(), strict=True):
            for term, values, (colour, line) in zip(columns[1:], rows[:, 1:].T, cycle(TERMS), strict=False):
                axis.plot(rows[:, 0], values, line, label=term, color=colour)
            axis.set(yscale="log", xlabel="training step", ylabel="loss")
            axis.set_title(model, loc="left")
            axis.legend()
    return figure


def own_plot(result: xr.Dataset, quantity: str) -> Figure | None:
    """Draw a result as its quantity draws itself; None where it doesn't."""
    plot = None
    if quantity in analysis.quantities():
        plot = getattr(import_module(f"analysis.{quantity}"), "plot", None)
    if plot is None:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.6, 3.4), layout="constrained")
        plot(result, ax=figure.add_subplot())
    return figure
