"""Sample consistency: how alike the images are that grow from one state (000; METHODS 1.5)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import gaussian, labels, pairs
from traj.analysis._kernels import images as kernels
from traj.analysis._quantity import Landmark, Look, Results, Series, quantity
from traj.analysis._replicas import forks as _replicas
from traj.analysis._replicas.correlation import bytes_held, replica_correlation
from traj.analysis._similarity import compared as similarity
from traj.analysis._similarity.windows import half_gaussian, window_if_any
from traj.analysis._statistics import landmarks, order, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.analysis.psnr import CAP
from traj.stores import InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS = {
    "pearson": Named("pearson", "Pearson correlation of two replicas, mean over pairs"),
    "cosine": Named("cosine", "cosine of two replicas, mean over pairs"),
    "one_minus_nmse": Named("one_minus_nmse", "1 - normalised mean squared error of two replicas, mean over pairs"),
    "psnr": Named("psnr", "PSNR of two replicas, mean over pairs", "dB"),
}
SSIM = Named("ssim", "structural similarity of two replicas, mean over pairs")
AGREEMENT = Named("label_agreement", "share of pairs of replicas with equal labels")

ALIKE = {
    "Pearson's correlation": "pearson",
    "SSIM": "ssim",
    "correlation across samples": "replica_correlation",
    "cosine": "cosine",
    "1 - NMSE": "one_minus_nmse",
    "PSNR (dB)": "psnr",
}
"""Measures of likeness, in words."""

LEVELS = {
    "Pearson's correlation": ("replica_pearson_05", 0.5, "replicas alike, Pearson"),
    "SSIM": ("replica_ssim_08", verdicts.SIMILAR, "replicas alike, SSIM"),
    "correlation across samples": ("replica_correlation_05", 0.5, "replicas alike, correlation"),
}
"""Landmarks: where a measure gets above a level, and in short."""


@quantity(
    reads="fork",
    reads_with={"against": "trajectories"},
    numerics=4,
    title="How much a state has settled: sample consistency",
    source="000, sample consistency",
)
def consistency(
    ds: xr.Dataset,
    *,
    preset: str = "auto",
    readout: xr.Dataset | None = None,
    against: tuple[xr.Dataset, ...] = (),
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
        replicas, more = _replicas.endings(ds, ", or other runs to compare with in `against`"), {}
        if replicas.sizes["replica"] < 2:
            raise InputError(
                "consistency compares replicas and these forks have 1; expected 2 or more, run `traj fork` with "
                "2 replicas or more"
            )
    count = replicas.sizes["replica"]
    preset, window = window_if_any(preset, replicas)

    low, high = chunking.value_range(ds)
    to_unit = {"low": low, "scale": 1 / (high - low)}
    images = chunking.images(replicas)
    columns = [*(PAIRS[column] for column in pairs.PAIRS), SSIM]
    values = chunking.per_image(
        _similarities, images, lead="vrs", dtype=np.float64, width=len(columns), preset=preset, window=window, **to_unit
    )
    variables = with_spread(xr.DataArray(values, dims=("variant", "sample", "column")), columns)
    if readout is not None:
        variables |= with_spread(_label_agreement(ds, readout), [AGREEMENT])
        variables |= labels.interval_of_share(variables, AGREEMENT.name, ds.sizes["sample"])
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


@consistency.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the sums that go from chunk to chunk."""
    return bytes_held(ds.sizes.get("variant", 1), math.prod(ds.sizes[dim] for dim in event_dims(ds["x_0"].dims)))


def _runs(ds: xr.Dataset, against: tuple[xr.Dataset, ...]) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Take the x_0 of several runs as replicas of one variant, and say how far apart they started."""
    chunking.require(ds, ("x_t", "x_0"))
    others = [similarity.counterpart(ds, other) for other in against]
    for other in others:
        chunking.require(other, ("x_t",))
    runs = [run.drop_vars(list(run.coords)) for run in (ds, *others)]
    starts = xr.concat([run["x_t"].isel(timestep=0) for run in runs], "replica")
    difference = abs(starts - starts.isel(replica=0)).max(("replica", *event_dims(starts.dims)))
    attrs = {"long_name": "largest difference of the runs' first stored x_t from this run's", "units": "1"}
    x_0 = xr.concat([run["x_0"] for run in runs], "replica").expand_dims("variant")
    return x_0, {"start_difference": difference.assign_attrs(attrs)}


def _similarities(images: NDArray[Any], low: float, scale: float, preset: str, window: int) -> NDArray[Any]:
    """Give one chunk (variant, replica, sample, *event) its columns: those of PAIRS, then SSIM."""
    if preset == "none":
        index = np.full((images.shape[0], images.shape[2]), np.nan)
    elif preset == "wang2004":
        index = gaussian.ssim_gaussian_pairs(images, low, scale, half_gaussian())
    else:
        index = kernels.ssim_uniform_pairs(images, low, scale, window, window**2 / (window**2 - 1))
    others = pairs.similarities(images.reshape(*images.shape[:3], -1), low, scale, CAP)
    return np.concatenate([others, index[..., None]], axis=-1)


def _label_agreement(ds: xr.Dataset, readout: xr.Dataset) -> xr.DataArray:
    """Read the share of equal labels off a readout of these forks."""
    logits = _replicas.logits(ds, readout)
    return labels.of_replicas(logits, hard=True).isel(column=[labels.REPLICAS.index("agreement")])


@consistency.curve("fork_consistency", title="How alike replicas are", y_label="1 for equal images")
def _alike(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, {what: name for what, name in ALIKE.items() if name != "psnr"})


@consistency.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say from which start on replicas are alike to the end.

    `replica_pearson_05` and `replica_correlation_05` are the first starts from which on Pearson's correlation and the
    correlation across samples stay above 0.5, `replica_ssim_08` that from which on SSIM stays above 0.8. Intervals are
    where the 95 % band crosses that level: Student's of a mean over samples, the jackknife's across samples.
    """
    found = []
    for what, (name, level, short) in LEVELS.items():
        of = ALIKE[what]
        meaning = f"replicas are alike: {what} above {level} from this start on"
        for series, by_sample in zip(
            _series.of_forks(result, {what: of}), _series.of_forks_by_sample(result, of), strict=False
        ):
            times = partial(order.kept_above, by_sample, level) if "sample" in by_sample.dims else None
            found.append(landmarks.kept_above(series, level, name, meaning).called(f"{short} {level}", times))
    return found


def _caption(results: Results) -> str:
    forks = _with_starts(results)
    presets = captions.either(str(result.attrs["preset"]) for result in forks.values())
    return (
        "How alike two endings of one state are, over the log SNR of that state: means over all pairs of replicas and "
        "over samples. 1 means that the rest of the noise makes no difference. Pearson's correlation compares pixel by "
        f"pixel, SSIM (preset {presets}) structure. The correlation across samples compares a pixel in one replica "
        "with the same pixel in another across all samples, so that what all images have in common does not count: it "
        "estimates the share of the variance of x_0 that x_t has settled, 1 - E Var(x_0 | x_t) / Var(x_0). The cosine "
        "and 1 - NMSE = 1 - |a - b|^2 / (|a|^2 + |b|^2) take images as they are, with their brightness. PSNR is higher "
        "for closer images; starts from which all endings are equal have none. Bands are 95 % intervals. "
        f"{captions.PLACE.format('the start from which on a curve stays above its dotted line')} "
        f"{captions.replicas(forks)} {captions.samples(forks)} After 000, where sample consistency has no figure."
    )


@consistency.figure("fork_consistency", title="How alike replicas are", caption=_caption)
def _draw(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    if not (forks := _with_starts(results)):
        return None
    titles = {what: {what: name} for what, name in ALIKE.items()}
    figure, axes = panels.over_starts(forks, look, titles, columns=3, places=_places)
    for axis, (what, name) in zip(axes.flat, ALIKE.items(), strict=True):
        if what in LEVELS:
            axis.axhline(LEVELS[what][1], color="#777777", lw=0.9, ls=":")
        if name != "psnr":
            axis.set_ylim(min(0, axis.get_ylim()[0]), 1.02)
    return figure


def _of_runs(results: Results) -> str:
    compared = _compared(results)
    return (
        "How alike the x_0 of runs are that were made from the same start noise: how many samples have which value, "
        f"over all pairs of runs. Dashed: the mean. {captions.samples(compared)} After 000 and its source [9]."
    )


@consistency.figure("consistency_of_runs", title="How alike runs of the same samples are", caption=_of_runs)
def _draw_of_runs(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing.panels import histograms

    names = {"pearson": "Pearson's correlation", "ssim": "SSIM", "one_minus_nmse": "1 - NMSE"}
    compared = _compared(results)
    return histograms(compared, look, names) if compared else None


def _with_starts(results: Results) -> dict[str, xr.Dataset]:
    return {run: result for run, result in results.items() if "at_log_snr" in result.coords}


def _compared(results: Results) -> dict[str, xr.Dataset]:
    return {run: result for run, result in results.items() if "at" not in result.coords}
