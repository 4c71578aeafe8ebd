"""Sample consistency: how alike the images are that grow from one state (000; METHODS 1.5)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _chunks, _gaussian, _kernels, _labels, _pairs, _replicas, _similarity
from traj.analysis._correlation import bytes_held, replica_correlation
from traj.analysis._spread import Named, with_spread
from traj.analysis._windows import half_gaussian, window_if_any
from traj.analysis.psnr import CAP
from traj.stores import IMAGE_DIMS, InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "fork"

PAIRS = {
    "pearson": Named("pearson", "Pearson correlation of two replicas, mean over pairs"),
    "cosine": Named("cosine", "cosine of two replicas, mean over pairs"),
    "one_minus_nmse": Named("one_minus_nmse", "1 - normalised mean squared error of two replicas, mean over pairs"),
    "psnr": Named("psnr", "PSNR of two replicas, mean over pairs", "dB"),
}
SSIM = Named("ssim", "structural similarity of two replicas, mean over pairs")
AGREEMENT = Named("label_agreement", "share of pairs of replicas with equal labels")

CURVES = ("pearson", "cosine", "one_minus_nmse", "ssim", "label_agreement")


def consistency(
    ds: xr.Dataset, *, preset: str = "auto", readout: str | None = None, against: tuple[str, ...] = ()
) -> xr.Dataset:
    """Compare the final samples that grow from one state with different noise.

    Each similarity (variant, sample) is the mean over all pairs a, b of the R replicas of x_0, and comes with mean,
    sd and standard error over samples. `pearson` is the correlation over pixels (NaN for constant images), `cosine`
    a.b / (|a| |b|), `one_minus_nmse` 1 - |a - b|^2 / (|a|^2 + |b|^2) = 2 a.b / (|a|^2 + |b|^2), so 0 for orthogonal
    images and -1 for opposite ones. `ssim` and `psnr` (at most 100 dB) are those of the quantities of their names.
    Equal replicas give exactly 1, and 100 dB.

    `replica_correlation` (variant) is the intraclass correlation across samples of a pixel in one replica with the
    same pixel in another, from unbiased variances within and between samples, summed over pixels: an estimate of
    1 - E Var(x_0 | x_t) / Var(x_0), here also for images of one pixel. Its standard error is the jackknife's over
    eight groups that samples are dealt out to (NaN below eight samples); an interval of 95 % is 2.36 of it to either
    side (Student, 7 degrees of freedom).

    Parameters
    ----------
    preset
        Window of SSIM: wang2004, skimage, window:N, or auto, as for the quantity ssim; auto leaves SSIM NaN for
        images below 3 pixels a side, and for events that are no images.
    readout
        A classifier's readout of the same forks: adds label_agreement, the share of pairs with equal labels, with an
        interval of 95 % of its mean (Wilson 1927), `_low` and `_high`.
    against
        Other runs of the same samples, for a store of trajectories: their x_0 are the replicas of one variant (same
        x_T, other numbers of steps). Adds start_difference (sample), the largest absolute difference of their first
        stored x_t from this run's: above 0, the runs did not start alike.

    Raises
    ------
    InputError
        Fewer than two replicas; a dataset without forks or, with `against`, without trajectories; a preset that is
        unknown or does not fit the images; a readout or a run of other samples.
    """
    if against:
        if readout is not None:
            raise InputError("readout was given together with against; it needs forks, leave one of the two out")
        replicas, more = _runs(ds, against)
    else:
        replicas, more = _forks(ds), {}
    count = replicas.sizes["replica"]
    preset, window = window_if_any(preset, replicas)

    low, high = _chunks.value_range(ds)
    to_unit = {"low": low, "scale": 1 / (high - low)}
    images = _chunks.images(replicas)
    columns = [*(PAIRS[column] for column in _pairs.PAIRS), SSIM]
    values = _chunks.per_image(
        _similarities, images, lead="vrs", dtype=np.float64, width=len(columns), preset=preset, window=window, **to_unit
    )
    variables = with_spread(xr.DataArray(values, dims=("variant", "sample", "column")), columns)
    if readout is not None:
        variables |= with_spread(_label_agreement(ds, readout), [AGREEMENT])
        variables |= _labels.interval_of_share(variables, AGREEMENT.name, ds.sizes["sample"])
    attrs = {
        "quantity": "consistency",
        "preset": preset,
        "window": window,
        "cap": CAP,
        "samples": ds.sizes["sample"],
        "replicas": count,
        "valid_range": [low, high],
    }
    return xr.Dataset({**variables, **replica_correlation(images), **more}, _replicas.coordinates(ds), attrs)


def working_bytes(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the sums that go from block to block."""
    return bytes_held(ds.sizes.get("variant", 1), math.prod(ds.sizes[dim] for dim in event_dims(ds["x_0"].dims)))


def _forks(ds: xr.Dataset) -> xr.DataArray:
    """Check that there are replicas, and give their x_0."""
    event = event_dims(ds["x_0"].dims) if "x_0" in ds else ()
    dims = ("variant", "replica", "sample", *(event or IMAGE_DIMS))
    if "x_0" not in ds or ds["x_0"].dims != dims:
        here = ", ".join(map(str, ds["x_0"].dims)) if "x_0" in ds else "missing"
        raise InputError(
            f"x_0 has dims {here} in this dataset of kind {ds.attrs.get('kind', '?')}; expected {', '.join(dims)}, "
            "which `traj fork` makes, or other runs to compare with in `against`"
        )
    if ds.sizes["replica"] < 2:
        raise InputError(
            "consistency compares replicas and these forks have 1; expected 2 or more, run `traj fork` with "
            "--replicas 2 or more"
        )
    return ds["x_0"]


def _runs(ds: xr.Dataset, against: tuple[str, ...]) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Take the x_0 of several runs as replicas of one variant, and say how far apart they started."""
    _chunks.require(ds, ("x_t", "x_0"))
    others = [_similarity.counterpart(ds, path) for path in against]
    for other in others:
        _chunks.require(other, ("x_t",))
    runs = [run.drop_vars(list(run.coords)) for run in (ds, *others)]
    starts = xr.concat([run["x_t"].isel(timestep=0) for run in runs], "replica")
    difference = abs(starts - starts.isel(replica=0)).max(("replica", *event_dims(starts.dims)))
    attrs = {"long_name": "largest difference of the runs' first stored x_t from this run's", "units": "1"}
    x_0 = xr.concat([run["x_0"] for run in runs], "replica").expand_dims("variant")
    return x_0, {"start_difference": difference.assign_attrs(attrs)}


def _similarities(images: NDArray[Any], low: float, scale: float, preset: str, window: int) -> NDArray[Any]:
    """Give one block (variant, replica, sample, *event) its columns: those of PAIRS, then SSIM."""
    if preset == "none":
        index = np.full((images.shape[0], images.shape[2]), np.nan)
    elif preset == "wang2004":
        index = _gaussian.ssim_gaussian_pairs(images, low, scale, half_gaussian())
    else:
        index = _kernels.ssim_uniform_pairs(images, low, scale, window, window**2 / (window**2 - 1))
    others = _pairs.similarities(images.reshape(*images.shape[:3], -1), low, scale, CAP)
    return np.concatenate([others, index[..., None]], axis=-1)


def _label_agreement(ds: xr.Dataset, path: str) -> xr.DataArray:
    """Read the share of equal labels off a readout of these forks."""
    from traj.stores import open as open_store

    readout = open_store(path)
    if "x_0_logits" not in readout or "replica" not in readout["x_0_logits"].dims:
        raise InputError(
            f"{path} has no x_0_logits of forks; expected the readout of these forks that `traj readout classifier` "
            "makes"
        )
    parent = json.loads(readout.attrs.get("config", "{}")).get("parent", {}).get("fingerprint")
    same = all(np.array_equal(readout[dim], ds[dim]) for dim in ("variant", "replica", "sample"))
    if not same or parent not in (None, ds.attrs["fingerprint"]):
        raise InputError(
            f"{path} is a readout of other forks, or of a part of these; run `traj readout classifier` on this store"
        )
    return _labels.of_replicas(readout["x_0_logits"], hard=True).isel(column=[_labels.REPLICAS.index("agreement")])


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw what equals 1 for equal replicas over where they fork, with two standard errors or intervals of 95 %.

    Runs compared with each other have no such place: theirs are histograms over samples.
    """
    import matplotlib.pyplot as plt

    names = [name for name in CURVES if name in result]
    if "at" in result.coords:
        curves = (*names, "replica_correlation")
        ax = _replicas.draw(result, {name.replace("_", " "): name for name in curves}, ax)
        ax.set(ylabel="similarity of two replicas")
        return ax
    ax = plt.figure().add_subplot() if ax is None else ax
    for name in names:
        values = result[name].to_numpy().ravel()
        if not np.isnan(values).all():
            label = f"{name.replace('_', ' ')}, mean {values.mean():.3g}"
            ax.hist(values, bins=20, histtype="step", label=label)
    ax.set(xlabel="similarity of two runs", ylabel="samples")
    ax.legend()
    return ax
