"""Which Dask chunks a quantity works on: whole events, one task per shard, x_0 cut like the states it goes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from string import ascii_uppercase
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numba.extending import is_jitted
from numpy.typing import NDArray

from traj.stores import IMAGE_DIMS, InputError, event_dims, valid_range

if getattr(da, "ARRAY_EXPR_ENABLED", False):
    raise ImportError(
        "Dask's array query planning is on, and analyses lay out graphs of their own; set "
        "DASK_ARRAY__QUERY_PLANNING=False before dask.array is imported"
    )

EVENT_AXES = ascii_uppercase
"""Names of an event's axes for Dask, however many there are; a kernel sums over them, and over replicas."""


def require(ds: xr.Dataset, names: Sequence[str]) -> None:
    """Refuse a dataset without the named variables, or with the wrong dims: samples and timesteps, then an event's.

    Raises InputError naming what is there.
    """
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected one or more different variables to work on, got {', '.join(names) or 'none'}")
    for name in names:
        if name not in ds.data_vars:
            here = ", ".join(map(str, ds.data_vars)) or "none"
            raise InputError(f"no variable {name} in this dataset of kind {ds.attrs.get('kind', '?')}; it has {here}")
        event = event_dims(ds["x_0" if "x_0" in ds else name].dims) or IMAGE_DIMS
        dims = ("sample", *event) if name == "x_0" else ("sample", "timestep", *event)
        if ds[name].dims != dims:
            raise InputError(f"{name} has dims {', '.join(map(str, ds[name].dims))}; expected {', '.join(dims)}")


def require_images(ds: xr.Dataset, quantity: str) -> None:
    """Refuse events that are no images; the words name the quantity that takes nothing else.

    Raises InputError naming the dims that are there.
    """
    event = event_dims(ds["x_0"].dims) if "x_0" in ds else IMAGE_DIMS
    if event != IMAGE_DIMS:
        raise InputError(
            f"{quantity} needs images, of dims {', '.join(IMAGE_DIMS)}; the events of this store have "
            f"{', '.join(event) or 'none'}: analyse them with psnr, which takes any"
        )


def value_range(ds: xr.Dataset) -> tuple[float, float]:
    """Read the range of image values off x_0's valid_range. Raises InputError where it names none."""
    if (bounds := valid_range(ds)) is None:
        raise InputError(
            "values are mapped from the valid_range of x_0 onto [0, 1], and x_0 of this store has none. Where it holds "
            "latents, decode them to images (traj readout decode), and analyse those; otherwise make it again, with "
            "the range that its values are meant to lie in"
        )
    return bounds


def require_one_space(ds: xr.Dataset, other: xr.Dataset) -> None:
    """Refuse to compare latents with images. Raises InputError."""
    if (valid_range(ds) is None) != (valid_range(other) is None):
        raise InputError(
            "one of the two stores that are compared holds latents and the other images; decode the latents (traj "
            "readout decode), and compare images with images"
        )


def noted_range(ds: xr.Dataset) -> dict[str, list[float]]:
    """Give a result the valid_range that its pictures are drawn in; nothing for latents."""
    bounds = valid_range(ds)
    return {} if bounds is None else {"valid_range": list(bounds)}


def images(variable: xr.DataArray) -> da.Array:
    """Take a variable as a Dask array of whole events and all replicas, cut as stored along the other dims."""
    array = variable.data
    if not isinstance(array, da.Array):
        array = in_memory(array)
    uncut = [axis for axis, dim in enumerate(variable.dims) if dim in ("replica", *event_dims(variable.dims))]
    whole: da.Array = array.rechunk(dict.fromkeys(uncut, -1))
    return whole


def in_memory(array: NDArray[Any]) -> da.Array:
    """Cut an array in memory along its first axis alone: its chunks are contiguous, and views (from_array copies)."""
    chunks = da.core.normalize_chunks(("auto", *(-1,) * (array.ndim - 1)), array.shape, dtype=array.dtype)
    edges = np.cumsum([0, *chunks[0]])
    name = f"in-memory-{uuid4()}"
    rest = (0,) * (array.ndim - 1)
    parts = {(name, i, *rest): array[first:last] for i, (first, last) in enumerate(pairwise(edges))}
    return da.Array(parts, name, chunks, meta=array[:0])


def aligned(states: da.Array, x_0: da.Array) -> da.Array:
    """Cut x_0 along sample as `states` is cut."""
    cut: da.Array = x_0.rechunk({0: states.chunks[0]})
    return cut


def per_image(
    kernel: Callable[..., NDArray[Any]],
    states: da.Array,
    *others: da.Array,
    lead: str,
    dtype: np.dtype[Any] | type,
    width: int | None = None,
    **options: Any,
) -> da.Array:
    """Apply a kernel that returns one value, or `width` values, per event.

    `lead` names the axes of `states` before an event's: "s" for samples, "st" with timesteps, "vrs" for forks; the
    result has these, and no replicas: (variant, sample[, column]) of forks, one cell for all of them. `others` have
    samples only.

    The kernel gets each chunk of `states`, then the chunks of `others` with the same samples, each one plain
    contiguous array, float32 where it held floats; one task per chunk of `states`.
    """
    axes = [lead + EVENT_AXES[: states.ndim - len(lead)], *("s" + EVENT_AXES[: other.ndim - 1] for other in others)]
    cut = [part for pair in zip((states, *others), axes, strict=True) for part in pair]
    lead = lead.replace("r", "")
    values: da.Array = da.blockwise(
        partial(_whole, kernel, options),
        lead if width is None else lead + "k",
        *cut,
        name=name_of(kernel, options, width, states, *others),
        new_axes=None if width is None else {"k": width},
        dtype=dtype,
        meta=np.empty((0,) * (len(lead) + (width is not None)), dtype),
        align_arrays=False,
    )
    return values


def name_of(kernel: Callable[..., Any], *inputs: Any) -> str:
    """Name the result of a kernel after it and its inputs; a compiled one goes by its place, Dask would pickle it."""
    place = kernel.__module__, kernel.__qualname__
    return f"{kernel.__name__}-{tokenize(place if is_jitted(kernel) else kernel, *inputs)}"


def _whole(kernel: Callable[..., NDArray[Any]], options: dict[str, Any], *chunks: Any) -> NDArray[Any]:
    return kernel(*map(_contiguous, chunks), **options)


def _contiguous(chunk: Any) -> NDArray[Any]:
    while isinstance(chunk, list):
        (chunk,) = chunk
    return np.ascontiguousarray(chunk, np.float32 if chunk.dtype.kind == "f" else None)


def per_cell(
    kernel: Callable[..., NDArray[Any]],
    *variables: xr.DataArray,
    within: list[list[str]],
    width: int,
    **options: Any,
) -> xr.DataArray:
    """Apply a kernel along the dims `within` of each variable, which it gets last: `width` float64 values per cell.

    The kernel gets chunks as `per_image` does, and returns (..., column).
    """
    lazy = [v if v.chunks is not None else v.copy(data=da.from_array(v.data, -1, name=False)) for v in variables]
    uncut = [variable.chunk(dict.fromkeys(dims, -1)) for variable, dims in zip(lazy, within, strict=True)]
    values: xr.DataArray = xr.apply_ufunc(
        partial(_whole, kernel, options),
        *uncut,
        input_core_dims=within,
        output_core_dims=[["column"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"column": width}},
    )
    return values.drop_vars(list(values.coords))


def over_samples(values: da.Array, statistics: Callable[[NDArray[Any]], NDArray[Any]], rows: int) -> da.Array:
    """Reduce (sample, ...) to (row, ...), all samples at once, in order.

    `statistics` takes (sample, column) to (row, column).
    """
    gathered = values.rechunk({0: -1})
    reduced: da.Array = da.map_blocks(
        partial(_reduce, statistics, rows),
        gathered,
        name=name_of(statistics, rows, gathered),
        chunks=((rows,), *gathered.chunks[1:]),
        dtype=np.float64,
        meta=np.empty((0,) * gathered.ndim),
    )
    return reduced


def _reduce(statistics: Callable[[NDArray[Any]], NDArray[Any]], rows: int, chunk: NDArray[Any]) -> NDArray[Any]:
    columns = np.ascontiguousarray(chunk).reshape(len(chunk), -1)
    return statistics(columns).reshape(rows, *chunk.shape[1:])
