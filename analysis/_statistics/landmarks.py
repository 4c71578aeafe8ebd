"""When something happens: places on the time axis, each with an interval of 95 %."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from traj.analysis._quantity import Landmark, Series
from traj.analysis._statistics.spread import GROUPS
from traj.analysis._statistics.verdicts import ERROR

Array = NDArray[Any]

DRAWS = 2000
"""Sets of samples drawn by the bootstrap."""


def kept_above(series: Series, level: float, name: str, meaning: str) -> Landmark:
    """Find the first stored step from which on a curve stays above a level.

    The interval is where the band crosses the level: from the last step at which even its high end is not above, to the
    step from which on its low end is. So it holds the place between two steps at which the true curve crosses, in 95 %
    of cases, where the band is one of 95 % at each step and the curve crosses once. Its low end is minus infinity where
    the high end of the band is above from the first step on, and its high end infinity, which stands for x_0 itself,
    where the low end of the band stays below to the last step; both are NaN where the band has none.
    """
    first, early, late = (_start(ends > level) for ends in (series.value, series.high, series.low))
    places = np.concatenate([[-np.inf], series.log_snr, [np.inf]])
    if first == len(series.value):
        return Landmark(name, meaning, np.nan, np.nan, of=series.on)
    low, high = (places[early], places[late + 1]) if np.isfinite(series.low).any() else (np.nan, np.nan)
    when, place = int(series.timestep[first]), float(series.log_snr[first])
    return Landmark(name, meaning, when, place, float(low), float(high), series.on)


def kept_below(series: Series, level: float, name: str, meaning: str) -> Landmark:
    """Find the first stored step from which on a curve stays below a level; the interval is that of `kept_above`."""
    turned = series._replace(value=-series.value, low=-series.high, high=-series.low)
    return kept_above(turned, -level, name, meaning)


def _start(there: Array) -> int:
    """Find where the last run of true values begins that lasts to the end; their number where there is none."""
    missing = np.flatnonzero(~there)
    return int(missing[-1]) + 1 if missing.size else 0


def highest(series: Series, by_sample: Array | None, name: str, meaning: str) -> Landmark:
    """Find the step at which the mean over samples is highest.

    The interval is the bootstrap's: samples, all their steps together, are drawn anew with replacement, DRAWS times,
    always the same draws. Of the steps at which the means of these are highest, it reaches from the one before the
    lower percentile to the one after the upper: between two steps, where nothing was stored, the true curve may be
    highest. by_sample is (sample, timestep); both ends are NaN without it, and below eight samples.
    """
    drawn = None
    if by_sample is not None and len(by_sample) >= GROUPS and np.isfinite(by_sample).all():
        drawn = redrawn(len(by_sample)) @ by_sample
    return highest_of(series, drawn, name, meaning)


def redrawn(samples: int) -> Array:
    """Say how often each sample is drawn in each of the bootstrap's sets, always the same: (draw, sample)."""
    return np.random.default_rng(0).multinomial(samples, np.full(samples, 1 / samples), DRAWS)


def highest_of(
    series: Series, drawn: Array | None, name: str, meaning: str, beyond: tuple[float, float] | None = None
) -> Landmark:
    """Do what `highest` does for any curve; drawn is that of each of the bootstrap's sets (draw, timestep).

    beyond is what an interval reaches to where the curve may be highest at the first step or the last; by default these
    steps, before and after which there is no process.
    """
    if not np.isfinite(series.value).any():
        return Landmark(name, meaning, np.nan, np.nan, of=series.on)
    place = int(np.nanargmax(series.value))
    low = high = np.nan
    if drawn is not None:
        before, after = beyond or series.log_snr[[0, -1]]
        places = np.concatenate([[before], series.log_snr, [after]])
        first, last = np.quantile(drawn.argmax(axis=1), [ERROR / 2, 1 - ERROR / 2], method="inverted_cdf").astype(int)
        low, high = places[first], places[last + 2]
    when, where = int(series.timestep[place]), float(series.log_snr[place])
    return Landmark(name, meaning, when, where, float(low), float(high), series.on)


def median(timestep: Array, log_snr: Array, name: str, meaning: str, of: str) -> Landmark:
    """Take the median over samples of where something happens to each: timesteps and log SNR (sample,).

    The log SNR is infinite for samples to which it happens at x_0 only, and minus infinity for those to which it
    happens at a first state without signal. The interval lies between two of the samples in
    order: by the binomial distribution, the true median is beyond them in at most 5 % of cases, whatever the
    distribution (David and Nagaraja 2003, 7.1). Below six samples no two are far enough apart, and both ends are NaN.
    """
    known = ~np.isnan(log_snr)
    ordered = np.sort(log_snr[known])
    place = float(np.median(ordered)) if ordered.size else np.nan
    beyond = int((special.bdtr(np.arange(ordered.size), ordered.size, 0.5) < ERROR / 2).sum())
    low, high = (float(ordered[beyond - 1]), float(ordered[-beyond])) if beyond else (np.nan, np.nan)
    if np.isnan(place) or place == np.inf:
        return Landmark(name, meaning, np.nan, np.nan, of=of)
    return Landmark(name, meaning, float(np.median(timestep[known])), place, low, high, of)


def at_log_snr_0(series: Series) -> tuple[float, float, float]:
    """Read a curve and the ends of its band where signal equals noise, between two steps; NaN beyond them."""
    known = np.isfinite(series.log_snr)  # nothing lies between -inf and a number
    x = series.log_snr[known]
    at = [float(np.interp(0, x, y[known], left=np.nan, right=np.nan)) for y in (series.value, series.low, series.high)]
    return at[0], at[1], at[2]
