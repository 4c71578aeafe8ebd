"""Save the result of an analysis: whole or not at all, never over another."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

import xarray as xr
from zarr.codecs import Crc32cCodec

from traj.stores.errors import NotAStore, StaleStore
from traj.stores.layout import FLAT_KEYS, FORMAT, bitshuffle_lz4, canonical_json, fingerprint, read_root, seal, sync
from traj.stores.partials import making
from traj.stores.places import place, require_writable

CHUNK_BYTES_MAX = 256 << 20
"""Of a result's variable; Blosc takes no more than 2 GiB at once."""


class Kept(Enum):
    """How a saved result stands to the one asked for."""

    ABSENT = "absent"
    SAME = "same"


def would_keep(path: str | os.PathLike[str], config: Mapping[str, Any]) -> Kept:
    """Say whether this very result is already saved.

    Raises StaleStore where another result is in its place, NotAStore where something else is, OSError where nothing
    can be written.
    """
    target = place(path)
    if not target.exists():
        require_writable(target)
        return Kept.ABSENT
    attrs = read_root(target)["attributes"]
    if attrs["kind"] != "result":
        raise NotAStore(f"{target} holds a store of kind {attrs['kind']}, not a result; choose another place")
    if attrs.get("fingerprint") == fingerprint(config):
        return Kept.SAME
    raise StaleStore(
        f"{target} exists and was computed with other options or from another store; choose another place, or delete it"
    )


def save(ds: xr.Dataset, path: str | os.PathLike[str], config: Mapping[str, Any]) -> bool:
    """Save a computed result, unless the same one is there already; say whether it was saved now.

    config names the quantity, its options and the fingerprint of the store it was computed from.

    Raises StaleStore, NotAStore, and OSError where it cannot be written.
    """
    target = place(path)
    if would_keep(target, config) is Kept.SAME:
        return False
    attrs = {
        **ds.attrs,
        "kind": "result",
        "format": FORMAT,
        "config": canonical_json(dict(config)),
        "fingerprint": fingerprint(config),
    }
    # Strings of variable length: Zarr 3 has no written rule for fixed ones.
    ds = ds.assign({name: text.astype(object) for name, text in ds.variables.items() if text.dtype.kind == "U"})
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        blosc = [] if variable.dtype.kind in "OUT" else [bitshuffle_lz4(variable.dtype.itemsize)]
        encoding[str(name)] = {
            "compressors": [*blosc, Crc32cCodec()],
            "chunks": _chunk(variable) or None,
            "chunk_key_encoding": FLAT_KEYS,  # a folder fewer per variable, each of which DVC looks at
        }
    with making(target, folder=True) as partial:
        ds.drop_encoding().assign_attrs(attrs).to_zarr(
            partial, mode="w-", encoding=encoding, write_empty_chunks=True, zarr_format=3, consolidated=False
        )
        seal(partial)
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
            would_keep(target, config)
            return False  # another process has saved it meanwhile
        sync(target.parent)
    return True


def _chunk(variable: xr.Variable) -> tuple[int, ...]:
    """Lengths of a chunk: the whole variable, or as much of it, cut along its first dims, as the limit allows."""
    lengths = list(variable.shape)
    for axis, length in enumerate(lengths):
        rest = math.prod(lengths[axis + 1 :]) * variable.dtype.itemsize
        lengths[axis] = max(1, min(length, CHUNK_BYTES_MAX // max(rest, 1)))
        if rest <= CHUNK_BYTES_MAX:
            break
    return tuple(lengths)
