"""Open a store: validated, lazy, shard-aligned."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import ge
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj.stores.binding import digest
from traj.stores.errors import DamagedStore, IncompleteStore
from traj.stores.kinds import KINDS
from traj.stores.layout import canonical_json, metadata_text, read_root
from traj.stores.manifest import Manifest, digests_of, flag_file, manifests, misplaced, read_manifest, seals_of
from traj.stores.places import local
from traj.stores.timesteps import with_timestep_index


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
            ds = xr.open_zarr(target, chunks=None).drop_vars(("done", "manifest"), errors="ignore")
            for name in ds.coords:
                ds[name].load()
        # bytes of another array may be none of Blosc's, and read as texts stand for any number of them; older xarray
        # cannot raise NumPy's error again
        except (ValueError, RuntimeError, MemoryError, TypeError) as error:
            raise DamagedStore(f"{target}: {error}; run `traj verify {target}`") from None
        if read_root(target) == root:  # not extended since it was checked
            break
    require_coordinates(target, root, ds)
    lazy = ds.reset_coords(drop=True).chunk(_shards(root, ds))
    packed = [name for name, array in ds.items() if "scale_factor" in array.encoding]
    lazy = lazy.assign({name: _unpacked(lazy[name], target, root) for name in packed})
    attrs = {name: value for name, value in ds.attrs.items() if name not in ("digests", "files")}
    return with_timestep_index(xr.Dataset(lazy.data_vars, ds.coords, attrs))


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


def _unpacked(array: xr.DataArray, path: Path, root: dict[str, Any]) -> xr.DataArray:
    """Read values stored as bytes as float32, NaN in blocks that were never written: no byte stands for NaN."""
    done = [manifest is not None for manifest in _manifests(path, root)]
    values = array.astype(np.float32)
    if all(done):
        return values
    written = np.repeat(done, block_length(root))[: array.sizes["sample"]]
    return values.where(xr.DataArray(written, dims="sample"))


def arrays_of(root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metadata of every array of a store, by name."""
    return {n: m for n, m in root["consolidated_metadata"]["metadata"].items() if m["node_type"] == "array"}


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


def require_coordinates(path: Path, root: dict[str, Any], ds: xr.Dataset) -> None:
    """Raise DamagedStore where a coordinate's values are not those that were written."""
    for name, expected in digests_of(root).items():
        if digest(ds[name].values) != expected:
            raise DamagedStore(f"{path}: {name} does not hold what was written; run `traj verify {path}`")


def require_complete(path: Path, root: dict[str, Any] | None = None) -> None:
    """Raise IncompleteStore where a block was not finished or a file is missing, DamagedStore for one out of place.

    It looks at the size of each shard and at the checksum of its index. root is the store's root metadata, where it
    was read before.
    """
    root = read_root(path) if root is None else root
    blocks = _manifests(path, root)
    if unfinished := [block for block, manifest in enumerate(blocks) if manifest is None]:
        shown = ", ".join(map(str, unfinished[:8])) + (", ..." if len(unfinished) > 8 else "")
        raise IncompleteStore(
            f"{path} is incomplete: {len(unfinished)} of {len(blocks)} blocks were not finished (block {shown}); run "
            f"the same `{verb(root)}` again to complete it"
        )
    # Zarr would read a missing or an empty file as fill values.
    for name in digests_of(root):
        for _, file in chunk_files(name, arrays_of(root)[name]):
            if not ((path / file).is_file() and (path / file).stat().st_size):
                raise IncompleteStore(f"{path} lost a file: {_missing(path, root, None, file)}")
    for block, files in [(None, seals_of(root)), *((m.block, m.files) for m in blocks if m)]:
        for file, what in misplaced(path, files):
            if what in ("missing", "empty"):
                raise IncompleteStore(f"{path} lost a file: {_missing(path, root, block, file)}")
            raise DamagedStore(f"{path / file} is {what}; restore it from a copy, `traj verify {path}` lists all")


def _manifests(path: Path, root: dict[str, Any]) -> list[Manifest | None]:
    try:
        return manifests(path, root)
    except DamagedStore as error:
        raise DamagedStore(f"{path}/{error}; run `traj verify {path}`") from None


def block_length(root: dict[str, Any]) -> int:
    """Return the number of samples in a block of a store that has blocks."""
    return int(json.loads(root["attributes"]["config"])["store"]["block"])


def block_of(meta: dict[str, Any], position: tuple[int, ...]) -> int | None:
    """Say which block a place in an array's chunk grid belongs to, None where the array does not go by blocks."""
    for dim, number in zip(meta.get("dimension_names", []), position, strict=False):
        if dim in ("sample", "block"):
            return number
    return None


def verb(root: dict[str, Any]) -> str:
    """Name the command that made a store: trajectories are noised data, or generated."""
    attrs = root["attributes"]
    return "traj noise" if "noised" in json.loads(attrs["config"]) else KINDS[attrs["kind"]].command


def _missing(path: Path, root: dict[str, Any], block: int | None, file: str) -> str:
    if block is not None:
        return (
            f"block {block} is flagged as done but {file} is missing or empty. Restore it from a copy, or delete "
            f"{flag_file(path, block)} and run the same `{verb(root)}` again"
        )
    return f"{file} is missing or empty. Restore it from a copy; `traj verify {path}` lists all that is wrong"


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarise a store: kind, fingerprint, configuration, sizes, how much of it is done, where its blocks were made.

    `not_finite` counts values that are infinite or NaN per variable, states that forks and readouts never made left
    out.
    """
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
        "arrays": arrays,
        "bytes": sum(file.stat().st_size for file in target.rglob("*") if file.is_file()),
    }
    if "done" in arrays:
        blocks = _manifests(target, root)
        done = [manifest for manifest in blocks if manifest]
        counts = [Counter(manifest.not_finite) for manifest in done]
        summary |= {
            "blocks": len(blocks),
            "blocks_done": len(done),
            "saturated": sum(manifest.saturated for manifest in done),
            "not_finite": {name: count for name, count in sum(counts, Counter()).items() if count},
            "environments": _environments(done),
        }
    return summary


def _environments(done: Sequence[Manifest]) -> list[dict[str, Any]]:
    """List the environments blocks were made in, each with its blocks."""
    made: dict[str, list[int]] = {}
    for manifest in done:
        made.setdefault(canonical_json(dict(manifest.environment)), []).append(manifest.block)
    return [{"environment": json.loads(text), "blocks": blocks} for text, blocks in made.items()]


def attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a store says of itself: its kind, its config as JSON, the fingerprint of that.

    Raises NotAStore, DamagedStore.
    """
    return dict(read_root(local(path))["attributes"])


def environment_of(path: str | os.PathLike[str], block: int) -> dict[str, Any]:
    """Say where a finished block was made. Raises DamagedStore where that is not what was written."""
    return dict(read_manifest(local(path), block).environment)


def identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tell a store's contents apart from any other's: a run may have been extended since.

    Raises NotAStore, DamagedStore.
    """
    root = read_root(local(path))
    arrays = arrays_of(root)
    samples = arrays["sample"]["shape"][0] if "sample" in arrays else None
    return {"fingerprint": root["attributes"]["fingerprint"], "samples": samples}
