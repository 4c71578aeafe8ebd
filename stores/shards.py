"""A shard's bytes: inner chunks encoded side by side while the file is written.

The format is Zarr 3's sharding codec with the codecs of the contract (bitshuffle, lz4, crc32c). Encoding it here rather
than through zarr-python keeps each chunk contiguous from `put` to `write`, with no copy in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numcodecs.bitround import BitRound
from numpy.typing import NDArray

from stores.layout import LZ4_LEVEL, crc_holds, crc_of, with_crc

MISSING = 2**64 - 1
AHEAD = 6  # chunks being encoded, or encoded and not yet written: few, so that their memory is used again


def keep_freed_memory() -> None:
    """Have the C library keep the memory of encoded chunks for the next ones.

    glibc gives freed memory back to the system once there is more of it than twice the largest mapping it has seen
    freed. Without this, every chunk's memory is mapped and zeroed anew: a third of the time of encoding.
    """
    bytes(31 << 20)  # mapped, never touched, freed at once; 32 MiB is the most glibc takes into account


class ShardBuffer:
    """The images of one shard on their way to disk, laid out chunk after chunk.

    `chunks` has axes (sample chunk, time chunk, sample, timestep, channel, y, x) for states and
    (sample chunk, 1, sample, 1, channel, y, x) for final samples.
    """

    def __init__(self, block: int, timesteps: int, chunk: tuple[int, int], shape: tuple[int, ...], dtype: str):
        samples, steps = chunk
        self.chunks: NDArray[Any] = np.empty(
            (block // samples, timesteps // steps, samples, steps, *shape), np.dtype(dtype)
        )
        self.clear()

    def clear(self) -> None:
        """Take the next shard; what was here is overwritten, or blanked before it is encoded."""
        self.filled = 0

    def at(self, step: int) -> NDArray[Any]:
        """View the images of one timestep of the shard: (sample chunk, sample, channel, y, x)."""
        self.filled = max(self.filled, step + 1)
        steps = self.chunks.shape[3]
        return self.chunks[:, step // steps, :, step % steps]

    def blank_rest(self) -> None:
        """Set what is left of the last chunk along time to the fill value, NaN."""
        steps = self.chunks.shape[3]
        if within := self.filled % steps:
            self.chunks[:, self.filled // steps, :, within:] = np.nan


def encode(chunk: NDArray[Any], keepbits: int | None) -> tuple[bytes, bytes]:
    """Encode one inner chunk as the codec pipeline of the contract does: its bytes, then their checksum."""
    if keepbits is not None:
        chunk = BitRound(keepbits).encode(chunk)
    content = blosc.compress(np.ascontiguousarray(chunk), b"lz4", LZ4_LEVEL, blosc.BITSHUFFLE, 0)
    return content, crc_of(content)


def encoded_chunks(
    buffer: ShardBuffer, samples: int, keepbits: int | None, pool: ThreadPoolExecutor
) -> Iterator[tuple[bytes, bytes] | None]:
    """Encode a shard's chunks in order, None for those that lie wholly outside the array."""
    _, _, chunk_samples, chunk_steps, *_ = buffer.chunks.shape
    buffer.blank_rest()
    tasks: deque[Future[tuple[bytes, bytes]] | None] = deque()
    for row, column in np.ndindex(buffer.chunks.shape[:2]):
        inside = row * chunk_samples < samples and column * chunk_steps < buffer.filled
        tasks.append(pool.submit(encode, buffer.chunks[row, column], keepbits) if inside else None)
        if len(tasks) == AHEAD:
            yield _result(tasks)
    while tasks:
        yield _result(tasks)


def _result(tasks: deque[Future[tuple[bytes, bytes]] | None]) -> tuple[bytes, bytes] | None:
    task = tasks.popleft()
    return None if task is None else task.result()


def write_shard(path: Path, buffer: ShardBuffer, samples: int, keepbits: int | None, pool: ThreadPoolExecutor) -> None:
    """Write one whole shard under a partial name, then rename it into place.

    Only the first `samples` samples are inside the array. The caller syncs the file before it flags the block.
    """
    partial = path.with_name(path.name + ".partial")
    entries: list[tuple[int, int]] = []
    offset = 0
    try:
        with partial.open("wb", buffering=0) as file:
            for piece in encoded_chunks(buffer, samples, keepbits, pool):
                if piece is None:
                    entries.append((MISSING, MISSING))
                    continue
                for part in piece:
                    write_all(file, part)
                length = sum(map(len, piece))
                entries.append((offset, length))
                offset += length
            write_all(file, with_crc(np.array(entries, "<u8").tobytes()))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_all(file: Any, content: bytes) -> None:
    """Write bytes to an unbuffered file, however many calls the system needs."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def read_index(content: bytes, chunks: int) -> NDArray[np.uint64]:
    """Read a shard's index: (offset, length) per inner chunk.

    Raises ValueError where the checksum does not hold.
    """
    tail = content[-(16 * chunks + 4) :]
    if len(tail) < 16 * chunks + 4 or not crc_holds(tail):
        raise ValueError("the checksum of the index does not hold")
    return np.frombuffer(tail[:-4], "<u8").reshape(chunks, 2)
