"""Pictures of images that were noised and came back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from traj.analysis._quantity import Look, Results
from traj.analysis._replicas import forks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

START = "start of the way back   (denoising →)"

STARTS = 8
"""Most starts in a picture."""

KEPT, LOST = ("#009E73", "-"), ("#D55E00", (0, (2, 1.5)))
"""Frames of endings with the image's label, and with another: colour and line."""


def with_starts(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results whose starts have a known log SNR."""
    return {run: result for run, result in results.items() if "at_log_snr" in result.coords}


def montage(results: Results, look: Look) -> Figure | None:
    """Draw images at the right, and beside each what it came back as, by start; None where there are no images."""
    from matplotlib.lines import Line2D

    from traj.analysis._drawing import style as drawing

    shown = {run: _starts(result) for run, result in with_starts(results).items() if "ending" in result}
    if not shown:
        return None
    lines = max(result.sizes["shown"] for result in shown.values())
    figure, axes = drawing.rows_of(list(shown), 1, 0.85 * lines + 0.5, look, named=len(shown) > 1)
    framed = False
    for axis, result in zip(axes[:, 0], shown.values(), strict=True):
        endings = result["ending"].transpose("shown", "variant", ...).to_numpy()
        image = result["image"].to_numpy()[:, None]
        columns = drawing.tiled(
            drawing.displayed(np.concatenate([endings, image], axis=1), *result.attrs["valid_range"])
        )
        canvas = drawing.beside(columns[:-1], columns[-1:])
        axis.imshow(canvas, interpolation="nearest")
        (height, width), starts = columns[0].shape[:2], len(columns) - 1
        middles = (np.arange(starts) + 0.5) * width
        axis.set_xticks([*middles, canvas.shape[1] - width / 2], [*_names(result), "image\n"])
        axis.set_yticks([])
        _without_frame(axis)
        if "ending_kept" in result:
            framed = True
            _frames(axis, result["ending_kept"].to_numpy(), height // result.sizes["shown"], width)
    axes[-1, 0].set_xlabel(START)
    if framed:
        looks = zip((KEPT, LOST), ("the image's label", "another label"), strict=True)
        handles = [Line2D([], [], color=colour, ls=line, lw=2, label=what) for (colour, line), what in looks]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _frames(axis: Axes, kept: np.ndarray, height: int, width: int) -> None:
    """Frame endings (variant, shown) by whether the label was kept."""
    from matplotlib.patches import Rectangle

    for (column, line), share in np.ndenumerate(kept):
        if np.isfinite(share):
            colour, style = KEPT if share == 1 else LOST
            corner = column * width + 1, line * height + 1
            axis.add_patch(Rectangle(corner, width - 3, height - 3, fill=False, ec=colour, ls=style, lw=1.6))


def maps(results: Results, look: Look) -> Figure | None:
    """Draw the mean change of every pixel, by start, all on one scale; None where there are no images."""
    from traj.analysis._drawing import style as drawing

    shown = {run: _starts(result) for run, result in with_starts(results).items() if "change_map" in result}
    if not shown:
        return None
    columns = max(result.sizes["variant"] for result in shown.values())
    highest = max((float(result["change_map"].max()) for result in shown.values()), default=0.0)
    figure, axes = drawing.rows_of(list(shown), columns, 1.9, look, named=len(shown) > 1)
    for row, result in zip(axes, shown.values(), strict=True):
        for axis in row[result.sizes["variant"] :]:
            axis.set_visible(False)
        for axis, values, name in zip(row, result["change_map"].to_numpy(), _names(result), strict=False):
            drawn = axis.imshow(values, vmin=0, vmax=highest or 1, cmap="magma", interpolation="nearest")
            axis.set_xticks([values.shape[1] / 2 - 0.5], [name])
            axis.set_yticks([])
            _without_frame(axis)
    axes[-1, 0].set_xlabel("denoising →", loc="left")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="mean change")
    return figure


def _starts(result: xr.Dataset) -> xr.Dataset:
    """Take a few starts of the first kind of forks, evenly chosen, the noisiest first."""
    variants = next(iter(forks.kinds(result).values()))
    few = np.unique(np.linspace(0, len(variants) - 1, STARTS).round().astype(int))
    return result.isel(variant=[variants[position] for position in few])


def _names(result: xr.Dataset) -> list[str]:
    from traj.analysis._drawing import style as drawing

    along = result["at"].to_numpy(), result["at_log_snr"].to_numpy()
    return [f"t = {at}\nlog SNR {drawing.signed(x)}" for at, x in zip(*along, strict=True)]


def _without_frame(axis: Axes) -> None:
    axis.grid(visible=False)
    axis.tick_params(length=0, labelsize=8, labelbottom=False, labeltop=True)
    for spine in axis.spines.values():
        spine.set_visible(False)
