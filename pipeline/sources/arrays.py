"""Arrays that NumPy saved: .npy, read where it lies, and .npz, read forward. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from traj.pipeline.sources.source import Source, Wanted, choose, choose_labels, in_memory, with_classes
from traj.pipeline.sources.streams import stream, whole
from traj.stores import InputError

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def is_npy(path: Path) -> bool:
    """Tell by its first bytes whether a file is an array of NumPy's."""
    return _begins(path, npy.MAGIC_PREFIX)


def is_npz(path: Path) -> bool:
    """Tell by its first bytes whether a file is a zip, as a .npz is."""
    return _begins(path, b"PK")


def read_npy(path: Path) -> Source:
    """Read an array where it lies. Raises InputError for what is no array of numbers."""
    with path.open("rb") as file:
        shape, fortran, dtype = _header(file, str(path))
        offset = file.tell()
    if 0 in shape or not shape:
        return in_memory(np.empty(shape, dtype))
    try:
        return in_memory(np.memmap(path, dtype, "r", offset, shape, order="F" if fortran else "C"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}; it may have been cut short, save it again") from None


def read_npz(path: Path, key: str | None, label: Wanted) -> Source:
    """Read an array of several, and the classes beside it. Raises InputError where it is not clear which."""
    with whole(path):
        archive = zipfile.ZipFile(path)
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    chosen = choose(str(path), names, key)
    labels = choose_labels(str(path), names, label)
    source = _member(archive, path, chosen)
    return source if labels is None else with_classes(str(path), source, _member(archive, path, labels))


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Source:
    what = f"{path}:{name}"
    with whole(what):
        file = archive.open(f"{name}.npy")
        shape, fortran, dtype = _header(file, what)
    if fortran and len(shape) > 1:
        raise InputError(f"{what} lies in column order (Fortran's); save np.ascontiguousarray of it")
    return stream(what, file, shape, dtype) if shape else in_memory(np.empty(shape, dtype))


def _header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise InputError(f"{what} is no array that np.save wrote: {error}") from None
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects in a pickle, which is not read: that can run code. Expected numbers, all "
            "samples of one shape: save np.stack of them"
        )
    return shape, fortran, dtype


def _begins(path: Path, prefix: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(prefix)) == prefix
