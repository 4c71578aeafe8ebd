"""Open a store whose blocks are written whole, for writing: a dataset, decoded images or a readout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from traj.stores.asked import at_least_one, digest_of, inputs, of_samples, opened
from traj.stores.blocks import BlockWriter
from traj.stores.claim import Stale
from traj.stores.description import Description, ReadVariable, Variable
from traj.stores.errors import InputError
from traj.stores.events import IMAGE_DIMS, checked_event
from traj.stores.layout import SHARD_BYTES, Coord, Layout
from traj.stores.vocabulary import FORK_DIMS, VARIABLES

VALID_RANGE = (-1.0, 1.0)
"""Of decoded images."""


def create_dataset(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    label: ArrayLike | None = None,
    dims: Sequence[str] | None = None,
    valid_range: tuple[float, float] | None = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> BlockWriter:
    """Open a dataset for writing, a store of x_0 alone: make it, resume it, or extend it.

    Its one variable is written as `x_0`, float32 (sample, *event), a block at a time, and each block is one chunk. All
    else is as for `create`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    at_least_one(samples=samples, block=block)
    event, names = checked_event(shape, dims)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=event, dtype="float32")
    if block > 1 and layout.shard_bytes > SHARD_BYTES:
        raise InputError(
            f"blocks of {block:,} samples were asked for, chunks of {layout.shard_bytes >> 20:,} MiB; expected at most "
            f"{SHARD_BYTES >> 20} MiB: ask for smaller blocks"
        )
    said = VARIABLES["x_0"]
    bounds = {} if valid_range is None else {"valid_range": list(valid_range)}
    x_0 = Variable(
        dims=(*said.dims, *names),
        shape=(samples, *event),
        chunks=(block, *event),
        attributes={"long_name": said.long_name, "units": said.units, **bounds},
    )
    description = Description(
        kind="dataset",
        layout=layout,
        variables={"x_0": x_0},
        coords=of_samples(samples, label, None),
        config={**config, "store": inputs(layout, names, valid_range)},
        environment=environment or {},
    )
    return opened(BlockWriter, path, description, stale, blocks)


def create_decoded(
    path: str | os.PathLike[str],
    *,
    of: str,
    variables: Sequence[str],
    shape: tuple[int, int, int],
    dtype: Literal["uint8", "float16"],
    coords: Mapping[str, tuple[str, ArrayLike, str, str]],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> BlockWriter:
    """Open a store of decoded images for writing: make it, resume it, or extend it.

    It has the variables, dims and coordinates of the store of latents that was decoded, which is of the kind ``of``,
    and can be read as a store of that kind; an event is an image of this shape (channel, y, x) in [-1, 1]. uint8 k
    stands for 2 k / 255 - 1, and has no value that says that there is none. All else is as for `create_readout`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    at_least_one(samples=samples, block=block)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=shape, dtype=dtype)
    described = _described(coords, samples)
    lengths = {coord.dim: len(coord.values) for coord in described.values()} | dict(zip(IMAGE_DIMS, shape, strict=True))
    lead = tuple(dim for dim in FORK_DIMS if dim in lengths)
    attributes = {
        "valid_range": list(VALID_RANGE),
        **({"scale_factor": 2 / 255, "add_offset": -1.0} if dtype == "uint8" else {}),
    }
    images = {
        name: ReadVariable(
            (*lead, *VARIABLES[name].dims, *IMAGE_DIMS), VARIABLES[name].long_name, dtype=dtype, attributes=attributes
        )
        for name in variables
    }
    store = {
        **inputs(layout, IMAGE_DIMS, VALID_RANGE),
        "of": of,
        "variables": list(variables),
        "coordinates": _digest(described),
    }
    description = Description(
        kind="decoded",
        layout=layout,
        variables={name: one.cut(block, tuple(lengths[dim] for dim in one.dims)) for name, one in images.items()},
        coords=described,
        config={**config, "store": store},
        environment=environment or {},
        attributes={"of": of},
    )
    return opened(BlockWriter, path, description, stale, blocks)


def create_readout(
    path: str | os.PathLike[str],
    *,
    of: str,
    variables: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, tuple[str, ArrayLike, str, str]],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> BlockWriter:
    """Open a readout store for writing: make it, resume it, or extend it.

    of is the kind of the store that is read. variables maps a name to (dims, long_name, units), the
    first fields of a `ReadVariable`, or to all of them; coords a name to (dim, values, units, long_name), and gives
    every dim its length. All else is as for `create`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    at_least_one(samples=samples, block=block)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=(1, 1, 1), dtype="float32")
    described = _described(coords, samples)
    lengths = {coord.dim: len(coord.values) for coord in described.values()}
    read_off = {name: ReadVariable(*given) for name, given in variables.items()}
    for name, read in read_off.items():
        dims = read.dims
        if "sample" not in dims or (unknown := [dim for dim in dims if dim not in lengths]):
            raise InputError(
                f"{name} has dims {', '.join(dims)}; expected `sample` among them, and a coordinate along each"
                + (f" ({', '.join(unknown)} has none)" if "sample" in dims else "")
            )
    dtypes = {name: read.dtype for name, read in read_off.items() if read.dtype != "float32"}
    store = {
        "block": block,
        "of": of,
        "variables": {name: list(read.dims) for name, read in read_off.items()},
        **({"dtypes": dtypes} if dtypes else {}),
        "coordinates": _digest(described),
    }
    description = Description(
        kind="readout",
        layout=layout,
        variables={name: read.cut(block, tuple(lengths[dim] for dim in read.dims)) for name, read in read_off.items()},
        coords=described,
        config={**config, "store": store},
        environment=environment or {},
        attributes={"of": of},
    )
    return opened(BlockWriter, path, description, stale, blocks)


def _described(coords: Mapping[str, tuple[str, ArrayLike, str, str]], samples: int) -> dict[str, Coord]:
    """Describe coordinates that are given as (dim, values, units, long_name), and those that every store has."""
    described = {
        "sample": Coord.known("sample", np.arange(samples, dtype="int64")),
        **{
            name: Coord(dim, np.asarray(values), units, long_name)
            for name, (dim, values, units, long_name) in coords.items()
            if name != "sample"
        },
    }
    if "label" not in described:
        described["label"] = Coord.known("label", np.full(samples, -1))
    return described


def _digest(described: Mapping[str, Coord]) -> str:
    """Hash the coordinates that stay the same when samples are added."""
    return digest_of({name: coord.values for name, coord in described.items() if coord.dim != "sample"})
