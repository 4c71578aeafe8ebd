"""What decisions between classes come to over samples: weighted means, and where a curve is highest, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from traj.analysis._statistics.landmarks import DRAWS
from traj.analysis._statistics.spread import GROUPS
from traj.analysis._statistics.verdicts import ERROR

Array = NDArray[Any]

SMOOTH = 0.5
"""Standard deviation, in log SNR, of the normal weights that a curve is smoothed with before its peak is sought."""

MEANS = {
    "entropy": ("decision", "part", "timestep"),
    "entropy_labelled": ("decision", "part", "timestep"),
    "rate": ("decision", "part", "timestep"),
    "class_entropy": ("class", "part", "timestep"),
    "class_rate": ("class", "part", "timestep"),
    "peak": ("decision", "end"),
    "class_peak": ("class", "end"),
    "calibration_gap": ("part",),
    "decision_samples": ("decision",),
    "class_samples": ("class",),
    "pair_peak": ("class", "other_class", "end"),
}
"""What `over_samples` gives, and the dims of each: parts are PARTS, ends are PEAK."""

PARTS = ("mean", "error")
PEAK = ("place", "low", "high", "first", "last")
"""What is found of a peak, as positions in the curve: where it is, the ends of its interval and of its window."""


def over_samples(
    log_p: Array,
    entropy: Array,
    rate: Array,
    pair_rate: Array,
    class_rate: Array,
    *,
    labels: Array,
    prior: Array,
    sides: Array,
    log_snr: Array,
    pace: Array,
) -> tuple[Array, ...]:
    """Average over all samples what `_bayes.of_trajectories` gives: the arrays of MEANS.

    labels and prior are those of `weights`; sides are those of decisions first, the first of which is between all
    classes, then of all pairs of classes. Peaks are those of rates times pace (timestep,).
    """
    classes, decisions = len(prior), entropy.shape[-1]
    means: dict[str, list[Any]] = {name: [] for name in MEANS}
    for d, side in enumerate(sides[:decisions]):
        weight = weights(log_p, labels, prior, side >= 0)
        means["entropy"].append(weighted(entropy[..., d], weight))
        means["entropy_labelled"].append(weighted(surprise(log_p, labels, side), weight))
        means["rate"].append(weighted(rate[..., d], weight))
        means["decision_samples"].append((weight > 0).any(axis=1).sum())
        means["peak"].append(peak(rate[..., d] * pace, weight, log_snr))
    for c in range(classes):
        weight = weights(log_p, labels, prior, np.arange(classes) == c)
        means["class_entropy"].append(weighted(-log_p[..., c] / np.log(2), weight))
        means["class_rate"].append(weighted(class_rate[..., c], weight))
        means["class_samples"].append((weight > 0).any(axis=1).sum())
        means["class_peak"].append(peak(class_rate[..., c] * pace, weight, log_snr, among=classes))
    labelled = surprise(log_p, labels, sides[0]) - entropy[..., 0]
    gap = weighted(labelled.mean(axis=1, keepdims=True), weights(log_p, labels, prior, sides[0] >= 0)[:, :1])
    means["calibration_gap"] = [part[0] for part in gap]
    pairs = sides[decisions:]
    pair_peak = np.full((classes, classes, len(PEAK)), np.nan)
    for k, side in enumerate(pairs):
        weight = weights(log_p, labels, prior, side >= 0)
        one, other = np.flatnonzero(side >= 0)
        pair_peak[one, other] = peak(pair_rate[..., k] * pace, weight, log_snr, among=len(pairs))
        pair_peak[other, one] = pair_peak[one, other]
    return (*(np.array(means[name]) for name in MEANS if name != "pair_peak"), pair_peak)


def weights(log_p: Array, labels: Array, prior: Array, members: Array) -> Array:
    """Weight samples so that they stand for the mixture of some classes by their priors: (sample, timestep).

    log_p is (sample, timestep, class); labels (sample,) are the positions of the samples' classes, -1 for one that is
    not among them, or empty where samples are of the whole mixture; members (class,) says which classes take part.
    Samples with labels are selected, and weighted by the prior of their class over how many there are of it; others
    are weighted by P(one of the members | x_t). All are NaN where a member has no samples, or where such weights come
    to less than one sample. METHODS 4.1.
    """
    if not labels.size:
        by_posterior = np.exp(log_p[..., members]).sum(axis=-1)
        few = by_posterior.sum(axis=0) < 1
        return np.where(few, np.nan, by_posterior)
    count = np.bincount(labels[labels >= 0], minlength=len(prior))
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(members & (prior > 0), prior / prior[members].sum() / count, 0.0)
    by_sample = np.where(labels >= 0, each[labels], 0.0)
    if np.isinf(each).any():
        by_sample[:] = np.nan
    return np.broadcast_to(by_sample[:, None], log_p.shape[:2])


def surprise(log_p: Array, labels: Array, side: Array) -> Array:
    """Take -log2 P(z | x_t) of the side z that each sample's class is on: (sample, timestep); NaN where it is on none.

    side (class,) is the number of the side each class is on, -1 for none.
    """
    bits = np.full(log_p.shape[:2], np.nan)
    if labels.size:
        of_sample = np.where(labels >= 0, side[labels], -1)
        together = special.logsumexp(log_p[..., side >= 0], axis=-1)
        for z in range(side.max() + 1):
            there = of_sample == z
            own = special.logsumexp(log_p[there][..., side == z], axis=-1)
            bits[there] = (together[there] - own) / np.log(2)
    return bits


def weighted(values: Array, weight: Array) -> tuple[Array, Array]:
    """Take the mean over samples of values (sample, timestep) by their weights, and its standard error.

    The error is that of a ratio of two means of independent samples (Cochran 1977, 6.4).
    """
    counted = ~(weight[:, 0] == 0)
    values, weight = values[counted], weight[counted]
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=0)
        mean = (weight * values).sum(axis=0) / total
        off = ((weight * (values - mean)) ** 2).sum(axis=0)
        return mean, np.sqrt(off / (1 - 1 / np.float64(len(values)))) / total


def peak(values: Array, weight: Array, log_snr: Array, *, among: int = 1, draws: int = DRAWS) -> Array:
    """Find where the weighted mean over samples of values (sample, timestep) is highest: the positions PEAK.

    The curve is smoothed over log SNR by normal weights of sd SMOOTH. The interval is the bootstrap's: samples, all
    their steps together, are drawn anew with replacement, `draws` times, always the same draws; its ends are the
    percentiles of where the curves of these, smoothed alike, are highest; of `among` such intervals, all hold together
    (Bonferroni). The window is where the curve stays above half its peak. NaN is what is not there: all, where the
    curve is not a number; the interval, below eight samples.
    """
    found = np.full(len(PEAK), np.nan)
    counted = ~(weight[:, 0] == 0)
    values, weight = values[counted], weight[counted]
    known = np.isfinite(log_snr) & np.isfinite(values).all(axis=0) & (weight.sum(axis=0) > 0)
    if not known.any():
        return found
    positions, across = np.flatnonzero(known), smoothing(log_snr[known])
    above, below = (weight * values)[:, known] @ across.T, weight[:, known] @ across.T
    curve = above.sum(axis=0) / below.sum(axis=0)
    highest = int(curve.argmax())
    beyond = np.flatnonzero(curve < curve[highest] / 2)
    first = beyond[beyond < highest].max(initial=-1) + 1
    last = beyond[beyond > highest].min(initial=len(curve)) - 1
    found[[0, 3, 4]] = positions[[highest, first, last]]
    samples = len(values)
    if samples >= GROUPS:
        often = np.random.default_rng(0).multinomial(samples, np.full(samples, 1 / samples), draws).astype(float)
        with np.errstate(invalid="ignore"):
            places = np.nan_to_num(often @ above / (often @ below), nan=-1).argmax(axis=1)
        tail = ERROR / 2 / among
        low, high = np.quantile(places, [tail, 1 - tail], method="inverted_cdf")
        found[1:3] = positions[[min(low, highest), max(high, highest)]]
    return found


def smoothing(log_snr: Array) -> Array:
    """Give the weights (place, timestep) that smooth a curve over log SNR; each step counts by the room it takes."""
    room = np.abs(np.gradient(log_snr)) if len(log_snr) > 1 else np.ones(1)
    weight = room * np.exp(-((log_snr[:, None] - log_snr) ** 2) / (2 * SMOOTH**2))
    normal: Array = weight / weight.sum(axis=1, keepdims=True)
    return normal
