"""Open a store: validated, lazy, shard-aligned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from stores.errors import DamagedStore, IncompleteStore
from stores.layout import read_root


def open(path: str | os.PathLike[str], *, partial: bool = False) -> xr.Dataset:
    """Open a store lazily, one Dask chunk per shard.

    A store with unfinished blocks, or a finished block with a missing file, is refused unless `partial` is set; what
    was never written then reads as NaN.

    Raises NotAStore, IncompleteStore, DamagedStore.
    """
    target = Path(path)
    root = read_root(target)
    if root["attributes"]["kind"] == "trajectories" and not partial:
        _require_complete(target, root)
    try:
        ds = xr.open_zarr(target, chunks=None).drop_vars(("done", "saturated"), errors="ignore")
        for name in ds.coords:
            ds[name].load()
    except ValueError as error:
        raise DamagedStore(f"{target}: {error}; run `traj verify {target}`") from None
    shards = _shards(root, ds)
    lazy = {name: array.chunk({dim: shards[str(dim)] for dim in array.dims}) for name, array in ds.items()}
    return xr.Dataset(lazy, ds.coords, ds.attrs)


def _shards(root: dict[str, Any], ds: xr.Dataset) -> dict[str, int]:
    """Read the chunk length per dim off the widest array, so that all arrays of a block share a task's bounds."""
    lengths: dict[str, int] = {}
    for name in ds.data_vars:
        meta = root["consolidated_metadata"]["metadata"][name]
        for dim, length in zip(
            meta.get("dimension_names", []), meta["chunk_grid"]["configuration"]["chunk_shape"], strict=True
        ):
            lengths[dim] = max(length, lengths.get(dim, 1))
    return lengths


def done_flags(path: Path) -> NDArray[np.uint8]:
    """Read which blocks are complete."""
    try:
        return np.asarray(zarr.open_array(path / "done", mode="r")[:], np.uint8)
    except ValueError as error:
        raise DamagedStore(f"{path / 'done'}: {error}; run `traj verify {path}`") from None


def shard_files(root: dict[str, Any]) -> dict[int, list[str]]:
    """List the shard files every block of a trajectory store must have, by block."""
    files: dict[int, list[str]] = {}
    for name, meta in root["consolidated_metadata"]["metadata"].items():
        if meta["node_type"] != "array" or meta["codecs"][0]["name"] != "sharding_indexed":
            continue
        counts = [
            -(-size // chunk)
            for size, chunk in zip(meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
        ]
        for position in np.ndindex(*counts):
            files.setdefault(position[0], []).append(f"{name}/c." + ".".join(map(str, position)))
    return files


def _require_complete(path: Path, root: dict[str, Any]) -> None:
    done = done_flags(path)
    if unfinished := np.flatnonzero(done == 0).tolist():
        shown = ", ".join(map(str, unfinished[:8])) + (", ..." if len(unfinished) > 8 else "")
        raise IncompleteStore(
            f"{path} is incomplete: {len(unfinished)} of {len(done)} blocks were not finished (block {shown}); run the "
            "same `traj generate` again to complete it"
        )
    # One listing per folder: a stat per shard would cost seconds on a large run.
    here = {folder: set(os.listdir(path / folder)) for folder in {f.split("/")[0] for f in shard_files(root)[0]}}
    for block, files in shard_files(root).items():
        for file in files:
            folder, name = file.split("/")
            if name not in here[folder]:
                raise IncompleteStore(
                    f"{path} lost a file: block {block} is flagged as done but {file} is missing. Restore it from a "
                    f"copy, or delete {path / 'done' / 'c' / str(block)} and run the same `traj generate` again"
                )


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarise a store: kind, fingerprint, configuration, sizes, how much of it is done."""
    target = Path(path)
    root = read_root(target)
    attrs = root["attributes"]
    arrays = {
        name: {
            "dims": dict(zip(meta.get("dimension_names", []), meta["shape"], strict=True)),
            "dtype": meta["data_type"],
        }
        for name, meta in root["consolidated_metadata"]["metadata"].items()
        if meta["node_type"] == "array"
    }
    summary = {
        "kind": attrs["kind"],
        "format": attrs["format"],
        "fingerprint": attrs.get("fingerprint"),
        "config": json.loads(attrs.get("config", "{}")),
        "environment": json.loads(attrs.get("environment", "{}")),
        "arrays": arrays,
        "bytes": sum(file.stat().st_size for file in target.rglob("*") if file.is_file()),
    }
    if "done" in arrays:
        done = done_flags(target)
        summary["blocks"], summary["blocks_done"] = len(done), int(done.sum())
    return summary
