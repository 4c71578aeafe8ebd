"""Save the result of an analysis: whole or not at all, never over another."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import xarray as xr
from zarr.codecs import Crc32cCodec

from stores.errors import StaleStore
from stores.layout import FLAT_KEYS, FORMAT, bitshuffle_lz4, canonical_json, fingerprint, read_root, seal, sync


class Kept(Enum):
    """How a saved result stands to the one asked for."""

    ABSENT = "absent"
    SAME = "same"


def would_keep(path: str | os.PathLike[str], config: Mapping[str, Any]) -> Kept:
    """Say whether this very result is already saved.

    Raises StaleStore where another result is in its place, NotAStore where something else is.
    """
    target = Path(path)
    if not target.exists():
        return Kept.ABSENT
    attrs = read_root(target)["attributes"]
    if attrs.get("fingerprint") == fingerprint(config):
        return Kept.SAME
    raise StaleStore(
        f"{target} exists and was computed with other options or from another store; choose another place with "
        "-o, or delete it"
    )


def save(ds: xr.Dataset, path: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Save a computed result, unless the same one is there already.

    config names the quantity, its options and the fingerprint of the store it was computed from.

    Raises StaleStore, NotAStore.
    """
    target = Path(path)
    if would_keep(target, config) is Kept.SAME:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
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
            "chunks": variable.shape or None,
            "chunk_key_encoding": FLAT_KEYS,  # a folder fewer per variable, each of which DVC looks at
        }
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            ds.drop_encoding().assign_attrs(attrs).to_zarr(
                partial, mode="w-", encoding=encoding, write_empty_chunks=True, zarr_format=3
            )
        seal(partial)
        partial.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
