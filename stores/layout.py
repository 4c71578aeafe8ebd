"""The contract: dims, variables, attrs, shard arithmetic, format version, fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from traj.stores.binding import seal_of
from traj.stores.errors import DamagedStore, InputError, NotAStore
from traj.stores.places import local
from traj.stores.vocabulary import COORDINATES

FORMAT = 2
SHARD_BYTES = 128 << 20
CHUNK_BYTES = 1 << 20
CHUNK_BYTES_MAX = 8 << 20
LZ4_LEVEL = 5
BLOCKS_MAX = 100_000
"""Each block takes five files or more."""
SAMPLES_PER_CHUNK = 1 << 16
"""Of coordinates along the samples: few files, however many blocks there are."""
FLAT_KEYS: Any = {"name": "default", "separator": "."}
"""Shards of an array lie side by side in one folder."""


def bitshuffle_lz4(itemsize: int) -> BloscCodec:
    """Build the one compressor of the contract."""
    return BloscCodec(typesize=itemsize, cname="lz4", clevel=LZ4_LEVEL, shuffle="bitshuffle", blocksize=0)


def canonical_json(value: Any) -> str:
    """Write a value as JSON in one fixed form, so that equal inputs give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Hash a configuration: equal inputs, equal fingerprint."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


class Coord(NamedTuple):
    """A coordinate of a store: along which dim, its values, what they are."""

    dim: str
    values: NDArray[Any]
    units: str
    long_name: str

    @classmethod
    def known(cls, name: str, values: NDArray[Any]) -> Coord:
        """Take a coordinate of the contract."""
        (dim,), long_name, units, _ = COORDINATES[name]
        return cls(dim, values, units, long_name)


@dataclass(frozen=True)
class Layout:
    """How the events of a run, such as images, are cut into shards and chunks.

    One shard is one block of samples by as many timesteps as fit 128 MiB. Inside it, chunks of whole events
    of 1 to 8 MiB. `shape` is that of an event. `lead` are the lengths of the dims before sample, variant and replica
    for forks: a shard holds all of them.
    """

    samples: int
    block: int
    timesteps: int
    shape: tuple[int, ...]
    dtype: str
    chunk_samples: int
    chunk_timesteps: int
    shard_timesteps: int
    lead: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        samples: int,
        block: int,
        timesteps: int,
        shape: tuple[int, ...],
        dtype: str,
        lead: tuple[int, ...] = (),
        states: int = 0,
    ) -> Layout:
        """Choose chunk and shard sizes for events of this shape.

        states counts the variables along timestep that a writer holds in memory.

        Raises InputError where there are too many blocks, or where one block is more than this machine can hold.
        """
        if -(-samples // block) > BLOCKS_MAX:
            raise InputError(
                f"{samples:,} samples in blocks of {block:,} were asked for, {-(-samples // block):,} blocks; expected "
                f"at most {BLOCKS_MAX:,}: ask for larger blocks"
            )
        event = math.prod(shape) * np.dtype(dtype).itemsize
        several = min(timesteps, 4)
        at_least = states * several * event + 2 * math.prod(shape) * np.dtype("float32").itemsize
        needed, there = block * math.prod(lead) * at_least, memory_free()
        if needed > there:
            raise InputError(
                f"blocks of {block:,} samples were asked for; one needs {needed / 2**30:,.1f} GiB of memory at least, "
                f"this machine has {there / 2**30:,.1f} GiB free: ask for smaller blocks"
            )
        chunk_samples = _largest_divisor(block, CHUNK_BYTES_MAX // (several * event))
        chunk_timesteps = several
        while chunk_timesteps < timesteps and chunk_samples * chunk_timesteps * event < CHUNK_BYTES:
            chunk_timesteps = min(2 * chunk_timesteps, timesteps)
        fitting = max(1, SHARD_BYTES // (math.prod(lead) * block * chunk_timesteps * event))
        shard_timesteps = min(-(-timesteps // chunk_timesteps), fitting) * chunk_timesteps
        return cls(samples, block, timesteps, shape, dtype, chunk_samples, chunk_timesteps, shard_timesteps, lead)

    def resized(self, samples: int) -> Layout:
        """Lay out another number of samples in the same way."""
        return replace(self, samples=samples)

    @property
    def blocks(self) -> int:
        """Number of blocks, the last one possibly short."""
        return -(-self.samples // self.block)

    @property
    def shards(self) -> int:
        """Number of shards along time."""
        return -(-self.timesteps // self.shard_timesteps)

    @property
    def leads(self) -> int:
        """Number of events of one sample at one timestep: 1, or variants times replicas."""
        return math.prod(self.lead)

    @property
    def images(self) -> tuple[int, ...]:
        """Shape of what a block has at one timestep: ([variant, replica,] sample, *event)."""
        return (*self.lead, self.block, *self.shape)

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard before encoding."""
        return self.shard_timesteps * math.prod(self.images) * np.dtype(self.dtype).itemsize

    def samples_in(self, block: int) -> int:
        """Count the samples of a block that are kept: all, except in a short last block."""
        return min(self.block, self.samples - block * self.block)


def memory_free() -> int:
    """Return the memory in bytes that is not in use, or all there is where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) << 10
    except (OSError, IndexError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _largest_divisor(number: int, limit: int) -> int:
    """Find the largest divisor of a number that is within a limit, 1 at least."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return max((n for n in (*small, *(number // n for n in small)) if n <= limit), default=1)


def seal(path: Path) -> None:
    """Consolidate a store's metadata and write it in one fixed form with its own checksum.

    The files of a result are bound by it. (Other stores grow: their coordinates are bound by value, all else by the
    manifest of a block.) Every zarr.json is rewritten with sorted keys, so that its bytes do not depend on the library
    that wrote it, and `verify` can tell a changed byte from an unchanged one. All of the store is on disk when this
    returns.
    """
    arrays = {file: json.loads(file.read_text()) for file in path.glob("*/zarr.json")}
    root = json.loads((path / "zarr.json").read_text())
    # Zarr 3 has no written rule yet for consolidated metadata; zarr and xarray both read it.
    metadata = {file.parent.name: array for file, array in arrays.items()}
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    attributes = root["attributes"]
    if attributes["kind"] == "result":
        attributes.pop("digests", None)  # of the store it was computed from
        chunks = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
        seals = {file.relative_to(path).as_posix(): seal_of(file.read_bytes()) for file in chunks}
        attributes["files"] = canonical_json(seals)
    for file, array in arrays.items():
        file.write_text(metadata_text(array))
    (path / "zarr.json").write_text(sealed_text(root))
    for place in (*path.rglob("*"), path):
        sync(place)


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Write zarr metadata in the form `seal` gives it."""
    return json.dumps(metadata, indent=1, sort_keys=True) + "\n"


def sealed_text(root: dict[str, Any]) -> str:
    """Write a store's root metadata with its checksum."""
    root["attributes"]["checksum"] = metadata_checksum(root)
    return metadata_text(root)


def metadata_checksum(root: Mapping[str, Any]) -> str:
    """Hash a store's root metadata, leaving out the checksum itself."""
    attributes = {k: v for k, v in root["attributes"].items() if k != "checksum"}
    text = json.dumps({**root, "attributes": attributes}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def with_crc(content: bytes) -> bytes:
    """Append a crc32c, as Zarr's codec of that name does."""
    return content + crc_of(content)


def crc_of(content: bytes) -> bytes:
    """Take the crc32c of some bytes, as Zarr stores it."""
    return int(crc32c(content)).to_bytes(4, "little")


def crc_holds(content: bytes) -> bool:
    """Check bytes written by `with_crc`."""
    return len(content) >= 4 and int(crc32c(content[:-4])) == int.from_bytes(content[-4:], "little")


def one_flag(value: int, dtype: str = "uint8") -> bytes:
    """Encode a one-element chunk: the value, then its crc32c."""
    return with_crc(np.array([value], np.dtype(dtype).newbyteorder("<")).tobytes())


def read_root(path: Path) -> dict[str, Any]:
    """Read the root metadata of a store.

    Raises NotAStore where there is no store of ours, DamagedStore where its metadata is not what was written.
    """
    file = local(path) / "zarr.json"
    if not file.is_file():
        what = "does not exist" if not path.exists() else "is not a store (it has no zarr.json)"
        raise NotAStore(f"{path} {what}; expected a store that traj made")
    content = file.read_bytes()
    try:
        root = json.loads(content)
        kind = root["attributes"]["kind"]
    except ValueError as error:
        raise DamagedStore(f"{file} cannot be read: {error}; restore it from a copy") from None
    except (KeyError, TypeError):
        if b'"fingerprint"' in content:
            raise DamagedStore(f"{file} is not what was written; restore it from a copy") from None
        raise NotAStore(f"{path} is a Zarr group but not one of traj's: it has no attribute `kind`") from None
    if metadata_checksum(root) != root["attributes"].get("checksum"):
        raise DamagedStore(f"{file} is not what was written; run `traj verify {path}`")
    if root["attributes"].get("format") != FORMAT:
        raise NotAStore(
            f"{path} ({kind}) has store format {root['attributes'].get('format')}, this version of traj reads "
            f"{FORMAT}; use the version that wrote it, or generate again"
        )
    return dict(root)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file beside its place, sync it and rename it into place."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
