"""Datasets of Hugging Face, by the optional package `datasets`: from the hub, or from a folder it saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from traj.pipeline.sources.pictures import alike, axes_of, pixels
from traj.pipeline.sources.source import USUAL, USUAL_LABELS, Source, Undecided, Wanted, with_classes
from traj.stores import InputError, MissingFile

FORM = "hf:NAME[@REVISION]/SPLIT[:COLUMN]"


def read(name: str, label: Wanted) -> Source:
    """Read a split: the column of pictures, or the one that is named, and that of classes.

    Raises MissingFile where it is not to be had, InputError where it is not clear which columns are meant.
    """
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise InputError(f"{name} needs the package datasets: pip install 'traj[datasets]'") from None
    place, _, column = name.removeprefix("hf:").partition(":")
    repository, _, split = place.rpartition("/")
    if not repository or not split:
        raise InputError(f"source {name}; expected {FORM}, such as hf:ylecun/mnist/train")
    hub_name, _, revision = repository.partition("@")
    try:
        if Path(place).is_dir():
            rows = datasets.load_from_disk(place)
        else:
            rows = datasets.load_dataset(hub_name, split=split, revision=revision or None)
    except Exception as error:  # the package has many, which have no class in common
        raise MissingFile(f"source {name} is not to be had: {error}; expected {FORM}") from None
    if isinstance(rows, dict):
        raise InputError(f"source {name} has the splits {', '.join(rows)}; expected one of them at its end: {FORM}")
    features = rows.features
    pictures, classes = _of_type(features, "Image"), _of_type(features, "ClassLabel")
    usual = [key for key in USUAL if key in features]
    chosen = _one(name, features, [column] if column else pictures or usual, "samples")
    known = [label] if label else classes or [key for key in USUAL_LABELS if key in features]
    labels = _one(name, features, known, "labels") if known and label is not False else None
    source = _pictures(name, rows, chosen) if chosen in pictures else _numbers(rows, chosen)
    return source if labels is None else with_classes(name, source, _numbers(rows, labels))


def _of_type(features: Any, feature: str) -> list[str]:
    return [key for key, value in features.items() if type(value).__name__ == feature]


def _one(name: str, features: Any, found: list[str], what: str) -> str:
    if len(found) != 1 or found[0] not in features:
        way, error = ("with --labels COLUMN", Undecided) if what == "labels" else (f"after a colon: {FORM}", InputError)
        raise error(f"{name} has the columns {', '.join(features)}; say which one holds the {what} {way}")
    return found[0]


def _pictures(name: str, rows: Any, column: str) -> Source:
    def picture(at: int, found: Any) -> tuple[str, Any]:
        what = f"{name}, row {at}"
        return what, pixels(what, found)

    if not len(rows):
        return Source((0,), np.dtype("uint8"), lambda first, end: np.empty(0, "uint8"))
    _, first = picture(0, rows[0][column])
    only = rows.select_columns([column])
    return Source(
        (len(rows), *first.shape),
        first.dtype,
        lambda begin, end: alike(
            (picture(at, found) for at, found in enumerate(only[begin:end][column], begin)), first.shape
        ),
        axes=axes_of(first.shape),
    )


def _numbers(rows: Any, column: str) -> Source:
    only = rows.select_columns([column]).with_format("numpy")
    first = np.asarray(only[:1][column])
    return Source((len(rows), *first.shape[1:]), first.dtype, lambda begin, end: np.asarray(only[begin:end][column]))
