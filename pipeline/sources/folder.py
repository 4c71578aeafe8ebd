"""A folder of pictures, in the order of their names; its subfolders, where there are some, are classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from traj.pipeline.sources.pictures import alike, axes_of, pixels
from traj.pipeline.sources.source import Array, Source
from traj.stores import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def read(path: Path) -> Source:
    """Read pictures file by file: those of the k-th subfolder by name, counted from 0, are of class k.

    Files of other types are left out.

    Raises InputError where there are none, and where some are in subfolders and others are not.
    """
    here = _pictures(path)
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    inside = [(file, label) for label, folder in enumerate(folders) for file in _pictures(folder)]
    if bool(here) == bool(inside):
        what = "both pictures and subfolders with pictures" if here else "no pictures"
        raise InputError(
            f"{path} has {what}; expected files ({', '.join(sorted(SUFFIXES))}), either all in it, or all in "
            "subfolders of it, one for each class"
        )
    files = here or [file for file, _ in inside]
    first = _decoded(files[0])
    return Source(
        shape=(len(files), *first.shape),
        dtype=first.dtype,
        read=lambda begin, end: alike(((str(file), _decoded(file)) for file in files[begin:end]), first.shape),
        label=np.array([label for _, label in inside]) if inside else None,
        axes=axes_of(first.shape),
    )


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def _decoded(file: Path) -> Array:
    try:
        with Image.open(file) as picture:
            return pixels(str(file), picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise InputError(f"{file} cannot be read as a picture: {error}; mend it or take it away") from None
