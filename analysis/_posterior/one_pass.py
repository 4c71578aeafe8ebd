"""The posterior over a finite dataset, p(x_0 = x_i | x_t), in one pass over the dataset (001; METHODS 2.1).

For x_t = c x_0 + d eps and equally likely images, log w_i = -|x_t - c x_i|^2 / (2 d^2) less the log of the sum of all.
What |x_t|^2 adds is the same for all images; the rest is one product of matrices:

    c x_t . x_i / d^2  -  c^2 |x_i|^2 / (2 d^2)  =  [c x_t / d^2, -c^2 / (2 d^2)] . [x_i, |x_i|^2]

It is taken in float64: exponents reach 1e8 where d is small, where numbers of float32 lie 8 apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from traj.analysis._blocks.datasets import TOGETHER, VALUES, Images
from traj.analysis._kernels.powers import take_in

Array = NDArray[Any]

TILE = 256
"""Most states multiplied together. A last tile is filled up: BLAS may sum in another order for another number."""

SMALL, FEWEST = 10**6, 16
"""Products of so few multiplications BLAS makes at once (OpenBLAS, AVX-512), which is faster from so many states on."""

NEGLIGIBLE = 42.0
"""Images are left out whose weights are, all together, below e^-42 = 6e-19."""

SMALLEST = 1e-30
"""Stands for a noise scale of zero: the nearest image then has all weight."""


class Posterior(NamedTuple):
    """What is known of states (row,): the likeliest images, the entropy in nats, and means under the posterior."""

    log_weight: Array
    """Of the likeliest images, falling: (row, rank), natural log."""
    image: Array
    """Which images these are: (row, rank)."""
    entropy: Array
    mean: Array
    """E[x_0 | x_t]: (row, value)."""
    classes: Array
    """P(class | x_t): (row, class), no column where the dataset has no labels."""
    nearest: Array
    """The likeliest image, which is the nearest one to x_t / c: (row, value)."""
    dataset_mean: Array
    """(value,)."""


def of_states(states: Array, signal: Array, noise_scale: Array, images: Images, top: int) -> Posterior:
    """Take the posterior of finite states (row, value), each at its own signal and noise scale (row,)."""
    rows, values = states.shape
    scale = np.maximum(noise_scale, SMALLEST) ** 2
    width = values + images.classes.size
    height = _height(images, width)
    log_p, index = np.full((rows, top), -np.inf), np.full((rows, top), -1)
    total, weighted = np.zeros(rows), np.zeros(rows)
    sums = np.zeros((rows, width))
    nearest = np.zeros((rows, values), np.float32)
    dataset_sum = np.zeros(values)

    left, right = np.zeros((-(-rows // height) * height, values + 1)), np.zeros((values + 1, images.rows))
    np.multiply(states, (signal / scale)[:, None], out=left[:rows, :values])
    left[:rows, values] = -(signal**2) / (2 * scale)
    summed = np.zeros((images.rows, -(-width // TOGETHER) * TOGETHER))
    reach = NEGLIGIBLE + np.log(images.count)
    for first, block in images.blocks():
        count = len(block)
        dataset_sum += block.sum(axis=0)
        right[:values, :count], right[values, :count] = block.T, np.einsum("ij,ij->i", block, block)
        right[:, count:] = 0  # so are their exponents, which are never made powers
        summed[:count, :values] = block
        if images.labels is not None:
            summed[:, values:width] = 0
            summed[np.arange(count), values + images.labels[first : first + count]] = 1
        take_in(left, right, summed, first, count, height, reach, log_p, index, total, weighted, sums)
        new = np.flatnonzero(index[:, 0] >= first)
        nearest[new] = block[index[new, 0] - first]

    sums /= total[:, None]
    return Posterior(
        log_p - log_p[:, :1] - np.log(total)[:, None],
        index,
        np.maximum(np.log(total) - weighted / total, 0),
        sums[:, :values],
        sums[:, values:],
        nearest,
        dataset_sum / images.count,
    )


def _height(images: Images, width: int) -> int:
    """Choose how many states are multiplied together: few, where BLAS needs no copies of the factors for that."""
    few = SMALL // (images.rows * (width + 1)) // 8 * 8
    return few if few >= FEWEST else max(2, min(TILE, VALUES // images.values))
