"""Which of two landmarks comes first: compared within the same samples, without a distribution, and paid for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from traj.analysis._quantity import Times
from traj.analysis._statistics.verdicts import ERROR

Array = NDArray[Any]
Item = TypeVar("Item")

MARGIN = 0.5
"""Log SNR by which two landmarks that agree differ at most; the ratio of signal to noise then differs by 28 %."""

BEFORE, AFTER, AGREE, CANNOT_TELL = "before", "after", "agree", "cannot tell"


class Order(NamedTuple):
    """How two landmarks come in the samples they share.

    before counts the samples in which the first surely comes before the second, after those in which it surely comes
    after; in the others they lie between the same stored states. low and high are the ends of the interval of the
    median, over samples, of the log SNR from the first to the second.
    """

    samples: int
    before: int
    after: int
    low: float
    high: float
    verdict: str


def kept_above(values: xr.DataArray, level: float) -> Times:
    """Find in each sample the first state from which on its values (sample, timestep or variant) stay above a level."""
    rows, places = _by_sample(values)
    below = ~(rows > level)
    start = np.where(below.any(axis=1), below.shape[1] - below[:, ::-1].argmax(axis=1), 0)
    return _between(values, rows, places[start], places[start + 1])


def highest(values: xr.DataArray) -> Times:
    """Find in each sample the states around that at which its values (sample, timestep or variant) are highest."""
    rows, places = _by_sample(values)
    peak = np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    return _between(values, rows, places[peak], places[peak + 2])


def settled(log_snr: xr.DataArray, states: xr.DataArray) -> Times:
    """Add the state before to the log SNR (sample) of the first state at which something is there; states are all."""
    by, along = log_snr.to_numpy(), states.to_numpy()
    after = np.concatenate([[-np.inf], along])[np.searchsorted(along, by)]
    return Times(log_snr["sample"].to_numpy(), np.where(np.isnan(by), np.nan, after), by)


def _by_sample(values: xr.DataArray) -> tuple[Array, Array]:
    """Give values as (sample, state), and the log SNR of the states between the start and x_0."""
    along, log_snr = ("timestep", "log_snr") if "timestep" in values.dims else ("variant", "at_log_snr")
    rows: Array = values.transpose("sample", along).to_numpy()
    return rows, np.concatenate([[-np.inf], values[log_snr].to_numpy(), [np.inf]])


def _between(values: xr.DataArray, rows: Array, after: Array, by: Array) -> Times:
    unknown = np.isnan(rows).any(axis=1)
    ends = (np.where(unknown, np.nan, end) for end in (after, by))
    return Times(values["sample"].to_numpy(), *ends)


def compare(first: Times, second: Times, among: int = 1) -> Order:
    """Say which of two landmarks comes first in the samples they share, or whether they agree.

    BEFORE and AFTER are by the sign test: where neither comes first, each is as likely as the other to do so in any
    sample in which they are told apart. AGREE is where the interval of the median difference lies within MARGIN; its
    ends are two of the samples in order (David and Nagaraja 2003, 7.1). Neither takes a distribution for granted. Of
    `among` comparisons, all that is claimed holds together in 95 % of cases (Bonferroni). A landmark is known to lie
    between two states only, and differences are as small, or as large, as that allows.
    """
    _, here, there = np.intersect1d(first.sample, second.sample, return_indices=True)
    with np.errstate(invalid="ignore"):
        least, most = second.after[there] - first.by[here], second.by[there] - first.after[here]
    known = ~np.isnan(first.by[here]) & ~np.isnan(second.by[there])
    least, most = np.nan_to_num(least[known], nan=-np.inf, posinf=np.inf, neginf=-np.inf), most[known]
    most = np.nan_to_num(most, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    samples, before, after = known.sum(), (least >= 0).sum(), (most <= 0).sum()
    beyond = int((special.bdtr(np.arange(samples), samples, 0.5) < ERROR / (2 * among)).sum())
    low, high = (np.sort(least)[beyond - 1], np.sort(most)[-beyond]) if beyond else (-np.inf, np.inf)
    surely = 2 * special.bdtr(min(before, after), before + after, 0.5) < ERROR / among
    if surely:
        verdict = BEFORE if before > after else AFTER
    else:
        verdict = AGREE if -MARGIN <= low and high <= MARGIN else CANNOT_TELL
    return Order(int(samples), int(before), int(after), float(low), float(high), verdict)


def typical(times: Times) -> float:
    """Give the median, over samples, of the log SNR by which a landmark is there."""
    known = times.by[~np.isnan(times.by)]
    return float(np.sort(known)[known.size // 2]) if known.size else np.inf


def in_groups(items: Sequence[Item], before: Callable[[Item, Item], bool]) -> list[list[Item]]:
    """Part items, which are in their likely order, wherever all on the left surely come before all on the right."""
    groups: list[list[Item]] = []
    for k, item in enumerate(items):
        if k == 0 or all(before(one, other) for one in items[:k] for other in items[k:]):
            groups.append([])
        groups[-1].append(item)
    return groups
