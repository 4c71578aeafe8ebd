"""Pictures as Pillow decodes them: grey or colour, a byte for each value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from traj.pipeline.sources.events import GREY
from traj.pipeline.sources.source import Array
from traj.stores import InputError

MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
"""What pictures of a mode of Pillow's are read as."""


def pixels(what: str, picture: Any) -> Array:
    """Give a picture's pixels, (y, x) or (y, x, channel). Raises InputError where they are not a byte each."""
    if picture is None:
        raise InputError(f"{what} has no picture; take it away")
    if picture.mode not in MODES or "transparency" in picture.info:
        seen = "transparent parts" if "A" in picture.mode or "transparency" in picture.info else f"mode {picture.mode}"
        raise InputError(f"{what} has {seen}; expected pictures in grey or RGB, 8 bits a value: convert it")
    return np.asarray(picture.convert(MODES[picture.mode]))


def alike(pictures: Iterable[tuple[str, Array]], shape: tuple[int, ...]) -> Array:
    """Stack pictures of one shape, each named. Raises InputError for one of another."""
    stack = []
    for what, picture in pictures:
        if picture.shape != shape:
            raise InputError(
                f"{what} is {_said(picture.shape)}, those before are {_said(shape)}; expected pictures of one size, "
                "all grey or all RGB: scale, cut or convert them"
            )
        stack.append(picture)
    return np.stack(stack)


def axes_of(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the axes of a picture's pixels."""
    return GREY if len(shape) == 2 else (*GREY, "channel")


def _said(shape: tuple[int, ...]) -> str:
    kind = "grey" if len(shape) == 2 else "RGB"
    return f"{kind}, {shape[0]} pixels high and {shape[1]} wide" if len(shape) in (2, 3) else f"of shape {shape}"
