"""The covariance of a dataset, and when it says that classes part and that images do (METHODS 10.3).

With gamma the signal-to-noise ratio c^2 / d^2 and lambda_i the eigenvalues, Lambda the largest: classes part
(speciation) where the equivalent alpha_bar, gamma / (1 + gamma), is 1 / Lambda, so at gamma = 1 / (Lambda - 1).
Gaussian data of this covariance would give I = 1/2 sum ln(1 + gamma lambda_i) nats of information on x_0 (METHODS
10.4).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import brentq

from traj.analysis._blocks.datasets import Images
from traj.analysis._quantity import Landmark

Array = NDArray[Any]

MOST = 4096
"""Values of an image up to which the covariance is computed: the matrix takes 128 MiB."""

COLLAPSED = 1.0
"""Bits below which a state is taken to have collapsed onto one image."""

FARTHEST = 100.0
"""Log SNR beyond which no place is looked for."""


def bytes_held(values: int) -> int:
    """Bound the memory of a covariance and its eigenvectors."""
    return 5 * 8 * values**2 if values <= MOST else 0


def of_dataset(images: Images) -> da.Array:
    """Lay out the eigenvalues of a dataset's covariance, falling, and at the end the error of the largest."""
    found: da.Array = da.map_blocks(
        partial(_eigenvalues, images=images), dtype=np.float64, chunks=((images.values + 1,),), meta=np.empty(0)
    )
    return found


def _eigenvalues(images: Images) -> Array:
    """Compute the eigenvalues of the covariance, divided by N: the dataset is all there is.

    The standard error of the largest, as if the images were drawn from many more, is that of a mean: to first order the
    eigenvalue changes with the covariance as v' C v does, v its eigenvector, which is a mean of squares.
    """
    total: Array = np.zeros(images.values)
    products: Array = np.zeros((images.values, images.values))
    for _, block in images.blocks():
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / images.count
    values, vectors = np.linalg.eigh(products / images.count - np.outer(mean, mean))
    squares = np.concatenate([((block - mean) @ vectors[:, -1]) ** 2 for _, block in images.blocks()])
    error = squares.std(ddof=1) / np.sqrt(images.count) if images.count > 1 else np.nan
    return np.concatenate([values[::-1].clip(0), [error]])


def information(eigenvalues: Array, log_snr: Array) -> Array:
    """Take the information on x_0, in bits, that Gaussian data would give at each log SNR."""
    gains: Array = np.exp(np.minimum(log_snr, FARTHEST))[:, None] * eigenvalues
    bits: Array = np.log1p(gains).sum(axis=1) / (2 * np.log(2))
    return bits


def speciation(largest: float, error: float) -> tuple[float, float, float]:
    """Find the log SNR at which classes part, with the ends of its interval; NaN where Lambda is not above 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place, low, high = -np.log(largest - 1 + np.array([0, 1, -1]) * 1.96 * error)
    if not np.isfinite(place):
        return np.nan, np.nan, np.nan
    return float(place), float(low), float(high) if np.isfinite(high) or np.isnan(error) else np.inf


def collapse(eigenvalues: Array, images: int) -> float:
    """Find the log SNR at which Gaussian data would leave COLLAPSED bits; NaN where log2 N is no more."""

    def missing(log_snr: float) -> float:
        return float(information(eigenvalues, np.array([log_snr]))[0] - np.log2(images) + COLLAPSED)

    if images <= 2 or not eigenvalues.any():
        return np.nan
    return float(brentq(missing, -FARTHEST, FARTHEST))


def variables_of(images: Images, log_snr: Array) -> dict[str, xr.DataArray]:
    """Lay out what the covariance says beside a run of these noise levels; nothing for images of too many values."""
    if images.values > MOST:
        return {}
    found = of_dataset(images)
    left = found[:-1].map_blocks(
        partial(_entropy, log_snr=log_snr, images=images.count), dtype=np.float64, chunks=(len(log_snr),)
    )
    named = {
        "spectrum": ("component", found[:-1], "eigenvalues of the dataset's covariance, as the model sees it", "1"),
        "spectrum_se": ((), found[-1], "standard error of the largest eigenvalue", "1"),
        "gaussian_entropy": ("timestep", left, "entropy left if the data were Gaussian, of this covariance", "bit"),
    }
    return {
        name: xr.DataArray(values, dims=dims, attrs={"long_name": title, "units": units})
        for name, (dims, values, title, units) in named.items()
    }


def _entropy(eigenvalues: Array, *, log_snr: Array, images: int) -> Array:
    left: Array = np.maximum(0, np.log2(images) - information(eigenvalues, log_snr))
    return left


def landmarks(result: xr.Dataset) -> list[Landmark]:
    """Place speciation, and the collapse of Gaussian data, on the time axis of a run."""
    if "spectrum" not in result:
        return []
    eigenvalues, error = result["spectrum"].to_numpy(), float(result["spectrum_se"])
    parts = speciation(eigenvalues[0], error)
    one = collapse(eigenvalues, int(result.attrs["images"]))
    meanings = {
        "speciation": ("classes part, by the largest eigenvalue of the dataset's covariance", "speciation"),
        "collapse_gaussian": ("Gaussian data of the dataset's covariance would leave one bit", "collapse, if Gaussian"),
    }
    found = []
    for (name, (meaning, short)), (place, low, high) in zip(
        meanings.items(), (parts, (one, np.nan, np.nan)), strict=True
    ):
        log_snr = result["log_snr"].to_numpy()
        known = np.isfinite(log_snr)
        timestep = result["timestep"].to_numpy()[known]
        when = float(np.interp(place, log_snr[known], timestep, left=np.nan, right=np.nan)) if known.any() else np.nan
        there = np.isfinite(when)
        ends = (place, low, high) if there else (np.nan,) * 3
        found.append(Landmark(name, meaning, when, *ends, of="gaussian", short=short))
    return found
