"""Data by name: what a person has, in one of many formats, read piece by piece. One file, one family of formats."""

from __future__ import annotations

from pathlib import Path

from traj.pipeline.sources import arrays, folder, hub, idx, labels, zarrs
from traj.pipeline.sources.source import Source, Wanted, with_classes
from traj.stores import InputError, MissingFile, local

FORMATS = (
    "a .npy or .npz file, an idx file (perhaps .gz), a Zarr array, group or store of traj, or a folder of pictures "
    "(.png, .jpg, ...)"
)


def load(name: str, label: str | None = None) -> Source:
    """Find the data of a path or a name hf:... ``label`` is a file with their classes, or names them within the data.

    Raises
    ------
    MissingFile
        When there is nothing there.
    InputError
        When it is of no known format, or not what its format says.
    """
    file = None if label is None or not Path(label).is_file() else Path(label)
    source = _load(name, False if file else label)
    return with_classes(name, source, labels.read(file)) if file else source


def with_labels(name: str, source: Source, label: str) -> Source:
    """Give data the classes of a file. Raises MissingFile where there is none, InputError where it holds no classes."""
    if not Path(label).is_file():
        raise MissingFile(f"labels {label}: no such file")
    return with_classes(name, source, labels.read(Path(label)))


def is_there(name: str) -> bool:
    """Tell whether a name is the path of something, perhaps with that of an array in it: FILE:NAME."""
    return _split(name)[0] is not None


def _load(name: str, label: Wanted) -> Source:
    if name.startswith("hf:"):
        return hub.read(name, label)
    path, key = _split(name)
    if path is None:
        raise MissingFile(f"source {name!r}: no such file or folder")
    if zarrs.is_zarr(path):
        return zarrs.read(path, key, label)
    if arrays.is_npz(path):
        return arrays.read_npz(path, key, label)
    if key is not None:
        raise InputError(f"source {name} names an array {key}; expected that of a .npz file or a Zarr group only")
    if label:
        raise MissingFile(f"labels {label}: no such file")
    if path.is_dir():
        return folder.read(path)
    if arrays.is_npy(path):
        return arrays.read_npy(path)
    if idx.is_idx(path):
        return idx.read(path, beside=label is None)
    raise InputError(f"source {path} is of no known format; expected {FORMATS}")


def _split(name: str) -> tuple[Path | None, str | None]:
    """Take FILE:KEY apart; no path where there is nothing."""
    if name and local(name).exists():
        return Path(name), None
    file, colon, key = name.rpartition(":")
    return (Path(file), key) if colon and file and Path(file).exists() else (None, None)
