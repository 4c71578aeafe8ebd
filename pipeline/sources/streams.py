"""Arrays inside compressed files, read forward: never more than a piece of them is in memory."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from traj.pipeline.sources.source import Array, Source
from traj.stores import InputError


@contextmanager
def whole(what: object) -> Iterator[None]:
    """Raise InputError, naming the file, where what is read is no such file, or not all of one."""
    try:
        yield
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError) as error:
        raise InputError(f"{what} cannot be read: {error}; it may be damaged or cut short, fetch it again") from None


def stream(what: str, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Source:
    """Read an array whose values begin where a file is now, row after row."""
    begin, row = file.tell(), math.prod(shape[1:]) * dtype.itemsize

    def read(first: int, end: int) -> Array:
        with whole(what):
            file.seek(begin + first * row)
            content = file.read((end - first) * row)
        if len(content) < (end - first) * row:
            raise InputError(
                f"{what} ends after {first + len(content) // row:,} of {shape[0]:,} samples; it was cut short, fetch "
                "it again"
            )
        return np.frombuffer(content, dtype).reshape(end - first, *shape[1:])

    return Source(shape, dtype, read)
