"""Sums of every pixel that go from chunk to chunk in the samples' order, and the correlation of replicas from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from traj.analysis._kernels import pairs
from traj.analysis._statistics.spread import GROUPS, dealt

Array = NDArray[Any]
Moments = tuple[Array, Array]


def replica_correlation(images: da.Array) -> dict[str, xr.DataArray]:
    """Correlate images (variant, replica, sample, *event) of two replicas across samples.

    Gives the intraclass correlation, pooled over pixels and pairs, and its standard error. Each chunk is added to
    what came before it, sample by sample, so the values are the same for any chunks.
    """
    sizes = np.bincount(dealt(images.shape[2]), minlength=GROUPS)
    both = in_order(images, add=_add_chunk, finish=partial(_jackknife, sizes=sizes, replicas=images.shape[1]), width=2)
    title = "correlation of two replicas across samples, pooled over pixels"
    titles = {"": title, "_se": f"{title}, standard error by the jackknife over {GROUPS} groups of samples"}
    return {
        f"replica_correlation{suffix}": xr.DataArray(
            both[:, column], dims="variant", attrs={"units": "1", "long_name": meaning}
        )
        for column, (suffix, meaning) in enumerate(titles.items())
    }


def in_order(
    images: da.Array, *others: da.Array, add: Callable[..., Any], finish: Callable[..., Array], width: int
) -> da.Array:
    """Reduce images (variant, replica, sample, *event), and what lies beside them along sample, to (variant, width).

    `add` gets what it made of the chunks before, None at first, a chunk of each array, and the jackknife group of each
    of its samples; `finish` makes (variant, width) of what it gave last.
    """
    starts = np.cumsum((0, *images.chunks[2]))
    groups = dealt(images.shape[2])
    beside = [other.to_delayed(optimize_graph=False).reshape(-1) for other in others]
    values = []
    by_variant = images.to_delayed(optimize_graph=False).reshape(images.numblocks[0], images.numblocks[2])
    for chunks, variants in zip(by_variant, images.chunks[0], strict=True):
        so_far: Delayed | None = None
        for k, (start, length) in enumerate(zip(starts, images.chunks[2], strict=False)):
            chunk = [chunks[k], *(other[k] for other in beside)]
            so_far = delayed(add, pure=True)(so_far, *chunk, groups[start : start + length])
        values.append(da.from_delayed(delayed(finish, pure=True)(so_far), (variants, width), np.float64))
    reduced: da.Array = da.concatenate(values)
    return reduced


def bytes_held(variants: int, pixels: int) -> int:
    """Bytes of the sums so far, and of those being made of them."""
    return 2 * variants * GROUPS * pixels * np.dtype(np.float64).itemsize


def _add_chunk(before: Moments | None, images: Array, groups: Array) -> Moments:
    flat = np.ascontiguousarray(images, np.float32).reshape(*images.shape[:3], -1)
    if before is None:
        sums, squares = np.zeros((len(flat), GROUPS, flat.shape[-1])), np.zeros((len(flat), GROUPS, 2))
    else:
        sums, squares = (array.copy() for array in before)
    pairs.add_moments(flat, groups, sums, squares)
    return sums, squares


def _jackknife(moments: Moments, sizes: Array, replicas: int) -> Array:
    """Turn the moments of groups of these sizes into correlations and their standard errors (variant, 2)."""
    values = np.full((len(moments[0]), 2), np.nan)
    for value, sums, squares in zip(values, *moments, strict=True):
        total, total_squares = sums.sum(axis=0), squares.sum(axis=0)
        value[0] = _intraclass(total, total_squares, sizes.sum(), replicas)
        if sizes.all():
            without = [
                _intraclass(total - group, total_squares - group_squares, sizes.sum() - size, replicas)
                for group, group_squares, size in zip(sums, squares, sizes, strict=True)
            ]
            value[1] = np.sqrt((GROUPS - 1) * np.var(without))
    return values


def _intraclass(sums: Array, squares: Array, samples: int, replicas: int) -> float:
    """Divide the covariance of two replicas by their variance, both without bias and summed over pixels.

    Of the means of each sample's replicas, `sums` (pixel,) is the sum and `squares` first the sum of squares, then
    the replicas' variance around them. One-way analysis of variance (Shrout and Fleiss 1979, ICC(1)): the means vary
    by the covariance and an R-th of the variance within samples, around a mean that they have themselves.
    """
    if samples < 2:
        return np.nan
    means = (squares[0] - (sums**2).sum() / samples) / (samples - 1)
    within = squares[1] / samples
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((means - within / (replicas - 1)) / (means + within))
