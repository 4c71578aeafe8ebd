"""Maximum mean discrepancy: whether two sets of samples come from one distribution (Gretton et al. 2012)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from traj.analysis._statistics import verdicts

Array = NDArray[Any]

COLUMNS = ("value", "se", "low", "high", "p")
"""What is told of two sets."""

FEWEST = 3
"""Samples of each set without which no jackknife is possible."""


def median_distance(rows: Array) -> float:
    """Take the median distance of two rows, a width for the kernel that goes by the data (Gretton et al., sect. 8)."""
    return float(np.median(pdist(rows)))


def gaussian(rows: Array, width: float) -> Array:
    """Give the kernel exp(-|a - b|^2 / (2 width^2)) of all pairs of rows, 0 for a row with itself."""
    squares = np.einsum("ij,ij->i", rows, rows)
    apart = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clip(0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kernel: Array = np.exp(-apart / (2 * width**2))
    np.fill_diagonal(kernel, 0)
    return kernel


def discrepancy(x: Array, y: Array, width: float, permutations: int, *, paired: bool = False) -> Array:
    """Compare sets of rows (sample, value): COLUMNS.

    The value is the unbiased estimate of MMD^2 (eq. 3), mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of
    different samples, so 0 on average, and below 0 at times, for equal distributions. Its standard error is the
    jackknife's, which leaves out one sample of either set in turn; it is on average too large rather than too small
    (Efron and Stein 1981), by some way where distributions are equal. `p` is (1 + count) / (1 + permutations), of
    permutations of the samples between the sets, always the same, that give as much or more.

    Where sets are paired, sample by sample, what a pair has in common is left out: k of the two is not counted, the
    jackknife leaves out pairs, and permutations swap the two of a pair.
    """
    n, m = len(x), len(y)
    kernel = gaussian(np.concatenate([x, y]), width)
    if paired:
        pairs = np.arange(n)
        kernel[pairs, n + pairs] = kernel[n + pairs, pairs] = 0
    value = float(_estimate(*_sums(kernel, np.arange(n + m)[:, None] < n), n, m, paired)[0])
    error = _jackknife(kernel, n, m, paired)
    if np.isnan(value):
        return np.full(len(COLUMNS), np.nan)
    drawn = _estimate(*_sums(kernel, _permuted(n, m, permutations, paired)), n, m, paired)
    beyond = (drawn >= value - 1e-12).sum()  # the last digits of a sum depend on its order
    half = verdicts.student(min(n, m)) * error
    return np.array([value, error, value - half, value + half, (1 + beyond) / (1 + permutations)])


def _permuted(n: int, m: int, permutations: int, paired: bool) -> Array:
    """Say which samples are in the first set: (sample, permutation)."""
    rng = np.random.default_rng(0)
    if paired:
        swapped = rng.integers(0, 2, (n, permutations)).astype(bool)
        return np.concatenate([~swapped, swapped])
    return rng.permuted(np.repeat(np.arange(n + m)[:, None] < n, permutations, axis=1), axis=0)


def _sums(kernel: Array, first: Array) -> tuple[Array, Array, Array]:
    """Sum the kernel within the first set, within the second and between them, for columns of `first`."""
    inside = first.astype(np.float64)
    of_first = inside.T @ kernel.sum(axis=1)
    within = (inside * (kernel @ inside)).sum(axis=0)
    return within, kernel.sum() - 2 * of_first + within, of_first - within


def _estimate(xx: Any, yy: Any, xy: Any, n: int, m: int, paired: bool) -> Any:
    """Put sums over pairs of different samples of n and m together."""
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * (n - 1) if paired else n * m)


def _jackknife(kernel: Array, n: int, m: int, paired: bool) -> float:
    """Give the standard error: of each set's jackknife, added up, or of the pairs'."""
    if min(n, m) < FEWEST:
        return float("nan")
    x, y, xy = kernel[:n, :n].sum(axis=1), kernel[n:, n:].sum(axis=1), kernel[:n, n:]
    of_x, of_y, xx, yy, both = xy.sum(axis=1), xy.sum(axis=0), x.sum(), y.sum(), xy.sum()
    if paired:
        without = [_estimate(xx - 2 * x, yy - 2 * y, both - of_x - of_y, n - 1, n - 1, paired)]
    else:
        without = [
            _estimate(xx - 2 * x, yy, both - of_x, n - 1, m, paired),
            _estimate(xx, yy - 2 * y, both - of_y, n, m - 1, paired),
        ]
    return float(np.sqrt(sum((len(values) - 1) * values.var() for values in without)))
