"""Samples by name: those that come with the house, and all that sources read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from traj.pipeline import sources
from traj.pipeline.models import digits, molrg
from traj.pipeline.parsing import check_count, number
from traj.pipeline.sources.events import events_of
from traj.pipeline.sources.source import Source, Undecided, in_memory
from traj.pipeline.sources.surveyed import Surveyed, survey
from traj.stores import InputError, MissingFile

DIGITS = {
    "digits": digits.images,
    "digits:train": lambda: digits.training_images(digits.LEARNT),
    "digits:test": digits.held_out_images,
}
"""scikit-learn's, all, those that --images of `traj train` takes the first of, and those that it never takes."""
KNOWN = f"{', '.join(DIGITS)}, mixture:A,B,..., molrg:KEY=VALUE,..., hf:NAME/SPLIT, or the path of {sources.FORMATS}"


def load(name: str, label: str | None = None, *, samples: int | None = None, seed: int | None = None) -> Source:
    """Find the samples of a name. ``label`` is a file with their classes, or names them within the data.

    ``samples`` and ``seed``, 0 unless given, are for data that are drawn.

    Raises
    ------
    MissingFile
        When there is nothing there.
    InputError
        When it is of no known format, not what its format says, or is given what is for other data.
    """
    kind, _, rest = name.partition(":")
    there = kind == "hf" or sources.is_there(name)
    if kind == molrg.KIND and not there:
        if label is not None:
            raise InputError(f"labels {label} were given, but {name} brings its classes; leave them out")
        return _drawn(name, samples, seed or 0)
    if seed is not None:
        raise InputError(f"seed {seed} was given, but {name} is not drawn; expected a seed with molrg:... only")
    if there:
        return sources.load(name, label)
    if name not in DIGITS and kind != "mixture":
        raise MissingFile(f"source {name!r}: no such file or folder; expected {KNOWN}")
    source = _mixture(name, rest) if kind == "mixture" else in_memory(*DIGITS[name](), valid_range=(-1.0, 1.0))
    return source if label is None else sources.with_labels(name, source, label)


def surveyed(name: str) -> Surveyed:
    """Go through the samples of a name that are clear without options, such as a range or the names of axes.

    Raises InputError or MissingFile as ``load`` does, and where options of `traj dataset` are needed.
    """
    try:
        return survey(events_of(name, load(name)))
    except Undecided as error:
        raise InputError(
            f"{error}. That is an option of traj dataset: make a dataset of {name} with it first, and name that dataset"
        ) from None


def points(numbers: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Give the points of a mixture, one pixel each, and their classes: the k-th is of class k (003).

    Raises InputError where they are no mixture.
    """
    if len(set(numbers)) < 2 or not np.isfinite(numbers).all():
        raise InputError(f"points {list(numbers)}; expected at least two different numbers")
    return np.reshape(np.asarray(numbers, np.float64), (-1, 1, 1, 1)), np.arange(len(numbers))


def _mixture(name: str, fields: str) -> Source:
    try:
        numbers = [number(field) for field in fields.split(",")]
        return in_memory(*points(numbers), valid_range=(min(numbers), max(numbers)))
    except InputError as error:
        raise InputError(f"source {name!r}: {error}") from None


def _drawn(name: str, samples: int | None, seed: int) -> Source:
    """Draw samples of ``molrg:KEY=VALUE,...``, each with its class; sample k is the same however many are drawn."""
    try:
        mixture = molrg.parse(name.partition(":")[2])
    except InputError as error:
        raise InputError(f"source {name!r}: {error}; expected one like {molrg.FORM}") from None
    if samples is None:
        raise Undecided(f"source {name} has as many samples as are drawn; say how many: --samples 12000")
    check_count("samples", samples)
    return in_memory(*molrg.draw(mixture, seed, range(samples)), valid_range=molrg.VALID_RANGE)
