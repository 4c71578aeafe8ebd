"""The compiled loops behind pooled entropies of few pixels: sorted by x_0 code, they need one row of cells at a time.

Four timesteps travel together, one byte each of a word per pixel: a word is fetched once for all four, and their
counts do not wait for one another. Sums are integers, see `_histograms`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled
from traj.analysis._kernels.histograms import SMALL_COUNTS, Sums, bits_of_sums, increments, leave_out, scale_of, weights

Array = NDArray[Any]

LANES = 4
ROW = 256
BYTE, ONE = np.uint64(255), np.uint64(1)


@compiled
def add_words(codes: Array, low: int, high: int, words: Array, first: int) -> None:
    """Put codes (sample, timestep, pixel) of timesteps low..high-1 into `words`, from sample `first` on.

    `words` is (timestep // LANES, sample, pixel); lanes beyond the last timestep repeat it.
    """
    samples, _, pixels = codes.shape
    last = high - 1
    for k in range(samples):
        for q in range(words.shape[0]):
            t = low + LANES * q
            a, b, c, d = codes[k, t], codes[k, min(t + 1, last)], codes[k, min(t + 2, last)], codes[k, min(t + 3, last)]
            out = words[q, first + k]
            for p in range(pixels):
                out[p] = (
                    np.uint32(a[p])
                    | (np.uint32(b[p]) << np.uint32(8))
                    | (np.uint32(c[p]) << np.uint32(16))
                    | (np.uint32(d[p]) << np.uint32(24))
                )


@compiled
def _sort(x_0: Array, part_of: Array, counts: Array) -> tuple[Array, Array]:
    """Sort pixels by x_0 code, then part: their positions in order, and where each (code, part) starts.

    `part_of` says which part each sample is in, those in -1 are left out; `counts` is what `_count_codes` gives.
    """
    pixels = x_0.shape[1]
    parts, bins = counts.shape
    starts, free = np.empty((bins, parts + 1), np.uint32), np.empty((bins, parts), np.uint32)
    start = 0
    for code in range(bins):
        for part in range(parts):
            starts[code, part] = free[code, part] = start
            start += counts[part, code]
        starts[code, parts] = start
    positions = np.empty(start, np.uint32)
    for k in range(x_0.shape[0]):
        part = part_of[k]
        if part >= 0:
            for p in range(pixels):
                code = x_0[k, p]
                positions[free[code, part]] = k * pixels + p
                free[code, part] += np.uint32(1)
    return positions, starts


@compiled
def _count_codes(codes: Array, part_of: Array, parts: int, bins: int) -> Array:
    """Count the codes (sample, pixel) of each part: (part, code)."""
    counts = np.zeros((parts, bins), np.int64)
    for k in range(codes.shape[0]):
        if part_of[k] >= 0:
            for p in range(codes.shape[1]):
                counts[part_of[k], codes[k, p]] += 1
    return counts


@compiled
def _cells(word: np.uint32) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Unpack one word into each lane's cell of its row."""
    w = np.uint64(word)
    return (
        w & BYTE,
        ((w >> np.uint64(8)) & BYTE) + np.uint64(ROW),
        ((w >> np.uint64(16)) & BYTE) + np.uint64(2 * ROW),
        (w >> np.uint64(24)) + np.uint64(3 * ROW),
    )


@compiled
def _enter(counts: Array, cell: np.uint64) -> np.uint64:
    """Count one more pixel in a cell; give the count before."""
    before = np.uint64(counts[cell])
    counts[cell] = before + ONE
    return before


@compiled
def _leave(counts: Array, cell: np.uint64) -> np.uint64:
    """Count one pixel less in a cell; give the count after."""
    after = np.uint64(counts[cell]) - ONE
    counts[cell] = after
    return after


@compiled
def _count_states(words: Array, group_of: Array, marginal: Array) -> None:
    """Count the state's codes in words (q, sample, pixel) into `marginal` (group, q, lane cells)."""
    for q in range(words.shape[0]):
        for k in range(words.shape[1]):
            of_group = marginal[group_of[k], q]
            for word in words[q, k]:
                for cell in _cells(word):
                    of_group[cell] += np.uint32(1)


@compiled
def _leave_out_sorted(
    words: Array, positions: Array, starts: Array, growth: Array, row: Array, sums: Array, less: Array
) -> None:
    """Do what `leave_out` does for the four timesteps of words (sample, pixel), one x_0 code at a time.

    Every pixel adds what the sums grow by. Then each group's pixels leave the row, which takes away what is lost
    without them, and enter again. `sums` (lane, 3) and `less` (lane, group) receive the results. `row` (lane cells)
    is all zero before and after.
    """
    groups = starts.shape[1] - 1
    unsorted = words.reshape(-1)
    here = np.empty(positions.size, np.uint32)
    for i in range(here.size):
        here[i] = unsorted[positions[i]]
    plug_in, grassberger = growth[0], growth[1]
    a_sum = b_sum = c_sum = d_sum = 0
    a_other = b_other = c_other = d_other = 0
    for lane in range(LANES):
        sums[lane, 2] = 0
        for g in range(groups):
            less[lane, g] = 0
    for code in range(starts.shape[0]):
        bound = starts[code]
        if bound[0] == bound[groups]:
            continue
        for i in range(bound[0], bound[groups]):
            a, b, c, d = _cells(here[i])
            before = _enter(row, a)
            a_sum += plug_in[before]
            a_other += grassberger[before]
            before = _enter(row, b)
            b_sum += plug_in[before]
            b_other += grassberger[before]
            before = _enter(row, c)
            c_sum += plug_in[before]
            c_other += grassberger[before]
            before = _enter(row, d)
            d_sum += plug_in[before]
            d_other += grassberger[before]
        for lane in range(LANES):
            occupied = np.int32(0)
            for i in range(lane * ROW, (lane + 1) * ROW):
                occupied += np.int32(row[i] > 0)
            sums[lane, 2] += occupied
        for g in range(groups):
            a_less = b_less = c_less = d_less = 0
            for i in range(bound[g], bound[g + 1]):
                a, b, c, d = _cells(here[i])
                a_less += plug_in[_leave(row, a)]
                b_less += plug_in[_leave(row, b)]
                c_less += plug_in[_leave(row, c)]
                d_less += plug_in[_leave(row, d)]
            less[0, g] += a_less
            less[1, g] += b_less
            less[2, g] += c_less
            less[3, g] += d_less
            for i in range(bound[g], bound[g + 1]):
                for cell in _cells(here[i]):
                    row[cell] += np.uint32(1)
        for i in range(row.size):
            row[i] = 0
    sums[0, 0], sums[1, 0], sums[2, 0], sums[3, 0] = a_sum, b_sum, c_sum, d_sum
    sums[0, 1], sums[1, 1], sums[2, 1], sums[3, 1] = a_other, b_other, c_other, d_other


def pooled_bits_of_words(words: Array, x_0: Array, group_of: Array, groups: int, bins: int, steps: int) -> Array:
    """Take what `pooled_bits_of_counts` takes from words (timestep // LANES, sample, pixel) of `steps` timesteps.

    `x_0` are codes (sample, pixel), `group_of` says which group each sample is in.
    """
    counts = _count_codes(x_0, group_of, groups, bins)
    positions, starts = _sort(x_0, group_of, counts)
    scale = scale_of(x_0.size)
    table, growth = weights(SMALL_COUNTS, scale), increments(int(counts.sum(axis=0).max()), scale)
    lanes, row = LANES * len(words), np.zeros(LANES * ROW, np.uint32)
    joint = Sums(np.empty((lanes, 3), np.int64), np.empty((lanes, groups), np.int64))
    marginal = np.zeros((groups, len(words), LANES * ROW), np.uint32)
    _count_states(words, group_of, marginal)
    for q, four in enumerate(words):
        here = slice(LANES * q, LANES * (q + 1))
        _leave_out_sorted(four, positions, starts, growth, row, *(each[here] for each in joint))
    state = marginal.reshape(groups, lanes, ROW)[:, :steps, :bins]
    return bits_of_sums(
        Sums(*(each[:steps] for each in joint)),
        leave_out(state, table, scale),
        counts.sum(axis=0),
        counts.sum(axis=1),
        table,
        scale,
    )


@compiled
def _sum_parts(
    words: Array, positions: Array, starts: Array, growth: Array, row: Array, sums: Array, marginal: Array
) -> None:
    """Sum c log2 c over the joint histogram of each part, for the four timesteps of words (sample, pixel).

    `growth` (part, c) are each part's increments. `sums` (part, lane, 2) receives the sums and the numbers of
    occupied cells, `marginal` (part, lane cells) the state's counts. `row` is all zero before and after.
    """
    parts = starts.shape[1] - 1
    unsorted = words.reshape(-1)
    here = np.empty(positions.size, np.uint32)
    for i in range(here.size):
        here[i] = unsorted[positions[i]]
    nothing = np.uint64(0)
    for code in range(starts.shape[0]):
        bound = starts[code]
        for part in range(parts):
            grown, of_part = growth[part], marginal[part]
            a_sum = b_sum = c_sum = d_sum = 0
            a_new = b_new = c_new = d_new = 0
            for i in range(bound[part], bound[part + 1]):
                a, b, c, d = _cells(here[i])
                before = _enter(row, a)
                a_sum += grown[before]
                a_new += before == nothing
                before = _enter(row, b)
                b_sum += grown[before]
                b_new += before == nothing
                before = _enter(row, c)
                c_sum += grown[before]
                c_new += before == nothing
                before = _enter(row, d)
                d_sum += grown[before]
                d_new += before == nothing
            for i in range(bound[part], bound[part + 1]):
                for cell in _cells(here[i]):
                    row[cell] = np.uint32(0)
                    of_part[cell] += np.uint32(1)
            sums[part, 0, 0] += a_sum
            sums[part, 1, 0] += b_sum
            sums[part, 2, 0] += c_sum
            sums[part, 3, 0] += d_sum
            sums[part, 0, 1] += a_new
            sums[part, 1, 1] += b_new
            sums[part, 2, 1] += c_new
            sums[part, 3, 1] += d_new


def class_bits_of_words(words: Array, x_0: Array, class_of: Array, classes: int, bins: int, steps: int) -> Array:
    """Take the stepwise entropy of each class's samples, (class, timestep, estimator): plug-in and Miller-Madow."""
    bits = np.empty((classes, steps, 2))
    counts = _count_codes(x_0, class_of, classes, bins)
    positions, starts = _sort(x_0, class_of, counts)
    pairs = counts.sum(axis=1)
    scales = [scale_of(int(of_class)) for of_class in pairs]
    growth = np.stack([increments(int(counts.max()), scale)[0] for scale in scales])
    row = np.zeros(LANES * ROW, np.uint32)
    sums = np.zeros((len(words), classes, LANES, 2), np.int64)
    marginal = np.zeros((len(words), classes, LANES * ROW), np.uint32)
    for q, four in enumerate(words):
        _sum_parts(four, positions, starts, growth, row, sums[q], marginal[q])
    for part, scale in enumerate(scales):
        joint = sums[:, part].reshape(-1, 2)[:steps]
        counts_of_state = marginal[:, part].reshape(1, -1, ROW)[:, :steps, :bins]
        state = leave_out(counts_of_state, weights(SMALL_COUNTS, scale), scale).over_cells
        bits[part, :, 0] = (state[:, 0] - joint[:, 0]) / (pairs[part] * scale)
        bits[part, :, 1] = bits[part, :, 0] + (joint[:, 1] - state[:, 2]) / (2 * pairs[part] * np.log(2))
    return bits
