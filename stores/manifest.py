"""What a finished block holds: its files, each bound to its place, and where they were made.

A manifest is one string along `block`, written before the block is flagged as done. What does not go by blocks is bound
by the root metadata, which has a checksum of its own.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stores.binding import Seal
from stores.layout import Layout, canonical_json, crc_holds, one_flag, replace_file, sync, with_crc


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


def read_manifest(path: Path, block: int) -> Manifest | None:
    """Read a block's manifest, None where it has none. Raises ValueError where it is not what was written."""
    file = manifest_file(path, block)
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not crc_holds(content):
            raise ValueError("the checksum does not hold")
        return Manifest(**json.loads(content[8:-4]))
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{error}") from None


def finished(path: Path, fingerprint: str, block: int, samples: int) -> Manifest | None:
    """Return the manifest of a block that is flagged as done and holds all of its samples, None of any other.

    Raises ValueError where the manifest is not what was written, or is that of another store or block.
    """
    flag = flag_file(path, block)
    if not flag.is_file() or flag.read_bytes() == one_flag(0):
        return None
    manifest = read_manifest(path, block)
    if manifest is None:
        raise ValueError("missing")
    if (manifest.fingerprint, manifest.block) != (fingerprint, block):
        raise ValueError("it belongs to another store or block")
    # A short last block whose store was extended is to be made again at its full length.
    return manifest if manifest.samples >= samples else None


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
        file = path / name
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                opened.seek(max(0, size - 4))
                end = int.from_bytes(opened.read(4), "little")
        except (FileNotFoundError, NotADirectoryError):
            yield name, "is missing"
        except IsADirectoryError:
            yield name, "is a folder"
        else:
            if not size:
                yield name, "is empty"
            elif [size, end] != seal[:2]:
                yield name, "is not what was written there"


def pending_blocks(path: Path, fingerprint: str, layout: Layout, wanted: Sequence[int]) -> list[int]:
    """List the wanted blocks of a store that are not finished, and take their flags away, if they have any."""
    pending = [block for block in wanted if not _is_finished(path, fingerprint, layout, block)]
    for block in pending:
        flag_file(path, block).unlink(missing_ok=True)
    return pending


def _is_finished(path: Path, fingerprint: str, layout: Layout, block: int) -> bool:
    try:
        return finished(path, fingerprint, block, layout.samples_in(block)) is not None
    except ValueError:
        return False
