"""Pooled joint histograms of (x_0, state) codes over all samples, group by group, in bounded memory.

Samples are dealt out to groups (by position, so the deal knows nothing of chunks), because a grouped jackknife
needs the counts with each group left out. While all codes of a timestep are smaller than
the dense counts they would fill, they are carried as they are, one byte a pixel; beyond that, each group's
counts are added up chunk by chunk, and so are each class's. So memory per timestep stops growing at
(GROUPS + classes) * bins^2 counts, whatever the number of samples, and every state is read once.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise, product
from operator import itemgetter
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key
from numpy.typing import NDArray

from traj.analysis._kernels import histograms, sorted_codes
from traj.analysis._kernels.histograms import COLUMNS
from traj.analysis._statistics.spread import GROUPS, dealt

BLOCKS_AT_ONCE = 4
PARTS = 4
SPARSE_PAIRS_PER_CELL = 10
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


class Part(NamedTuple):
    """A task, and the number of timesteps that it takes something from."""

    key: Key
    steps: int


def pooled(states: da.Array, x_0: da.Array, bins: int, at: list[int], classes: list[Array]) -> Pooled:
    """Pool codes (sample, timestep, pixel) with codes (sample, pixel) cut alike along sample.

    `at` are the positions on the timestep axis, in order, whose joint counts are wanted; `classes` the positions
    of each class's samples.
    """
    samples, _, pixels = states.shape
    group_of = dealt(samples)
    together = Samples([np.flatnonzero(group_of == group) for group in range(GROUPS)], classes)
    name = f"pooled-{tokenize(states.name, x_0.name, bins, at, *together)}"
    firsts: list[Key] = [(x_0.name, i, 0) for i in range(x_0.numblocks[0])]
    # Written out: as many delayed calls would take longer to put together than to carry out.
    tasks: dict[Key, Any] = {}
    parts: list[Part] = []
    mapped: list[Part] = []
    start = 0
    for number, length in enumerate(states.chunks[1]):
        column: list[Key] = [(states.name, i, number, 0) for i in range(states.numblocks[0])]
        as_counts = carries_counts(samples * pixels, bins)
        if as_counts:
            counts = [
                _count(tasks, (name, "counts", number, among), column, firsts, states.chunks[0], part, bins)
                for among, part in enumerate((*together.groups, *classes))
            ]
        for low, high in pairwise(sorted({length * part // PARTS for part in range(PARTS + 1)})):
            key = name, "parts", len(parts)
            if as_counts:
                tasks[key] = partial(_from_counts, low=low, high=high, bins=bins), counts
            else:
                tasks[key] = partial(_from_codes, low=low, high=high, together=together, bins=bins), column, firsts
            parts.append(Part(key, high - low))
        if inside := [position - start for position in at if 0 <= position - start < length]:
            key = name, "maps", number
            if as_counts:
                tasks[key] = partial(_maps_from_counts, at=inside, bins=bins), counts[:GROUPS]
            else:
                tasks[key] = partial(_maps_from_codes, at=inside, together=together, bins=bins), column, firsts
            mapped.append(Part(key, len(inside)))
        start += length
    graph = _with_layer(HighLevelGraph.merge(states.dask, x_0.dask), name, tasks, {states.name, x_0.name})
    lengths, maps = (tuple(part.steps for part in each) for each in (parts, mapped))
    curves = (len(classes),), lengths, (len(CLASS_COLUMNS),)
    return Pooled(
        _taken(graph, name, "bits", 0, parts, (lengths, (len(COLUMNS),)), np.float64),
        _taken(graph, name, "maps", 0, mapped, (maps, (bins,), (bins,)), np.int64),
        _taken(graph, name, "converging", 1, mapped, (maps, (GROUPS,), (len(ESTIMATORS),)), np.float64),
        _taken(graph, name, "by-class", 1, parts, curves, np.float64) if classes else None,
    )


def _taken(
    graph: HighLevelGraph,
    name: str,
    what: str,
    place: int,
    parts: list[Part],
    chunks: tuple[tuple[int, ...], ...],
    dtype: type,
) -> da.Array:
    """Take one of the arrays that the task of each part gives, cut along the one axis that has as many chunks."""
    of = f"{name}-{what}"
    places = product(*(range(len(lengths)) for lengths in chunks))
    layer: dict[Key, Any] = {(of, *at): (itemgetter(place), part.key) for at, part in zip(places, parts, strict=True)}
    return da.Array(_with_layer(graph, of, layer, {name}), of, chunks, dtype)


def _with_layer(graph: HighLevelGraph, name: str, tasks: dict[Key, Any], on: set[str]) -> HighLevelGraph:
    return HighLevelGraph({**graph.layers, name: tasks}, {**graph.dependencies, name: on})


def carries_counts(pairs: int, bins: int) -> bool:
    """Tell whether the groups' counts of a timestep are smaller than its codes."""
    return pairs > GROUPS * bins**2 * np.dtype(np.uint32).itemsize


def bytes_per_timestep(pairs: int, bins: int, classes: int) -> int:
    """Bytes that are carried per timestep: the codes, or the groups' and classes' counts once those are smaller."""
    return (GROUPS + classes) * bins**2 * np.dtype(np.uint32).itemsize if carries_counts(pairs, bins) else pairs


def _count(
    tasks: dict[Key, Any],
    name: tuple[Key, ...],
    column: list[Key],
    firsts: list[Key],
    lengths: tuple[int, ...],
    part: Array,
    bins: int,
) -> Key | None:
    """Count a part's pairs (timestep, cell), a few chunks at a time, each task adding to the last one's."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    inside = [part[(part >= first) & (part < last)] - first for first, last in pairwise(edges)]
    touched = [i for i, rows in enumerate(inside) if rows.size] or [0]
    counts: Key | None = None
    for i in range(0, len(touched), BLOCKS_AT_ONCE):
        batch = touched[i : i + BLOCKS_AT_ONCE]
        add = partial(_add_chunks, rows=[inside[j] for j in batch], bins=bins)
        tasks[*name, i] = add, counts, [column[j] for j in batch], [firsts[j] for j in batch]
        counts = (*name, i)
    return counts


def _add_chunks(before: Array | None, states: list[Array], x_0: list[Array], rows: list[Array], bins: int) -> Array:
    counts = np.zeros((states[0].shape[1], bins**2), np.uint32) if before is None else before.copy()
    for chunk, first, here in zip(states, x_0, rows, strict=True):
        histograms.add_joint_counts(counts, chunk, first, here, bins)
    return counts


def _from_counts(counts: list[Array], low: int, high: int, bins: int) -> tuple[Array, Array]:
    """Reduce the counts of groups, then classes, at timesteps low..high-1."""
    groups, classes = counts[:GROUPS], counts[GROUPS:]
    by_class = [_reduce([of_class], low, high, bins)[:, CLASS_COLUMNS] for of_class in classes]
    return _reduce(groups, low, high, bins), np.array(by_class)


def _reduce(counts: list[Array], low: int, high: int, bins: int) -> Array:
    step = max(1, SCRATCH_BYTES // (len(counts) * bins**2 * 4))
    return np.concatenate(
        [
            histograms.pooled_bits_of_counts(np.stack([part[t : min(t + step, high)] for part in counts]), bins)
            for t in range(low, high, step)
        ]
    )


def _from_codes(
    states: list[Array], x_0: list[Array], low: int, high: int, together: Samples, bins: int
) -> tuple[Array, Array]:
    """Count and reduce timesteps low..high-1 of all samples."""
    firsts, steps = np.concatenate(x_0), high - low
    sparse = firsts.size < SPARSE_PAIRS_PER_CELL * bins**2
    if sparse or together.classes:
        words = np.empty((-(-steps // sorted_codes.LANES), *firsts.shape), np.uint32)
        edges = np.cumsum([0, *map(len, states)])
        for chunk, first in zip(states, edges, strict=False):
            sorted_codes.add_words(chunk, low, high, words, first)
    if sparse:
        group_of = _part_of(together.groups, len(firsts))
        bits = sorted_codes.pooled_bits_of_words(words, firsts, group_of, GROUPS, bins, steps)
    else:
        each = [
            histograms.pooled_bits_of_counts(_group_counts(states, firsts, low + t, together, bins)[:, None], bins)
            for t in range(steps)
        ]
        bits = np.concatenate(each)
    if together.classes:
        class_of = _part_of(together.classes, len(firsts))
        by_class = sorted_codes.class_bits_of_words(words, firsts, class_of, len(together.classes), bins, steps)
    else:
        by_class = np.empty((0, steps, len(CLASS_COLUMNS)))
    return bits, by_class


def _group_counts(states: list[Array], firsts: Array, timestep: int, together: Samples, bins: int) -> Array:
    """Count one timestep's pairs: (group, cell)."""
    state = np.concatenate([chunk[:, timestep : timestep + 1] for chunk in states])
    counts = np.zeros((GROUPS, 1, bins**2), np.uint32)
    for group, samples in zip(counts, together.groups, strict=True):
        histograms.add_joint_counts(group, state, firsts, samples, bins)
    return counts[:, 0]


def _part_of(parts: list[Array], samples: int) -> Array:
    """Say which part each sample is in, -1 for none."""
    part_of = np.full(samples, -1)
    for number, inside in enumerate(parts):
        part_of[inside] = number
    return part_of


def _maps_from_counts(counts: list[Array], at: list[int], bins: int) -> tuple[Array, Array]:
    return _maps([np.stack([group[t] for group in counts]) for t in at], bins)


def _maps_from_codes(
    states: list[Array], x_0: list[Array], at: list[int], together: Samples, bins: int
) -> tuple[Array, Array]:
    firsts = np.concatenate(x_0)
    return _maps([_group_counts(states, firsts, t, together, bins) for t in at], bins)


def _maps(counts: list[Array], bins: int) -> tuple[Array, Array]:
    """Take joint counts and converging entropies from group counts (group, cell) at some timesteps."""
    maps = [each.sum(axis=0, dtype=np.int64) for each in counts]
    converging = [histograms.converging_bits(each, bins) for each in counts]
    return np.array(maps, np.int64).reshape(-1, bins, bins), np.array(converging).reshape(-1, GROUPS, len(ESTIMATORS))
