"""The format of MNIST and its kin: a few bytes that say type and lengths, then the values; perhaps in a .gz."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from traj.pipeline.sources.source import Source, in_memory, with_classes
from traj.pipeline.sources.streams import stream, whole
from traj.stores import InputError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Tell by its first bytes whether a file, or what it holds compressed, is of this format."""
    with whole(path), _opened(path) as file:
        first = file.read(4)
    return len(first) == 4 and first[:2] == b"\0\0" and first[2] in TYPES


def read(path: Path, beside: bool = True) -> Source:
    """Read the samples, and the classes from the file beside it that differs in the words images and labels only."""
    source, labels = read_array(path), _labels_of(path) if beside else None
    return source if labels is None else with_classes(str(path), source, read_array(labels))


def read_array(path: Path) -> Source:
    """Read one file. Raises InputError where it is not of this format."""
    if not is_idx(path):
        raise InputError(f"{path} is no idx file: it does not begin as one does; fetch it again")
    with whole(path):
        file = _opened(path)
        _, code, axes = struct.unpack(">HBB", file.read(4))
        lengths = file.read(4 * axes)
    if not axes or len(lengths) < 4 * axes:
        raise InputError(f"{path} is no idx file: it does not say how many values it has; fetch it again")
    shape, dtype = struct.unpack(f">{axes}I", lengths), np.dtype(TYPES[code])
    if isinstance(file, gzip.GzipFile) or 0 in shape:
        return stream(str(path), file, shape, dtype)
    offset = file.tell()
    file.close()
    try:
        return in_memory(np.memmap(path, dtype, "r", offset, shape))
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}; it may have been cut short, fetch it again") from None


def _labels_of(path: Path) -> Path | None:
    """Find train-labels-idx1-ubyte beside train-images-idx3-ubyte, either of them perhaps in a .gz."""
    name = re.sub(r"images(.)idx\d", r"labels\1idx1", path.name)
    if name == path.name:
        return None
    plain = path.with_name(name.removesuffix(".gz"))
    return next((file for file in (plain, plain.with_name(plain.name + ".gz")) if file.is_file()), None)


def _opened(path: Path) -> IO[bytes] | Any:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")
