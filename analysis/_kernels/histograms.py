"""The compiled loops behind entropies: grey codes, joint histograms of codes, sums over their cells.

A histogram enters an entropy by two sums over its cells: of c log2 c, and of c G(c) / ln 2 for Grassberger's
estimator. They are added up as integers, in units of 1 / `scale_of(pairs)`: such sums are exact, so they are the
same in any order, a sum grows pixel by pixel to what it is cell by cell, and equal histograms differ by 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled
from traj.analysis._statistics.verdicts import student

Array = NDArray[Any]

SMALL_COUNTS = 4096
"""Below this many, a cell's weight is looked up rather than computed."""

COLUMNS = (
    *("stepwise", "state", "x_0", "joint", "mutual"),
    *("miller_madow", "grassberger", "debiased", "error", "bias", "half_width", "reliable"),
)
"""What is taken from pooled histograms; the kernel of single images writes the first five."""


@compiled
def grey_codes(images: Array, low: np.float32, scale: np.float32, shift: int, codes: Array) -> bool:
    """Turn (sample, timestep, channel, pixel) images of one or three channels into grey codes.

    A value becomes the byte clip(round((x - low) scale), 0, 255); three channels become one by ITU-R 601
    luma in the integer form of PIL's "L"; the byte loses its lowest `shift` bits. `codes` (sample, timestep, pixel)
    receives the codes. False where a value is not a number.
    """
    samples, steps, channels, pixels = images.shape
    least, most = np.float32(0), np.float32(255)
    # Whole numbers below 2^24 are exact in float32, which vectorises better than integers.
    of_red, of_green, of_blue, half = np.float32(19595), np.float32(38470), np.float32(7471), np.float32(32768)
    missing = 0
    for k in range(samples):
        for t in range(steps):
            image, out = images[k, t], codes[k, t]
            for c in range(channels):
                for p in range(pixels):
                    missing += image[c, p] != image[c, p]
            if channels == 1:
                for p in range(pixels):
                    grey = np.int32(np.rint(min(max((image[0, p] - low) * scale, least), most)))
                    out[p] = np.uint8(grey >> shift)
            else:
                for p in range(pixels):
                    red = np.rint(min(max((image[0, p] - low) * scale, least), most))
                    green = np.rint(min(max((image[1, p] - low) * scale, least), most))
                    blue = np.rint(min(max((image[2, p] - low) * scale, least), most))
                    grey = np.int32(of_red * red + of_green * green + of_blue * blue + half) >> 16
                    out[p] = np.uint8(grey >> shift)
    return missing == 0


def scale_of(pairs: int) -> float:
    """Choose how many units make one bit: a power of two with which no sum over `pairs` pixel pairs overflows."""
    most = pairs * (2 + math.log2(pairs))
    return float(2.0 ** (61 - math.ceil(math.log2(most))))


@compiled
def _plug_in(c: int, scale: float) -> np.int64:
    return np.int64(np.rint(c * np.log2(c) * scale)) if c > 1 else np.int64(0)


@compiled
def _g(n: int) -> float:
    """G(n) = psi(n) + (-1)^n / 2 [psi((n + 1) / 2) - psi(n / 2)], which is ln 2 + psi(floor(n / 2) + 1 / 2)."""
    m = n // 2
    if m < 32:
        total = -float(np.euler_gamma + np.log(2.0))
        for k in range(1, m + 1):
            total += 2.0 / (2 * k - 1)
        return total
    square = 1.0 / (float(m) * m)
    return float(np.log(2.0 * m)) + square * (1 / 24 - square * (7 / 960 - square * (31 / 8064 - square * 127 / 30720)))


@compiled
def _grassberger(c: int, scale: float) -> np.int64:
    return np.int64(np.rint(c * _g(c) / np.log(2.0) * scale)) if c > 0 else np.int64(0)


@compiled
def weights(most: int, scale: float) -> Array:
    """Tabulate c log2 c and c G(c) / ln 2 for c = 0..most in units: (2, c), both 0 for an empty cell."""
    table = np.empty((2, most + 1), np.int64)
    for c in range(most + 1):
        table[0, c] = _plug_in(c, scale)
        table[1, c] = _grassberger(c, scale)
    return table


def increments(most: int, scale: float) -> Array:
    """Tabulate what the weights grow by when a cell's count goes from c to c + 1, for c = 0..most-1: (2, c)."""
    return np.diff(weights(most, scale))


@compiled
def _plug_in_of(c: int, table: Array, scale: float) -> int:
    """Look c log2 c up in `table` (of `weights`), or compute it."""
    return int(table[0, c] if c < table.shape[1] else _plug_in(c, scale))


@compiled
def _grassberger_of(c: int, table: Array, scale: float) -> int:
    return int(table[1, c] if c < table.shape[1] else _grassberger(c, scale))


def _plug_in_bits(joint: Array, state: Array, x_0: Array, whole: int, units: float) -> list[Array]:
    """Turn sums of c log2 c into bits: stepwise, state, x_0, joint entropy, mutual information.

    `whole` is the sum of a histogram with all pairs in one cell, `units` the number of pairs times the scale.
    """
    mutual = np.maximum(((whole - x_0) - (state - joint)) / units, 0.0)
    return [(state - joint) / units, (whole - state) / units, (whole - x_0) / units, (whole - joint) / units, mutual]


def image_bits(states: Array, x_0: Array, bins: int) -> Array:
    """Take the five entropies of each image alone, (sample, timestep, column) in the order of `_plug_in_bits`.

    `states` are codes (sample, timestep, pixel) and `x_0` codes (sample, pixel).
    """
    pixels = x_0.shape[1]
    scale = scale_of(pixels)
    table = weights(pixels, scale)[0]
    sums = np.empty((*states.shape[:2], 3), np.int64)
    _sum_images(states, x_0, bins, table, np.diff(table), sums)
    bits = np.empty((*states.shape[:2], 5))
    joint, state, of_x_0 = np.moveaxis(sums, -1, 0)
    for column, values in enumerate(_plug_in_bits(joint, state, of_x_0, int(table[pixels]), pixels * scale)):
        bits[..., column] = values
    return bits


@compiled
def _sum_images(states: Array, x_0: Array, bins: int, table: Array, growth: Array, sums: Array) -> None:
    """Sum c log2 c over each image's joint histogram, its state's and its x_0's: `sums` (sample, timestep, 3)."""
    samples, steps, pixels = states.shape
    joint = np.zeros(bins * bins, np.uint32)
    single = np.zeros(bins, np.int32)
    rows, cells = np.empty(pixels, np.uint16), np.empty(pixels, np.uint16)
    for k in range(samples):
        for p in range(pixels):
            single[x_0[k, p]] += np.int32(1)
            rows[p] = x_0[k, p] * bins
        x_0_sum = _drain(single, table)
        for t in range(steps):
            state = states[k, t]
            for p in range(pixels):
                cells[p] = rows[p] + state[p]
            joint_sum = 0
            for p in range(pixels):
                cell = np.uint64(cells[p])
                count = np.uint64(joint[cell])
                joint_sum += growth[count]
                joint[cell] = count + np.uint64(1)
                single[state[p]] += np.int32(1)
            for p in range(pixels):
                joint[cells[p]] = 0
            sums[k, t, 0], sums[k, t, 1], sums[k, t, 2] = joint_sum, _drain(single, table), x_0_sum


@compiled
def _drain(counts: Array, table: Array) -> int:
    """Sum the weights of some cells and empty them."""
    total = 0
    for cell in range(counts.size):
        total += table[counts[cell]]
        counts[cell] = 0
    return total


@compiled
def add_joint_counts(counts: Array, states: Array, x_0: Array, samples: Array, bins: int) -> None:
    """Add to `counts` (timestep, cell) the code pairs of some samples.

    `states` is (sample, timestep, pixel), `x_0` (sample, pixel); cell = x_0 code * bins + state code.
    """
    steps, pixels = states.shape[1], states.shape[2]
    for t in range(steps):
        here = counts[t]
        for k in samples:
            rows, columns = x_0[k], states[k, t]
            for p in range(pixels):
                here[rows[p] * bins + columns[p]] += 1


class Sums(NamedTuple):
    """Sums over the cells of histograms in rows: both weights and the number of occupied cells (row, 3).

    `less` (row, group) is what the sum of c log2 c loses when a group is left out.
    """

    over_cells: Array
    less: Array


def leave_out(counts: Array, table: Array, scale: float) -> Sums:
    """Sum over the cells of counts (group, row, cell), all groups added up and each left out."""
    groups, rows, _ = counts.shape
    sums = Sums(np.empty((rows, 3), np.int64), np.empty((rows, groups), np.int64))
    _leave_out(np.ascontiguousarray(counts, np.uint32), table, scale, *sums)
    return sums


@compiled
def _leave_out(counts: Array, table: Array, scale: float, sums: Array, less: Array) -> None:
    groups, rows, cells = counts.shape
    totals = np.empty(cells, np.int64)
    for r in range(rows):
        for cell in range(cells):
            totals[cell] = 0
        for g in range(groups):
            less[r, g] = 0
            group = counts[g, r]
            for cell in range(cells):
                totals[cell] += group[cell]
        plug_in, grassberger, occupied = 0, 0, 0
        for cell in range(cells):
            total = totals[cell]
            if total > 0:
                value = _plug_in_of(total, table, scale)
                plug_in += value
                grassberger += _grassberger_of(total, table, scale)
                occupied += 1
                for g in range(groups):
                    if counts[g, r, cell] > 0:
                        less[r, g] += value - _plug_in_of(total - np.int64(counts[g, r, cell]), table, scale)
        sums[r, 0], sums[r, 1], sums[r, 2] = plug_in, grassberger, occupied


def bits_of_sums(joint: Sums, state: Sums, x_0: Array, pairs: Array, table: Array, scale: float) -> Array:
    """Take pooled entropies (row, column of COLUMNS) from sums over joint and state histograms.

    `x_0` are the counts of its codes, `pairs` the number of pixel pairs in each group. Where a group is empty there is
    no jackknife: the debiased value is then Grassberger's, its error, bias and interval are NaN.
    """
    whole = int(pairs.sum())
    units = whole * scale
    joint_sum, state_sum = joint.over_cells[:, 0], state.over_cells[:, 0]
    x_0_sum = leave_out(x_0[None, None], table, scale).over_cells[0, 0]
    plug_in = _plug_in_bits(joint_sum, state_sum, x_0_sum, int(_plug_in(whole, scale)), units)
    stepwise = plug_in[0]
    excess = joint.over_cells[:, 2] - state.over_cells[:, 2]
    miller_madow = stepwise + excess / (2 * whole * np.log(2))
    grassberger = (state.over_cells[:, 1] - joint.over_cells[:, 1]) / units
    debiased, error = grassberger, np.full(len(stepwise), np.nan)
    if len(pairs) > 1 and pairs.all():
        without = ((state_sum - joint_sum)[:, None] - (state.less - joint.less)) / ((whole - pairs) * scale)
        debiased = len(pairs) * stepwise - ((1 - pairs / whole) * without).sum(axis=1)
        scatter = (without - without.mean(axis=1, keepdims=True)) ** 2
        error = np.sqrt((len(pairs) - 1) * scatter.mean(axis=1))
    bias = np.maximum(abs(debiased - miller_madow), abs(debiased - grassberger))
    bias[np.isnan(error)] = np.nan
    half_width = round(student(len(pairs)), 4) * error + bias
    corrected = miller_madow, grassberger, debiased, error, bias, half_width, bias <= error
    return np.stack([np.broadcast_to(each, stepwise.shape) for each in (*plug_in, *corrected)], axis=1)


def pooled_bits_of_counts(counts: Array, bins: int) -> Array:
    """Take pooled entropies from counts (group, timestep, cell): (timestep, column of COLUMNS)."""
    groups, steps, _ = counts.shape
    cells = counts.reshape(groups, steps, bins, bins)
    state = cells.sum(axis=2, dtype=np.uint32)
    x_0 = cells[:, 0].sum(axis=(0, 2), dtype=np.int64)
    pairs = state[:, 0].sum(axis=1, dtype=np.int64)
    scale = scale_of(int(pairs.sum()))
    table = weights(SMALL_COUNTS, scale)
    return bits_of_sums(leave_out(counts, table, scale), leave_out(state, table, scale), x_0, pairs, table, scale)


@compiled
def _converging_sums(counts: Array, table: Array, scale: float) -> Array:
    """Sum both weights and count occupied cells for the first 1, 2, ... groups of counts: (group, 3)."""
    groups, cells = counts.shape
    sums = np.empty((groups, 3), np.int64)
    so_far = np.zeros(cells, np.int64)
    plug_in, grassberger, occupied = 0, 0, 0
    for g in range(groups):
        for cell in range(cells):
            if counts[g, cell] > 0:
                before = so_far[cell]
                after = before + np.int64(counts[g, cell])
                plug_in += _plug_in_of(after, table, scale) - _plug_in_of(before, table, scale)
                grassberger += _grassberger_of(after, table, scale) - _grassberger_of(before, table, scale)
                occupied += before == 0
                so_far[cell] = after
        sums[g, 0], sums[g, 1], sums[g, 2] = plug_in, grassberger, occupied
    return sums


def converging_bits(counts: Array, bins: int) -> Array:
    """Take the stepwise entropy of the first 1, 2, ... groups of counts (group, cell): (group, estimator).

    Estimators are plug-in, Miller-Madow and Grassberger, NaN as long as there are no pairs.
    """
    scale = scale_of(int(counts.sum()))
    table = weights(SMALL_COUNTS, scale)
    state = counts.reshape(-1, bins, bins).sum(axis=1, dtype=np.uint32)
    joint, marginal = _converging_sums(counts, table, scale), _converging_sums(state, table, scale)
    pairs = np.cumsum(state.sum(axis=1, dtype=np.int64)).astype(float)
    pairs[pairs == 0] = np.nan
    plug_in = (marginal[:, 0] - joint[:, 0]) / (pairs * scale)
    miller_madow = plug_in + (joint[:, 2] - marginal[:, 2]) / (2 * pairs * np.log(2))
    return np.stack([plug_in, miller_madow, (marginal[:, 1] - joint[:, 1]) / (pairs * scale)], axis=1)
