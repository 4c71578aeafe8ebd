"""Which Dask blocks a quantity works on: whole images, one task per shard, x_0 cut like the states it goes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

IMAGE = ("channel", "y", "x")

INDICES = {5: "stcyx", 4: "scyx", 3: "stp", 2: "sp"}
"""Axes by number of dims: images with and without timesteps, codes with and without."""


def require(ds: xr.Dataset, names: Sequence[str]) -> None:
    """Refuse a dataset without the named variables, or with the wrong dims.

    Raises ValueError naming what is there.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one or more different variables to work on, got {', '.join(names) or 'none'}")
    for name in names:
        if name not in ds.data_vars:
            here = ", ".join(map(str, ds.data_vars)) or "none"
            raise ValueError(f"no variable {name} in this dataset of kind {ds.attrs.get('kind', '?')}; it has {here}")
        dims = ("sample", *IMAGE) if name == "x_0" else ("sample", "timestep", *IMAGE)
        if ds[name].dims != dims:
            raise ValueError(f"{name} has dims {', '.join(map(str, ds[name].dims))}; expected {', '.join(dims)}")


def value_range(ds: xr.Dataset) -> tuple[float, float]:
    """Read the range of image values off x_0's valid_range; [-1, 1] where none is recorded."""
    low, high = (float(bound) for bound in ds["x_0"].attrs.get("valid_range", (-1.0, 1.0)))
    return low, high


def images(variable: xr.DataArray) -> da.Array:
    """Take a variable as a Dask array of whole images, cut as stored along sample and timestep."""
    array = variable.data
    leading = array.ndim - len(IMAGE)
    if not isinstance(array, da.Array):
        # cut along sample alone, blocks of an array in memory are contiguous and need no copy
        array = da.from_array(array, chunks=("auto", *(-1,) * (array.ndim - 1)), name=False)
    whole: da.Array = array.rechunk(dict.fromkeys(range(leading, array.ndim), -1))
    return whole


def aligned(states: da.Array, x_0: da.Array) -> da.Array:
    """Cut x_0 along sample as `states` is cut."""
    cut: da.Array = x_0.rechunk({0: states.chunks[0]})
    return cut


def per_image(
    kernel: Callable[..., NDArray[Any]],
    states: da.Array,
    *others: da.Array,
    dtype: np.dtype[Any] | type,
    width: int | None = None,
    **options: Any,
) -> da.Array:
    """Apply a kernel that returns one value, or `width` values, per image: (sample, timestep[, column]).

    The kernel gets each block of `states`, then the blocks of `others` with the same samples, each one plain
    contiguous array, float32 where it held floats; one task per block of `states`.
    """

    def whole(*blocks: Any) -> NDArray[Any]:
        return kernel(*(_contiguous(block) for block in blocks), **options)

    lead = INDICES[states.ndim].rstrip("cyxp")
    cut = [part for array in (states, *others) for part in (array, INDICES[array.ndim])]
    values: da.Array = da.blockwise(
        whole,
        lead if width is None else lead + "k",
        *cut,
        new_axes=None if width is None else {"k": width},
        dtype=dtype,
        meta=np.empty((0,) * (len(lead) + (width is not None)), dtype),
        align_arrays=False,
    )
    return values


def _contiguous(block: Any) -> NDArray[Any]:
    while isinstance(block, list):
        (block,) = block
    return np.ascontiguousarray(block, np.float32 if block.dtype.kind == "f" else None)


def over_samples(values: da.Array, statistics: Callable[[NDArray[Any]], NDArray[Any]], rows: int) -> da.Array:
    """Reduce (sample, timestep) to (row, timestep), all samples of a run of timesteps at once, in order."""
    gathered = values.rechunk({0: -1})
    reduced: da.Array = da.map_blocks(
        lambda block: statistics(np.ascontiguousarray(block)),
        gathered,
        chunks=((rows,), gathered.chunks[1]),
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return reduced
