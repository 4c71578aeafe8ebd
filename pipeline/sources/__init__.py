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
DIGITS = ("digits", "digits:train", "digits:test")
KNOWN = f"expected {', '.join(DIGITS)}, mixture:A,B,..., molrg:KEY=VALUE,..., hf:NAME/SPLIT, or the path of {FORMATS}"


def load(name: str, label: str | None = None, *, samples: int | None = None, seed: int | None = None) -> Source:
    """Find the data of a name. ``label`` is a file with their classes, or names them within the data.

    ``samples`` and ``seed``, 0 unless given, are for data that are drawn.

    Raises
    ------
    MissingFile
        When there is nothing there.
    InputError
        When it is of no known format, not what its format says, or is given what is for other data.
    """
    if name.startswith("molrg:") and not local(name).exists():
        if label is not None:
            raise InputError(f"labels {label} were given, but {name} brings its classes; leave them out")
        from traj.pipeline.sources import drawn  # brings in torch, which takes seconds

        return drawn.read(name, samples, seed or 0)
    if seed is not None:
        raise InputError(f"seed {seed} was given, but {name} is not drawn; expected a seed with molrg:... only")
    file = None if label is None or not Path(label).is_file() else Path(label)
    source = _load(name, False if file else label)
    return with_classes(name, source, labels.read(file)) if file else source


def _load(name: str, label: Wanted) -> Source:
    if name.startswith("hf:"):
        return hub.read(name, label)
    path, key = _split(name)
    if path is None:
        if name in DIGITS or name.startswith("mixture:"):
            if label:
                raise MissingFile(f"labels {label}: no such file")
            from traj.pipeline.sources import builtin  # brings in torch, which takes seconds

            return builtin.read(name)
        raise MissingFile(f"source {name!r}: no such file or folder; {KNOWN}")
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
    if local(name).exists():
        return Path(name), None
    file, colon, key = name.rpartition(":")
    return (Path(file), key) if colon and file and Path(file).exists() else (None, None)
