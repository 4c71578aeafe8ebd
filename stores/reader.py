"""Open a store: validated, lazy, shard-aligned."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from operator import ge
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stores.errors import DamagedStore, IncompleteStore
from stores.layout import crc_holds, metadata_text, one_flag, read_root
from stores.places import local
from stores.timesteps import with_timestep_index


def open(path: str | os.PathLike[str], *, partial: bool = False) -> xr.Dataset:
    """Open a store lazily, one Dask chunk per shard.

    A store with unfinished blocks, or a finished block with a missing file, is refused unless `partial` is set; what
    was never written then reads as NaN. A slice of timesteps selects the same whichever end is named first.

    Raises NotAStore, IncompleteStore, DamagedStore.
    """
    target = local(path)
    while True:
        root = read_root(target)
        require_metadata(target, root)
        if not partial:
            require_complete(target, root)
        try:
            ds = xr.open_zarr(target, chunks=None).drop_vars(("done", "saturated"), errors="ignore")
            for name in ds.coords:
                ds[name].load()
        except ValueError as error:
            raise DamagedStore(f"{target}: {error}; run `traj verify {target}`") from None
        if read_root(target) == root:  # not extended since it was checked
            break
    shards = _shards(root, ds)
    lazy = {name: array.chunk({dim: shards[str(dim)] for dim in array.dims}) for name, array in ds.items()}
    return with_timestep_index(xr.Dataset(lazy, ds.coords, ds.attrs))


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


def arrays_of(root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metadata of every array of a store, by name."""
    return {n: m for n, m in root["consolidated_metadata"]["metadata"].items() if m["node_type"] == "array"}


def done_flags(path: Path, root: dict[str, Any]) -> NDArray[np.uint8]:
    """Read which blocks are complete; without any, all of a store was written at once."""
    return flags(path, root, "done", "uint8")


def is_done(path: Path, block: int) -> bool:
    """Whether a block is complete; one whose flag is damaged is not."""
    flag = path / "done" / "c" / str(block)
    return flag.is_file() and flag.read_bytes() == one_flag(1)


def flags(path: Path, root: dict[str, Any], name: str, dtype: str) -> NDArray[Any]:
    """Read one number per block, 0 where there is none yet; empty where the store has no such array.

    An extension that was killed leaves more of them than the root metadata knows of. Raises DamagedStore.
    """
    count = arrays_of(root)[name]["shape"][0] if name in arrays_of(root) else 0
    values = np.zeros(count, dtype)
    for block in range(count):
        file = path / name / "c" / str(block)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        if not crc_holds(content) or len(content) != values.itemsize + 4:
            raise DamagedStore(f"{file} is not what was written; run `traj verify {path}`")
        values[block] = np.frombuffer(content[:-4], dtype)[0]
    return values


def require_metadata(path: Path, root: dict[str, Any]) -> None:
    """Raise DamagedStore, naming the file, where an array's own metadata differs from what the root says of it.

    While a store is extended, and when that was killed, arrays may already be longer.
    """
    for name, meta in arrays_of(root).items():
        file = path / name / "zarr.json"
        try:
            text = file.read_text()
            if text == metadata_text(meta):
                continue
            found = json.loads(text)
            longer = found["shape"]
            grown = len(longer) == len(meta["shape"]) and all(map(ge, longer, meta["shape"]))
            if grown and text == metadata_text({**meta, "shape": longer}):
                continue
            what = "is not what was written"
        except FileNotFoundError:
            what = "is missing"
        except (ValueError, KeyError, TypeError) as error:
            what = f"cannot be read ({error})"
        raise DamagedStore(f"{file} {what}; restore it from a copy, `traj verify {path}` lists all that is wrong")


def chunk_files(name: str, meta: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], str]]:
    """List the files an array must have: position in the chunk grid, and path within the store."""
    chunk = meta["chunk_grid"]["configuration"]["chunk_shape"]
    separator = meta["chunk_key_encoding"]["configuration"]["separator"]
    counts = [-(-size // length) for size, length in zip(meta["shape"], chunk, strict=True)]
    for position in np.ndindex(*counts):
        yield position, f"{name}/" + separator.join(["c", *map(str, position)])


def require_complete(path: Path, root: dict[str, Any]) -> None:
    """Raise IncompleteStore where a block was not finished, or a file is missing or empty."""
    done = done_flags(path, root)
    if unfinished := np.flatnonzero(done == 0).tolist():
        shown = ", ".join(map(str, unfinished[:8])) + (", ..." if len(unfinished) > 8 else "")
        raise IncompleteStore(
            f"{path} is incomplete: {len(unfinished)} of {len(done)} blocks were not finished (block {shown}); run the "
            f"same `{verb(root)}` again to complete it"
        )
    for name, meta in arrays_of(root).items():
        # Zarr would read a missing or an empty file as fill values. Shards are listed a folder at a time: there may be
        # a hundred thousand.
        flat = meta["codecs"][0]["name"] == "sharding_indexed"
        folder = path / name
        found = os.scandir(folder) if flat and folder.is_dir() else ()
        here = {entry.name: entry.stat().st_size for entry in found if entry.is_file()}
        for position, file in chunk_files(name, meta):
            place = path / file
            bytes_there = here.get(place.name, 0) if flat else place.is_file() and place.stat().st_size
            if not bytes_there:
                raise IncompleteStore(f"{path} lost a file: {_missing(path, root, meta, position, file)}")


def block_of(meta: dict[str, Any], position: tuple[int, ...]) -> int | None:
    """Say which block a place in an array's chunk grid belongs to, None where the array does not go by blocks."""
    for dim, number in zip(meta.get("dimension_names", []), position, strict=False):
        if dim in ("sample", "block"):
            return number
    return None


def verb(root: dict[str, Any]) -> str:
    """Name the command that makes a store of this kind."""
    return {"fork": "traj fork", "readout": "traj readout"}.get(root["attributes"]["kind"], "traj generate")


def _missing(path: Path, root: dict[str, Any], meta: dict[str, Any], position: tuple[int, ...], file: str) -> str:
    block = block_of(meta, position)
    if block is not None and len(position) > 1:
        flag = path / "done" / "c" / str(block)
        return (
            f"block {block} is flagged as done but {file} is missing or empty. Restore it from a copy, or delete "
            f"{flag} and run the same `{verb(root)}` again"
        )
    return f"{file} is missing or empty. Restore it from a copy; `traj verify {path}` lists all that is wrong"


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarise a store: kind, fingerprint, configuration, sizes, how much of it is done."""
    target = local(path)
    root = read_root(target)
    require_metadata(target, root)
    attrs = root["attributes"]
    arrays = {
        name: {
            "dims": dict(zip(meta.get("dimension_names", []), meta["shape"], strict=True)),
            "dtype": meta["data_type"],
        }
        for name, meta in arrays_of(root).items()
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
        done = done_flags(target, root)
        summary["blocks"], summary["blocks_done"] = len(done), int(done.sum())
    if "saturated" in arrays:
        summary["saturated"] = int(flags(target, root, "saturated", "int64").sum())
    return summary
