"""Whether a curve over noise levels has a peak between its ends, or falls from the least noise on (METHODS 5.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._quantity import Landmark
from traj.analysis._statistics.landmarks import DRAWS
from traj.analysis._statistics.verdicts import ERROR

Array = NDArray[Any]

UNIMODAL, CANNOT_TELL, MONOTONE = 1, 0, -1

FLAGS = {
    "units": "1",
    "flag_values": [MONOTONE, CANNOT_TELL, UNIMODAL],
    "flag_meanings": "monotone_decreasing cannot_tell unimodal",
}
"""Attributes of a variable of shapes (CF conventions 3.5)."""

WORDS = {UNIMODAL: "unimodal", MONOTONE: "monotone decreasing", CANNOT_TELL: "cannot tell"}

COLUMNS = ("shape", "rise", "rise_low", "rise_high")


def of_samples(values: Array, tolerance: float, factor: float) -> Array:
    """Say what shape the mean over samples of values (..., sample, timestep) has: (..., column of COLUMNS).

    Timesteps go from most to least noise. The rise is that of the mean from the last timestep to the highest of those
    between the ends, 0 or below where none is higher. Its interval pays for the choice: all differences of samples from
    the last timestep and from the first are known at once within q standard errors, q such that all hold together in
    95 % of cases; factor is how much larger errors are than those of independent samples. The curve is unimodal where
    one timestep is above both ends by more than that, and the best fit of a rise and a fall is nearer to it than that
    of a fall alone; monotone decreasing in noise where the rise is surely below the tolerance, and the curve surely
    falls.
    """
    lead = values.shape[:-2]
    found = [_of_curve(one, tolerance, factor) for one in values.reshape(-1, *values.shape[-2:]).astype(np.float64)]
    return np.array(found).reshape(*lead, len(COLUMNS))


def _of_curve(values: Array, tolerance: float, factor: float) -> tuple[float, ...]:
    samples, steps = values.shape
    if steps < 3 or samples < 2 or not np.isfinite(values).all():
        return CANNOT_TELL, np.nan, np.nan, np.nan
    between = values[:, 1:-1]
    above = np.hstack([between - values[:, -1:], between - values[:, :1], values[:, -1:] - values[:, :1]])
    mean, error = above.mean(axis=0), above.std(axis=0, ddof=1) / np.sqrt(samples)
    # as if one sample at least were unlike the others, where all are alike
    error = factor * np.maximum(error, 1 / samples)
    margin = largest_t(above) * error
    low, high = mean - margin, mean + margin
    of_last, of_first = np.split(low[:-1], 2)
    curve = values.mean(axis=0)
    peaked = (np.minimum(of_last, of_first) > 0).any() and _distance(curve, unimodal(curve)) < _distance(
        curve, decreasing(curve)
    )
    rises = slice(0, steps - 2)
    falls = high[rises].max() < tolerance and low[-1] > 0
    shape = UNIMODAL if peaked else MONOTONE if falls else CANNOT_TELL
    return shape, mean[rises].max(), low[rises].max(), high[rises].max()


def largest_t(values: Array) -> float:
    """Find what the largest t, of either sign, of means of columns (sample, column) exceeds in ERROR of all cases."""
    error = values.std(axis=0)
    there = error > 0
    if not there.any():
        return 0.0
    draws = redrawn(values[:, there]) - values[:, there].mean(axis=0)
    t = np.abs(draws) / (error[there] / np.sqrt(len(values)))
    return float(np.quantile(t.max(axis=1), 1 - ERROR))


def redrawn(values: Array, factor: float = 1.0) -> Array:
    """Draw means over samples (draw, column) as other samples would give them: normal, always the same draws.

    What the bootstrap gives of many samples, at a cost that does not grow with them; spread out by the factor.
    """
    centred = values - values.mean(axis=0)
    strength, axes = np.linalg.eigh(centred.T @ centred / len(values) ** 2)
    normal = np.random.default_rng(0).standard_normal((DRAWS, values.shape[1]))
    drawn: Array = values.mean(axis=0) + factor * normal * np.sqrt(strength.clip(0)) @ axes.T
    return drawn


BEYOND = (-np.inf, np.inf)
"""What the interval of a peak reaches to where it may be at an end of the noise levels: it may as well lie beyond."""


def between_the_ends(peak: Landmark, log_snr: Array, monotone: bool = False) -> Landmark:
    """Leave out a peak that is at an end of the noise levels, or of a curve that is monotone."""
    if monotone or peak.log_snr in (log_snr[0], log_snr[-1]):
        return replace(peak, timestep=np.nan, log_snr=np.nan, low=np.nan, high=np.nan)
    return peak


def decreasing(curve: Array) -> Array:
    """Fit a curve (timestep,), from most to least noise, that falls with noise: least squares."""
    from scipy.optimize import isotonic_regression

    fitted: Array = isotonic_regression(curve).x
    return fitted


def unimodal(curve: Array) -> Array:
    """Fit a curve (timestep,) that rises to some timestep and falls from there: least squares."""
    from scipy.optimize import isotonic_regression

    fits = [
        np.concatenate([isotonic_regression(curve[:k]).x, isotonic_regression(curve[k:], increasing=False).x])
        for k in range(1, len(curve))
    ]
    return min(fits, key=lambda fit: _distance(curve, fit)) if fits else curve


def _distance(curve: Array, fit: Array) -> float:
    return float(((curve - fit) ** 2).sum())
