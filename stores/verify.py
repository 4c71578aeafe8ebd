"""Is every byte of a store there and right."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from stores.errors import DamagedStore, NotAStore, StoreError
from stores.layout import canonical_json, crc_holds, fingerprint, metadata_checksum, metadata_text, one_flag, read_root
from stores.places import local
from stores.reader import arrays_of, block_of, chunk_files, verb
from stores.shards import MISSING, read_index


def verify(path: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """List what is wrong with a store, file by file; an empty list means nothing is.

    Checks that the metadata is what was written, that the fingerprint is the hash of the configuration, that every
    block is done and every file there, and every checksum. With `deep`, also that every stored state is finite.

    Raises NotAStore where there is no store.
    """
    target = local(path)
    try:
        root = read_root(target)
    except DamagedStore as error:
        return [str(error)]
    except NotAStore as error:
        if (target / "zarr.json").is_file():
            return [f"zarr.json: {error}"]
        raise
    problems = list(_metadata_problems(target, root))
    if problems:
        return problems
    arrays = arrays_of(root)
    undone = _unfinished(target, arrays)
    problems += [f"block {block} is not done" for block in sorted(undone)]
    expected = {"zarr.json", *(f"{name}/zarr.json" for name in arrays)}
    # forks have no state, NaN, above where they start; a readout of that is NaN too
    finite = {"trajectories": set(arrays), "fork": {"x_0"}}.get(root["attributes"]["kind"], set()) if deep else set()
    for name, meta in arrays.items():
        for position, file in chunk_files(name, meta):
            expected.add(file)
            if block_of(meta, position) in undone:
                continue
            problems += [
                f"{file}{_where(meta, position)}: {what}"
                for what in _check(target / file, meta, position, name in finite)
            ]
    for found in sorted(target.rglob("*")):
        file = found.relative_to(target).as_posix()
        if found.is_file() and file not in expected and not _being_written(file, undone, arrays):
            problems.append(f"{file}: left over or not part of this store")
    return problems


def way_out(path: str | os.PathLike[str]) -> str:
    """Say what to do about a store with problems."""
    restore = "Restore the files from a copy"
    try:
        root = read_root(local(path))
    except StoreError:
        return restore
    if root["attributes"]["kind"] == "result":
        return f"{restore}, or delete this result and analyse again"
    return (
        f"{restore}, or make a bad block again: delete its flag, done/c/BLOCK, and run the same `{verb(root)}` that "
        "made it"
    )


def _metadata_problems(target: Path, root: dict[str, Any]) -> Iterator[str]:
    attrs = root["attributes"]
    if (target / "zarr.json").read_text() != metadata_text(root) or metadata_checksum(root) != attrs.get("checksum"):
        yield "zarr.json: the metadata is not what was written"
        return
    if (
        canonical_json(json.loads(attrs["config"])) != attrs["config"]
        or fingerprint(json.loads(attrs["config"])) != attrs["fingerprint"]
    ):
        yield "zarr.json: the fingerprint is not the hash of the configuration"
    for name, meta in root["consolidated_metadata"]["metadata"].items():
        file = target / name / "zarr.json"
        if not file.is_file():
            yield f"{name}/zarr.json: missing"
        elif file.read_bytes() != metadata_text(meta).encode():
            yield f"{name}/zarr.json: differs from the consolidated metadata"


def _unfinished(target: Path, arrays: dict[str, Any]) -> set[int]:
    if "done" not in arrays:
        return set()
    flags = {block: target / "done" / "c" / str(block) for block in range(arrays["done"]["shape"][0])}
    return {block for block, file in flags.items() if not file.is_file() or file.read_bytes() == one_flag(0)}


def _being_written(file: str, undone: set[int], arrays: dict[str, Any]) -> bool:
    """Tell the partial file of an unfinished block from what does not belong here."""
    name, _, key = file.removesuffix(".partial").partition("/c.")
    if not file.endswith(".partial") or name not in arrays or not key.replace(".", "").isdecimal():
        return False
    return block_of(arrays[name], tuple(map(int, key.split(".")))) in undone


def _where(meta: dict[str, Any], position: tuple[int, ...]) -> str:
    block = block_of(meta, position)
    return "" if block is None else f" (block {block})"


def _check(file: Path, meta: dict[str, Any], position: tuple[int, ...], finite: bool) -> Iterator[str]:
    if not file.is_file():
        yield "missing"
        return
    content = file.read_bytes()
    if meta["codecs"][0]["name"] != "sharding_indexed":
        if not crc_holds(content):
            yield "the checksum does not hold"
        return
    inner = meta["codecs"][0]["configuration"]["chunk_shape"]
    outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [big // small for big, small in zip(outer, inner, strict=True)]
    try:
        index = read_index(content, int(np.prod(counts)))
    except ValueError as error:
        yield str(error)
        return
    present = index[index[:, 0] != MISSING]
    present = present[np.argsort(present[:, 0])]
    if present[:, 0].tolist() != [0, *np.cumsum(present[:, 1]).tolist()][: len(present)]:
        yield "the chunks do not follow one another without a gap"
        return
    for number, place in enumerate(np.ndindex(*counts)):
        offset, length = int(index[number, 0]), int(index[number, 1])
        inside = [
            min(small, size - (at * big + within * small))
            for size, big, small, at, within in zip(meta["shape"], outer, inner, position, place, strict=True)
        ]
        if offset == MISSING:
            if min(inside) > 0:
                yield f"chunk {number} of the shard is missing"
            continue
        piece = content[offset : offset + length]
        if not crc_holds(piece):
            yield f"the checksum of chunk {number} does not hold"
        elif finite:
            values = np.frombuffer(blosc.decompress(piece[:-4]), meta["data_type"]).reshape(inner)
            if not np.isfinite(values[tuple(slice(n) for n in inside)]).all():
                yield f"chunk {number} holds values that are not finite"
