"""The shape of one path of states: how straight it is, how it turns, and how many dimensions it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def distance_to_line(path: Array) -> Array:
    """Give the distance of points (point, value) to the straight line from first to last, over its length: (point,).

    NaN where the two are one point.
    """
    beyond_first = path - path[0]
    length = np.linalg.norm(beyond_first[-1])
    if not length:
        return np.full(len(path), np.nan)
    direction = beyond_first[-1] / length
    beside = beyond_first - np.outer(beyond_first @ direction, direction)
    distance: Array = np.linalg.norm(beside, axis=1) / length
    return distance


def turning(path: Array) -> Array:
    """Give the angle in degrees, 0 to 180, between the step to each of the points (point, value) and the step on.

    NaN at both ends, and beside a step of no length. By Kahan's formula, exact for angles near 0 as well.
    """
    steps = np.diff(path, axis=0)
    with np.errstate(invalid="ignore"):
        direction = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    before, after = direction[:-1], direction[1:]
    angle = 2 * np.arctan2(np.linalg.norm(after - before, axis=1), np.linalg.norm(after + before, axis=1))
    return np.pad(np.degrees(angle), (1, 1), constant_values=np.nan)[: len(path)]


def detour(path: Array) -> float:
    """Divide the length of the path through points (point, value) by the distance of its ends; NaN for no distance."""
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = length / np.linalg.norm(path[-1] - path[0])
    return float(ratio) if np.isfinite(ratio) else np.nan


def explained(path: Array, components: int) -> Array:
    """Give the share of the variance of points (point, value) that the first principal components explain together.

    (component,), for one, two and so on; all points count alike. The variances along components are eigenvalues of
    the Gram matrix of the centred points, or of their covariance, whichever is smaller. NaN where nothing varies.
    """
    centred = path - path.mean(axis=0)
    product = centred @ centred.T if len(path) <= path.shape[1] else centred.T @ centred
    largest = np.zeros(components)
    variances = np.linalg.eigvalsh(product)[::-1][:components]
    largest[: len(variances)] = variances.clip(min=0)
    total = np.trace(product)
    return largest.cumsum() / total if total else np.full(components, np.nan)
