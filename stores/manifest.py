"""What a finished block holds: its files, each bound to its place, and where they were made.

A manifest is one string along `block`, written before the block is flagged as done. What does not go by blocks is bound
by the root metadata, which has a checksum of its own.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from traj.stores.binding import Seal
from traj.stores.errors import DamagedStore
from traj.stores.layout import Layout, canonical_json, crc_holds, one_flag, replace_file, sync, with_crc


@dataclass(frozen=True)
class Manifest:
    """What a finished block holds.

    `samples` of the store with this `fingerprint`, in `files`: path within the store and seal. `not_finite` counts
    values that are infinite or NaN per variable, `saturated` those clipped to the float16 range; `environment` is
    where the block was made.
    """

    fingerprint: str
    block: int
    samples: int
    files: Mapping[str, Seal]
    not_finite: Mapping[str, int] = field(default_factory=dict)
    saturated: int = 0
    environment: Mapping[str, Any] = field(default_factory=dict)


def manifest_file(path: Path, block: int) -> Path:
    """Name the file of a block's manifest."""
    return path / "manifest" / "c" / str(block)


def flag_file(path: Path, block: int) -> Path:
    """Name the file that flags a block as done."""
    return path / "done" / "c" / str(block)


def finish_block(path: Path, manifest: Manifest) -> None:
    """Write a block's manifest, then flag the block as done; its bytes must be on disk."""
    text = canonical_json(asdict(manifest)).encode()
    # Zarr's vlen-utf8: how many strings, how long each is, their bytes
    one_string = struct.pack("<II", 1, len(text)) + text
    for file, content in (
        (manifest_file(path, manifest.block), with_crc(one_string)),
        (flag_file(path, manifest.block), one_flag(1)),
    ):
        file.parent.mkdir(exist_ok=True)
        replace_file(file, content)
        sync(file.parent)


def read_manifest(path: Path, block: int) -> Manifest:
    """Read a block's manifest. Raises DamagedStore, naming the file, where it is not what was written."""
    file = manifest_file(path, block)
    try:
        content = file.read_bytes()
        if not crc_holds(content):
            raise DamagedStore("the checksum does not hold")
        return Manifest(**json.loads(content[8:-4]))
    except (DamagedStore, ValueError, TypeError, OSError) as error:
        what = "missing" if not file.is_file() else str(error)
        raise DamagedStore(f"manifest/c/{block} (block {block}): {what}") from None


def finished(path: Path, fingerprint: str, block: int, samples: int) -> Manifest | None:
    """Return the manifest of a block that is flagged as done and holds all of its samples, None of any other.

    Raises DamagedStore, naming the file, where flag or manifest is not what was written, or that of something else.
    """
    flag = flag_file(path, block)
    if not flag.exists():
        return None
    content = flag.read_bytes() if flag.is_file() else b""
    if content == one_flag(0):
        return None
    if content != one_flag(1):
        raise DamagedStore(f"done/c/{block} (block {block}): the checksum does not hold")
    manifest = read_manifest(path, block)
    if (manifest.fingerprint, manifest.block) != (fingerprint, block):
        raise DamagedStore(f"manifest/c/{block} (block {block}): belongs to another store or block")
    # A short last block whose store was extended is to be made again at its full length.
    return manifest if manifest.samples >= samples else None


def is_finished(path: Path, fingerprint: str, block: int, samples: int) -> bool:
    """Whether a block is finished; one whose flag or manifest is damaged is not."""
    try:
        return finished(path, fingerprint, block, samples) is not None
    except DamagedStore:
        return False


def pending_blocks(path: Path, fingerprint: str, layout: Layout, wanted: Sequence[int]) -> list[int]:
    """List the wanted blocks of a store that are not finished, and take their flags away, if they have any."""
    pending = [block for block in wanted if not is_finished(path, fingerprint, block, layout.samples_in(block))]
    for block in pending:
        flag_file(path, block).unlink(missing_ok=True)
    return pending


def manifests(path: Path, root: Mapping[str, Any]) -> list[Manifest | None]:
    """Read the manifests of a store's blocks, None for one that is not finished; none at all of a result.

    Raises DamagedStore, naming the file, where one is not what was written, or that of something else.
    """
    arrays = root["consolidated_metadata"]["metadata"]
    if "done" not in arrays:
        return []
    attrs, samples = root["attributes"], arrays["sample"]["shape"][0]
    length = json.loads(attrs["config"])["store"]["block"]
    return [
        finished(path, attrs["fingerprint"], block, min(length, samples - block * length))
        for block in range(arrays["done"]["shape"][0])
    ]


def digests_of(root: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of coordinates that a store's root metadata binds, by name."""
    return dict(json.loads(root["attributes"].get("digests", "{}")))


def seals_of(root: Mapping[str, Any]) -> dict[str, Seal]:
    """Return the seals of files that a store's root metadata binds, by path: those of a result."""
    return dict(json.loads(root["attributes"].get("files", "{}")))


def misplaced(path: Path, files: Mapping[str, Seal]) -> Iterator[tuple[str, str]]:
    """Name the files whose size or last four bytes are not what was written there, with what is wrong.

    Nothing else is read.
    """
    for name, seal in files.items():
        try:
            fd = os.open(path / name, os.O_RDONLY)
        except OSError:
            yield name, "missing"
            continue
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                yield name, "a folder"
            elif not found.st_size:
                yield name, "empty"
            elif [found.st_size, int.from_bytes(os.pread(fd, 4, found.st_size - 4), "little")] != seal[:2]:
                yield name, "not what was written there"
        finally:
            os.close(fd)
