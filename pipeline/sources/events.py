"""From data as they lie to events: which axis is which, what pixels are worth, which classes there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traj.pipeline.sources.source import Array, Source, Undecided, require_classes
from traj.stores import IMAGE_DIMS, USUAL_DIMS, InputError, checked_event

CHANNELS = (1, 3, 4)
"""How many channels an image is taken to have, where nobody says which axis they are."""
GREY = ("y", "x")


@dataclass(frozen=True)
class Events:
    """The samples of a source as float32 events (sample, *event); ``name`` is what the person calls the source.

    Channels come first; a grey image gets one. Bytes are pixels, x / 127.5 - 1; floats are taken as they are.
    """

    name: str
    source: Source
    axes: tuple[str, ...]

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.source.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an event."""
        lengths = dict(zip(self.axes, self.source.shape[1:], strict=True))
        return tuple(lengths.get(dim, 1) for dim in self.dims)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dims of an event."""
        if self.axes == GREY:
            return IMAGE_DIMS
        return tuple(sorted(self.axes, key=lambda axis: axis != "channel"))

    def read(self, first: int, end: int) -> NDArray[np.float32]:
        """Give some events. Raises InputError for values that are not finite."""
        values = self.source.read(first, end)
        if "channel" in self.axes:
            values = np.moveaxis(values, 1 + self.axes.index("channel"), 1)
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(values.reshape(len(values), *self.shape), np.float32)
        if self.source.dtype == np.uint8:
            return found / np.float32(127.5) - np.float32(1)
        finite = np.isfinite(found).reshape(len(found), -1).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{self.name}: sample {first + int(np.argmin(finite))} has values that are infinite, NaN or too large "
                "for float32; expected finite numbers, leave that sample out"
            )
        return found


def events_of(name: str, source: Source, axes: Sequence[str] | None = None) -> Events:
    """Find out which axis of a source is which; ``axes`` name those of one sample, in the order they lie in.

    Raises InputError for data that are empty or no numbers, and where an axis may be two things.
    """
    if not math.prod(source.shape):
        raise InputError(f"{name} is empty, of shape {source.shape}; expected one sample or more")
    if source.dtype != np.uint8 and source.dtype.kind != "f":
        raise InputError(
            f"{name} has values of type {source.dtype}; expected uint8 (pixels from 0 to 255) or floats; convert "
            "them, so that it is clear what the numbers mean"
        )
    lengths = source.shape[1:]
    given = axes or source.axes
    if given is not None:
        if len(given) != len(lengths):
            raise InputError(
                f"axes {','.join(given)} were given, but a sample of {name} has shape {lengths}; expected a name for "
                "each axis"
            )
        _, named = checked_event(lengths, given)
        return Events(name, source, named)
    return Events(name, source, _guessed(name, lengths))


def _guessed(name: str, lengths: tuple[int, ...]) -> tuple[str, ...]:
    match len(lengths):
        case 1:
            return USUAL_DIMS[1]
        case 2:
            return GREY
        case 3:
            first, last = lengths[0] in CHANNELS, lengths[-1] in CHANNELS
            if first and (not last or math.prod(lengths) == 1):
                return IMAGE_DIMS
            if last and not first:
                return (*GREY, "channel")
            (a, b, c), either = lengths, "both" if first else "neither"
            raise Undecided(
                f"a sample of {name} has shape {lengths}, which may be {a} channel(s) of {b} x {c} or {c} channel(s) "
                f"of {a} x {b}: {either} of them likely; say which with --axes channel,y,x or --axes y,x,channel"
            )
    raise Undecided(
        f"a sample of {name} has shape {lengths}; expected 1 to 3 axes (a vector, a grey image, an image), or a name "
        "for each with --axes, such as --axes channel,frame,y,x for a film"
    )


def classes_of(name: str, label: Array | None, samples: int) -> NDArray[np.int64]:
    """Check labels as they lie in a source and give them as int64 (sample,); -1 for none where there are none.

    Raises InputError for another number of them, and for what is no class.
    """
    if label is None:
        return np.full(samples, -1, np.int64)
    require_classes(name, label.shape, label.dtype, samples)
    label = label.reshape(samples)
    fit = (label == np.floor(label)) & (label >= -1) & (label < 2**31)
    if not fit.all():
        at = int(np.argmin(fit))
        raise InputError(
            f"labels of {name}: {label[at]} of sample {at} is no class; expected whole numbers from 0, -1 for none"
        )
    return label.astype(np.int64)
