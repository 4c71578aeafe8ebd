"""The compiled loops over pairs of replicas. Images come as float32 (variant, replica, sample, ...).

As in `_kernels`, sums run in float64, in an order fixed by the images of one sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled, compiled_freely

Array = NDArray[Any]

summed = compiled_freely("reassoc", "nsz", "contract")
"""Compile sums for vector units: reordered, but alike for all images of one size."""


@summed
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@summed
def _sum(a: Array) -> float:
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i])
    return total


@summed
def _squared_distance(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(a.size):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return total


@compiled
def _load(image: Array, mean: float, low: float, scale: float, centred: Array, unit: Array) -> None:
    for i in range(image.size):
        value = np.float64(image[i])
        centred[i] = value - mean
        unit[i] = min(max((value - low) * scale, 0.0), 1.0)


PAIRS = ("pearson", "cosine", "one_minus_nmse", "psnr")


@compiled
def similarities(images: Array, low: float, scale: float, cap: float) -> Array:
    """Average the columns of PAIRS over all pairs of replicas: (variant, sample, column).

    `images` is (variant, replica, sample, value). Products of whole images follow from the centred ones. Equal
    images give exactly 1, and `cap` for PSNR, whose values v count as clip((v - low) scale, 0, 1).
    """
    variants, replicas, samples, size = images.shape
    centred, unit = np.empty((replicas, size)), np.empty((replicas, size))
    mean, power, together = np.empty(replicas), np.empty(replicas), np.empty((replicas, replicas))
    pairs = replicas * (replicas - 1) // 2
    values = np.zeros((variants, samples, 4))
    for v in range(variants):
        for s in range(samples):
            for a in range(replicas):
                mean[a] = _sum(images[v, a, s]) / size
                _load(images[v, a, s], mean[a], low, scale, centred[a], unit[a])
                for b in range(a + 1):  # one loop for both: compiled apart, sums of the same numbers may differ
                    together[a, b] = _dot(centred[a], centred[b])
                power[a] = together[a, a] + size * (mean[a] * mean[a])
            out = values[v, s]
            for a in range(replicas):
                for b in range(a):
                    product = together[a, b] + size * (mean[a] * mean[b])
                    error = _squared_distance(unit[a], unit[b]) / size
                    out[0] += together[a, b] / np.sqrt(together[a, a] * together[b, b])
                    out[1] += product / np.sqrt(power[a] * power[b])
                    out[2] += 2 * product / (power[a] + power[b])
                    out[3] += min(0.0 - 10 * np.log10(error), cap)  # in this order NaN stays NaN
            out /= pairs
    return values


@compiled
def add_moments(images: Array, groups: Array, sums: Array, squares: Array) -> None:
    """Add the samples of a chunk, in their order, to the sums that a correlation across samples is made of.

    `images` is (variant, replica, sample, value), `groups` (sample,) the jackknife group of each. With m the mean of
    one sample's replicas, `sums` (variant, group, value) receives m; `squares` (variant, group, 2) the squares of m,
    and the variance of the replicas around m, over all values.
    """
    variants, replicas, samples, size = images.shape
    mean, beyond = np.empty(size), np.empty(size)
    for v in range(variants):
        for s in range(samples):
            first, total = images[v, 0, s], sums[v, groups[s]]
            mean[:] = 0.0
            for r in range(1, replicas):  # differences from the first: equal replicas have it as their exact mean
                image = images[v, r, s]
                for i in range(size):
                    mean[i] += np.float64(image[i]) - np.float64(first[i])
            for i in range(size):
                mean[i] = np.float64(first[i]) + mean[i] / replicas
                total[i] += mean[i]
            squares[v, groups[s], 0] += _dot(mean, mean)
            for r in range(replicas):
                image = images[v, r, s]
                for i in range(size):
                    beyond[i] = np.float64(image[i]) - mean[i]
                squares[v, groups[s], 1] += _dot(beyond, beyond) / replicas
