"""What is computed of each state from its posterior over a dataset: one task per chunk of a run, columns of numbers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._blocks.datasets import Images
from traj.analysis._posterior import one_pass

Array = NDArray[Any]

MEASURES, REGIMES = 7, 3
"""Columns of numbers of a state, the last one only where the dataset has labels, and of flags."""


HELD = 1 << 22
"""Most values of the states that go through the dataset together: of each a task holds about BYTES."""

BYTES = 40


class Bounds(NamedTuple):
    """Where regimes end: the largest weight and the effective number from which on one image counts, or all do."""

    weight: float
    fewest: float
    most: float


def columns_of(images: Images, top: int, keep_mean: bool) -> dict[str, slice]:
    """Say where what is part of a state's values lies among its columns."""
    widths = {
        "measures": MEASURES - (images.labels is None),
        "flags": REGIMES,
        "log_weight": top,
        "weight": top,
        "index": top,
        "regime": 1,
        "classes": images.classes.size,
        "mean": images.values * keep_mean,
    }
    ends = np.cumsum(list(widths.values()))
    return {name: slice(int(end) - width, int(end)) for (name, width), end in zip(widths.items(), ends, strict=True)}


def of_states(x_t: da.Array, pred_x0: da.Array, levels: Array, columns: dict[str, slice], **options: Any) -> da.Array:
    """Compute the columns of every state, one task per chunk of x_t: (sample, timestep, column)."""
    event = chunking.EVENT_AXES[: x_t.ndim - 2]
    chunks = x_t.chunks[1]
    values: da.Array = da.blockwise(
        partial(_of_chunk, columns=columns, **options),
        "stk",
        *(x_t, "st" + event, pred_x0.rechunk(x_t.chunks), "st" + event),
        *(da.from_array(levels, (chunks, -1), name=False), "tl"),
        new_axes={"k": columns["mean"].stop},
        token="posterior",
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
        align_arrays=False,
    )
    return values


def _of_chunk(x_t: Array, pred_x0: Array, levels: Array, *, images: Images, **options: Any) -> Array:
    """Give the states (sample, timestep, *event) of one chunk their columns, some rows at a time."""
    lead = x_t.shape[:2]
    rows = [array.reshape(-1, images.values) for array in (x_t, pred_x0)]
    rows.append(np.broadcast_to(levels, (*lead, 2)).reshape(-1, 2))
    together = max(1, HELD // images.values)
    starts = range(0, len(rows[0]), together)
    parts = [_of_rows(*(part[k : k + together] for part in rows), images=images, **options) for k in starts]
    return np.concatenate(parts).reshape(*lead, -1)


def _of_rows(
    states: Array,
    predicted: Array,
    levels: Array,
    *,
    columns: dict[str, slice],
    images: Images,
    top: int,
    bounds: Bounds,
) -> Array:
    known = finite(states)
    c, d = levels.T
    found = one_pass.of_states(np.where(known[:, None], states, 0), c, d, images, top)
    number, largest = np.exp(found.entropy), np.exp(found.log_weight[:, 0])
    denoising: Array = (largest > bounds.weight) | (number < bounds.fewest)
    statistics = (number > bounds.most) & ~denoising
    values = np.column_stack(
        [
            found.entropy / np.log(2),
            number,
            largest,
            _rms(found.mean - predicted),
            _rms(found.mean - found.nearest),
            _ratio(_rms(found.mean - found.dataset_mean), _rms(found.nearest - found.dataset_mean)),
            *([_bits(found.classes)] if images.labels is not None else []),
            statistics,
            ~(statistics | denoising),
            denoising,
            found.log_weight,
            np.exp(found.log_weight),
            found.image,
            np.where(denoising, 2, np.where(statistics, 0, 1)),
            found.classes,
            found.mean[:, : columns["mean"].stop - columns["mean"].start],
        ]
    )
    values[~known] = np.nan
    values[~known, columns["index"].start : columns["regime"].stop] = -1
    return values


def finite(states: Array) -> Array:
    """Say of each row whether all its values are numbers."""
    known: Array = np.asarray(np.isfinite(states).all(axis=1))
    return known


def _rms(differences: Array) -> Array:
    """Take the root of the mean square of each row."""
    root: Array = np.sqrt(np.einsum("ij,ij->i", differences, differences) / differences.shape[1])
    return root


def _ratio(part: Array, whole: Array) -> Array:
    """Divide, NaN where the whole is nothing: the nearest image is the mean itself."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _bits(probability: Array) -> Array:
    """Take the entropy of each row."""
    logarithm = np.log2(probability, out=np.zeros_like(probability), where=probability > 0)
    bits: Array = 0.0 - (probability * logarithm).sum(axis=1)
    return bits


def log_snr(levels: Array) -> Array:
    """Take 2 ln(c / d) of signals and noise scales (timestep, 2)."""
    with np.errstate(divide="ignore"):
        found: Array = 2 * np.log(levels[:, 0] / levels[:, 1])
    return found
