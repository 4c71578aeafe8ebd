"""Which class a state comes from, by Bayes' rule along its trajectory: the compiled loops, and what they are fed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from traj.analysis._kernels.compiling import compiled
from traj.stores import InputError

Array = NDArray[Any]

VARIANCES = ("small", "large", "spread:V")
"""Names of the variance s_t^2 of p(x_s | x_t, c)."""


def step_variance(signal: Array, noise_scale: Array, variance: str) -> Array:
    """Give s_t^2 of the step from each timestep to the next: (timestep - 1,). METHODS 4.2, 10.1.

    Raises InputError for a name that is none of VARIANCES, or a spread that is not above 0.
    """
    c_t, c_s, d_t, d_s = signal[:-1], signal[1:], noise_scale[:-1], noise_scale[1:]
    large: Array = d_t**2 - (c_t / c_s * d_s) ** 2
    small: Array = large * d_s**2 / d_t**2
    name, _, number = variance.partition(":")
    if variance == "small":
        return small
    if variance == "large":
        return large
    try:
        v = float(number)
    except ValueError:
        v = np.nan
    if name != "spread" or not 0 < v < np.inf:
        raise InputError(
            f"variance {variance!r} was given; expected small, large or spread:V, V above 0 being the variance of the "
            "values of x_0 within a class"
        )
    coef_1 = c_s * large / d_t**2
    spread: Array = coef_1**2 * v * d_t**2 / (c_t**2 * v + d_t**2)
    return small + spread


STATES = {
    "log_p": ("timestep", "class"),
    "log_total": ("timestep",),
    "entropy": ("timestep", "decision"),
    "rate": ("timestep", "decision"),
    "pair_rate": ("timestep", "pair"),
    "class_rate": ("timestep", "class"),
    "decided": (),
    "doubt": ("timestep",),
}
"""What `of_trajectories` gives, and the dims of each after those of samples."""


def of_trajectories(
    squared_distance: Array,
    null: Array,
    product: Array,
    *,
    log_prior: Array,
    variance: Array,
    sides: Array,
    classes: Array,
) -> tuple[Array, ...]:
    """Follow trajectories (sample, timestep, ...): the arrays of STATES. NaN where a state was never made.

    sides are those of decisions first, then of all pairs of classes; classes are their numbers.
    """
    log_p, log_total = log_posterior(squared_distance, null, log_prior, variance)
    made = np.isfinite(product[..., 0, 0])
    log_p, log_total = np.where(made[..., None], log_p, np.nan), np.where(made, log_total, np.nan)
    count = len(classes)
    flat = np.ascontiguousarray(log_p.reshape(-1, count)), product.reshape(-1, count, count)
    found, own = of_states(flat[0], np.ascontiguousarray(flat[1], np.float64), sides)
    found = found.reshape(*made.shape, *found.shape[1:])
    apart = len(sides) - count * (count - 1) // 2
    entropy, rate, pair_rate = found[..., :apart, 0], found[..., :apart, 1], found[..., apart:, 1]
    return log_p, log_total, entropy, rate, pair_rate, own.reshape(log_p.shape), *doubted(log_p, classes)


def doubted(log_p: Array, classes: Array) -> tuple[Array, Array]:
    """Give the likeliest class of the last state, and 1 where P of it is no more than one half: (..., timestep)."""
    final = log_p[..., -1, :].argmax(axis=-1)
    of_final = np.take_along_axis(log_p, final[..., None, None], axis=-1)[..., 0]
    missing = np.isnan(of_final)
    doubt = np.where(missing, np.nan, np.exp(of_final) <= 0.5)
    return np.where(missing[..., -1], np.nan, classes[final]), doubt


def log_posterior(squared_distance: Array, null: Array, log_prior: Array, variance: Array) -> tuple[Array, Array]:
    """Accumulate log P(c | x_t) from the first state on: (..., timestep, class), and its sum's log before it is 1.

    squared_distance (..., timestep, class) and null (..., timestep) are |x_s - mu|^2 of METHODS 4.2 under each class
    and under none. The second array (..., timestep) is log sum_c P(c) prod p(x_s | x_t, c) / p(x_s | x_t), 0 where the
    network's unconditional prediction fits those of its classes; NaN without null.
    """
    steps = -squared_distance[..., :-1, :] / (2 * variance[:, None])
    nearest = steps.max(axis=-1, keepdims=True)
    first = np.broadcast_to(log_prior, (*steps.shape[:-2], 1, len(log_prior)))
    joint = np.cumsum(np.concatenate([first, steps - nearest], axis=-2), axis=-2)
    total = special.logsumexp(joint, axis=-1)
    beside_null = np.cumsum(nearest[..., 0] + null[..., :-1] / (2 * variance), axis=-1)
    start = np.where(np.isnan(null[..., :1]), np.nan, 0.0)
    return joint - total[..., None], total + np.concatenate([start, beside_null], axis=-1)


@compiled
def of_states(log_p: Array, product: Array, sides: Array) -> tuple[Array, Array]:
    """Say of each state how undecided decisions are, and how fast they are made.

    log_p (state, class) is log P(c | x_t), product (state, class, class) the inner products of eps_c less a common
    reference, sides (decision, class) the number of the side each class is on, -1 where it has no part.

    Gives (state, decision, 2): the entropy of the side in bits, given that it is one of them, and the rate E3 at which
    it falls, sum_z P(z) |eps_z - eps|^2 / (2 ln 2), in bits per unit of log SNR; eps of a side, and of all sides
    together, is the mean of eps_c weighted by P. And (state, class): the rate |eps_c - eps|^2 / (2 ln 2) at which
    -log2 P(c | x_t) falls on average where c is the class. METHODS 4.3.
    """
    states, classes = log_p.shape
    decisions = sides.shape[0]
    found, own = np.full((states, decisions, 2), np.nan), np.full((states, classes), np.nan)
    p, mass, spread = np.empty(classes), np.empty(classes), np.empty(classes)
    per_bit = 1 / (2 * np.log(2.0))
    for i in range(states):
        if np.isnan(log_p[i, 0]) or np.isnan(product[i, 0, 0]):
            continue
        for d in range(decisions):
            largest = -np.inf
            for c in range(classes):
                if sides[d, c] >= 0:
                    largest = max(largest, log_p[i, c])
            if largest == -np.inf:
                continue
            total, together = 0.0, 0.0
            for c in range(classes):
                p[c] = np.exp(log_p[i, c] - largest) if sides[d, c] >= 0 else 0.0
                total += p[c]
                mass[c] = 0.0
                spread[c] = 0.0
            for c in range(classes):
                p[c] /= total
            for c in range(classes):
                if sides[d, c] < 0:
                    continue
                mass[sides[d, c]] += p[c]
                for k in range(classes):
                    term = p[c] * p[k] * product[i, c, k]
                    together += term
                    if sides[d, k] == sides[d, c]:
                        spread[sides[d, c]] += term
            bits, rate = 0.0, -together
            for z in range(classes):
                if mass[z] > 0:
                    bits -= mass[z] * np.log2(mass[z])
                    rate += spread[z] / mass[z]
            found[i, d, 0] = bits
            found[i, d, 1] = max(rate, 0.0) * per_bit
        for c in range(classes):
            p[c] = np.exp(log_p[i, c])
        _own_rates(p, product[i], per_bit, own[i])
    return found, own


@compiled
def _own_rates(p: Array, product: Array, per_bit: float, out: Array) -> None:
    """Write |eps_c - eps|^2 of each class in bits, eps the mean of all weighted by p."""
    together = 0.0
    for c in range(p.size):
        for k in range(p.size):
            together += p[c] * p[k] * product[c, k]
    for c in range(p.size):
        across = 0.0
        for k in range(p.size):
            across += p[k] * product[c, k]
        out[c] = max(product[c, c] - 2 * across + together, 0.0) * per_bit
