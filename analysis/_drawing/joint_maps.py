"""Joint maps: how often each grey level of x_0 goes with each of the state (000 Fig. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._quantity import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SUMMARIES = {
    "joint_correlation": "Pearson correlation of x_0 and state codes",
    "joint_mean_distance": "mean distance of x_0 and state codes",
    "joint_near_diagonal": "share of pixel pairs at most one code apart",
}

LEFT, RIGHT, TOP, BOTTOM, GAP = 0.6, 1.0, 0.05, 0.45, 0.65
"""Inches around the maps, and above those of each run."""

BOX = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1}


def described(each: list[da.Array]) -> dict[str, Any]:
    """Describe the joint counts (at, x_0 code, state code) of each variable and summarise every map."""
    summaries = [
        da.map_blocks(
            _summaries,
            counts,
            drop_axis=2,
            chunks=(counts.chunks[0], (len(SUMMARIES),)),
            dtype=np.float64,
            meta=np.empty((0, 0)),
        )
        for counts in each
    ]
    described: dict[str, Any] = {
        "joint_counts": (
            ("on", "at", "x_0_bin", "state_bin"),
            da.stack(each),
            {"units": "1", "long_name": "pixel pairs per pair of grey codes"},
        )
    }
    for column, (name, meaning) in enumerate(SUMMARIES.items()):
        values = da.stack([summary[:, column] for summary in summaries])
        described[name] = (("on", "at"), values, {"units": "1", "long_name": meaning})
    return described


def _summaries(counts: NDArray[Any]) -> NDArray[Any]:
    """Summarise maps (at, x_0 code, state code), with sums of integers until the last step."""
    code = np.arange(counts.shape[-1])
    distance = np.abs(code[:, None] - code)
    pairs = counts.sum(axis=(1, 2))
    x_0, state = counts.sum(axis=2), counts.sum(axis=1)
    mean_x_0, mean_state = x_0 @ code / pairs, state @ code / pairs
    covariance = (counts * np.outer(code, code)).sum(axis=(1, 2)) / pairs - mean_x_0 * mean_state
    variances = (x_0 @ code**2 / pairs - mean_x_0**2) * (state @ code**2 / pairs - mean_state**2)
    constant = (np.count_nonzero(x_0, axis=1) == 1) | (np.count_nonzero(state, axis=1) == 1)
    correlation = np.where(constant, np.nan, covariance / np.sqrt(np.where(constant, 1, variances)))
    mean_distance = (counts * distance).sum(axis=(1, 2)) / pairs
    near = (counts * (distance <= 1)).sum(axis=(1, 2)) / pairs
    return np.stack([correlation, mean_distance, near], axis=1)


def draw(results: Results) -> Figure:
    """Draw joint histograms, x_0 horizontal and the state vertical, on one logarithmic scale: rows for each run."""
    import matplotlib as mpl
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    from traj.analysis._drawing.style import STYLE, WIDTH, legible, signed

    shares = {run: _share(result) for run, result in results.items()}
    pairs = [float(result["joint_counts"].sum(("x_0_bin", "state_bin")).max()) for result in results.values()]
    norm = LogNorm(vmin=1 / max(pairs), vmax=max(float(share.max()) for share in shares.values()))
    columns = max(result.sizes["at"] for result in results.values())
    side = (WIDTH - LEFT - RIGHT) / columns
    rows = sum(result.sizes["on"] for result in results.values())
    height = TOP + BOTTOM + GAP * len(results) + side * rows
    y = height - TOP
    # Laid out by hand: the layout of matplotlib takes longer for so many panels than all else on a page.
    with mpl.rc_context({**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(WIDTH, height))
        for run, result in results.items():
            figure.text(LEFT / WIDTH, (y - 0.32) / height, legible(run), fontsize=9.5, fontweight="bold", va="center")
            y -= GAP
            for name in result["on"].to_numpy():
                y -= side
                for column, moment in enumerate(result["at"].to_numpy()):
                    place = (LEFT + side * column) / WIDTH, y / height, 0.92 * side / WIDTH, 0.92 * side / height
                    axis = figure.add_axes(place)
                    image = _map(axis, shares[run].sel(on=name, at=moment), norm)
                    r = float(result["joint_correlation"].sel(on=name, at=moment))
                    axis.text(
                        0.04,
                        0.96,
                        f"r = {r:.2f}" if np.isfinite(r) else "constant",
                        transform=axis.transAxes,
                        va="top",
                        fontsize=8,
                    )
                    if name == result["on"].to_numpy()[0]:
                        log_snr = float(result["log_snr"].sel(timestep=moment))
                        axis.set_title(f"t = {moment}, log SNR {signed(log_snr)}", fontsize=8.5)
                    axis.set_yticks(axis.get_xticks(), None if column == 0 else [""] * 3)
                    if column == 0:
                        axis.set_ylabel(f"grey level of {name}")
                    if y < BOTTOM + 0.01:
                        axis.set_xlabel("grey level of $x_0$")
                    else:
                        axis.set_xticklabels([])
        bar = figure.add_axes((1 - 0.85 / WIDTH, BOTTOM / height, 0.1 / WIDTH, min(2.5, height - 1.2) / height))
        figure.colorbar(image, cax=bar, label="share of pixel pairs")
    return figure


def _share(result: xr.Dataset) -> xr.DataArray:
    counts = result["joint_counts"]
    return (counts / counts.sum(("x_0_bin", "state_bin"))).transpose("on", "at", "state_bin", "x_0_bin")


def _map(axis: Axes, share: xr.DataArray, norm: LogNorm) -> AxesImage:
    grid = share.to_numpy()
    last = len(grid) - 1
    shown = np.where(grid > 0, grid, np.nan)
    image = axis.imshow(shown, origin="lower", cmap="viridis_r", norm=norm, interpolation="none")
    axis.plot([0, last], [0, last], color="#888888", lw=0.5, ls=":")
    axis.set_facecolor("#f7f7f7")
    axis.set_xticks([0, last // 2, last])
    return image
