"""What a reader of a format finds: data as they lie, read piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from traj.stores import InputError

Array = NDArray[Any]

USUAL = ("x", "images", "arr_0")
"""Names that an array of samples goes by."""
USUAL_LABELS = ("y", "labels", "label")
"""Names that their classes go by."""

Wanted = str | Literal[False] | None
"""Which classes are looked for in a source: those of a name, none, or those that go by a usual name."""


class Undecided(InputError):
    """Data that are clear only with an option, which the message names, such as what their axes are."""


@dataclass(frozen=True)
class Source:
    """Data as they lie where they were found.

    ``read(first, end)`` gives some samples, of ``shape`` (sample, *axes) and ``dtype`` in all. ``axes`` name those of
    one sample, and ``valid_range`` bounds the values, where the format says so. ``label`` (sample,) are the classes as
    they lie there, and ``seeds`` those of the runs that made the data.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], Array]
    label: Array | None = None
    axes: tuple[str, ...] | None = None
    valid_range: tuple[float, float] | None = None
    seeds: frozenset[int] = frozenset()


def in_memory(values: Array, label: Array | None = None, **said: Any) -> Source:
    """Take data that are an array, perhaps one that lies in a file."""
    return Source(values.shape, values.dtype, lambda first, end: values[first:end], label, **said)


def choose(what: str, names: Iterable[str], key: str | None) -> str:
    """Choose the array of samples by its name, or by the one usual name that is there, or as the only one.

    Raises InputError where that is none, or several.
    """
    known = list(names)
    usual = [name for name in USUAL if name in known]
    found = [key] if key is not None else known if len(known) == 1 else usual
    if len(found) != 1 or found[0] not in known:
        raise InputError(
            f"{what} has the arrays {', '.join(known) or 'none'}"
            + (f", not {key}" if key else "")
            + f"; expected one of {', '.join(USUAL)}, or its name after a colon: {what}:NAME"
        )
    return found[0]


def choose_labels(what: str, names: Iterable[str], key: Wanted) -> str | None:
    """Choose the array of classes by its name, or by the usual names; None where there is none of these.

    Raises InputError where there is no array of the name, or several of the usual ones.
    """
    if key is False:
        return None
    known = list(names)
    found = [key] if key is not None else [name for name in USUAL_LABELS if name in known]
    if len(found) > 1 or (key is not None and key not in known):
        raise Undecided(
            f"{what} has the arrays {', '.join(known)}; expected --labels with the name of one of them, or a file"
        )
    return found[0] if found else None


def with_classes(what: str, source: Source, classes: Source) -> Source:
    """Give data their classes, which are read. Raises InputError, and reads none, where they cannot be classes."""
    require_classes(what, classes.shape, classes.dtype, source.shape[0] if source.shape else 0)
    return replace(source, label=classes.read(0, classes.shape[0]))


def require_classes(what: str, shape: tuple[int, ...], dtype: np.dtype[Any], samples: int) -> None:
    """Raise InputError where an array of a shape and type cannot hold the classes of so many samples."""
    if shape not in ((samples,), (samples, 1)):
        raise InputError(f"labels of {what} have shape {shape}; expected one for each of {samples:,} samples")
    if dtype.kind not in "iuf":
        raise InputError(f"labels of {what} are of type {dtype}; expected whole numbers from 0, -1 for none")
