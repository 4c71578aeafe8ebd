"""What a reader of a format finds: data as they lie, read piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Source:
    """Data as they lie where they were found.

    ``read(first, end)`` gives some samples, of ``shape`` (sample, *axes) and ``dtype`` in all. ``axes`` name those of
    one sample, and ``valid_range`` bounds the values, where the format says so. ``label`` (sample,) are the classes as
    they lie there, ``classes`` their names by number.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], Array]
    label: Array | None = None
    classes: tuple[str, ...] = ()
    axes: tuple[str, ...] | None = None
    valid_range: tuple[float, float] | None = None


def held(values: Array, label: Array | None = None, **said: Any) -> Source:
    """Take data that are in memory."""
    return Source(values.shape, values.dtype, lambda first, end: values[first:end], label, **said)
