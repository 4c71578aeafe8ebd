"""What label entropy is asked: priors, decisions between classes by name, and what rates are taken per."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.stores import InputError

Array = NDArray[Any]

ALL = "all"
"""Name of the decision between all classes."""

REST = "rest"
"""The side of all classes that a decision does not name."""


def read_priors(priors: Sequence[float], count: int) -> Array:
    """Check the priors of classes, uniform where none are given."""
    prior = np.array(priors or [1 / count] * count)
    if len(prior) != count or not (prior >= 0).all() or abs(prior.sum() - 1) > 1e-6:
        raise InputError(
            f"priors {', '.join(f'{p:g}' for p in prior)} were given, {len(prior)} that add up to {prior.sum():g}; "
            f"expected {count}, one for each class, 0 or above, that add up to 1"
        )
    return prior


def decisions(partitions: Sequence[str], classes: Sequence[int]) -> dict[str, list[int]]:
    """Give each decision, by its name, the number of the side every class is on: all, partitions, each and the rest."""
    against = [f"{c}|{REST}" for c in classes] if len(classes) > 2 else []
    return {ALL: list(range(len(classes)))} | {text: _sides(text, classes) for text in [*partitions, *against]}


def _sides(text: str, classes: Sequence[int]) -> list[int]:
    """Read a partition as 0+1|2+3 or 0|rest: the number of the side each class is on, -1 for none."""
    named = [[part.strip() for part in side.split("+")] for side in text.split("|")]
    numbers = {str(c): k for k, c in enumerate(classes)}
    every = [part for side in named for part in side]
    expected = "expected sides of classes like 0+1|2+3, or 0|rest"
    if len(named) < 2 or "" in every:
        raise InputError(f"partition {text!r} has {'an empty side' if '' in every else 'one side'}; {expected}")
    if twice := [part for part in every if every.count(part) > 1]:
        raise InputError(f"partition {text!r} names {twice[0]} twice; {expected}, each class once")
    if unknown := [part for part in every if part not in numbers and (part != REST or [REST] not in named)]:
        raise InputError(f"partition {text!r}: class {unknown[0]!r} is none of {', '.join(numbers)}; {expected}")
    sides = [-1] * len(classes)
    for z, side in enumerate(named):
        for part in side:
            for c in [numbers[part]] if part != REST else [k for name, k in numbers.items() if name not in every]:
                sides[c] = z
    if len(set(sides) - {-1}) < len(named):
        raise InputError(f"partition {text!r} leaves no class for {REST}; {expected}")
    return sides


def pairs(count: int) -> list[list[int]]:
    """Give every pair of classes the sides that classes are on."""
    return [[(a, b).index(k) if k in (a, b) else -1 for k in range(count)] for a, b in combinations(range(count), 2)]


def positions(label: Array, classes: Array) -> Array:
    """Find the classes of labelled samples, -1 for one that was not read; empty where samples have no labels."""
    if (label < 0).all():
        return np.empty(0, np.int64)
    if (label < 0).any():
        raise InputError(
            f"{int((label < 0).sum())} of {len(label)} samples have no label; expected samples that all have one, or "
            "none: both together are no draws from one mixture"
        )
    return np.array([np.flatnonzero(classes == one)[0] if one in classes else -1 for one in label])


def tau_of(timestep: Array, config: Mapping[str, Any], per: str) -> Array | None:
    """Give tau = (timestep + 1) / T of a process that has a table of T timesteps."""
    schedule = config.get("schedule", {})
    if "T" in schedule and "grid" not in schedule:
        return (timestep + 1) / float(schedule["T"])
    if per == "tau":
        raise InputError("rates per tau were asked for, of a process without a table of timesteps; take per log_snr")
    return None


def slope(values: Array, along: Array) -> Array:
    """Differentiate a curve by central differences between its numbers; NaN elsewhere, and where there is one only."""
    known = np.isfinite(values) & np.isfinite(along)
    found = np.full(len(values), np.nan)
    if known.sum() > 1:
        found[known] = np.gradient(values[known], along[known])
    return found
