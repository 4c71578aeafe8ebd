"""What a classifier's logits say: the compiled loops over probabilities and labels, one cell at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from traj.analysis._blocks import chunking
from traj.analysis._kernels.compiling import compiled
from traj.analysis._statistics import verdicts
from traj.stores import InputError

Array = NDArray[Any]


@compiled
def _softmax(logits: Array, out: Array) -> None:
    largest = -np.inf
    for k in range(logits.size):
        largest = max(largest, np.float64(logits[k]))
    total = 0.0
    for k in range(logits.size):
        out[k] = np.exp(np.float64(logits[k]) - largest)
        total += out[k]
    for k in range(logits.size):
        out[k] /= total


@compiled
def _label(logits: Array) -> int:
    """Find the largest logit, the first of equal ones; -1 where one is not a number."""
    best = 0
    for k in range(logits.size):
        if np.isnan(logits[k]):
            return -1
        if logits[k] > logits[best]:
            best = k
    return best


@compiled
def _probabilities(logits: Array, hard: bool, out: Array) -> None:
    if not hard:
        _softmax(logits, out)
        return
    label = _label(logits)
    out[:] = 0.0 if label >= 0 else np.nan
    if label >= 0:
        out[label] = 1.0


@compiled
def _gini(p: Array) -> float:
    """1 - sum p^2: the trace of a one-hot label's covariance."""
    squares = 0.0
    for k in range(p.size):
        squares += p[k] * p[k]
    return 1.0 - squares


@compiled
def _bits(p: Array) -> float:
    """-sum p log2 p."""
    total = 0.0
    for k in range(p.size):
        if p[k] != 0.0:
            total -= p[k] * np.log2(p[k])
    return total


@compiled
def _agreement(labels: Array, classes: int) -> float:
    """Take the share of pairs with equal labels, sum n (n - 1) / (R (R - 1)); NaN without pairs."""
    counts = np.zeros(classes, np.int64)
    for label in labels:
        if label < 0:
            return np.nan
        counts[label] += 1
    pairs = np.int64(0)
    for n in counts:
        pairs += n * (n - 1)
    return float(pairs / (labels.size * (labels.size - 1)))


@compiled
def _jackknife(p: Array, mean: Array) -> float:
    """Estimate the entropy, in bits, of the distribution that rows of `p` average to; NaN for one row."""
    count, classes = p.shape
    if count == 1:
        return np.nan
    rest, total = np.empty(classes), 0.0
    for r in range(count):
        for k in range(classes):
            rest[k] = max((count * mean[k] - p[r, k]) / (count - 1), 0.0)
        total += _bits(rest)
    return float(count * _bits(mean) - (count - 1) * total / count)


@compiled
def _grassberger(labels: Array, classes: int, g: Array) -> float:
    """Estimate the entropy of R labels, in bits, from their counts n: ln R - sum n G(n) / R; `g` holds G(0..R)."""
    counts = np.zeros(classes, np.int64)
    for label in labels:
        if label < 0:
            return np.nan
        counts[label] += 1
    total = 0.0
    for n in counts:
        total += n * g[n]
    return float((np.log(labels.size) - total / labels.size) / np.log(2.0))


REPLICAS = ("total", "within", "between", "pairwise", "entropy", "entropy_within", "agreement", "corrected")


def of_replicas(logits: xr.DataArray, hard: bool) -> xr.DataArray:
    """Take the columns of REPLICAS (..., column) from logits with dims replica, class and others. METHODS 1.4."""
    return chunking.per_cell(_replicas, logits, within=[["replica", "class"]], width=len(REPLICAS), hard=hard)


def _replicas(logits: Array, hard: bool) -> Array:
    """Do `of_replicas` for a chunk (..., replica, class)."""
    cells = logits.reshape(-1, *logits.shape[-2:])
    count = logits.shape[-2]
    g = np.log(2) + special.digamma(np.arange(count + 1) // 2 + 0.5)  # Grassberger 2003
    g[count] = np.nan if count == 1 else g[count]
    return _of_cells(cells, hard, g).reshape(*logits.shape[:-2], len(REPLICAS))


@compiled
def _of_cells(logits: Array, hard: bool, g: Array) -> Array:
    """Do `of_replicas` for cells (cell, replica, class).

    Probabilities are summed as differences from the first replica's, so that equal replicas differ by
    exactly nothing.
    """
    cells, count, classes = logits.shape
    values = np.empty((cells, 8))
    p, mean = np.empty((count, classes)), np.empty(classes)
    labels = np.empty(count, np.int64)
    for i in range(cells):
        within, entropy_within, between = 0.0, 0.0, 0.0
        for r in range(count):
            labels[r] = _label(logits[i, r])
            _probabilities(logits[i, r], hard, p[r])
            within += _gini(p[r])
            entropy_within += _bits(p[r])
        for k in range(classes):
            beyond_first = 0.0
            for r in range(count):
                beyond_first += p[r, k] - p[0, k]
            mean[k] = p[0, k] + beyond_first / count
            for r in range(count):
                between += (p[r, k] - mean[k]) ** 2
        agreement = _agreement(labels, classes)
        values[i, 0] = _gini(mean)
        values[i, 1] = within / count
        values[i, 2] = between / count
        values[i, 3] = 1 - agreement
        values[i, 4] = _bits(mean)
        values[i, 5] = entropy_within / count
        values[i, 6] = agreement
        values[i, 7] = _grassberger(labels, classes, g) if hard else _jackknife(p, mean)
    return values


def positions(labels: Array, classes: Array, asked: str) -> Array:
    """Find the places of labels (sample,) among classes (class,); asked says what they are needed for.

    Raises InputError where a sample has no label, or one that is no class.
    """
    unknown = ~np.isin(labels, classes)
    if unknown.any():
        raise InputError(
            f"{unknown.sum()} of {len(labels)} samples have a label that is none of the {len(classes)} classes of the "
            f"readout, the first is {labels[unknown][0]}; expected a label of every sample among these, to see "
            f"whether {asked}"
        )
    places: Array = (labels[:, None] == classes).argmax(axis=1)
    return places


def is_at(logits: Array, places: Array) -> Array:
    """Say whether the largest of logits (..., class) is at places (...): 1 or 0, NaN where one is not a number."""
    hit: Array = np.where(np.isnan(logits).any(axis=-1), np.nan, logits.argmax(axis=-1) == places)
    return hit


def interval_of_share(variables: Mapping[str, xr.DataArray], name: str, samples: int) -> dict[str, xr.DataArray]:
    """Give the interval of the mean over samples of a share, by its mean and standard error among `variables`."""
    title = f"{variables[name].attrs['long_name']}, mean over samples"
    return verdicts.interval(name, title, samples, variables[f"{name}_mean"], variables[f"{name}_se"])


STATES = ("variance", "entropy", "flip")


def of_states(logits: xr.DataArray, x_0_logits: xr.DataArray, hard: bool) -> xr.DataArray:
    """Take the columns of STATES (on, sample, timestep, column) from logits of states and of their final samples."""
    by_state = logits.transpose("on", "sample", "timestep", "class")
    of_x_0 = x_0_logits.transpose("sample", "class")
    return chunking.per_cell(_states, by_state, of_x_0, within=[["class"]] * 2, width=len(STATES), hard=hard)


@compiled
def _states(logits: Array, x_0_logits: Array, hard: bool) -> Array:
    """Do `of_states` for a chunk (on, sample, timestep, class) and x_0's (sample, 1, class)."""
    variables, samples, steps, classes = logits.shape
    values = np.empty((variables, samples, steps, 3))
    p = np.empty(classes)
    for v in range(variables):
        for s in range(samples):
            final = _label(x_0_logits[s, 0])
            for t in range(steps):
                _probabilities(logits[v, s, t], hard, p)
                label = _label(logits[v, s, t])
                values[v, s, t, 0] = _gini(p)
                values[v, s, t, 1] = _bits(p)
                values[v, s, t, 2] = np.nan if min(label, final) < 0 else 0.0 if label == final else 1.0
    return values
