"""Verdicts: seen, not seen, or cannot tell. Each needs an interval; choosing the largest of several is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

Array = NDArray[Any]

SEEN, CANNOT_TELL, NOT_SEEN = 1, 0, -1

SIMILAR = 0.8
"""Mean SSIM from which 002 takes two images for alike."""

WORDS = {SEEN: "seen", CANNOT_TELL: "cannot tell", NOT_SEEN: "not seen"}

FLAGS = {"units": "1", "flag_values": [NOT_SEEN, CANNOT_TELL, SEEN], "flag_meanings": "not_seen cannot_tell seen"}
"""Attributes of a variable of verdicts (CF conventions 3.5)."""

ERROR = 0.05
"""How often an interval may miss what it is of, and a claim that is not true may be seen."""

FLIPS = 2000
"""Choices of signs that stand for all of them, where there are more."""


def student(samples: int | Array, among: int | Array = 1) -> Any:
    """Give the half width, in standard errors, of an interval of a mean: Student's quantile, NaN for one sample.

    Of `among` intervals, all hold together (Bonferroni).
    """
    return special.stdtrit(np.asarray(samples) - 1.0, 1 - ERROR / (2 * np.asarray(among)))


def normal(among: int = 1) -> float:
    """Give the half width, in standard errors, of an interval of what is normal; of `among`, all hold together."""
    return float(special.ndtri(1 - ERROR / (2 * among)))


def band(mean: Array, error: Array, samples: int) -> tuple[Array, Array]:
    """Give the low and high ends of 95 % intervals of means over samples, by their standard errors."""
    half = student(samples) * error
    return mean - half, mean + half


def at_least(mean: Array, error: Array, threshold: float | Array, samples: int, among: int | Array = 1) -> Array:
    """Say of means with standard errors whether they are `threshold` or more."""
    margin = student(samples, among) * error
    verdicts: Array = np.select([mean - margin >= threshold, mean + margin < threshold], [SEEN, NOT_SEEN], CANNOT_TELL)
    return verdicts


def means(values: Array) -> tuple[Array, Array]:
    """Give means and their standard errors over samples of values (..., sample); no error for one sample."""
    ordered = np.ascontiguousarray(values)  # sums in one order
    samples = ordered.shape[-1]
    if samples < 2:
        return ordered.mean(axis=-1), np.full(ordered.shape[:-1], np.nan)
    return ordered.mean(axis=-1), ordered.std(axis=-1, ddof=1) / np.sqrt(samples)


def of_means(values: Array, threshold: float | Array, among: int | Array = 1) -> Array:
    """Say whether means over samples of values (..., sample) are `threshold` or more."""
    return at_least(*means(values), threshold, values.shape[-1], among)


def with_margin(values: Array) -> tuple[float, float]:
    """Give the mean of values (sample,), and half of its interval."""
    mean, error = means(values)
    return float(mean), float(student(values.shape[-1]) * error)


def beside_published(values: Array, mean: float, deviation: float, samples: int) -> int:
    """Say whether the mean of values (sample,) is above a published one, of so many samples: SEEN, NOT_SEEN for below.

    Published is the mean absolute deviation, of which the standard deviation is sqrt(pi / 2) where samples are normal.
    The interval is of the difference of means of other samples with other spreads (Welch 1947).
    """
    here, error = means(values)
    there = deviation * np.sqrt(np.pi / 2 / samples)
    squares = np.array([error**2, there**2])
    freedom = squares.sum() ** 2 / (squares**2 / (np.array([len(values), samples]) - 1.0)).sum()
    half = special.stdtrit(freedom, 1 - ERROR / 2) * np.sqrt(squares.sum())
    return SEEN if here - mean > half else NOT_SEEN if here - mean < -half else CANNOT_TELL


def most(count: int, undecided: int, of: int) -> int:
    """Say whether something holds of more than half, if it does of `count` and perhaps of `undecided` others."""
    return SEEN if 2 * count > of else NOT_SEEN if 2 * (count + undecided) <= of else CANNOT_TELL


def most_of_all(count: int, of: int) -> int:
    """Say of what `count` of so many samples show whether most would."""
    low, high = wilson(count / of, of)
    return SEEN if low > 0.5 else NOT_SEEN if high < 0.5 else CANNOT_TELL


def together(verdicts: Sequence[int]) -> str:
    """Put the verdicts on several curves into words."""
    if SEEN in verdicts:
        return "seen" if set(verdicts) == {SEEN} else "seen in some"
    return "not seen" if set(verdicts) == {NOT_SEEN} else "cannot tell"


def wilson(share: Any, samples: Any, among: int = 1) -> tuple[Any, Any]:
    """Give the interval of a share of independent samples (Wilson 1927); it is wide at 0 and 1, too.

    Of `among` intervals, all hold together (Bonferroni).
    """
    z2 = normal(among) ** 2 / samples
    middle = (share + z2 / 2) / (1 + z2)
    half = (z2 * (share * (1 - share) + z2 / 4)) ** 0.5 / (1 + z2)
    return middle - half, middle + half


def interval(name: str, title: str, samples: int | Array, *share: xr.DataArray) -> dict[str, xr.DataArray]:
    """Give the ends of the interval of a share of samples or, with its standard error, of a mean of shares."""
    both = xr.apply_ufunc(
        _ends,
        *share,
        kwargs={"samples": samples},
        output_core_dims=[["end"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"end": 2}},
    )
    return {
        f"{name}_{end}": both.isel(end=k).assign_attrs(long_name=f"{title}, {end} end of its interval", units="1")
        for k, end in enumerate(("low", "high"))
    }


def _ends(share: Array, error: Array | None = None, *, samples: int | Array) -> Array:
    """Give Wilson's interval (..., 2) of shares.

    With errors of means of shares it is that of as many independent cases as would give the error (Korn and Graubard
    1998), of one for each sample where there is no error.
    """
    cases: Any = samples
    if error is not None:
        few = (normal() / student(samples)) ** 2
        alike = ~(error > 0)
        cases = np.where(alike, samples, share * (1 - share) / np.where(alike, 1, error) ** 2 * few)
    return np.stack(wilson(share, cases), axis=-1).clip(0, 1)


def largest_t(values: Array, among: int = 1) -> float:
    """Find what the largest t between any two points of a flat curve exceeds in ERROR of all cases.

    Of `among` such claims, all hold together (Bonferroni).

    `values` (sample, point) are curves of the same samples, compared in pairs; the largest is taken over pairs of
    points and both signs. Where points are alike, the curve of a sample is as likely as its mirror image: the largest
    t is that of the curves with all choices of signs (Westfall and Young 1993), or of FLIPS choices, always the same.
    Infinite where there are too few samples, which is below 6.
    """
    samples, points = values.shape
    first, second = np.triu_indices(points, 1)
    size = np.sqrt(((values[:, second] - values[:, first]) ** 2).sum(axis=0))
    there = size > 0
    first, second, size = first[there], second[there], size[there]
    if not size.size:
        return 0.0
    centred = values - values.mean(axis=1, keepdims=True)
    largest = []
    for signs in np.array_split(_signs(samples), 20):
        sums = signs @ centred
        largest.append(np.abs((sums[:, second] - sums[:, first]) / size).max(axis=1))
    ordered = np.sort(np.concatenate(largest))
    return _t(float(ordered[len(ordered) - 1 - int(ERROR / among * len(ordered))]), samples)


def _signs(samples: int) -> Array:
    """List all choices of signs but for a common one, or FLIPS of them, the plain one first: (choice, sample)."""
    if 2 ** (samples - 1) <= FLIPS:
        choices = np.arange(2 ** (samples - 1))[:, None] >> np.arange(samples) & 1
    else:
        choices = np.random.default_rng(0).integers(0, 2, (FLIPS, samples))
        choices[0] = 0
    signs: Array = 1.0 - 2.0 * choices
    return signs


def _t(ratio: float, samples: int) -> float:
    """Turn a sum over the root of the sum of squares into Student's t; a billionth more, for the last bits."""
    ratio = ratio * (1 + 1e-9)
    return ratio * np.sqrt((samples - 1) / (samples - ratio**2)) if ratio**2 < samples else float("inf")


def paired(values: Array, other: Array) -> tuple[Array, Array]:
    """Give the mean of differences of the same samples, other less values (..., sample), and its standard error."""
    return means(other - values)
