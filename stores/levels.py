"""Noise levels derived from signal and noise_scale, here and nowhere else: x_t = signal x_0 + noise_scale eps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Levels = NDArray[np.float64]


def sigma(signal: ArrayLike, noise_scale: ArrayLike) -> Levels:
    """Noise level of x_t / signal, the variance-exploding view: noise_scale / signal, inf where no signal is left."""
    with np.errstate(divide="ignore"):
        return np.asarray(noise_scale, np.float64) / np.asarray(signal, np.float64)


def log_snr(signal: ArrayLike, noise_scale: ArrayLike) -> Levels:
    """Natural logarithm of (signal / noise_scale)^2: -inf where no signal is left."""
    with np.errstate(divide="ignore"):
        return 2 * (np.log(np.asarray(signal, np.float64)) - np.log(np.asarray(noise_scale, np.float64)))


def alpha_bar(signal: ArrayLike, noise_scale: ArrayLike) -> Levels | None:
    """signal^2 where the process preserves variance (signal^2 + noise_scale^2 = 1), else None."""
    squared = np.asarray(signal, np.float64) ** 2
    preserved = np.allclose(squared + np.asarray(noise_scale, np.float64) ** 2, 1, rtol=0, atol=1e-9)
    return squared if preserved else None
