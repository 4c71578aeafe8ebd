"""The compiled loops behind entropies: grey codes, joint histograms of codes, sums of c log2 c over their cells.

Counts are integers; every float sum runs in float64 and in an order fixed by samples, pixels and codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis._kernels import compiled

Array = NDArray[Any]

SMALL_COUNTS = 4096
"""Below this many, c log2 c is looked up rather than computed."""


@compiled
def grey_codes(images: Array, low: np.float32, scale: np.float32, shift: int) -> Array:
    """Turn (sample, timestep, channel, pixel) images of one or three channels into grey codes.

    A value becomes the byte clip(round((x - low) scale), 0, 255); three channels become one by ITU-R 601
    luma in the integer form of PIL's "L"; the byte loses its lowest `shift` bits.
    """
    samples, steps, channels, pixels = images.shape
    codes = np.empty((samples, steps, pixels), np.uint8)
    least, most = np.float32(0), np.float32(255)
    for k in range(samples):
        for t in range(steps):
            image, out = images[k, t], codes[k, t]
            if channels == 1:
                for p in range(pixels):
                    grey = np.int32(min(max(np.rint((image[0, p] - low) * scale), least), most))
                    out[p] = np.uint8(grey >> shift)
            else:
                for p in range(pixels):
                    red = np.int32(min(max(np.rint((image[0, p] - low) * scale), least), most))
                    green = np.int32(min(max(np.rint((image[1, p] - low) * scale), least), most))
                    blue = np.int32(min(max(np.rint((image[2, p] - low) * scale), least), most))
                    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
                    out[p] = np.uint8(grey >> shift)
    return codes


@compiled
def c_log_c(most: int) -> Array:
    """Tabulate c log2 c for c = 0..most, with 0 log 0 = 0."""
    table = np.zeros(most + 1)
    for c in range(2, most + 1):
        table[c] = c * np.log2(c)
    return table


@compiled
def _write_bits(joint: float, state: float, x_0: float, whole: float, pairs: int, out: Array) -> None:
    """Turn sums of c log2 c into bits: stepwise, state, x_0, joint entropy, mutual information.

    `whole` is the sum of a histogram with all `pairs` in one cell. Differences are taken before anything is
    divided: equal sums then give exactly 0.
    """
    out[0] = (state - joint) / pairs
    out[1] = (whole - state) / pairs
    out[2] = (whole - x_0) / pairs
    out[3] = (whole - joint) / pairs
    out[4] = max(((whole - x_0) - (state - joint)) / pairs, 0.0)


@compiled
def image_bits(states: Array, x_0: Array, bins: int) -> Array:
    """Take the five entropies of each image alone, (sample, timestep, column) in the order of `_write_bits`.

    `states` are codes (sample, timestep, pixel) and `x_0` codes (sample, pixel). Cells are added in the order
    in which the pixels first meet them.
    """
    samples, steps, pixels = states.shape
    table = c_log_c(pixels)
    bits = np.empty((samples, steps, 5))
    joint = np.zeros(bins * bins, np.int32)
    single = np.zeros(bins, np.int32)
    for k in range(samples):
        first = x_0[k]
        x_0_sum = _drain(first, single, table)
        for t in range(steps):
            # Both histograms in each loop: their sums then wait for one another no longer.
            state = states[k, t]
            for p in range(pixels):
                joint[first[p] * bins + state[p]] += 1
                single[state[p]] += 1
            joint_sum, state_sum = 0.0, 0.0
            for p in range(pixels):
                cell = first[p] * bins + state[p]
                joint_sum += table[joint[cell]]
                state_sum += table[single[state[p]]]
                joint[cell] = 0
                single[state[p]] = 0
            _write_bits(joint_sum, state_sum, x_0_sum, _c_log_c_of(pixels, table), pixels, bits[k, t])
    return bits


@compiled
def _drain(codes: Array, counts: Array, table: Array) -> float:
    """Sum c log2 c over the cells of one code image; `counts` is all zero before and after."""
    for p in range(codes.size):
        counts[codes[p]] += 1
    total = 0.0
    for p in range(codes.size):
        total += table[counts[codes[p]]]
        counts[codes[p]] = 0
    return total


@compiled
def add_joint_counts(counts: Array, states: Array, x_0: Array, first: int, last: int, bins: int) -> None:
    """Add to `counts` (timestep, cell) the code pairs of samples first..last-1.

    `states` is (sample, timestep, pixel), `x_0` (sample, pixel); cell = x_0 code * bins + state code.
    """
    steps, pixels = states.shape[1], states.shape[2]
    for t in range(steps):
        here = counts[t]
        for k in range(first, last):
            rows, columns = x_0[k], states[k, t]
            for p in range(pixels):
                here[rows[p] * bins + columns[p]] += 1


@compiled
def _c_log_c_of(c: int, table: Array) -> float:
    return float(table[c] if c < table.size else c * np.log2(c))


@compiled
def _leave_out(counts: Array, table: Array, less: Array) -> tuple[float, int]:
    """Sum c log2 c over counts (group, cell) added up, and count occupied cells.

    `less` receives what the sum loses when each group is left out.
    """
    groups, cells = counts.shape
    totals = np.zeros(cells, np.int64)
    for g in range(groups):
        group = counts[g]
        for cell in range(cells):
            totals[cell] += group[cell]
    less[:] = 0.0
    whole, occupied = 0.0, 0
    for cell in range(cells):
        total = totals[cell]
        if total > 0:
            value = _c_log_c_of(total, table)
            whole += value
            occupied += 1
            for g in range(groups):
                if counts[g, cell] > 0:
                    less[g] += value - _c_log_c_of(total - int(counts[g, cell]), table)
    return whole, occupied


@compiled
def _by_x_0(x_0: Array, bounds: Array, bins: int) -> tuple[Array, Array]:
    """Sort pixels by x_0 code, then group: their positions in order, and where each (code, group) starts."""
    groups, pixels = bounds.size - 1, x_0.shape[1]
    counts = _count_single(x_0, bounds, bins)
    starts, free = np.empty((bins, groups + 1), np.uint32), np.empty((bins, groups), np.uint32)
    start = 0
    for code in range(bins):
        for g in range(groups):
            starts[code, g] = free[code, g] = start
            start += counts[g, code]
        starts[code, groups] = start
    positions = np.empty(x_0.size, np.uint32)
    for g in range(groups):
        for k in range(bounds[g], bounds[g + 1]):
            for p in range(pixels):
                code = x_0[k, p]
                positions[free[code, g]] = k * pixels + p
                free[code, g] += np.uint32(1)
    return positions, starts


@compiled
def _leave_out_pairs(
    state: Array, positions: Array, starts: Array, table: Array, logs: Array, less: Array, marginal: Array, room: Array
) -> tuple[float, int]:
    """Do what `_leave_out` does for pairs that fill few of the cells, one x_0 code at a time.

    `state` are one timestep's codes, `positions` and `starts` come from `_by_x_0`. A row of cells per group
    stays in the fastest cache, and only cells that some pixel falls into cost a logarithm: a pixel adds its
    share, log2 c, to the whole, and the first one of its group what the cell loses without the group.
    `marginal` (group, code) receives the state's counts. `room` (group + 1, code) is all zero before and after.
    """
    groups, bins = marginal.shape
    less[:] = 0.0
    marginal[:] = 0
    whole, occupied = 0.0, 0
    totals = room[groups]
    for bound in starts:
        if bound[0] == bound[groups]:
            continue
        for g in range(groups):
            part, of_group = room[g], marginal[g]
            for i in range(bound[g], bound[g + 1]):
                part[state[positions[i]]] += np.int32(1)
            for code in range(bins):
                totals[code] += part[code]
                of_group[code] += part[code]
        here = np.int32(0)
        for code in range(bins):
            here += np.int32(totals[code] > 0)
        occupied += int(here)
        shares = 0.0
        for g in range(groups):
            part, lost = room[g], 0.0
            for i in range(bound[g], bound[g + 1]):
                cell = state[positions[i]]
                total = np.uint64(totals[cell])
                lost += table[total] - table[total - np.uint64(part[cell])]
                shares += logs[total]
                part[cell] = np.int32(0)
            less[g] += lost
        whole += shares
        totals[:] = 0
    return whole, occupied


@compiled
def _write_pooled_bits(
    joint: tuple[float, int], joint_less: Array, x_0: Array, state: Array, table: Array, out: Array
) -> None:
    """Write one timestep's pooled bits from the joint sums and the marginal counts (group, code)."""
    groups = state.shape[0]
    state_less, unused = np.empty(groups), np.empty(groups)
    state_sum, state_cells = _leave_out(state, table, state_less)
    x_0_sum, x_0_cells = _leave_out(x_0, table, unused)
    joint_sum, joint_cells = joint[0], joint[1]
    # One image decides the other: the sums are equal but were added in another order.
    if joint_cells == state_cells:
        joint_sum, joint_less = state_sum, state_less
    elif joint_cells == x_0_cells:
        joint_sum = x_0_sum
    pairs = state.sum()
    _write_bits(joint_sum, state_sum, x_0_sum, _c_log_c_of(pairs, table), pairs, out)
    out[5] = out[0] + (joint_cells - state_cells) / (2 * pairs * np.log(2))
    without = np.empty(groups)
    for g in range(groups):
        size = state[g].sum()
        kept = (state_sum - state_less[g]) - (joint_sum - joint_less[g])
        without[g] = kept / (pairs - size) if size > 0 else np.nan
    out[6] = np.sqrt((groups - 1) * np.mean((without - without.mean()) ** 2))


@compiled
def pooled_bits_of_counts(counts: Array, bins: int, table: Array) -> Array:
    """Take pooled entropies from counts (group, timestep, cell): (timestep, column).

    The columns are those of `_write_bits`, then the Miller-Madow value and the grouped jackknife's standard
    error of the stepwise entropy, NaN where a group is empty. `table` is `c_log_c`.
    """
    groups, steps, cells = counts.shape
    bits = np.empty((steps, 7))
    less = np.empty(groups)
    here = np.empty((groups, cells), np.uint32)
    for t in range(steps):
        here[:] = counts[:, t]
        x_0, state = np.zeros((groups, bins), np.int64), np.zeros((groups, bins), np.int64)
        for g in range(groups):
            for a in range(bins):
                row = here[g, a * bins : (a + 1) * bins]
                for b in range(bins):
                    state[g, b] += row[b]
                    x_0[g, a] += row[b]
        _write_pooled_bits(_leave_out(here, table, less), less, x_0, state, table, bits[t])
    return bits


@compiled
def pooled_bits_of_codes(states: Array, x_0: Array, bounds: Array, bins: int, table: Array) -> Array:
    """Take what `pooled_bits_of_counts` takes, from codes (timestep, sample, pixel) and (sample, pixel).

    Group g is the samples from `bounds[g]` to `bounds[g + 1]`.
    """
    steps, groups = states.shape[0], bounds.size - 1
    bits = np.empty((steps, 7))
    less = np.empty(groups)
    positions, starts = _by_x_0(x_0, bounds, bins)
    x_0_counts = _count_single(x_0, bounds, bins)
    most = x_0_counts.sum(axis=0).max()
    all_c_log_c = c_log_c(most)
    logs = all_c_log_c.copy()
    for c in range(2, most + 1):
        logs[c] /= c
    state_counts = np.empty((groups, bins), np.int32)
    room = np.zeros((groups + 1, bins), np.int32)
    for t in range(steps):
        whole = _leave_out_pairs(states[t].reshape(-1), positions, starts, all_c_log_c, logs, less, state_counts, room)
        _write_pooled_bits(whole, less, x_0_counts, state_counts.astype(np.int64), table, bits[t])
    return bits


@compiled
def _count_single(codes: Array, bounds: Array, bins: int) -> Array:
    counts = np.zeros((bounds.size - 1, bins), np.int64)
    for g in range(bounds.size - 1):
        for k in range(bounds[g], bounds[g + 1]):
            for p in range(codes.shape[1]):
                counts[g, codes[k, p]] += 1
    return counts
