"""A mixture of low-rank Gaussians, MoLRG (004): its data, its exact denoiser, and how well that tells classes apart.

An x_0 of class k is U_k a + delta V_k e, with a and e standard normal, and V_k the columns of all other classes
(METHODS 5.1). A state is x_t = signal x_0 + noise_scale eps. Everything here depends on x_t through the energies
|U_l^T x_t|^2 of the classes' subspaces alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isclose
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from traj.stores import InputError

Array = NDArray[Any]

MOST_VALUES = 1 << 26
"""Of U, whose columns are found by linear algebra."""

LEAST_THETA = 0.01
"""Degrees. Of subspaces much closer, the least variances of a class are no more than rounding."""


@dataclass(frozen=True)
class Molrg:
    """The classes of a mixture of low-rank Gaussians, by default those of 004, Fig. 3.

    Class k has the probability ``weights[k]``, equal ones if none are given, and a subspace of ``dims[k]`` dimensions.
    The subspaces are drawn with the seed ``basis`` in a space of ``features`` dimensions. Between any two, ``theta``
    degrees are all principal angles (004 Table 4); at 90 they are orthogonal. ``delta`` is the sd of an x_0 along the
    columns of the other classes; along its own it is 1.

    Raises
    ------
    InputError
        When there are fewer than two classes, the subspaces do not fit into the space, delta is not between 0 and 1,
        theta is not from 0.01 to 90, or the weights are not positive numbers, one for each class, that sum to 1.
    """

    dims: tuple[int, ...] = (5, 5, 5)
    features: int = 50
    delta: float = 0.2
    weights: tuple[float, ...] = ()
    basis: int = 0
    theta: float = 90.0

    def __post_init__(self) -> None:
        """Check the numbers, and fill in equal weights."""
        classes, columns = len(self.dims), sum(self.dims)
        if classes < 2 or min(self.dims) < 1:
            raise InputError(f"subspaces of {_listed(self.dims)} dimensions; expected two or more, each of 1 or more")
        if columns > self.features:
            raise InputError(
                f"subspaces of {_listed(self.dims)} dimensions take {columns} features, but there are {self.features}; "
                "expected at least as many"
            )
        if columns * self.features > MOST_VALUES:
            raise InputError(f"{columns} columns of {self.features} features; expected {MOST_VALUES:,} values at most")
        if not 0 < self.delta < 1:
            raise InputError(f"delta {self.delta:g}; expected a number between 0 and 1, both excluded")
        if not LEAST_THETA <= self.theta <= 90:
            raise InputError(f"theta {self.theta:g}; expected degrees from {LEAST_THETA:g} to 90")
        if not self.weights:
            object.__setattr__(self, "weights", (1 / classes,) * classes)
        if len(self.weights) != classes:
            raise InputError(f"{len(self.weights)} weights for {classes} classes; expected one for each")
        if not (min(self.weights) > 0 and isclose(sum(self.weights), 1, abs_tol=1e-9)):
            raise InputError(
                f"weights {_listed(self.weights)}, whose sum is {sum(self.weights):g}; expected numbers above 0 that "
                "sum to 1"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The JSON values that define it, for the identity of a model; ``of_model`` reads them."""
        said = {**asdict(self), "dims": list(self.dims), "weights": list(self.weights)}
        if self.orthogonal:
            del said["theta"]
        return {"molrg": said}

    @property
    def orthogonal(self) -> bool:
        """Whether the subspaces are orthogonal."""
        return self.theta == 90

    @property
    def class_of(self) -> Array:
        """The class of each column of U: int64 (column,)."""
        return np.repeat(np.arange(len(self.dims)), self.dims)

    @cached_property
    def U(self) -> Array:
        """The bases of all classes beside one another, each orthonormal: float64 (feature, column)."""
        return self.span if self.orthogonal else self.span @ self.mixing

    @cached_property
    def mixing(self) -> Array:
        """The columns of U along those of ``span``: float64 (column, column).

        The symmetric square root of U^T U, which is cos theta between the i-th columns of any two classes.
        """
        place = np.concatenate([np.arange(dim) for dim in self.dims])
        alike = place[:, None] == place
        c, count = np.cos(np.radians(self.theta)), alike.sum(axis=0)
        apart, together = np.sqrt(1 - c), np.sqrt(1 - c + c * count)
        root: Array = apart * np.eye(len(place)) + alike * (together - apart) / count
        return root

    @cached_property
    def span(self) -> Array:
        """Orthonormal columns that span all subspaces, float64 (feature, column): U itself where it is orthogonal."""
        drawn = np.random.default_rng(self.basis).standard_normal((self.features, sum(self.dims)))
        columns, triangle = np.linalg.qr(drawn)
        basis: Array = columns * np.sign(np.diag(triangle))  # libraries of linear algebra choose signs of their own
        return basis


def of_model(identity: Mapping[str, Any]) -> Molrg | None:
    """Build the mixture that a model is of, from its stored identity; None where it is of none."""
    return mixture_of(identity) if "molrg" in identity else None


def mixture_of(identity: Mapping[str, Any]) -> Molrg:
    """Build the mixture that an identity is of; KeyError or TypeError where it is of none."""
    found = identity["molrg"]
    return Molrg(**{**found, "dims": tuple(found["dims"]), "weights": tuple(found["weights"])})


def sample(molrg: Molrg, normal: Array) -> tuple[Array, Array]:
    """Make x_0 (sample, feature) and classes, int64 (sample,), of standard normal numbers (sample, 1 + column).

    The first number decides the class, the others are a and e. METHODS 5.1.
    """
    label = np.searchsorted(np.cumsum(molrg.weights[:-1]), special.ndtr(normal[:, 0]))
    sd = np.where(molrg.class_of == label[:, None], 1.0, molrg.delta)
    return (sd * normal[:, 1:]) @ molrg.U.T, label


class Weighing(NamedTuple):
    """How the exact denoiser reads states of one noise level (METHODS 5.2, for any signal).

    P(l | x_t) is the softmax over classes of ``rate`` |U_l^T x_t|^2 + ``offset[l]``. Of U_l^T x_t, the mean of U_l^T
    x_0 is the part ``own`` where the class is l, and ``other`` where it is another.
    """

    own: Array
    other: Array
    rate: Array
    offset: Array


def weighing(molrg: Molrg, signal: ArrayLike, noise_scale: ArrayLike) -> Weighing:
    """Find how states x_t = signal x_0 + noise_scale eps are read: arrays like signal, and offset (..., class)."""
    c, d, delta = np.asarray(signal, np.float64), np.asarray(noise_scale, np.float64), molrg.delta
    v_own, v_other = c**2 + d**2, (c * delta) ** 2 + d**2
    return Weighing(
        own=c / v_own,
        other=c * delta**2 / v_other,
        rate=c**2 * (1 - delta**2) / (2 * v_own * v_other),
        # of a normal density's log determinant, and of Bayes' rule
        offset=np.log(molrg.weights) - np.array(molrg.dims) / 2 * np.log(v_own / v_other)[..., None],
    )


def class_posterior(molrg: Molrg, x_t: Array, signal: float, noise_scale: float) -> Array:
    """Give P(l | x_t) of states (sample, feature): (sample, class)."""
    if not molrg.orthogonal:
        return oblique(molrg, x_t, signal, noise_scale)[0]
    _, _, rate, offset = weighing(molrg, signal, noise_scale)
    starts = np.searchsorted(molrg.class_of, np.arange(len(molrg.dims)))
    energy = np.add.reduceat((x_t @ molrg.U) ** 2, starts, axis=1)
    posterior: Array = special.softmax(rate * energy + offset, axis=1)
    return posterior


def hidden(molrg: Molrg, x_t: Array, signal: float, noise_scale: float) -> Array:
    """Give the features h of states (sample, feature), where E[x_0 | x_t] = span h: (sample, column).

    Of orthogonal subspaces D(x_t) U^T x_t (METHODS 5.2).
    """
    if not molrg.orthogonal:
        return oblique(molrg, x_t, signal, noise_scale)[1]
    own, other, _, _ = weighing(molrg, signal, noise_scale)
    b = other + (own - other) * class_posterior(molrg, x_t, signal, noise_scale)
    h: Array = b[:, molrg.class_of] * (x_t @ molrg.U)
    return h


def denoised(molrg: Molrg, x_t: Array, signal: float, noise_scale: float) -> Array:
    """Give E[x_0 | x_t] = U h of states (sample, feature): (sample, feature)."""
    x_hat: Array = hidden(molrg, x_t, signal, noise_scale) @ molrg.span.T
    return x_hat


class Axes(NamedTuple):
    """Principal axes of the classes along the columns of ``span``.

    vectors (class, column, axis) and variance (class, axis): the covariance of span^T x_0 of class k is
    mixing diag(1 or delta^2) mixing, these its eigenvectors and eigenvalues.
    """

    vectors: Array
    variance: Array


def axes(molrg: Molrg) -> Axes:
    """Find the principal axes of the classes of a mixture."""
    own = molrg.class_of == np.arange(len(molrg.dims))[:, None]
    variance = np.where(own, 1.0, molrg.delta**2)
    found = np.linalg.eigh(molrg.mixing * variance[:, None] @ molrg.mixing)
    return Axes(found.eigenvectors, found.eigenvalues)


def oblique(molrg: Molrg, x_t: Array, signal: float, noise_scale: float) -> tuple[Array, Array]:
    """Give P(l | x_t) and h of states (sample, feature), for any theta: (sample, class) and (sample, column).

    Along its axes, a state of class l is normal, of the variance v = signal^2 variance + noise_scale^2.
    """
    vectors, variance = axes(molrg)
    a = np.einsum("sc,lca->sla", x_t @ molrg.span, vectors)
    v = signal**2 * variance + noise_scale**2
    posterior = special.softmax(np.log(molrg.weights) - (a**2 / v + np.log(v)).sum(axis=2) / 2, axis=1)
    h: Array = np.einsum("sl,sla,lca->sc", posterior, a * signal * variance / v, vectors)
    return posterior, h


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
