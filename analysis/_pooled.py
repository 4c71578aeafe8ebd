"""Pooled joint histograms of (x_0, state) codes over all samples, group by group, in bounded memory.

Samples fall into `GROUPS` runs of equal length (by position, so the cut knows nothing of blocks), because a
grouped jackknife needs the counts with each group left out. While all codes of a timestep are smaller than
the dense counts they would fill, they are carried as they are, one byte a pixel; beyond that, each group's
counts are added up block by block. So memory per timestep stops growing at GROUPS * bins^2 counts, whatever
the number of samples, and every state is read once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from analysis import _histograms

GROUPS = 8
BLOCKS_AT_ONCE = 4
PARTS = 4
SPARSE_PAIRS_PER_CELL = 4
SCRATCH_BYTES = 4 * 2**20
COLUMNS = ("stepwise", "state", "x_0", "joint", "mutual", "miller_madow", "jackknife")

Array = NDArray[Any]


class Pooled(NamedTuple):
    """Entropies in bits (timestep, column of COLUMNS) and joint counts (at, x_0 code, state code)."""

    bits: da.Array
    joint_counts: da.Array


def pooled(states: da.Array, x_0: da.Array, bins: int, at: list[int]) -> Pooled:
    """Pool codes (sample, timestep, pixel) with codes (sample, pixel) cut alike along sample.

    `at` are the positions on the timestep axis, in order, whose joint counts are wanted.
    """
    samples, _, pixels = states.shape
    bounds = [samples * g // GROUPS for g in range(GROUPS + 1)]
    as_counts = samples * pixels > bytes_per_timestep(samples * pixels, bins)
    firsts = x_0.to_delayed(optimize_graph=False)[:, 0].tolist()
    columns = states.to_delayed(optimize_graph=False)[:, :, 0].T.tolist()
    bits, maps = [], []
    start = 0
    for column, length in zip(columns, states.chunks[1], strict=True):
        if as_counts:
            groups = _count_groups(column, firsts, states.chunks[0], bounds, bins)
        for low, high in pairwise(sorted({length * part // PARTS for part in range(PARTS + 1)})):
            inside = [position - start - low for position in at if low <= position - start < high]
            if as_counts:
                task = _delayed(_from_counts)(groups, low, high, inside, bins)
            else:
                task = _delayed(_from_codes)(column, firsts, low, high, inside, bounds, bins)
            bits.append(da.from_delayed(task[0], (high - low, len(COLUMNS)), np.float64))
            if inside:
                maps.append(da.from_delayed(task[1], (len(inside), bins, bins), np.int64))
        start += length
    return Pooled(da.concatenate(bits), da.concatenate(maps))


def bytes_per_timestep(pairs: int, bins: int) -> int:
    """Bytes that are carried per timestep: the codes, or the groups' counts once those are smaller."""
    return min(pairs, GROUPS * bins**2 * np.dtype(np.uint32).itemsize)


def _delayed(function: Any) -> Any:
    return delayed(function, pure=True)


def _count_groups(
    column: list[Delayed], firsts: list[Delayed], lengths: tuple[int, ...], bounds: list[int], bins: int
) -> list[Delayed | None]:
    """Count each group's pairs (timestep, cell), a few blocks at a time, each task adding to the last one's."""
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    groups = []
    for first, last in pairwise(bounds):
        touched = [i for i in range(len(lengths)) if edges[i] < last and edges[i + 1] > first]
        counts = None
        for i in range(0, len(touched), BLOCKS_AT_ONCE):
            batch = touched[i : i + BLOCKS_AT_ONCE]
            rows = [(max(first - edges[j], 0), min(last - edges[j], lengths[j])) for j in batch]
            counts = _delayed(_add_blocks)(counts, [column[j] for j in batch], [firsts[j] for j in batch], rows, bins)
        groups.append(counts)
    return groups


def _add_blocks(
    before: Array | None, states: list[Array], x_0: list[Array], rows: list[tuple[int, int]], bins: int
) -> Array:
    counts = np.zeros((states[0].shape[1], bins**2), np.uint32) if before is None else before.copy()
    for block, first, (low, high) in zip(states, x_0, rows, strict=True):
        _histograms.add_joint_counts(counts, block, first, low, high, bins)
    return counts


def _from_counts(groups: list[Array], low: int, high: int, at: list[int], bins: int) -> tuple[Array, Array]:
    """Reduce the group counts of timesteps low..high-1 to bits and maps."""
    table = _histograms.c_log_c(_histograms.SMALL_COUNTS)
    step = max(1, SCRATCH_BYTES // (GROUPS * bins**2 * 4))
    bits = [
        _histograms.pooled_bits_of_counts(np.stack([counts[t : min(t + step, high)] for counts in groups]), bins, table)
        for t in range(low, high, step)
    ]
    maps = [np.sum([counts[low + t] for counts in groups], axis=0, dtype=np.int64) for t in at]
    return np.concatenate(bits), _stacked(maps, bins)


def _from_codes(
    states: list[Array], x_0: list[Array], low: int, high: int, at: list[int], bounds: list[int], bins: int
) -> tuple[Array, Array]:
    """Count and reduce timesteps low..high-1 of all samples."""
    codes = np.concatenate([block[:, low:high] for block in states])
    firsts = np.concatenate(x_0)
    table = _histograms.c_log_c(_histograms.SMALL_COUNTS)
    maps = [np.bincount((firsts * np.int32(bins) + codes[:, t]).ravel(), minlength=bins**2) for t in at]
    by_timestep = np.ascontiguousarray(codes.swapaxes(0, 1))
    if firsts.size < SPARSE_PAIRS_PER_CELL * bins**2:
        return _histograms.pooled_bits_of_codes(by_timestep, firsts, np.array(bounds), bins, table), _stacked(
            maps, bins
        )
    bits = []
    counts = np.empty((GROUPS, 1, bins**2), np.uint32)
    for t in range(high - low):
        counts[:] = 0
        state = np.ascontiguousarray(codes[:, t : t + 1])
        for group, (first, last) in zip(counts, pairwise(bounds), strict=True):
            _histograms.add_joint_counts(group, state, firsts, first, last, bins)
        bits.append(_histograms.pooled_bits_of_counts(counts, bins, table))
    return np.concatenate(bits), _stacked(maps, bins)


def _stacked(maps: list[Any], bins: int) -> Array:
    return np.array(maps, np.int64).reshape(-1, bins, bins)
