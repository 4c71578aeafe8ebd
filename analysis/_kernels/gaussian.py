"""Structural similarity under a Gaussian window of eleven, one image at a time.

Images lie flat, row after row, and are weighed down the columns first, then across the rows. Every loop runs
over neighbouring pixels; its indices are unsigned, because a signed one would be checked for counting from
the end, and no longer be done on vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled, compiled_freely
from traj.analysis._kernels.images import similarity

Array = NDArray[Any]
U = np.uint64

VECTOR = 8
"""Rows of windows are padded to a multiple of this, so that no loop ends in single steps."""


@compiled_freely("contract")
def _weigh(
    half: tuple[float, ...], v0: float, v1: float, v2: float, v3: float, v4: float, v5: float,
    v6: float, v7: float, v8: float, v9: float, v10: float,
) -> float:  # fmt: skip
    """Weigh eleven values by a symmetric filter whose first six weights are `half`."""
    outer = half[0] * (v0 + v10) + half[1] * (v1 + v9) + half[2] * (v2 + v8)
    return outer + (half[3] * (v3 + v7) + half[4] * (v4 + v6) + half[5] * v5)


@compiled
def _weigh_from(v: Array, i: int, half: tuple[float, ...]) -> float:
    return _weigh(
        half, v[i], v[i + U(1)], v[i + U(2)], v[i + U(3)], v[i + U(4)], v[i + U(5)],
        v[i + U(6)], v[i + U(7)], v[i + U(8)], v[i + U(9)], v[i + U(10)],
    )  # fmt: skip


@compiled
def _weigh_down(v: Array, tall: int, width: int, half: tuple[float, ...], out: Array) -> None:
    """Weigh eleven rows of `v` into each of `tall` rows of `out`, two at a time: they share ten."""
    w = U(width)
    for r in range(U(0), U(tall), U(2)):
        for i in range(r * w, r * w + w):
            v1, v2, v3, v4, v5 = v[i + w], v[i + U(2) * w], v[i + U(3) * w], v[i + U(4) * w], v[i + U(5) * w]
            v6, v7, v8, v9 = v[i + U(6) * w], v[i + U(7) * w], v[i + U(8) * w], v[i + U(9) * w]
            v10 = v[i + U(10) * w]
            out[i] = _weigh(half, v[i], v1, v2, v3, v4, v5, v6, v7, v8, v9, v10)
            out[i + w] = _weigh(half, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v[i + U(11) * w])


@compiled
def _weigh_across(down: Array, width: int, half: tuple[float, ...], out: Array) -> None:
    """Weigh eleven neighbours in each row of `down` into `out` (y, x)."""
    for r in range(out.shape[0]):
        source, target = down[r * width :], out[r]
        for i in range(U(target.size)):
            target[i] = _weigh_from(source, i, half)


@compiled
def _add_across(down: Array, width: int, half: tuple[float, ...], mean_y: Array, mean_yy: Array, total: Array) -> None:
    """Finish the window means of x, x x and x y, and add every row of the index to `total`."""
    for r in range(mean_y.shape[0]):
        x, xx, xy = down[0, r * width :], down[1, r * width :], down[2, r * width :]
        y, yy = mean_y[r], mean_yy[r]
        for i in range(U(total.size)):
            means = _weigh_from(x, i, half), _weigh_from(xx, i, half), _weigh_from(xy, i, half)
            total[i] += similarity(means[0], means[1], means[2], y[i], yy[i], 1.0)


@compiled
def _unit(image: Array, low: float, scale: float, out: Array) -> None:
    """Put an image on [0, 1], clipped."""
    for i in range(image.size):
        out[i] = min(max((np.float64(image[i]) - low) * scale, 0.0), 1.0)


@compiled
def _multiply(a: Array, b: Array, out: Array) -> None:
    for i in range(a.size):
        out[i] = a[i] * b[i]


@compiled
def ssim_gaussian(states: Array, x_0: Array, low: float, scale: float, weights: Array) -> Array:
    """Do what `ssim_uniform` does with a Gaussian window and population covariances.

    `weights` holds the first six weights of the eleven-wide, symmetric window. What lies in the padding is
    computed too, from the next row, and never added up.
    """
    samples, steps, channels, height, width = states.shape
    half = (weights[0], weights[1], weights[2], weights[3], weights[4], weights[5])
    tall, wide = height - 10, width - 10
    padded = -(-wide // VECTOR) * VECTOR
    pixels, room = height * width, (height + 1) * width
    x, product, y = np.zeros(room), np.zeros(room), np.zeros((channels, room))
    down = np.zeros((3, (tall + 1) * width + VECTOR))
    mean_y, mean_yy = np.empty((channels, tall, padded)), np.empty((channels, tall, padded))
    total = np.empty(padded)
    values = np.empty((samples, steps))
    flat = states.reshape(samples, steps, channels, pixels)
    flat_x_0 = x_0.reshape(samples, channels, pixels)
    for k in range(samples):
        for c in range(channels):
            _unit(flat_x_0[k, c], low, scale, y[c])
            _multiply(y[c], y[c], product)
            _weigh_down(y[c], tall, width, half, down[0])
            _weigh_down(product, tall, width, half, down[1])
            _weigh_across(down[0], width, half, mean_y[c])
            _weigh_across(down[1], width, half, mean_yy[c])
        for t in range(steps):
            total[:] = 0.0
            for c in range(channels):
                _unit(flat[k, t, c], low, scale, x)
                _weigh_down(x, tall, width, half, down[0])
                _multiply(x, x, product)
                _weigh_down(product, tall, width, half, down[1])
                _multiply(x, y[c], product)
                _weigh_down(product, tall, width, half, down[2])
                _add_across(down, width, half, mean_y[c], mean_yy[c], total)
            over_windows = 0.0
            for i in range(wide):
                over_windows += total[i]
            values[k, t] = over_windows / (channels * tall * wide)
    return values


@compiled
def _add_across_product(
    down: Array, width: int, half: tuple[float, ...], x: tuple[Array, Array], y: tuple[Array, Array], total: Array
) -> None:
    """Finish the window means of x y, and add every row of the index to `total`; x and y are (means, of squares)."""
    for r in range(x[0].shape[0]):
        source = down[r * width :]
        mean_x, mean_xx, mean_y, mean_yy = x[0][r], x[1][r], y[0][r], y[1][r]
        for i in range(U(total.size)):
            product = _weigh_from(source, i, half)
            total[i] += similarity(mean_x[i], mean_xx[i], product, mean_y[i], mean_yy[i], 1.0)


@compiled
def ssim_gaussian_pairs(images: Array, low: float, scale: float, weights: Array) -> Array:
    """Average what `ssim_gaussian` gives over all pairs of replicas: (variant, sample).

    `images` is (variant, replica, sample, channel, y, x). Each image is weighed once, each pair its product.
    """
    variants, replicas, samples, channels, height, width = images.shape
    half = (weights[0], weights[1], weights[2], weights[3], weights[4], weights[5])
    tall, wide = height - 10, width - 10
    padded = -(-wide // VECTOR) * VECTOR
    pixels, room = height * width, (height + 1) * width
    x, product = np.zeros((replicas, room)), np.zeros(room)
    down = np.zeros((tall + 1) * width + VECTOR)
    mean, mean_square = np.empty((replicas, tall, padded)), np.empty((replicas, tall, padded))
    pairs = replicas * (replicas - 1) // 2
    total = np.empty((pairs, padded))
    flat = images.reshape(variants, replicas, samples, channels, pixels)
    values = np.zeros((variants, samples))
    for v in range(variants):
        for s in range(samples):
            total[:] = 0.0
            for c in range(channels):
                pair = 0
                for a in range(replicas):
                    _unit(flat[v, a, s, c], low, scale, x[a])
                    _weigh_down(x[a], tall, width, half, down)
                    _weigh_across(down, width, half, mean[a])
                    _multiply(x[a], x[a], product)
                    _weigh_down(product, tall, width, half, down)
                    _weigh_across(down, width, half, mean_square[a])
                    for b in range(a):
                        _multiply(x[a], x[b], product)
                        _weigh_down(product, tall, width, half, down)
                        means = (mean[a], mean_square[a]), (mean[b], mean_square[b])
                        _add_across_product(down, width, half, means[0], means[1], total[pair])
                        pair += 1
            for pair in range(pairs):
                over_windows = 0.0
                for i in range(wide):
                    over_windows += total[pair, i]
                values[v, s] += over_windows / (channels * tall * wide)
            values[v, s] /= pairs
    return values
