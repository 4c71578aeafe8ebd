"""The compiled loops behind the quantities: plain contiguous arrays in, plain arrays out, no interpreter lock.

Images come as float32 (sample, timestep, channel, y, x). Every float sum runs in float64 and in an order
fixed by the image, never by the size of the chunk it arrived in, so any chunking gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled, compiled_freely

Array = NDArray[Any]

LANES = 8
"""How many timesteps the similarity kernels compute side by side."""

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""Wang et al. 2004: (K L)^2 with K = 0.01 and 0.03 and a data range L of 1."""


@compiled
def spread(values: Array) -> Array:
    """Take mean, sample standard deviation and standard error over the first axis, in its order."""
    samples, steps = values.shape
    out = np.zeros((3, steps))
    for k in range(samples):
        for t in range(steps):
            out[0, t] += values[k, t]
    for t in range(steps):
        out[0, t] /= samples
    for k in range(samples):
        for t in range(steps):
            out[1, t] += (values[k, t] - out[0, t]) ** 2
    for t in range(steps):
        out[1, t] = np.sqrt(out[1, t] / (samples - 1)) if samples > 1 else np.nan
        out[2, t] = out[1, t] / np.sqrt(samples)
    return out


@compiled
def _unit_lanes(images: Array, low: float, scale: float, out: Array) -> None:
    """Lay (image, y, x) out as (y, x * LANES) on [0, 1], clipped; missing images repeat the last one."""
    for lane in range(LANES):
        image = images[min(lane, images.shape[0] - 1)]
        for r in range(image.shape[0]):
            source, target = image[r], out[r]
            for i in range(source.size):
                target[i * LANES + lane] = min(max((np.float64(source[i]) - low) * scale, 0.0), 1.0)


@compiled
def copy(values: Array, out: Array) -> None:
    """Copy a row. An assignment to a slice would have Numba compile its message on shapes: two seconds."""
    for i in range(out.size):
        out[i] = values[i]


@compiled
def _slide_across(columns: Array, window: int, out: Array) -> None:
    """Average `window` neighbouring column sums by a running sum."""
    share = 1.0 / (window * window)
    for i in range(LANES):
        total = 0.0
        for d in range(window):
            total += columns[d * LANES + i]
        out[i] = total * share
    entering = columns[window * LANES :]
    for i in range(entering.size):
        out[i + LANES] = out[i] + (entering[i] - columns[i]) * share


@compiled
def _box_row(x: Array, y: Array, r: int, window: int, columns: Array, means: Array) -> None:
    """Write the uniform window means of x, x x and x y for output row r; rows are asked for in order."""
    sum_x, sum_xx, sum_xy = columns[0], columns[1], columns[2]
    if r == 0:
        columns[:] = 0.0
        for first in range(window):
            x_r, y_r = x[first], y[first]
            for i in range(x_r.size):
                sum_x[i] += x_r[i]
                sum_xx[i] += x_r[i] * x_r[i]
                sum_xy[i] += x_r[i] * y_r[i]
    else:
        x_in, y_in, x_out, y_out = x[r + window - 1], y[r + window - 1], x[r - 1], y[r - 1]
        for i in range(x_in.size):
            sum_x[i] += x_in[i] - x_out[i]
            sum_xx[i] += x_in[i] * x_in[i] - x_out[i] * x_out[i]
            sum_xy[i] += x_in[i] * y_in[i] - x_out[i] * y_out[i]
    for quantity in range(3):
        _slide_across(columns[quantity], window, means[quantity])


@compiled
def ssim_uniform(states: Array, x_0: Array, low: float, scale: float, window: int, unbias: float) -> Array:
    """Take the mean structural similarity of each state with its x_0 over whole windows and channels.

    `states` is (sample, timestep, channel, y, x), `x_0` (sample, channel, y, x); values v count as
    clip((v - low) scale, 0, 1). `unbias` turns population covariances into the wanted ones. Eight timesteps
    are computed side by side, for the processor's vector units. Wang et al. 2004, eq. 13.
    """
    samples, steps, channels, height, width = states.shape
    tall, wide = height - window + 1, (width - window + 1) * LANES
    x = np.empty((height, width * LANES))
    y = np.empty((channels, height, width * LANES))
    mean_y, mean_yy = np.empty((channels, tall, wide)), np.empty((channels, tall, wide))
    columns, means, total = np.empty((3, width * LANES)), np.empty((3, wide)), np.empty(wide)
    similarity = np.empty((samples, steps))
    for k in range(samples):
        for c in range(channels):
            _unit_lanes(x_0[k : k + 1, c], low, scale, y[c])
            for r in range(tall):
                _box_row(y[c], y[c], r, window, columns, means)
                copy(means[0], mean_y[c, r])
                copy(means[1], mean_yy[c, r])
        for t in range(0, steps, LANES):
            total[:] = 0.0
            for c in range(channels):
                _unit_lanes(states[k, t : t + LANES, c], low, scale, x)
                for r in range(tall):
                    _box_row(x, y[c], r, window, columns, means)
                    _add_similarity(means, mean_y[c, r], mean_yy[c, r], unbias, total)
            for lane in range(min(LANES, steps - t)):
                over_windows = 0.0
                for i in range(lane, wide, LANES):
                    over_windows += total[i]
                similarity[k, t + lane] = over_windows / (channels * tall * (wide // LANES))
    return similarity


@compiled
def _box_product_row(x: Array, y: Array, r: int, window: int, columns: Array, means: Array) -> None:
    """Do what `_box_row` does for x y alone."""
    if r == 0:
        columns[:] = 0.0
        for first in range(window):
            x_r, y_r = x[first], y[first]
            for i in range(x_r.size):
                columns[i] += x_r[i] * y_r[i]
    else:
        x_in, y_in, x_out, y_out = x[r + window - 1], y[r + window - 1], x[r - 1], y[r - 1]
        for i in range(x_in.size):
            columns[i] += x_in[i] * y_in[i] - x_out[i] * y_out[i]
    _slide_across(columns, window, means)


@compiled
def ssim_uniform_pairs(images: Array, low: float, scale: float, window: int, unbias: float) -> Array:
    """Average what `ssim_uniform` gives over all pairs of replicas: (variant, sample).

    `images` is (variant, replica, sample, channel, y, x); eight samples are computed side by side.
    """
    variants, replicas, samples, channels, height, width = images.shape
    tall, wide = height - window + 1, (width - window + 1) * LANES
    x = np.empty((replicas, height, width * LANES))
    mean, mean_square = np.empty((replicas, tall, wide)), np.empty((replicas, tall, wide))
    columns, means = np.empty((3, width * LANES)), np.empty((3, wide))
    pairs = replicas * (replicas - 1) // 2
    total = np.empty((pairs, wide))
    values = np.zeros((variants, samples))
    for v in range(variants):
        for s in range(0, samples, LANES):
            total[:] = 0.0
            for c in range(channels):
                pair = 0
                for a in range(replicas):
                    _unit_lanes(images[v, a, s : s + LANES, c], low, scale, x[a])
                    for r in range(tall):
                        _box_row(x[a], x[a], r, window, columns, means)
                        copy(means[0], mean[a, r])
                        copy(means[1], mean_square[a, r])
                    for b in range(a):
                        for r in range(tall):
                            copy(mean[a, r], means[0])
                            copy(mean_square[a, r], means[1])
                            _box_product_row(x[a], x[b], r, window, columns[2], means[2])
                            _add_similarity(means, mean[b, r], mean_square[b, r], unbias, total[pair])
                        pair += 1
            for lane in range(min(LANES, samples - s)):
                for pair in range(pairs):
                    over_windows = 0.0
                    for i in range(lane, wide, LANES):
                        over_windows += total[pair, i]
                    values[v, s + lane] += over_windows / (channels * tall * (wide // LANES))
                values[v, s + lane] /= pairs
    return values


@compiled
def similarity(mean_x: float, mean_xx: float, mean_xy: float, mean_y: float, mean_yy: float, unbias: float) -> float:
    """Weigh one window's means into the index; written so that x = y gives exactly 1."""
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    covariance = unbias * (mean_xy - product)
    variances = unbias * ((mean_xx + mean_yy) - squares)
    numerator = (2 * product + SSIM_C1) * (2 * covariance + SSIM_C2)
    return numerator / ((squares + SSIM_C1) * (variances + SSIM_C2))


@compiled
def _add_similarity(means: Array, mean_y: Array, mean_yy: Array, unbias: float, total: Array) -> None:
    mean_x, mean_xx, mean_xy = means[0], means[1], means[2]
    for i in range(total.size):
        total[i] += similarity(mean_x[i], mean_xx[i], mean_xy[i], mean_y[i], mean_yy[i], unbias)


@compiled_freely("reassoc", "nsz", "contract")
def _squared_error(x: Array, y: Array, low: float, scale: float) -> float:
    total = 0.0
    for i in range(x.size):
        value = float((np.float64(x[i]) - low) * scale)
        value = 0.0 if value < 0.0 else value
        difference = (1.0 if value > 1.0 else value) - y[i]
        total += difference * difference
    return total


@compiled
def psnr_images(states: Array, x_0: Array, low: float, scale: float, cap: float) -> Array:
    """Take -10 log10 of the mean squared error of each state with its x_0, at most `cap`.

    `states` is (sample, timestep, value), `x_0` (sample, value); values v count as clip((v - low) scale, 0, 1).
    """
    samples, steps, values = states.shape
    decibels = np.empty((samples, steps))
    y = np.empty(values)
    for k in range(samples):
        for i in range(values):
            y[i] = min(max((np.float64(x_0[k, i]) - low) * scale, 0.0), 1.0)
        for t in range(steps):
            error = _squared_error(states[k, t], y, low, scale) / values
            decibels[k, t] = min(0.0 - 10 * np.log10(error), cap)  # in this order NaN stays NaN
    return decibels
