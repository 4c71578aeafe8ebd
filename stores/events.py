"""Event dims: what a store calls the dims of one event, which is an image, a film, a sound or a vector."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import xarray as xr

from traj.stores.errors import InputError
from traj.stores.vocabulary import COORDINATES, VARIABLES

IMAGE_DIMS = ("channel", "y", "x")
USUAL_DIMS = {
    1: ("feature",),
    2: ("channel", "position"),
    3: IMAGE_DIMS,
    4: ("channel", "frame", "y", "x"),
}
"""Names of event dims, by their number."""

OUTER = frozenset({"on", "variant", "replica", "sample", "timestep"})
"""Dims along which there is one event each."""

TAKEN = OUTER | VARIABLES.keys() | COORDINATES.keys() | {"block", "class", "column"}


def event_dims(dims: Iterable[object]) -> tuple[str, ...]:
    """Give the dims of one event: the last of a variable's dims, after those that count events."""
    names = tuple(map(str, dims))
    return names[max((place + 1 for place, name in enumerate(names) if name in OUTER), default=0) :]


def checked_event(shape: Sequence[int], dims: Sequence[str] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Check the shape and dims of an event, and return both; dims None gives the default names.

    Raises InputError for a length below 1, for dims that do not fit the shape, and for names that mean something else.
    """
    lengths = tuple(map(operator.index, shape))
    if not lengths or min(lengths) < 1:
        raise InputError(f"an event of shape {lengths} was given; expected one or more lengths, each at least 1")
    if dims is None:
        if len(lengths) not in USUAL_DIMS:
            raise InputError(f"an event of shape {lengths} was given; name its {len(lengths)} dims in `dims`")
        return lengths, USUAL_DIMS[len(lengths)]
    names = tuple(dims)
    if isinstance(dims, str) or len(names) != len(lengths) or len(set(names)) != len(names):
        raise InputError(
            f"dims {dims!r} were given for an event of shape {lengths}; expected a different name for each"
        )
    if unfit := [name for name in names if not name.isidentifier() or name in TAKEN]:
        raise InputError(
            f"dims {', '.join(map(repr, unfit))} cannot name an event's; expected names of letters, digits and _ that "
            "mean nothing else in a store"
        )
    return lengths, names


def valid_range(ds: xr.Dataset) -> tuple[float, float] | None:
    """Read the range that the x_0 of a store is meant to lie in; None where it names none, as for latents."""
    bounds = ds["x_0"].attrs.get("valid_range")
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))
