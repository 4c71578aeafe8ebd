"""Is every byte of a store there, right and in its place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from traj.stores.binding import Seal, digest, seal_of
from traj.stores.errors import DamagedStore, NotAStore, StoreError, is_damage
from traj.stores.events import event_dims
from traj.stores.layout import (
    canonical_json,
    crc_holds,
    fingerprint,
    metadata_checksum,
    metadata_text,
    read_root,
)
from traj.stores.manifest import Manifest, digests_of, finished, seals_of
from traj.stores.places import local
from traj.stores.reader import arrays_of, block_length, block_of, chunk_files, verb
from traj.stores.shards import MISSING, not_finite, read_index
from traj.stores.vocabulary import FORK_DIMS

LOOKS = 5
MISPLACED = "not what was written there"


def verify(path: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """List what is wrong with a store, file by file; an empty list means nothing is.

    Checks that the metadata is what was written, that the fingerprint is the hash of the configuration, that every
    block is done, every file in its place, and every checksum. With `deep`, also that every stored state is finite;
    where some are not, it says how many there were when the block was written. A store that is extended meanwhile is
    checked again.

    Raises NotAStore where there is no store.
    """
    target = local(path)
    for _ in range(LOOKS):
        before = _content(target / "zarr.json")
        problems = _problems(target, deep)
        if not problems or _content(target / "zarr.json") == before:
            break
    return problems


@contextmanager
def reading(*paths: str | os.PathLike[str]) -> Iterator[None]:
    """Raise DamagedStore, naming the store, where Zarr finds bytes that are not what was written.

    Of several that are read at once, all but the last are read again to tell which it is: put the largest last.
    """
    try:
        yield
    except ValueError as error:
        if not is_damage(error):
            raise
        *others, last = dict.fromkeys(paths)
        path = next((path for path in others if verify(path)), last)
        raise DamagedStore(f"{path} is damaged: {error}; run `traj verify {path}`") from None


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _problems(target: Path, deep: bool) -> list[str]:
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
    done, problems = _blocks(target, root)
    seals = seals_of(root) | {file: seal for manifest in done.values() for file, seal in manifest.files.items()}
    expected = {"zarr.json", *(f"{name}/zarr.json" for name in arrays)}
    counted: dict[tuple[int, str], int] = {}
    for name, meta in arrays.items():
        for position, file in chunk_files(name, meta):
            expected.add(file)
            block = block_of(meta, position)
            if name in ("done", "manifest") or (block is not None and "done" in arrays and block not in done):
                continue
            seal = None if name in digests_of(root) else seals.pop(file, [])
            found, count = _check(target / file, meta, position, seal, deep)
            problems += [f"{file}{_where(block)}: {what}" for what in found]
            if block is not None and not found:
                counted[block, name] = counted.get((block, name), 0) + count
    named = {problem.partition("/")[0] for problem in problems}
    problems += [problem for problem in _coordinate_problems(target, root) if problem.partition(":")[0] not in named]
    problems += [f"{file}: is in a manifest, but not part of this store" for file in sorted(seals)]
    if deep:
        problems += list(_not_finite(root, done, counted))
    for place in sorted(target.rglob("*")):
        file = place.relative_to(target).as_posix()
        if place.is_file() and file not in expected and not _being_written(file, done, arrays):
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
        f"{restore}. Or make a bad block again: delete its flag, done/c/BLOCK, and run the same `{verb(root)}` once "
        "more"
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
        content = _content(target / name / "zarr.json")
        if not content:
            yield f"{name}/zarr.json: missing"
        elif content != metadata_text(meta).encode() and content not in _extending(target, name):
            yield f"{name}/zarr.json: differs from the consolidated metadata"


def _extending(target: Path, name: str) -> list[bytes]:
    """Give an array's metadata as an extension has it, under way or killed: its root lies beside the store."""
    try:
        return [metadata_text(arrays_of(read_root(target.with_name(target.name + ".partial")))[name]).encode()]
    except (DamagedStore, NotAStore, KeyError, OSError):
        return []


def _blocks(target: Path, root: dict[str, Any]) -> tuple[dict[int, Manifest], list[str]]:
    """Read the manifests of the blocks that are done; what is wrong with them, and which are not, comes with them."""
    arrays = arrays_of(root)
    done: dict[int, Manifest] = {}
    undone: list[str] = []
    for block in range(arrays["done"]["shape"][0]) if "done" in arrays else ():
        samples = min(block_length(root), arrays["sample"]["shape"][0] - block * block_length(root))
        try:
            manifest = finished(target, root["attributes"]["fingerprint"], block, samples)
        except DamagedStore as error:
            undone.append(str(error))
            continue
        if manifest is None:
            undone.append(f"block {block} is not done")
        else:
            done[block] = manifest
    return done, undone


def _coordinate_problems(target: Path, root: dict[str, Any]) -> Iterator[str]:
    for name, expected in digests_of(root).items():
        try:
            # an extension that did not come to its end leaves more of them
            values = np.asarray(zarr.open_array(target / name, mode="r")[: arrays_of(root)[name]["shape"][0]])
        # what codecs and xarray make of bytes of another array; as texts, they may stand for any number of them
        except (ValueError, TypeError, RuntimeError, OSError, MemoryError):
            values = np.array([])
        if digest(values) != expected:
            yield f"{name}: the values are not those that were written"


def _not_finite(root: dict[str, Any], done: dict[int, Manifest], counted: dict[tuple[int, str], int]) -> Iterator[str]:
    if root["attributes"]["kind"] == "readout":  # NaN where there was nothing to read
        return
    for (block, name), count in sorted(counted.items()):
        written = done[block].not_finite.get(name, 0) if block in done else 0
        if count or written:
            also = "" if count == written else f"; {written} were when the block was written"
            yield f"{name} (block {block}): {count} value(s) not finite{also}"


def _being_written(file: str, done: dict[int, Manifest], arrays: dict[str, Any]) -> bool:
    """Tell what an unfinished block or an extension leaves from what does not belong here."""
    name, _, key = file.removesuffix(".partial").partition("/c")
    key = key[1:]
    if name not in arrays or not key.replace(".", "").isdecimal():
        return False
    position = tuple(map(int, key.split(".")))
    if not file.endswith(".partial"):
        return bool(arrays[name]["dimension_names"] == ["sample"])
    return (block := block_of(arrays[name], position)) is not None and block not in done


def _where(block: int | None) -> str:
    return "" if block is None else f" (block {block})"


def _check(
    file: Path, meta: dict[str, Any], position: tuple[int, ...], seal: Seal | None, deep: bool
) -> tuple[list[str], int]:
    """List what is wrong with a file, and count its values that are not finite; a seal of None binds nothing."""
    if not file.is_file():
        return ["a folder" if file.is_dir() else "missing"], 0
    content = file.read_bytes()
    if meta["codecs"][0]["name"] != "sharding_indexed":
        if not crc_holds(content):
            return ["the checksum does not hold"], 0
        return ([] if seal is None or seal_of(content) == seal else [MISPLACED]), 0
    inner = meta["codecs"][0]["configuration"]["chunk_shape"]
    outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [big // small for big, small in zip(outer, inner, strict=True)]
    try:
        index = read_index(content, int(np.prod(counts)))
    except DamagedStore as error:
        return [str(error)], 0
    present = index[index[:, 0] != MISSING]
    present = present[np.argsort(present[:, 0])]
    if present[:, 0].tolist() != [0, *np.cumsum(present[:, 1]).tolist()][: len(present)]:
        return ["the chunks do not follow one another without a gap"], 0
    problems, count, in_place = [], 0, seal_of(content, index) == seal
    for number, place in enumerate(np.ndindex(*counts)):
        offset, length = int(index[number, 0]), int(index[number, 1])
        inside = [
            min(small, size - (at * big + within * small))
            for size, big, small, at, within in zip(meta["shape"], outer, inner, position, place, strict=True)
        ]
        if offset == MISSING:
            if min(inside) > 0:
                problems.append(f"chunk {number} of the shard is missing")
            continue
        piece = content[offset : offset + length]
        if not crc_holds(piece):
            problems.append(f"the checksum of chunk {number} does not hold")
        elif deep and in_place:
            values = np.frombuffer(blosc.decompress(piece[:-4]), meta["data_type"]).reshape(inner)
            count += _count(values[tuple(slice(n) for n in inside)], meta)
    if not problems and not in_place:
        problems.append(MISPLACED)
    return problems, count


def _count(values: NDArray[Any], meta: dict[str, Any]) -> int:
    dims = meta["dimension_names"]
    may_be_blank = dims[: len(FORK_DIMS)] == list(FORK_DIMS) and "timestep" in dims
    return not_finite(values, len(event_dims(dims)) if may_be_blank else None)
