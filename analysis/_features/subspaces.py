"""Where the features of a class lie: its principal directions, and how much of a feature is along them (004)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[Any]


class Directions(NamedTuple):
    """Principal directions (class, direction, feature) of unit features, less their mean (feature,) over classes."""

    vectors: Array
    mean: Array

    def along(self, features: Array) -> Array:
        """Give |V_k h|^2 (row, class) for h, each of the features (row, feature) made unit and less the mean."""
        return energies(unit(features) - self.mean, self.vectors)


def unit(features: Array) -> Array:
    """Divide features (row, feature) by their lengths; one of length 0 stays."""
    length = np.sqrt((features**2).sum(axis=1, keepdims=True))
    scaled: Array = features / np.where(length > 0, length, 1)
    return scaled


def are_still(features: Array) -> bool:
    """Say whether features (row, feature) are the same in all rows, but for rounding."""
    return bool((np.ptp(features, axis=0) <= 1e-7 * np.abs(features).max()).all())


def energies(features: Array, vectors: Array) -> Array:
    """Give the squared length (row, class) of features along orthonormal vectors (class, direction, feature)."""
    count, directions, width = vectors.shape
    along = features @ vectors.reshape(-1, width).T
    squared: Array = (along**2).reshape(len(features), count, directions).sum(axis=2)
    return squared


def principal(features: Array, classes: Array, count: int, directions: int) -> Directions:
    """Find the first right singular vectors of each class's unit features, less the mean over all (METHODS 5.4)."""
    scaled = unit(features)
    mean = scaled.mean(axis=0)
    centred = scaled - mean
    vectors = np.stack([_first(centred[classes == k], directions) for k in range(count)])
    return Directions(vectors, mean)


def _first(rows: Array, directions: int) -> Array:
    """Give the first right singular vectors (direction, feature) of rows, of which there are as many or more."""
    count, width = rows.shape
    last = [min(count, width) - directions, min(count, width) - 1]
    if width <= count:
        found: Array = linalg.eigh(rows.T @ rows, subset_by_index=last)[1].T[::-1]
        return found
    left = linalg.eigh(rows @ rows.T, subset_by_index=last)[1][:, ::-1]
    # they are orthogonal, but for those of rows that span fewer directions: these are filled up
    found = linalg.qr(rows.T @ left, mode="economic")[0].T
    return found
