"""The compiled loops behind pooled entropies of few pixels: sorted by x_0 code, they need one row of cells at a time.

Four timesteps travel together, one byte each of a word per pixel: a word is fetched once for all four, and their
counts do not wait for one another. Sums are integers, see `_histograms`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis._compiled import compiled
from analysis._histograms import (
    COLUMNS,
    SMALL_COUNTS,
    increments,
    leave_out,
    plug_in_of,
    scale_of,
    weights,
    write_pooled_bits,
)

Array = NDArray[Any]

LANES = 4
ROW = 256
BYTE, ONE = np.uint64(255), np.uint64(1)


@compiled
def add_words(codes: Array, words: Array, first: int) -> None:
    """Put codes (sample, timestep, pixel) into words (timestep // LANES, sample, pixel), from sample `first` on.

    Lanes beyond the last timestep repeat it.
    """
    samples, steps, pixels = codes.shape
    for k in range(samples):
        for q in range(words.shape[0]):
            t, last = LANES * q, steps - 1
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
def _sort(x_0: Array, part_of: Array, parts: int, bins: int) -> tuple[Array, Array]:
    """Sort pixels by x_0 code, then part: their positions in order, and where each (code, part) starts.

    `part_of` says which part each sample is in; those in -1 are left out.
    """
    pixels = x_0.shape[1]
    counts = count_codes(x_0, part_of, parts, bins)
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
def count_codes(codes: Array, part_of: Array, parts: int, bins: int) -> Array:
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
    """Count the state's codes in words (sample, pixel): `marginal` (group, lane cells) receives the counts."""
    marginal[:] = 0
    for k in range(words.shape[0]):
        of_group = marginal[group_of[k]]
        for word in words[k]:
            for cell in _cells(word):
                of_group[cell] += np.uint32(1)


@compiled
def _leave_out_sorted(words: Array, starts: Array, growth: Array, row: Array, sums: Array, less: Array) -> None:
    """Do what `leave_out` does for the four timesteps of sorted words, one x_0 code at a time.

    Every pixel adds what the sums grow by. Then each group's pixels leave the row, which takes away what is lost
    without them, and enter again. `sums` (3, lane) and `less` (lane, group) receive the results. `row` (lane cells)
    is all zero before and after.
    """
    groups = starts.shape[1] - 1
    plug_in, grassberger = growth[0], growth[1]
    a_sum = b_sum = c_sum = d_sum = 0
    a_other = b_other = c_other = d_other = 0
    sums[2] = 0
    less[:] = 0
    for bound in starts:
        if bound[0] == bound[groups]:
            continue
        for i in range(bound[0], bound[groups]):
            a, b, c, d = _cells(words[i])
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
            for code in range(ROW):
                occupied += np.int32(row[lane * ROW + code] > 0)
            sums[2, lane] += occupied
        for g in range(groups):
            a_less = b_less = c_less = d_less = 0
            for i in range(bound[g], bound[g + 1]):
                a, b, c, d = _cells(words[i])
                a_less += plug_in[_leave(row, a)]
                b_less += plug_in[_leave(row, b)]
                c_less += plug_in[_leave(row, c)]
                d_less += plug_in[_leave(row, d)]
            less[0, g] += a_less
            less[1, g] += b_less
            less[2, g] += c_less
            less[3, g] += d_less
            for i in range(bound[g], bound[g + 1]):
                for cell in _cells(words[i]):
                    row[cell] += np.uint32(1)
        row[:] = 0
    sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3] = a_sum, b_sum, c_sum, d_sum
    sums[1, 0], sums[1, 1], sums[1, 2], sums[1, 3] = a_other, b_other, c_other, d_other


@compiled
def pooled_bits_of_words(words: Array, x_0: Array, group_of: Array, groups: int, bins: int, steps: int) -> Array:
    """Take what `pooled_bits_of_counts` takes from words (timestep // LANES, sample, pixel) of `steps` timesteps.

    `x_0` are codes (sample, pixel), `group_of` says which group each sample is in.
    """
    bits = np.empty((steps, len(COLUMNS)))
    positions, starts = _sort(x_0, group_of, groups, bins)
    x_0_counts = count_codes(x_0, np.zeros_like(group_of), 1, bins)
    scale = scale_of(x_0.size)
    table, growth = weights(SMALL_COUNTS, scale), increments(x_0_counts.max(), scale)
    x_0_sum = leave_out(x_0_counts, table, scale, np.empty(1, np.int64))[0]
    here, row = np.empty(x_0.size, np.uint32), np.zeros(LANES * ROW, np.uint32)
    sums, less = np.empty((3, LANES), np.int64), np.empty((LANES, groups), np.int64)
    marginal = np.empty((groups, LANES * ROW), np.uint32)
    for q in range(words.shape[0]):
        unsorted = words[q].reshape(-1)
        for i in range(here.size):
            here[i] = unsorted[positions[i]]
        _leave_out_sorted(here, starts, growth, row, sums, less)
        _count_states(words[q], group_of, marginal)
        for lane in range(min(LANES, steps - LANES * q)):
            state = marginal[:, lane * ROW : lane * ROW + bins].astype(np.int64)
            joint = sums[0, lane], sums[1, lane], sums[2, lane]
            write_pooled_bits(joint, less[lane], state, x_0_sum, table, scale, bits[LANES * q + lane])
    return bits


@compiled
def _sum_parts(words: Array, starts: Array, growth: Array, row: Array, sums: Array, marginal: Array) -> None:
    """Sum c log2 c over the joint histogram of each part, for the four timesteps of sorted words.

    `growth` (part, c) are each part's increments. `sums` (2, part, lane) receives the sums and the numbers of
    occupied cells, `marginal` (part, lane cells) the state's counts. `row` is all zero before and after.
    """
    parts = starts.shape[1] - 1
    sums[:] = 0
    marginal[:] = 0
    nothing = np.uint64(0)
    for bound in starts:
        for part in range(parts):
            grown, of_part = growth[part], marginal[part]
            a_sum = b_sum = c_sum = d_sum = 0
            a_new = b_new = c_new = d_new = 0
            for i in range(bound[part], bound[part + 1]):
                a, b, c, d = _cells(words[i])
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
                for cell in _cells(words[i]):
                    row[cell] = np.uint32(0)
                    of_part[cell] += np.uint32(1)
            sums[0, part, 0] += a_sum
            sums[0, part, 1] += b_sum
            sums[0, part, 2] += c_sum
            sums[0, part, 3] += d_sum
            sums[1, part, 0] += a_new
            sums[1, part, 1] += b_new
            sums[1, part, 2] += c_new
            sums[1, part, 3] += d_new


@compiled
def class_bits_of_words(words: Array, x_0: Array, class_of: Array, classes: int, bins: int, steps: int) -> Array:
    """Take the stepwise entropy of each class's samples, (class, timestep, estimator): plug-in and Miller-Madow."""
    bits = np.empty((classes, steps, 2))
    positions, starts = _sort(x_0, class_of, classes, bins)
    x_0_counts = count_codes(x_0, class_of, classes, bins)
    pairs = x_0_counts.sum(axis=1)
    most = x_0_counts.max()
    growth, tables = np.empty((classes, most), np.int64), np.empty((classes, 2, SMALL_COUNTS + 1), np.int64)
    for part in range(classes):
        growth[part] = increments(most, scale_of(pairs[part]))[0]
        tables[part] = weights(SMALL_COUNTS, scale_of(pairs[part]))
    row, marginal = np.zeros(LANES * ROW, np.uint32), np.empty((classes, LANES * ROW), np.uint32)
    sums = np.empty((2, classes, LANES), np.int64)
    here = np.empty(positions.size, np.uint32)
    for q in range(words.shape[0]):
        unsorted = words[q].reshape(-1)
        for i in range(here.size):
            here[i] = unsorted[positions[i]]
        _sum_parts(here, starts, growth, row, sums, marginal)
        for part in range(classes):
            scale = scale_of(pairs[part])
            for lane in range(min(LANES, steps - LANES * q)):
                state, occupied = 0, 0
                for count in marginal[part, lane * ROW : lane * ROW + bins]:
                    state += plug_in_of(count, tables[part], scale)
                    occupied += count > 0
                out = bits[part, LANES * q + lane]
                out[0] = (state - sums[0, part, lane]) / (pairs[part] * scale)
                out[1] = out[0] + (sums[1, part, lane] - occupied) / (2 * pairs[part] * np.log(2))
    return bits
