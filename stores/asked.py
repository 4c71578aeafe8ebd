"""What every way to make a store shares: what was asked is checked, put into the fingerprint, and claimed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traj.stores.claim import Claim, Stale, claim
from traj.stores.description import Description
from traj.stores.errors import InputError
from traj.stores.events import USUAL_DIMS
from traj.stores.layout import Coord, Layout, fingerprint
from traj.stores.locks import BlockLocks
from traj.stores.places import place
from traj.stores.vocabulary import DERIVED

Writer = TypeVar("Writer")


def opened(
    writer: Callable[[Claim], Writer],
    path: str | os.PathLike[str],
    description: Description,
    stale: Stale,
    blocks: Iterable[int] | None,
) -> Writer:
    """Bring the store to the asked state, hold the blocks to be written, and open a writer on them."""
    target, wanted = place(path), _wanted(description.layout, blocks)
    locks = BlockLocks(target)
    try:
        return writer(claim(target, description, stale, wanted, locks))
    except BaseException:
        locks.close()
        raise


def inputs(
    layout: Layout,
    dims: tuple[str, ...],
    valid_range: tuple[float, float] | None,
    along_timestep: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Name what numbers of events depend on in a store of them."""
    given = {name: values for name, values in (along_timestep or {}).items() if name not in DERIVED}
    return {
        "block": layout.block,
        "shape": list(layout.shape),
        **({} if dims == USUAL_DIMS.get(len(dims)) else {"dims": list(dims)}),
        "dtype": layout.dtype,
        "valid_range": None if valid_range is None else list(valid_range),
        **({"coordinates": digest_of(given)} if given else {}),
    }


def known(values: Mapping[str, NDArray[Any]]) -> dict[str, Coord]:
    """Describe coordinates of the contract."""
    return {name: Coord.known(name, along) for name, along in values.items()}


def of_samples(samples: int, label: ArrayLike | None, prompt: ArrayLike | None) -> dict[str, Coord]:
    """Describe the coordinates along the samples: their numbers, and what they are made under."""
    numbers = np.arange(samples, dtype="int64")
    along = {"sample": numbers, "label": like(numbers, label, np.full(samples, -1), "label")}
    if prompt is not None:
        along["prompt"] = like(numbers.astype(object), np.asarray(prompt, np.str_), None, "prompt")
    return known(along)


def like(pattern: NDArray[Any], values: ArrayLike | None, default: ArrayLike | None, name: str) -> NDArray[Any]:
    """Read values, or a default, as an array of a pattern's type and shape."""
    array = np.asarray(default if values is None else values, pattern.dtype)
    if array.shape != pattern.shape:
        raise InputError(f"{name} has shape {array.shape}, expected {pattern.shape}")
    return array


def at_least_one(**counts: int) -> None:
    """Refuse a number of samples, or of what they are cut into, that is none."""
    if min(counts.values()) < 1:
        given = " and ".join(f"{name}={count}" for name, count in counts.items())
        raise InputError(f"{given} were given, each must be at least 1")


def _wanted(layout: Layout, blocks: Iterable[int] | None) -> list[int]:
    """List the blocks that were asked for, all by default."""
    wanted = set()
    for block in range(layout.blocks) if blocks is None else blocks:
        if not 0 <= block < layout.blocks:
            raise InputError(
                f"block {block} was asked for; {layout.samples} samples in blocks of {layout.block} have 0 to "
                f"{layout.blocks - 1}"
            )
        wanted.add(block)
    if not wanted:
        raise InputError(f"no block was asked for; expected some of 0 to {layout.blocks - 1}")
    return sorted(wanted)


def digest_of(coordinates: Mapping[str, NDArray[Any]]) -> str:
    """Hash coordinates by 9 digits: the last bits of a cosine or a logarithm differ between machines.

    What is left of a signal near 1, noise_scale^2 = 1 - signal^2, has fewer of them than a cosine.
    """
    return fingerprint({name: list(map(_steady, values.tolist())) for name, values in coordinates.items()})


def _steady(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
