"""Zarr: a store of ours that has x_0, an array, or a group with arrays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from traj import stores
from traj.pipeline.sources.source import Array, Source, choose, choose_labels
from traj.stores import InputError

METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is an array or a group of Zarr."""
    return any((path / name).is_file() for name in METADATA)


def read(path: Path, key: str | None, label: str | None) -> Source:
    """Read an array lazily, and the classes beside it. Raises InputError where it is not clear which."""
    try:
        stores.attributes(path)
    except stores.NotAStore:
        return _of_others(path, key, label)
    if key is not None or label is not None:
        raise InputError(f"{path} is a store of traj: its x_0 and label are taken, and no array can be named")
    return _of_ours(path)


def _of_ours(path: Path) -> Source:
    from traj.pipeline.models.starts import seeds_of  # brings in torch, which takes seconds

    ds = stores.open(path)
    if "x_0" not in ds or ds.x_0.dims[0] != "sample":
        raise InputError(
            f"{path} holds {stores.KINDS[ds.attrs['kind']].contents}; expected a dataset or trajectories, which have "
            "one x_0 for each sample"
        )

    def read(first: int, end: int) -> Array:
        with stores.reading(path):
            return np.asarray(ds.x_0[first:end])

    low, high = ds.x_0.attrs["valid_range"]
    return Source(
        ds.x_0.shape,
        ds.x_0.dtype,
        read,
        ds.label.values,
        axes=stores.event_dims(ds.x_0.dims),
        valid_range=(low, high),
        seeds=seeds_of(json.loads(ds.attrs["config"])),
    )


def _of_others(path: Path, key: str | None, label: str | None) -> Source:
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Array):
        if key is not None or label is not None:
            raise InputError(f"{path} is one array; expected --labels FILE for its classes, and no name after a colon")
        return _lazy(found)
    arrays = dict(found.arrays())
    source = _lazy(arrays[choose(str(path), arrays, key)])
    labels = choose_labels(str(path), arrays, label)
    return source if labels is None else replace(source, label=np.asarray(arrays[labels][...]))


def _lazy(array: zarr.Array[Any]) -> Source:
    return Source(array.shape, np.dtype(array.dtype), lambda first, end: np.asarray(array[first:end]))
