"""A shard's bytes: chunks encoded as soon as their timesteps are there, and appended to the file they belong to.

The format is Zarr 3's sharding codec with the codecs of the contract (bitshuffle, lz4, crc32c). Encoding it here rather
than through zarr-python needs memory for a few timesteps in place of a shard, and no copy between `put` and `write`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from traj.stores.binding import Seal, chunks_seal
from traj.stores.errors import DamagedStore
from traj.stores.layout import LZ4_LEVEL, Layout, crc_holds, crc_of, with_crc

MISSING = 2**64 - 1
MANTISSA_BITS = 23
FLOAT16_MAX = 65504.0
INFINITY = 0x7F800000
"""The bits of float32's infinity: NaN has more, every finite number less."""


def keep_freed_memory() -> None:
    """Have the C library keep the memory of encoded chunks for the next ones.

    glibc gives freed memory back to the system once there is more of it than twice the largest mapping it has seen
    freed. Without this, every chunk's memory is mapped and zeroed anew: a third of the time of encoding.
    """
    bytes(31 << 20)  # mapped, never touched, freed at once; 32 MiB is the most glibc takes into account


class Column:
    """The events of a block over the timesteps of one chunk, laid out chunk after chunk.

    `chunks` has axes (lead, sample chunk, sample, timestep, *event); lead counts the variants and replicas of a
    fork, 1 elsewhere. The sample chunks of one lead together are a block. `steps` timesteps were put.
    """

    def __init__(self, layout: Layout, timesteps: int, dtype: str) -> None:
        rows = layout.block // layout.chunk_samples
        self.chunks: NDArray[Any] = np.empty(
            (layout.leads, rows, layout.chunk_samples, timesteps, *layout.shape), np.dtype(dtype)
        )
        self.steps = 0

    def put(self, step: int, events: NDArray[Any], kept: int) -> None:
        """Copy one timestep's events (lead, sample, *event); samples from `kept` on become NaN."""
        self.steps = step + 1
        rows, samples = self.chunks.shape[1:3]
        place = self.chunks[:, :, :, step]
        place[...] = events.reshape(place.shape)
        for row in range(kept // samples, rows):
            place[:, row, max(0, kept - row * samples) :] = np.nan

    def blank_from(self, step: int) -> None:
        """Set the timesteps from `step` on to the fill value, NaN."""
        self.chunks[:, :, :, step:] = np.nan

    def given(self, kept: int) -> Iterator[NDArray[Any]]:
        """Give what was put of each chunk that holds any of the first `kept` samples."""
        leads, rows, samples = self.chunks.shape[:3]
        for lead, row in np.ndindex(leads, rows):
            if row * samples < kept:
                yield self.chunks[lead, row, : kept - row * samples, : self.steps]

    def inside(self, kept: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Give the chunks that hold any of the first `kept` samples, each with its row in the shard's index."""
        leads, rows, samples = self.chunks.shape[:3]
        for lead, row in np.ndindex(leads, rows):
            if row * samples < kept:
                yield lead * rows + row, self.chunks[lead, row]


def encode(chunk: NDArray[Any], keepbits: int | None) -> tuple[bytes, bytes]:
    """Encode one inner chunk as the codec pipeline of the contract does: its bytes, then their checksum."""
    if keepbits is not None:
        chunk = rounded(chunk, keepbits)
    content = blosc.compress(np.ascontiguousarray(chunk), b"lz4", LZ4_LEVEL, blosc.BITSHUFFLE, 0)
    return content, crc_of(content)


def rounded(values: NDArray[np.float32], keepbits: int) -> NDArray[np.float32]:
    """Round float32 to so many mantissa bits, halves to even.

    Infinities and NaN stay as they are, and no finite number becomes infinite: what would is cut off instead.
    """
    dropped = MANTISSA_BITS - keepbits
    half = np.uint32((1 << (dropped - 1)) - 1)
    mask = np.uint32(0xFFFFFFFF ^ ((1 << dropped) - 1))
    bits = values.view(np.uint32)
    result = bits >> np.uint32(dropped)
    result &= np.uint32(1)
    result += half
    result += bits
    result &= mask
    magnitude = bits & np.uint32(INFINITY | (INFINITY - 1))
    if int(magnitude.max(initial=0)) >= INFINITY - (1 << dropped):
        overflown = (magnitude < INFINITY) & ((result & np.uint32(INFINITY)) == INFINITY)
        result = np.where(overflown, bits & mask, result)
        result = np.where(magnitude >= INFINITY, bits, result)
    return result.view(np.float32)


def clipped(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Clip values to the range of float16, and say which finite ones lay beyond it."""
    beyond = np.abs(values) > FLOAT16_MAX
    if beyond.any():
        beyond &= np.isfinite(values)
        values = np.where(beyond, np.copysign(FLOAT16_MAX, values), values)
    return values, beyond


def not_finite(values: NDArray[Any], event_dims: int | None = None) -> int:
    """Count values that are infinite or NaN.

    With event_dims, the number of last dims that make one event (an image, a vector of logits), events that are NaN
    throughout are left out: they stand for events that forks and readouts do not have.
    """
    if values.dtype == np.float16:  # ten times as fast as isfinite
        exponent = np.uint16(0x7C00)
        count = int(np.count_nonzero((values.view(np.uint16) & exponent) == exponent))
    else:
        count = values.size - int(np.count_nonzero(np.isfinite(values)))
    if count and event_dims is not None:
        events = values.reshape(*values.shape[: values.ndim - event_dims], -1)
        count -= int(np.count_nonzero(np.isnan(events).all(axis=-1))) * events.shape[-1]
    return count


class ShardFile:
    """A shard being written, under a partial name until it is whole.

    `rows` and `columns` count its chunks along samples (times lead) and along time.
    """

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._index = np.full((rows, columns, 2), MISSING, "<u8")
        self._checksums = np.zeros((rows, columns), "<u4")
        self._end = 0
        self._file = self._partial.open("wb", buffering=0)

    def append(self, row: int, column: int, parts: tuple[bytes, ...]) -> None:
        """Write one encoded chunk after those before it; its checksum comes last."""
        begin = self._end
        for part in parts:
            self._write(part)
        self._index[row, column] = begin, self._end - begin
        self._checksums[row, column] = int.from_bytes(parts[-1][-4:], "little")

    def complete(self) -> Seal:
        """Write the index and give the file its name; return its seal. The caller syncs it."""
        index = with_crc(self._index.tobytes())
        self._write(index)
        self._file.close()
        self._partial.replace(self.path)
        return [self._end, int.from_bytes(index[-4:], "little"), chunks_seal(self._checksums)]

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:  # a write may take only part of it
            view = view[self._file.write(view) :]
        self._end += len(content)


def read_index(content: bytes, chunks: int) -> NDArray[np.uint64]:
    """Read a shard's index: (offset, length) per inner chunk.

    Raises DamagedStore where the checksum does not hold.
    """
    tail = content[-(16 * chunks + 4) :]
    if len(tail) < 16 * chunks + 4 or not crc_holds(tail):
        raise DamagedStore("the checksum of the index does not hold")
    return np.frombuffer(tail[:-4], "<u8").reshape(chunks, 2)
