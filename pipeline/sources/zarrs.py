"""Zarr: a store of ours that has x_0, an array, or a group with arrays. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.pickles import Pickle

from traj import stores
from traj.pipeline.sources.source import Array, Source, Wanted, choose, choose_labels, with_classes
from traj.stores import InputError

METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is an array or a group of Zarr."""
    return any((path / name).is_file() for name in METADATA)


def is_ours(path: Path) -> bool:
    """Tell whether a path is that of a store of traj. Raises DamagedStore where it cannot be read."""
    try:
        stores.attributes(path)
    except stores.NotAStore:
        return False
    return True


def read(path: Path, key: str | None, label: Wanted) -> Source:
    """Read an array lazily, and the classes beside it. Raises InputError where it is not clear which."""
    if not is_ours(path):
        return _of_others(path, key, label)
    if key is not None or label:
        raise InputError(f"{path} is a store of traj: its x_0 and label are taken, and no array can be named")
    return _of_ours(path)


def seeds_of(config: Mapping[str, Any]) -> frozenset[int]:
    """Collect the seeds of the steps that led to a store's x_0, as its config tells: of a run, or a dataset of runs.

    A noised x_0 is that of its source, which no step of the store led to.
    """
    own = {config["seed"]} if "seed" in config and "noised" not in config else set()
    origin = config.get("noised") or config.get("start") or config
    return frozenset(own | {*origin.get("seeds", ())})


def _of_ours(path: Path) -> Source:
    ds = stores.open(path)
    if "x_0" not in ds or ds.x_0.dims[0] != "sample":
        raise InputError(
            f"{path} holds {stores.KINDS[ds.attrs['kind']].contents}; expected a dataset or trajectories, which have "
            "one x_0 for each sample"
        )

    def read(first: int, end: int) -> Array:
        with stores.reading(path):
            return np.asarray(ds.x_0[first:end])

    return Source(
        ds.x_0.shape,
        ds.x_0.dtype,
        read,
        ds.label.values,
        axes=stores.event_dims(ds.x_0.dims),
        valid_range=stores.valid_range(ds),
        seeds=seeds_of(json.loads(ds.attrs["config"])),
    )


def _of_others(path: Path, key: str | None, label: Wanted) -> Source:
    try:
        found = zarr.open(path, mode="r")
        arrays = {} if isinstance(found, zarr.Array) else dict(found.arrays())
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as Zarr: {error}; save it again, with usual types and codecs"
        ) from None
    if isinstance(found, zarr.Array):
        if key is not None or label:
            raise InputError(f"{path} is one array; expected --labels FILE for its classes, and no name after a colon")
        return _lazy(str(path), found)
    source = _lazy(str(path), arrays[choose(str(path), arrays, key)])
    labels = choose_labels(str(path), arrays, label)
    return source if labels is None else with_classes(str(path), source, _lazy(str(path), arrays[labels]))


def _lazy(what: str, array: zarr.Array[Any]) -> Source:
    """Take an array of others. Raises InputError where its chunks are pickles, which run code when they are read."""
    if any(isinstance(codec, Pickle) for codec in (*array.filters, *array.compressors)):
        raise InputError(
            f"{what} holds Python objects in a pickle, which is not read: that can run code. Expected numbers: save "
            "them as an array of numbers"
        )
    return Source(array.shape, np.dtype(array.dtype), lambda first, end: np.asarray(array[first:end]))
