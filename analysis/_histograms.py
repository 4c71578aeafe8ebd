"""The compiled loops behind entropies: grey codes, joint histograms of codes, sums over their cells.

A histogram enters an entropy by two sums over its cells: of c log2 c, and of c G(c) / ln 2 for Grassberger's
estimator. They are added up as integers, in units of 1 / `scale_of(pairs)`: such sums are exact, so they are the
same in any order, a sum grows pixel by pixel to what it is cell by cell, and equal histograms differ by 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis._compiled import compiled

Array = NDArray[Any]

SMALL_COUNTS = 4096
"""Below this many, a cell's weight is looked up rather than computed."""

COLUMNS = ("stepwise", "state", "x_0", "joint", "mutual", "miller_madow", "grassberger", "jackknife")
"""What the kernels of pooled entropies write; those of single images write the first five."""


@compiled
def grey_codes(images: Array, low: np.float32, scale: np.float32, shift: int) -> Array:
    """Turn (sample, timestep, channel, pixel) images of one or three channels into grey codes.

    A value becomes the byte clip(round((x - low) scale), 0, 255); three channels become one by ITU-R 601
    luma in the integer form of PIL's "L"; the byte loses its lowest `shift` bits.
    """
    samples, steps, channels, pixels = images.shape
    codes = np.empty((samples, steps, pixels), np.uint8)
    least, most = np.float32(0), np.float32(255)
    # Whole numbers below 2^24 are exact in float32, which vectorises better than integers.
    of_red, of_green, of_blue, half = np.float32(19595), np.float32(38470), np.float32(7471), np.float32(32768)
    for k in range(samples):
        for t in range(steps):
            image, out = images[k, t], codes[k, t]
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
    return codes


@compiled
def scale_of(pairs: int) -> float:
    """Choose how many units make one bit: a power of two with which no sum over `pairs` pixel pairs overflows."""
    most = pairs * (2 + np.log2(pairs))
    return float(2.0 ** (61 - np.ceil(np.log2(most))))


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


@compiled
def increments(most: int, scale: float) -> Array:
    """Tabulate what the weights grow by when a cell's count goes from c to c + 1, for c = 0..most-1: (2, c)."""
    table = weights(most, scale)
    return table[:, 1:] - table[:, :-1]


@compiled
def plug_in_of(c: int, table: Array, scale: float) -> int:
    """Look c log2 c up in `table` (of `weights`), or compute it."""
    return int(table[0, c] if c < table.shape[1] else _plug_in(c, scale))


@compiled
def _grassberger_of(c: int, table: Array, scale: float) -> int:
    return int(table[1, c] if c < table.shape[1] else _grassberger(c, scale))


@compiled
def _write_bits(joint: int, state: int, x_0: int, whole: int, units: float, out: Array) -> None:
    """Turn sums of c log2 c into bits: stepwise, state, x_0, joint entropy, mutual information.

    `whole` is the sum of a histogram with all pairs in one cell, `units` the number of pairs times the scale.
    """
    out[0] = (state - joint) / units
    out[1] = (whole - state) / units
    out[2] = (whole - x_0) / units
    out[3] = (whole - joint) / units
    out[4] = max(((whole - x_0) - (state - joint)) / units, 0.0)


@compiled
def image_bits(states: Array, x_0: Array, bins: int) -> Array:
    """Take the five entropies of each image alone, (sample, timestep, column) in the order of `_write_bits`.

    `states` are codes (sample, timestep, pixel) and `x_0` codes (sample, pixel).
    """
    samples, steps, pixels = states.shape
    scale = scale_of(pixels)
    table, growth = weights(pixels, scale)[0], increments(pixels, scale)[0]
    bits = np.empty((samples, steps, 5))
    joint = np.zeros(bins * bins, np.uint32)
    rows, cells = np.empty(pixels, np.uint16), np.empty(pixels, np.uint16)
    for k in range(samples):
        single = np.zeros(bins, np.int32)
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
            _write_bits(joint_sum, _drain(single, table), x_0_sum, table[pixels], pixels * scale, bits[k, t])
    return bits


@compiled
def _drain(counts: Array, table: Array) -> int:
    """Sum the weights of some cells and empty them."""
    total = 0
    for cell in range(counts.size):
        total += table[counts[cell]]
    counts[:] = 0
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


@compiled
def leave_out(counts: Array, table: Array, scale: float, less: Array) -> tuple[int, int, int]:
    """Sum both weights over counts (group, cell) added up, and count occupied cells.

    `less` receives what the sum of c log2 c loses when each group is left out.
    """
    groups, cells = counts.shape
    totals = np.zeros(cells, np.int64)
    for g in range(groups):
        group = counts[g]
        for cell in range(cells):
            totals[cell] += group[cell]
    less[:] = 0
    plug_in, grassberger, occupied = 0, 0, 0
    for cell in range(cells):
        total = totals[cell]
        if total > 0:
            value = plug_in_of(total, table, scale)
            plug_in += value
            grassberger += _grassberger_of(total, table, scale)
            occupied += 1
            for g in range(groups):
                if counts[g, cell] > 0:
                    less[g] += value - plug_in_of(total - np.int64(counts[g, cell]), table, scale)
    return plug_in, grassberger, occupied


@compiled
def write_pooled_bits(
    joint: tuple[int, int, int], joint_less: Array, state: Array, x_0_sum: int, table: Array, scale: float, out: Array
) -> None:
    """Write one timestep's COLUMNS from what `leave_out` gives of the joint histogram and the state's counts."""
    groups = state.shape[0]
    less = np.empty(groups, np.int64)
    plug_in, grassberger, occupied = leave_out(state, table, scale, less)
    pairs = state.sum()
    _write_bits(joint[0], plug_in, x_0_sum, plug_in_of(pairs, table, scale), pairs * scale, out)
    out[5] = out[0] + (joint[2] - occupied) / (2 * pairs * np.log(2))
    out[6] = (grassberger - joint[1]) / (pairs * scale)
    without = np.empty(groups)
    for g in range(groups):
        size = state[g].sum()
        kept = (plug_in - less[g]) - (joint[0] - joint_less[g])
        without[g] = kept / ((pairs - size) * scale) if size > 0 else np.nan
    out[7] = np.sqrt((groups - 1) * np.mean((without - without.mean()) ** 2))


@compiled
def pooled_bits_of_counts(counts: Array, bins: int) -> Array:
    """Take pooled entropies from counts (group, timestep, cell): (timestep, column of COLUMNS).

    The jackknife's standard error is NaN where a group is empty.
    """
    groups, steps, cells = counts.shape
    bits = np.empty((steps, len(COLUMNS)))
    less, unused = np.empty(groups, np.int64), np.empty(1, np.int64)
    here = np.empty((groups, cells), np.uint32)
    scale = scale_of(counts[:, 0].sum())
    table = weights(SMALL_COUNTS, scale)
    for t in range(steps):
        here[:] = counts[:, t]
        x_0, state = np.zeros((1, bins), np.int64), np.zeros((groups, bins), np.int64)
        for g in range(groups):
            for a in range(bins):
                row = here[g, a * bins : (a + 1) * bins]
                for b in range(bins):
                    state[g, b] += row[b]
                    x_0[0, a] += row[b]
        x_0_sum = leave_out(x_0, table, scale, unused)[0]
        write_pooled_bits(leave_out(here, table, scale, less), less, state, x_0_sum, table, scale, bits[t])
    return bits


@compiled
def _converging_sums(counts: Array, table: Array, scale: float) -> Array:
    """Sum both weights and count occupied cells for the first 1, 2, ... groups of counts: (group, 3)."""
    groups, cells = counts.shape
    sums = np.zeros((groups, 3), np.int64)
    so_far = np.zeros(cells, np.int64)
    for g in range(groups):
        if g > 0:
            sums[g] = sums[g - 1]
        for cell in range(cells):
            if counts[g, cell] > 0:
                before = so_far[cell]
                after = before + np.int64(counts[g, cell])
                sums[g, 0] += plug_in_of(after, table, scale) - plug_in_of(before, table, scale)
                sums[g, 1] += _grassberger_of(after, table, scale) - _grassberger_of(before, table, scale)
                sums[g, 2] += before == 0
                so_far[cell] = after
    return sums


@compiled
def converging_bits(counts: Array, bins: int) -> Array:
    """Take the stepwise entropy of the first 1, 2, ... groups of counts (group, cell): (group, estimator).

    Estimators are plug-in, Miller-Madow and Grassberger, NaN as long as there are no pairs.
    """
    groups = counts.shape[0]
    scale = scale_of(counts.sum())
    table = weights(SMALL_COUNTS, scale)
    joint = _converging_sums(counts, table, scale)
    state = np.zeros((groups, bins), np.uint32)
    for g in range(groups):
        for a in range(bins):
            state[g] += counts[g, a * bins : (a + 1) * bins]
    marginal = _converging_sums(state, table, scale)
    bits = np.empty((groups, 3))
    pairs = 0
    for g in range(groups):
        pairs += state[g].sum()
        bits[g, 0] = (marginal[g, 0] - joint[g, 0]) / (pairs * scale)
        bits[g, 1] = bits[g, 0] + (joint[g, 2] - marginal[g, 2]) / (2 * pairs * np.log(2))
        bits[g, 2] = (marginal[g, 1] - joint[g, 1]) / (pairs * scale)
    return bits
