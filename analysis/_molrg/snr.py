"""How well the exact denoiser of a MoLRG tells classes apart: integrals over its data, by quadrature (METHODS 5.3).

With x_t of class k, the energies P_l = |U_l^T x_t|^2 are independent, each a variance times a chi-square. A product of
functions of them has the product of their means as its mean, and 1 / sum_l e^g_l, which is none, is an integral of such
products: 1 / s^m = int t^(m-1) e^(-t s) dt / Gamma(m). So an integral over K energies is one over t = e^u, of products
of integrals over one energy each. All sums here are trapezoidal ones over smooth integrands that vanish at both ends,
and are as good as exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from traj.analysis._molrg.model import Molrg, weighing
from traj.stores import InputError

Array = NDArray[Any]

STEP_LOG_ENERGY = 0.05
STEP_U = 0.5
TAIL = 40.0
"""Natural logarithm of what is left out at the ends."""


class Snr(NamedTuple):
    """The signal-to-noise ratio of x_hat (004, Definition 1).

    ``ratio`` (sigma, class) is E |U_k U_k^T x_hat|^2 / E |x_hat - U_k U_k^T x_hat|^2 over the x_t of class k, ``mean``
    (sigma,) its mean over classes, and ``pooled`` (sigma,) the ratio of the two sums over all x_t.
    """

    ratio: Array
    mean: Array
    pooled: Array


def snr(molrg: Molrg, sigma: ArrayLike, clean: bool = False) -> Snr:
    """Compute the SNR of the exact denoiser at noise levels sigma = noise_scale / signal, (sigma,), all above 0.

    With ``clean``, x_0 is denoised as if it were a state of that level.

    Raises InputError where subspaces are not orthogonal.
    """
    _require_orthogonal(molrg)
    levels = np.atleast_1d(np.asarray(sigma, np.float64))
    classes = list(zip(molrg.dims, molrg.weights, strict=True))
    # classes alike have the same integrals
    found = {one: [_parts(molrg, classes.index(one), level, clean) for level in levels] for one in {*classes}}
    parts = np.stack([np.array(found[one]) for one in classes], axis=1)
    ratio = parts[..., 0] / parts[..., 1]
    sums = np.array(molrg.weights) @ parts
    return Snr(ratio, ratio.mean(axis=1), sums[:, 0] / sums[:, 1])


def approximate_snr(molrg: Molrg, sigma: ArrayLike) -> Array:
    """Compute Theorem 1's approximation of the SNR, (sigma,): good for little and for much noise only (METHODS 5.3).

    Raises InputError where dims or weights differ between classes, or subspaces are not orthogonal.
    """
    _require_orthogonal(molrg)
    if len({*molrg.dims}) > 1 or len({*molrg.weights}) > 1:
        raise InputError("Theorem 1 speaks of classes of equal dims and weights; expected such a model")
    s2, delta2 = np.atleast_1d(np.asarray(sigma, np.float64)) ** 2, molrg.delta**2
    d, others = molrg.dims[0], len(molrg.dims) - 1
    D = d * (1 - delta2) ** 2 / (2 * (1 + s2) * (delta2 + s2))
    w_own = 1 / (1 + others * np.exp(-D))
    w_other = np.exp(-D) * w_own
    h_own, h_other = ((1 - delta2) * w + delta2 for w in (w_own, w_other))
    C = (1 + s2) / (delta2 + s2)
    return C / others * ((1 + s2 / delta2 * h_own) / (1 + s2 / delta2 * h_other)) ** 2


def bayes_accuracy(molrg: Molrg, sigma: ArrayLike) -> Array:
    """Compute how often the likeliest class given x_t is the true one, (sigma,): no classifier of x_t does better.

    Raises InputError where subspaces are not orthogonal.
    """
    _require_orthogonal(molrg)
    levels = np.atleast_1d(np.asarray(sigma, np.float64))
    return np.array([_accuracy(molrg, level) for level in levels])


def _require_orthogonal(molrg: Molrg) -> None:
    if not molrg.orthogonal:
        raise InputError(
            f"subspaces {molrg.theta:g} degrees apart, along which energies are not independent; expected theta 90"
        )


def _accuracy(molrg: Molrg, sigma: float) -> float:
    reading = weighing(molrg, 1.0, sigma)
    v_own, v_other = 1 + sigma**2, molrg.delta**2 + sigma**2
    accuracy = 0.0
    for k, (dim, weight) in enumerate(zip(molrg.dims, molrg.weights, strict=True)):
        energy, probability = _chi_square(dim)
        g = reading.rate * v_own * energy + reading.offset[k]
        for other in set(range(len(molrg.dims))) - {k}:
            least = np.maximum(g - reading.offset[other], 0) / (reading.rate * v_other)
            probability = probability * special.gammainc(molrg.dims[other] / 2, least / 2)
        accuracy += weight * float(probability.sum())
    return accuracy


def _parts(molrg: Molrg, k: int, sigma: float, clean: bool) -> tuple[float, float]:
    """Give E b_k^2 P_k and E sum_{l != k} b_l^2 P_l over the states of class k; b_l = other + (own - other) w_l."""
    reading = weighing(molrg, 1.0, sigma)
    noise = 0.0 if clean else sigma**2
    energies = [
        _Energy.of(dim, (1.0 if label == k else molrg.delta**2) + noise, reading.rate, reading.offset[label])
        for label, dim in enumerate(molrg.dims)
    ]
    own, others = energies[k], energies[:k] + energies[k + 1 :]
    # beyond these ends all e^(-t e^g) are 1, or all are 0
    u = np.arange(-max(other.g.max() for other in others) - TAIL, 5 - reading.offset.min(), STEP_U)
    vanishing = np.array([other.mean(u, 0) for other in others])
    gap = reading.own - reading.other
    none = 1 - np.prod(vanishing, axis=0)
    # 1 - w_k and 1 - w_k^2, which stay small: w_k is 1 to all digits where P_k is large
    first, second = (STEP_U * own.mean(u, power, energy=True) @ none for power in (1, 2))
    numerator = reading.own**2 * own.expected - 2 * reading.own * gap * first + gap**2 * (2 * first - second)
    denominator = 0.0
    for one, other in enumerate(others):
        rest = own.mean(u, 0) * np.prod(np.delete(vanishing, one, axis=0), axis=0)
        first, second = (STEP_U * other.mean(u, power, energy=True) @ rest for power in (1, 2))
        denominator += reading.other**2 * other.expected + 2 * reading.other * gap * first + gap**2 * second
    return float(numerator), float(denominator)


class _Energy(NamedTuple):
    """The energy P along one class: its values, their probabilities, and g = rate P + offset at each."""

    P: Array
    probability: Array
    g: Array

    @classmethod
    def of(cls, dim: int, variance: float, rate: Array, offset: Array) -> _Energy:
        chi_square, probability = _chi_square(dim)
        P = variance * chi_square
        return cls(P, probability, rate * P + offset)

    @property
    def expected(self) -> float:
        return float(self.probability @ self.P)

    def mean(self, u: Array, power: int, energy: bool = False) -> Array:
        """Give the mean of (t e^g)^power e^(-t e^g), times P if asked, at t = e^u: (u,)."""
        log_te_g = u[:, None] + self.g
        with np.errstate(over="ignore", under="ignore"):
            kernel = np.exp(power * log_te_g - np.exp(log_te_g))
        mean: Array = kernel @ (self.probability * self.P if energy else self.probability)
        return mean


def _chi_square(dim: int) -> tuple[Array, Array]:
    """Give values of a chi-square and their probabilities, for sums: evenly spaced logarithms, dense enough."""
    middle, width = np.log(dim), np.sqrt(1 / dim)
    y = np.arange(middle - 2 * TAIL / dim - 10 * width, np.log(dim + 2.5 * TAIL + 20 * np.sqrt(dim)), STEP_LOG_ENERGY)
    log_density = dim / 2 * y - np.exp(y) / 2
    return np.exp(y), special.softmax(log_density)
