"""Multinomial logistic regression with a ridge, by Newton's method: to the optimum.

L-BFGS, which scikit-learn uses by default, stops where probabilities are still wrong by a tenth, or needs hundreds of
steps to be right. In the principal coordinates of the features, which leave the ridge as it is, the second derivatives
are nearly diagonal: conjugate gradients find each of Newton's steps in a few products.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOLERANCE = 1e-3
"""Distance from the optimum, by its second derivatives, at which to stop: it bounds that of sqrt(ridge) weights."""

NEWTON_STEPS, PRODUCTS = 100, 300
"""Most steps, and most products of second derivatives in each: never reached by data that were tried."""


class Classifier(NamedTuple):
    """Scores of classes are features @ weights.T + offsets; axes (feature, axis) are those it was found along."""

    weights: Array
    offsets: Array
    axes: Array

    def scores(self, features: Array) -> Array:
        """Give the scores (row, class) of features (row, feature)."""
        scores: Array = features @ self.weights.T + self.offsets
        return scores


def fit(features: Array, classes: Array, count: int, ridge: float, start: Classifier | None = None) -> Classifier:
    """Find the weights that minimise the sum of -log P(class | features) + ridge / 2 |weights|^2.

    features (row, feature) are divided by their standard deviations first, and a constant one is left out; classes
    (row,) are numbers below `count`. The same as scikit-learn's StandardScaler and LogisticRegression(C=1 / ridge). A
    start near the optimum, as that of nearly the same rows, saves steps, and its axes the finding of new ones.
    """
    mean = features.mean(axis=0)
    standard = features - mean
    deviation = np.sqrt(_squares(standard.T) / len(features))
    # what is constant but for rounding
    scale = np.where(deviation > 1e-7 * np.abs(mean), deviation, np.inf)
    standard /= scale
    # any full set of axes will do; more features than rows span a part of them, which other rows do not
    kept = start is not None and start.axes.shape[0] == start.axes.shape[1]
    axes = start.axes if start is not None and kept else _principal(standard)
    rows = np.ones((axes.shape[1] + 1, len(features)))
    np.matmul(axes.T, standard.T, out=rows[:-1])
    squares = _squares(rows)
    ridges = np.append(np.full(len(squares) - 1, ridge), 0)
    weights = np.zeros((count, len(squares)))
    if start is not None:
        finite = np.where(np.isfinite(scale), scale, 0)
        weights = np.column_stack([(start.weights * finite) @ axes, start.scores(mean)])
    weights = _minimised(rows, classes, weights, ridges, squares)
    own = weights[:, :-1] @ axes.T / scale
    return Classifier(own, weights[:, -1] - own @ mean, axes)


def _squares(rows: Array) -> Array:
    found: Array = np.einsum("ij,ij->i", rows, rows)
    return found


def _principal(standard: Array) -> Array:
    """Find principal axes (feature, axis) of rows: all of them, or those that the rows span, where these are few."""
    count, features = standard.shape
    if features <= count:
        found: Array = np.linalg.eigh(standard.T @ standard)[1]
        return found
    squares, left = np.linalg.eigh(standard @ standard.T)
    kept = squares > squares[-1] * 1e-12
    found = standard.T @ (left[:, kept] / np.sqrt(squares[kept]))
    return found


def _minimised(rows: Array, classes: Array, weights: Array, ridges: Array, squares: Array) -> Array:
    """Take Newton's steps from weights (class, axis); rows are (axis, row)."""
    # second derivatives need no more: they say which way to step, and gradients where to stop
    single = rows.astype(np.float32)
    turned = np.ascontiguousarray(single.T)  # products with either are twice as fast as with a transposed view
    truth = np.arange(len(weights))[:, None] == classes
    loss, p = _loss(weights, rows, truth, ridges)
    first = None
    for _ in range(NEWTON_STEPS):
        gradient = (p - truth) @ rows.T + ridges * weights
        near = _near_inverse(p, ridges, squares)
        far = float(np.vdot(gradient, near(gradient)))  # squared distance to the optimum, about
        first = max(far, np.finfo(float).tiny) if first is None else first
        if far < (TOLERANCE / 4) ** 2:
            break
        accuracy = min(0.25, (far / first) ** 0.25)
        step = _solved(single, turned, p.astype(np.float32), ridges, gradient, near, accuracy)
        slope, length = float(np.vdot(gradient, step)), 1.0
        new, p_new = _loss(weights + step, rows, truth, ridges)
        while new > loss + 1e-4 * length * slope and length > 1e-6:
            length /= 2
            new, p_new = _loss(weights + length * step, rows, truth, ridges)
        weights, loss, p = weights + length * step, new, p_new
        # a step of distance d, found to an accuracy, ends at that share of d, and at d^2 by Newton's own error
        moved = math.sqrt(max(-slope, 0))
        if length == 1 and moved * max(accuracy, moved) < TOLERANCE:
            break
    return weights


def _loss(weights: Array, rows: Array, truth: Array, ridges: Array) -> tuple[float, Array]:
    """Give the function to be minimised, and the probabilities (class, row)."""
    scores = weights @ rows
    scores -= scores.max(axis=0)
    of_truth = float(scores[truth].sum())
    p = np.exp(scores, out=scores)
    total = p.sum(axis=0)
    p /= total
    return float(np.log(total).sum()) - of_truth + 0.5 * float(ridges @ _squares(weights.T)), p


def _solved(rows: Array, turned: Array, p: Array, ridges: Array, gradient: Array, near: Any, accuracy: float) -> Array:
    """Solve second derivatives @ step = -gradient by preconditioned conjugate gradients, to an accuracy."""
    step, residual = np.zeros_like(gradient), -gradient
    scaled = near(residual)
    direction, size = scaled, float(np.vdot(residual, scaled))
    enough = accuracy**2 * size
    for _ in range(PRODUCTS):
        changes = direction.astype(np.float32) @ rows
        changes *= p
        changes -= p * changes.sum(axis=0)
        product = changes @ turned + ridges * direction
        length = size / float(np.vdot(direction, product))
        step += length * direction
        residual -= length * product
        scaled = near(residual)
        new = float(np.vdot(residual, scaled))
        if new < enough:
            break
        direction = scaled + new / size * direction
        size = new
    return step


def _near_inverse(p: Array, ridges: Array, squares: Array) -> Any:
    """Divide by second derivatives as they would be, were every row's probabilities like the mean row's.

    Their mean over rows, diag(p) - p p', is turned to its principal axes; along these and those of the features it is
    a number each.
    """
    curvature = np.diag(p.mean(axis=1)) - p @ p.T / p.shape[1]
    strength, axes = np.linalg.eigh(curvature)
    # scores that are larger by the same for all classes change nothing: rounding must not grow along that axis
    divisor = np.maximum(strength, 1e-3 * strength[-1])[:, None] * squares + ridges
    return lambda gradient: axes @ (axes.T @ gradient / divisor)
