"""Interventions: how far edits of the reverse process change its images (002; METHODS 3.2, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _chunks, _edits, _gaussian, _kernels, _replicas
from traj.analysis._spread import Named, with_spread
from traj.analysis._windows import half_gaussian, window_if_any
from traj.analysis.psnr import CAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "sweep"

COLUMNS = (
    Named("ssim", "structural similarity to x_0 of the run without the edit"),
    Named("psnr", "PSNR with x_0 of the run without the edit", "dB"),
    Named("mad", "mean absolute deviation on [0, 1] from x_0 of the run without the edit"),
)


def intervention(ds: xr.Dataset, *, baseline: str | None = None, preset: str = "auto") -> xr.Dataset:
    """Compare the final samples of edited processes with those of the run that was edited.

    For a sweep of edits, of one replica each, which `traj fork` makes of a table. `ssim`, `psnr` (at most 100 dB) and
    `mad`, the mean absolute deviation, are of values mapped from x_0's valid_range onto [0, 1] and clipped: (variant,
    sample), each with mean, sd and standard error over samples. An edit that changes nothing gives exactly 1, 100 dB
    and 0.

    Parameters
    ----------
    baseline
        Store of the run that was forked; needed.
    preset
        Window of SSIM: wang2004, skimage, window:N, or auto, as for the quantity ssim; auto leaves SSIM NaN for
        images below 3 pixels a side, and for events that are no images.

    Raises
    ------
    InputError
        Forks that are not a sweep, or have several replicas; a baseline that is missing, is another run or has fewer
        samples; a preset that is unknown or does not fit the images.
    """
    _edits.require_sweep(ds)
    preset, window = window_if_any(preset, ds["x_0"])
    run = _edits.parent_of(ds, baseline)
    low, high = _chunks.value_range(ds)
    images = _chunks.images(ds["x_0"])
    x_0 = _chunks.images(run["x_0"]).rechunk({0: images.chunks[2]})
    values = _chunks.per_image(
        _similarities,
        images,
        x_0,
        lead="vrs",
        dtype=np.float64,
        width=len(COLUMNS),
        preset=preset,
        window=window,
        low=low,
        scale=1 / (high - low),
    )
    variables = with_spread(xr.DataArray(values, dims=("variant", "sample", "column")), COLUMNS)
    attrs = {
        "quantity": "intervention",
        "preset": preset,
        "window": window,
        "cap": CAP,
        "samples": ds.sizes["sample"],
        "valid_range": [low, high],
    }
    return xr.Dataset(variables, _replicas.coordinates(ds), attrs)


def _similarities(
    images: NDArray[Any], x_0: NDArray[Any], low: float, scale: float, preset: str, window: int
) -> NDArray[Any]:
    """Give one chunk (variant, 1, sample, *event) and x_0 (sample, *event) its COLUMNS."""
    states = np.ascontiguousarray(images[:, 0].swapaxes(0, 1))
    samples, variants = states.shape[:2]
    if preset == "none":
        ssim = np.full((samples, variants), np.nan)
    elif preset == "wang2004":
        ssim = _gaussian.ssim_gaussian(states, x_0, low, scale, half_gaussian())
    else:
        ssim = _kernels.ssim_uniform(states, x_0, low, scale, window, window**2 / (window**2 - 1))
    flat = states.reshape(samples, variants, -1), x_0.reshape(samples, -1)
    psnr = _kernels.psnr_images(*flat, low, scale, CAP)
    mad = _edits.absolute_deviation(*flat, low, scale)
    return np.stack([ssim.T, psnr.T, mad.T], axis=-1)


def plot(result: xr.Dataset, ax: Axes | None = None, of: str = "ssim") -> Axes:
    """Draw SSIM, or `of` psnr or mad, over where edits start, mean and one standard deviation (002 Fig. 4)."""
    return _edits.draw(result, of, 1, ax)
