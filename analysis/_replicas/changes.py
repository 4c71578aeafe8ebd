"""The field of changes between an image and where it comes back: how far its pixels change together.

Sclocchi, Favero, Levi and Wyart (2024) take the tokens of an image for what changes; here it is pixels.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft

from traj.analysis._replicas.correlation import in_order
from traj.analysis._statistics.spread import GROUPS, Named, dealt

Array = NDArray[Any]

NOTHING = 1e-12
"""A variance below this share of the mean square is what rounding leaves of none."""

STATISTICS = (
    Named("change_variance", "variance of the change of a pixel, mean over pixels"),
    Named("susceptibility", "susceptibility of the changes: pixels times the variance of their mean"),
    Named("correlated_pixels", "number of pixels that change together: susceptibility over variance"),
    Named("correlation_length", "distance at which the correlation of changes falls to 1/e", "pixel"),
)


class Sums(NamedTuple):
    """What the chunks so far come to, for each variant and jackknife group.

    means is the sum over samples of a sample's mean field (variant, group, y, x). spectra (variant, group, 2, y, x)
    are power spectra: of the fields, mean over replicas, and of the mean field, both summed over samples.
    """

    means: Array
    spectra: Array


def fields(images: Array, x_0: Array, low: float, scale: float, threshold: float | None) -> Array:
    """Give the changes (..., y, x) of images (..., channel, y, x) from x_0: magnitudes, or 1 above a threshold, else 0.

    A magnitude is the root mean square over channels; values v count as clip((v - low) scale, 0, 1).
    """
    unit, start = (((values - low) * scale).clip(0, 1) for values in (np.float64(images), np.float64(x_0)))
    magnitude: Array = np.sqrt(((unit - start) ** 2).mean(axis=-3))
    return magnitude if threshold is None else np.where(np.isnan(magnitude), np.nan, magnitude > threshold)


def correlations(
    images: da.Array, x_0: da.Array, low: float, scale: float, threshold: float | None
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Correlate the changes of two pixels of images (variant, replica, sample, channel, y, x), over samples.

    Gives variables along variant, and the coordinate of one of them, the distance of two pixels.
    """
    height, width = images.shape[-2:]
    sizes = np.bincount(dealt(images.shape[2]), minlength=GROUPS)
    distance = by_distance(height, width)[0]
    lengths = height * width, len(STATISTICS), len(STATISTICS), len(distance), len(distance)
    values = in_order(
        images,
        x_0,
        add=partial(_add_chunk, low=low, scale=scale, threshold=threshold),
        finish=partial(_jackknife, sizes=sizes),
        width=sum(lengths),
    )
    edges = np.cumsum((0, *lengths))
    change_map, known, errors, correlation, error = (values[:, first:last] for first, last in pairwise(edges))
    what = "share of endings in which a pixel changes" if threshold is not None else "mean change of a pixel"
    over = "over samples and replicas"
    title = "correlation of the changes of two pixels, mean over pairs at a distance"
    se = f"standard error by the jackknife over {GROUPS} groups of samples"
    variables = {
        "change_map": _named(change_map.reshape(-1, height, width), f"{what}, {over}", "y", "x"),
        "change_correlation": _named(correlation, title, "distance"),
        "change_correlation_se": _named(error, f"{title}, {se}", "distance"),
    }
    for k, (name, title, units) in enumerate(STATISTICS):
        variables[name] = _named(known[:, k], title, units=units)
        variables[f"{name}_se"] = _named(errors[:, k], f"{title}, {se}", units=units)
    attrs = {"long_name": "mean distance of the pairs of pixels, by distance rounded", "units": "pixel"}
    return variables, {"distance": xr.DataArray(distance, dims="distance", attrs=attrs)}


def bytes_held(variants: int, height: int, width: int) -> int:
    """Bytes of the sums so far, and of those being made of them."""
    padded, half = _padded(height, width)
    cells = height * width + 2 * padded * (half // 2 + 1)
    return 2 * variants * GROUPS * cells * np.dtype(np.float64).itemsize


def _named(values: da.Array, title: str, *dims: str, units: str = "1") -> xr.DataArray:
    return xr.DataArray(values, dims=("variant", *dims), attrs={"units": units, "long_name": title})


def _padded(height: int, width: int) -> tuple[int, int]:
    """Give the size at which a field's correlation with itself does not wrap around."""
    return fft.next_fast_len(2 * height - 1, real=True), fft.next_fast_len(2 * width - 1, real=True)


def _add_chunk(
    before: Sums | None, images: Array, x_0: Array, groups: Array, low: float, scale: float, threshold: float | None
) -> Sums:
    """Add the samples of a chunk, one by one: sums are then the same for any chunks."""
    variants, _, _, _, height, width = images.shape
    size = _padded(height, width)
    if before is None:
        spectrum = size[0], size[1] // 2 + 1
        sums = Sums(np.zeros((variants, GROUPS, height, width)), np.zeros((variants, GROUPS, 2, *spectrum)))
    else:
        sums = Sums(*(array.copy() for array in before))
    for sample, group in enumerate(groups):
        for variant in range(variants):
            changes = fields(images[variant, :, sample], x_0[sample], low, scale, threshold)
            mean = changes.mean(axis=0)
            sums.means[variant, group] += mean
            sums.spectra[variant, group, 0] += _power(changes, size).mean(axis=0)
            sums.spectra[variant, group, 1] += _power(mean, size)
    return sums


def _power(field: Array, size: tuple[int, int]) -> Array:
    power: Array = np.abs(fft.rfft2(field, size)) ** 2
    return power


def _jackknife(sums: Sums, sizes: Array) -> Array:
    """Turn the sums of groups of these sizes into maps, statistics and correlations, the latter two with errors."""
    rows = []
    for means, spectra in zip(*sums, strict=True):
        total, both, samples = means.sum(axis=0), spectra.sum(axis=0), int(sizes.sum())
        known = _statistics(total, both, samples)
        errors = np.full(len(known), np.nan)
        if sizes.all():
            without = [
                _statistics(total - mean, both - spectrum, samples - int(size))
                for mean, spectrum, size in zip(means, spectra, sizes, strict=True)
            ]
            with np.errstate(invalid="ignore"):  # lengths without end
                errors = np.sqrt((GROUPS - 1) * np.var(without, axis=0))
        (few, many), (few_errors, many_errors) = (np.split(v, [len(STATISTICS)]) for v in (known, errors))
        rows.append(np.concatenate([(total / samples).ravel(), few, few_errors, many, many_errors]))
    return np.stack(rows)


def _statistics(means: Array, spectra: Array, samples: int) -> Array:
    """Estimate STATISTICS, then the correlation at each distance; NaN for one sample, or where nothing varies.

    The covariance of two pixels over samples and replicas is, without bias, that of the samples' mean fields (divisor
    samples - 1) plus the mean over samples of that of the replicas around them (divisor replicas). Summed over pairs
    that lie alike, it is the inverse transform of the power spectra (Wiener and Khinchin).
    """
    distances, pairs, bins = by_distance(*means.shape)
    if samples < 2:
        return np.full(len(STATISTICS) + len(distances), np.nan)
    size = _padded(*means.shape)
    of_fields, of_means = spectra
    between = (of_means - _power(means, size) / samples) / (samples - 1)
    power = between + (of_fields - of_means) / samples
    summed = np.bincount(bins.ravel(), fft.irfft2(power, size).ravel(), len(distances))
    covariance = summed / pairs
    square = of_fields[0, 0] / samples / means.size**2
    variance = 0.0 if covariance[0] <= NOTHING * square else covariance[0]
    susceptibility = power[0, 0] / means.size if variance else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = covariance / variance if variance else np.full(len(distances), np.nan)
    few = variance, susceptibility, susceptibility / variance if variance else np.nan
    return np.concatenate([few, [correlation_length(distances, correlation)], correlation])


def by_distance(height: int, width: int) -> tuple[Array, Array, Array]:
    """Sort pairs of pixels by their distance, rounded: mean distance (distance), number of pairs, and which is which.

    The last is for each displacement (y, x) of a field that is padded for `_padded`.
    """
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in _padded(height, width))
    apart = np.hypot(y[:, None], x[None])
    count = (height - y).clip(0)[:, None] * (width - x).clip(0)[None]
    bins = np.where(count > 0, np.rint(apart), 0).astype(np.int64)
    pairs = np.bincount(bins.ravel(), count.ravel())
    return np.bincount(bins.ravel(), (count * apart).ravel()) / pairs, pairs, bins


def correlation_length(distance: Array, correlation: Array) -> float:
    """Find the distance at which a correlation first falls to 1/e, taking it as exponential between two distances.

    0 where neighbours are not correlated, infinite where it does not fall so far, NaN where there is no correlation.
    """
    if np.isnan(correlation[0]):
        return float("nan")
    below = np.flatnonzero(correlation < np.exp(-1))
    if not below.size:
        return float("inf")
    first = below[0]
    before, after = correlation[first - 1], max(correlation[first], 0.0)
    with np.errstate(divide="ignore"):
        share = (np.log(before) + 1) / (np.log(before) - np.log(after))
    return float(distance[first - 1] + share * (distance[first] - distance[first - 1]))
