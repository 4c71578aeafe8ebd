"""Bind bytes to their place: a seal of each file and coordinate, by which another one in its place is noticed.

The crc32c of a whole file would bind nothing: where every part ends in its own crc32c, the crc32c of the whole is
always the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

Seal = list[int]
"""Of a file: its size, the crc32c at its end (of the index in a shard, of all else in a chunk), and in a shard the
crc32c of its chunks' checksums, in the order of the index, 0 where there is no chunk."""


def seal_of(content: bytes, index: NDArray[np.uint64] | None = None) -> Seal:
    """Take the seal of a file's bytes; index is that of a shard."""
    end = int.from_bytes(content[-4:], "little")
    if index is None:
        return [len(content), end]
    checksums = np.zeros(len(index), "<u4")
    for number, (offset, length) in enumerate(index.tolist()):
        if offset + length <= len(content):
            checksums[number] = int.from_bytes(content[offset + length - 4 : offset + length], "little")
    return [len(content), end, chunks_seal(checksums)]


def chunks_seal(checksums: NDArray[Any]) -> int:
    """Take the checksum of a shard's chunks' checksums."""
    return int(crc32c(checksums.astype("<u4").tobytes()))


def digest(values: Any) -> str:
    """Hash the values of a coordinate."""
    array = np.asarray(values)
    if array.dtype.kind in "OUT":
        content = json.dumps([str(text) for text in array.ravel().tolist()]).encode()
    else:
        content = str(array.dtype).encode() + array.astype(array.dtype.newbyteorder("<")).tobytes()
    return hashlib.sha256(str(array.shape).encode() + content).hexdigest()[:16]
