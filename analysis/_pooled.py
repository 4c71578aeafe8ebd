"""Pooled joint histograms of (x_0, state) codes over all samples, group by group, in bounded memory.

Samples fall into `GROUPS` runs of equal length (by position, so the cut knows nothing of blocks), because a
grouped jackknife needs the counts with each group left out. While all codes of a timestep are smaller than
the dense counts they would fill, they are carried as they are, one byte a pixel; beyond that, each group's
counts are added up block by block, and so are each class's. So memory per timestep stops growing at
(GROUPS + classes) * bins^2 counts, whatever the number of samples, and every state is read once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from analysis import _histograms, _sorted
from analysis._histograms import COLUMNS

GROUPS = 8
BLOCKS_AT_ONCE = 4
PARTS = 4
SPARSE_PAIRS_PER_CELL = 4
SCRATCH_BYTES = 4 * 2**20
ESTIMATORS = ("plug_in", "miller_madow", "grassberger")
CLASS_COLUMNS = (COLUMNS.index("stepwise"), COLUMNS.index("miller_madow"))

Array = NDArray[Any]


class Pooled(NamedTuple):
    """What is taken from pooled histograms.

    Entropies in bits (timestep, column of COLUMNS); joint counts (at, x_0 code, state code); stepwise entropies of
    the first 1, 2, ... groups (at, group, estimator) and of each class, if there are any (class,
    timestep, plug-in or Miller-Madow).
    """

    bits: da.Array
    joint_counts: da.Array
    converging: da.Array
    by_class: da.Array | None


class Samples(NamedTuple):
    """Which samples are pooled together: the positions in each group and in each class."""

    groups: list[Array]
    classes: list[Array]


def group_bounds(samples: int) -> list[int]:
    """Cut samples into groups: group g is the samples from bound g to bound g + 1."""
    return [samples * g // GROUPS for g in range(GROUPS + 1)]


def pooled(states: da.Array, x_0: da.Array, bins: int, at: list[int], classes: list[Array]) -> Pooled:
    """Pool codes (sample, timestep, pixel) with codes (sample, pixel) cut alike along sample.

    `at` are the positions on the timestep axis, in order, whose joint counts are wanted; `classes` the positions
    of each class's samples.
    """
    samples, _, pixels = states.shape
    together = Samples([np.arange(*bounds) for bounds in pairwise(group_bounds(samples))], classes)
    firsts = x_0.to_delayed(optimize_graph=False)[:, 0].tolist()
    columns = states.to_delayed(optimize_graph=False)[:, :, 0].T.tolist()
    bits, maps, converging, by_class = [], [], [], []
    start = 0
    for column, length in zip(columns, states.chunks[1], strict=True):
        as_counts = carries_counts(samples * pixels, bins)
        if as_counts:
            counts = [_count(column, firsts, states.chunks[0], part, bins) for part in (*together.groups, *classes)]
        for low, high in pairwise(sorted({length * part // PARTS for part in range(PARTS + 1)})):
            inside = [position - start - low for position in at if low <= position - start < high]
            if as_counts:
                task = _delayed(_from_counts)(counts, low, high, inside, bins)
            else:
                task = _delayed(_from_codes)(column, firsts, low, high, inside, together, bins)
            bits.append(da.from_delayed(task[0], (high - low, len(COLUMNS)), np.float64))
            if inside:
                maps.append(da.from_delayed(task[1], (len(inside), bins, bins), np.int64))
                converging.append(da.from_delayed(task[2], (len(inside), GROUPS, len(ESTIMATORS)), np.float64))
            if classes:
                shape = len(classes), high - low, len(CLASS_COLUMNS)
                by_class.append(da.from_delayed(task[3], shape, np.float64))
        start += length
    return Pooled(
        da.concatenate(bits),
        da.concatenate(maps),
        da.concatenate(converging),
        da.concatenate(by_class, axis=1) if classes else None,
    )


def carries_counts(pairs: int, bins: int) -> bool:
    """Tell whether the groups' counts of a timestep are smaller than its codes."""
    return pairs > GROUPS * bins**2 * np.dtype(np.uint32).itemsize


def bytes_per_timestep(pairs: int, bins: int, classes: int) -> int:
    """Bytes that are carried per timestep: the codes, or the groups' and classes' counts once those are smaller."""
    return (GROUPS + classes) * bins**2 * np.dtype(np.uint32).itemsize if carries_counts(pairs, bins) else pairs


def _delayed(function: Any) -> Any:
    return delayed(function, pure=True)


def _count(column: list[Delayed], firsts: list[Delayed], lengths: tuple[int, ...], part: Array, bins: int) -> Any:
    """Count a part's pairs (timestep, cell), a few blocks at a time, each task adding to the last one's."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    inside = [part[(part >= first) & (part < last)] - first for first, last in pairwise(edges)]
    touched = [i for i, rows in enumerate(inside) if rows.size] or [0]
    counts: Any = None
    for i in range(0, len(touched), BLOCKS_AT_ONCE):
        batch = touched[i : i + BLOCKS_AT_ONCE]
        blocks = [column[j] for j in batch], [firsts[j] for j in batch], [inside[j] for j in batch]
        counts = _delayed(_add_blocks)(counts, *blocks, bins)
    return counts


def _add_blocks(before: Array | None, states: list[Array], x_0: list[Array], rows: list[Array], bins: int) -> Array:
    counts = np.zeros((states[0].shape[1], bins**2), np.uint32) if before is None else before.copy()
    for block, first, here in zip(states, x_0, rows, strict=True):
        _histograms.add_joint_counts(counts, block, first, here, bins)
    return counts


def _from_counts(counts: list[Array], low: int, high: int, at: list[int], bins: int) -> tuple[Array, ...]:
    """Reduce the counts of groups, then classes, at timesteps low..high-1."""
    groups, classes = counts[:GROUPS], counts[GROUPS:]
    bits = _reduce(groups, low, high, bins)
    by_class = [_reduce([of_class], low, high, bins)[:, CLASS_COLUMNS] for of_class in classes]
    maps, converging = _maps([np.stack([group[low + t] for group in groups]) for t in at], bins)
    return bits, maps, converging, np.array(by_class)


def _reduce(counts: list[Array], low: int, high: int, bins: int) -> Array:
    step = max(1, SCRATCH_BYTES // (len(counts) * bins**2 * 4))
    return np.concatenate(
        [
            _histograms.pooled_bits_of_counts(np.stack([part[t : min(t + step, high)] for part in counts]), bins)
            for t in range(low, high, step)
        ]
    )


def _from_codes(
    states: list[Array], x_0: list[Array], low: int, high: int, at: list[int], together: Samples, bins: int
) -> tuple[Array, ...]:
    """Count and reduce timesteps low..high-1 of all samples."""
    firsts, steps = np.concatenate(x_0), high - low
    sparse = firsts.size < SPARSE_PAIRS_PER_CELL * bins**2
    if sparse or together.classes:
        words = np.empty((-(-steps // _sorted.LANES), *firsts.shape), np.uint32)
        edges = np.cumsum([0, *map(len, states)])
        for block, first in zip(states, edges, strict=False):
            _sorted.add_words(block[:, low:high], words, first)
    if sparse:
        group_of = _part_of(together.groups, len(firsts))
        bits = _sorted.pooled_bits_of_words(words, firsts, group_of, GROUPS, bins, steps)
    else:
        each = [
            _histograms.pooled_bits_of_counts(_group_counts(states, firsts, low + t, together, bins)[:, None], bins)
            for t in range(steps)
        ]
        bits = np.concatenate(each)
    if together.classes:
        class_of = _part_of(together.classes, len(firsts))
        by_class = _sorted.class_bits_of_words(words, firsts, class_of, len(together.classes), bins, steps)
    else:
        by_class = np.empty((0, steps, len(CLASS_COLUMNS)))
    maps, converging = _maps([_group_counts(states, firsts, low + t, together, bins) for t in at], bins)
    return bits, maps, converging, by_class


def _group_counts(states: list[Array], firsts: Array, timestep: int, together: Samples, bins: int) -> Array:
    """Count one timestep's pairs: (group, cell)."""
    state = np.concatenate([block[:, timestep : timestep + 1] for block in states])
    counts = np.zeros((GROUPS, 1, bins**2), np.uint32)
    for group, samples in zip(counts, together.groups, strict=True):
        _histograms.add_joint_counts(group, state, firsts, samples, bins)
    return counts[:, 0]


def _part_of(parts: list[Array], samples: int) -> Array:
    """Say which part each sample is in, -1 for none."""
    part_of = np.full(samples, -1)
    for number, inside in enumerate(parts):
        part_of[inside] = number
    return part_of


def _maps(counts: list[Array], bins: int) -> tuple[Array, Array]:
    """Take joint counts and converging entropies from group counts (group, cell) at some timesteps."""
    maps = [each.sum(axis=0, dtype=np.int64) for each in counts]
    converging = [_histograms.converging_bits(each, bins) for each in counts]
    return np.array(maps, np.int64).reshape(-1, bins, bins), np.array(converging).reshape(-1, GROUPS, len(ESTIMATORS))
