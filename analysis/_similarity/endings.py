"""How like the endings of forks are to the images of the run that was forked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._kernels import images as kernels
from traj.analysis._similarity import compared
from traj.analysis._statistics.spread import Named, with_spread
from traj.analysis.psnr import CAP

Array = NDArray[Any]


def beside_run(endings: xr.DataArray, run: xr.Dataset) -> tuple[da.Array, da.Array]:
    """Take endings (variant, replica, sample, *event) and the x_0 of their run, cut alike along samples."""
    images = chunking.images(endings)
    return images, chunking.images(run["x_0"]).rechunk({0: images.chunks[2]})


def compare(
    kernel: Callable[..., Array],
    images: da.Array,
    x_0: da.Array,
    columns: Sequence[Named],
    **options: Any,
) -> dict[str, xr.DataArray]:
    """Compare endings with the x_0 of their run: the columns (variant, sample), each with its spread over samples.

    `kernel` takes a chunk (variant, replica, sample, *event), x_0 (sample, *event) and the options; it gives (variant,
    sample, column).
    """
    values = chunking.per_image(kernel, images, x_0, lead="vrs", dtype=np.float64, width=len(columns), **options)
    return with_spread(xr.DataArray(values, dims=("variant", "sample", "column")), columns)


def by_sample(images: Array) -> Array:
    """Put a chunk (variant, replica, sample, *event) in the order (sample, variant and replica, *event)."""
    first = np.ascontiguousarray(np.moveaxis(images, 2, 0))
    return first.reshape(len(first), -1, *images.shape[3:])


def likeness(states: Array, x_0: Array, low: float, scale: float, preset: str, window: int) -> tuple[Array, Array]:
    """Compare states (sample, state, *event) with x_0 (sample, *event) by SSIM and PSNR: (sample, state) each."""
    flat = states.reshape(*states.shape[:2], -1), x_0.reshape(len(x_0), -1)
    ssim = compared.structural(states, x_0, low, scale, preset, window)
    return ssim, kernels.psnr_images(*flat, low, scale, CAP)
