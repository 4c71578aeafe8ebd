"""Forward and backward again: what of an image comes back (Sclocchi et al.; Li and Chen; METHODS 10.2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import labels as _labels
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, quantity
from traj.analysis._replicas import changes as _changes
from traj.analysis._replicas import forks as _replicas
from traj.analysis._replicas import returned
from traj.analysis._similarity import endings as _endings
from traj.analysis._similarity.windows import window_if_any
from traj.analysis._statistics import landmarks, order
from traj.analysis._statistics.spread import GROUPS, Named, with_spread
from traj.analysis.psnr import CAP
from traj.stores import IMAGE_DIMS, InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

KEPT = Named("class_kept", "share of endings whose class is the image's label")
COLUMNS = (
    Named("squared_change", "mean squared difference of an ending from the image"),
    Named("psnr", "PSNR of an ending with the image", "dB"),
    Named("ssim", "structural similarity of an ending to the image"),
)
OF_IMAGES = (
    Named("change", "change of an ending from the image, mean over pixels"),
    Named("change_within", "variance over replicas of the change"),
)

HALF = 0.5
"""Share of endings of the image's class from which on the class mostly survives."""

SHOWN = 6
"""Images that are kept for the montage."""

OF_ANY_EVENT = {
    "endings of the image's class": {"class": "class_kept"},
    "SSIM with the image": {"SSIM": "ssim"},
    "PSNR with the image (dB)": {"PSNR": "psnr"},
}
PANELS = OF_ANY_EVENT | {
    "susceptibility of the changes": {"susceptibility": "susceptibility"},
    "pixels that change together": {"pixels": "correlated_pixels"},
    "correlation length (pixels)": {"length": "correlation_length"},
}
"""Panels of the figure: titles, and what is drawn under each."""


@quantity(
    reads="fork",
    numerics=1,
    title="What survives the noise: forward and backward again",
    source="Sclocchi et al. 2024, 2025; Li and Chen 2024",
)
def forward_backward(
    ds: xr.Dataset,
    *,
    baseline: xr.Dataset | None = None,
    readout: xr.Dataset | None = None,
    preset: str = "auto",
    threshold: float | None = None,
) -> xr.Dataset:
    """Compare images with where they come back to from noise: class, likeness, and which pixels change together.

    For forks of noised data, `traj noise` and then `traj fork`: each replica goes back from the x_t at which it starts
    to an ending of its own. `squared_change` is the mean squared difference from the image, in squared units of x_0;
    `psnr` (at most 100 dB) and `ssim` are those of the quantities of their names. With a readout, `class_kept` is the
    share of replicas whose label (largest logit) is the image's. Each is (variant, sample), mean over replicas, with
    mean, sd and standard error over samples, which are what is independent: replicas of one image are not. The interval
    of `class_kept`, of 95 %, is Wilson's for as many independent cases as would have its standard error (Korn and
    Graubard 1998). For an exact denoiser that goes back with all its noise (ddpm, or ddim with eta 1) it is
    E sum_c p(c | x_t)^2.

    Of images, the field of changes d(y, x) is the root mean square over channels of the difference from the image, on
    [0, 1] and clipped; with `threshold`, 1 where it is above that and 0 elsewhere. `change` (variant, sample) is its
    mean over pixels and replicas, `change_within` the variance over replicas of its mean over pixels (divisor R), and
    `change_map` (variant, y, x) its mean over samples and replicas. With C_ij the covariance of the changes of pixels i
    and j over samples and replicas, estimated without bias,
    `change_variance` is the mean over pixels of C_ii, and `change_correlation` (variant, distance) the mean of C_ij
    over pairs at a distance, rounded to whole pixels, over `change_variance`; `distance` is their mean distance.

    `susceptibility` is sum_ij C_ij / D of D pixels, D times the variance of the mean change, and `correlated_pixels`
    is sum_ij C_ij / sum_i C_ii: 1 where pixels change independently, D where all change alike. `correlation_length` is
    the distance, in pixels, at which `change_correlation` first falls to 1/e, taken as exponential between two
    distances: 0 where neighbours are independent, infinite where it does not fall so far.

    Their standard errors are the jackknife's over eight groups that samples are dealt out to (NaN below eight samples);
    an interval of 95 % is 2.36 of it to either side (Student, 7 degrees of freedom). All but `change_variance` and
    `susceptibility` are NaN where nothing varies. A few images and endings of replica 0 are kept for the figures:
    `image`, `ending` and, with a readout, `ending_kept`, along `shown`.

    Parameters
    ----------
    baseline
        The run that was forked, whose x_0 are the images; needed.
    readout
        A classifier's readout of the same forks: adds class_kept.
    preset
        Window of SSIM: wang2004, skimage, window:N, or auto, as for the quantity ssim; auto leaves SSIM NaN for
        images below 3 pixels a side, and for events that are no images.
    threshold
        Change above which a pixel counts as changed, on [0, 1]; without it, changes count by their size.

    Raises
    ------
    InputError
        A dataset without forks; a baseline that is missing, is another run or has fewer samples; a readout of other
        forks; with a readout, samples without a label among its classes; a preset that is unknown or does not fit the
        images; a threshold that is not between 0 and 1, or is given for events that are no images.
    """
    endings = _replicas.endings(ds)
    run = _replicas.parent_of(ds, baseline)
    preset, window = window_if_any(preset, endings)
    of_images = event_dims(endings.dims) == IMAGE_DIMS
    _require_threshold(threshold, of_images)
    low, high = chunking.value_range(ds)
    to_unit: dict[str, Any] = {"low": low, "scale": 1 / (high - low)}
    images, x_0 = _endings.beside_run(endings, run)
    columns = [*COLUMNS, *OF_IMAGES] if of_images else COLUMNS
    options = {"preset": preset, "window": window, "of_images": of_images, "threshold": threshold, **to_unit}
    variables = _endings.compare(_columns, images, x_0, columns, **options)
    coords = _replicas.coordinates(ds)
    of_first = None
    if readout is not None:
        logits = _replicas.logits(ds, readout)
        places = _labels.positions(ds["label"].to_numpy(), logits["class"].to_numpy(), "its label is kept")
        variables |= with_spread(_kept(logits, places), [KEPT])
        of_first = _kept(logits.isel(replica=[0]), places).isel(column=0)
        variables |= _labels.interval_of_share(variables, KEPT.name, ds.sizes["sample"])
    if of_images:
        correlations, distance = _changes.correlations(images, x_0, **to_unit, threshold=threshold)
        variables |= correlations | _shown(endings, run["x_0"], of_first)
        coords |= distance | {"shown": xr.DataArray(ds["sample"].to_numpy()[:SHOWN], dims="shown")}
    attrs = {
        "quantity": "forward_backward",
        "preset": preset,
        "window": window,
        "threshold": -1.0 if threshold is None else threshold,
        "cap": CAP,
        "samples": ds.sizes["sample"],
        "replicas": ds.sizes["replica"],
        "valid_range": [low, high],
        "baseline": run.attrs["fingerprint"],
    }
    return xr.Dataset(variables, coords, attrs)


@forward_backward.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the sums that go from chunk to chunk."""
    return _changes.bytes_held(ds.sizes["variant"], ds.sizes["y"], ds.sizes["x"]) if "y" in ds.sizes else 0


def _require_threshold(threshold: float | None, of_images: bool) -> None:
    if threshold is None:
        return
    if not of_images:
        raise InputError(f"threshold {threshold} was given for pixels, and these events are no images; leave it out")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold} was given; expected a change from 0 to below 1, on [0, 1]")


def _columns(
    images: Array,
    x_0: Array,
    low: float,
    scale: float,
    preset: str,
    window: int,
    of_images: bool,
    threshold: float | None,
) -> Array:
    """Give one chunk (variant, replica, sample, *event), with x_0 (sample, *event), its columns."""
    variants, states = len(images), _endings.by_sample(images)
    flat = states.reshape(*states.shape[:2], -1), x_0.reshape(len(x_0), -1)
    squared = [((np.float64(of_one) - start) ** 2).mean(axis=-1) for of_one, start in zip(*flat, strict=True)]
    ssim, psnr = _endings.likeness(states, x_0, low, scale, preset, window)
    values = [_over_replicas(of_ending, variants)[0] for of_ending in (np.stack(squared), psnr, ssim)]
    if of_images:
        changes = [
            _changes.fields(of_one, start, low, scale, threshold).reshape(len(of_one), -1).mean(axis=-1)
            for of_one, start in zip(states, x_0, strict=True)
        ]
        values += _over_replicas(np.stack(changes), variants)
    return np.stack(values, axis=-1)


def _over_replicas(values: Array, variants: int) -> tuple[Array, Array]:
    """Take mean and variance over replicas of values (sample, variant and replica): (variant, sample) each."""
    by_replica = values.reshape(len(values), variants, -1)
    return by_replica.mean(axis=-1).T, by_replica.var(axis=-1).T


def _kept(logits: xr.DataArray, places: Array) -> xr.DataArray:
    """Give the share of replicas whose label is the image's, at `places` (sample,): (variant, sample, column)."""
    labels = xr.DataArray(places, dims="sample")
    return chunking.per_cell(_share, logits, labels, within=[["replica", "class"], []], width=1)


def _share(logits: Array, places: Array) -> Array:
    """Do `_kept` for a chunk (..., replica, class) and the places (...) of labels."""
    share: Array = _labels.is_at(logits, places[..., None]).mean(axis=-1, keepdims=True)
    return share


def _shown(endings: xr.DataArray, x_0: xr.DataArray, of_first: xr.DataArray | None) -> dict[str, xr.DataArray]:
    """Keep a few images and their endings, those of the first replica, and whether these have the image's label."""
    kept: dict[str, tuple[xr.DataArray, str]] = {
        "image": (x_0, "image"),
        "ending": (endings.isel(replica=0, drop=True), "where an image comes back to, replica 0"),
    }
    if of_first is not None:
        kept["ending_kept"] = of_first, "1 where the ending has the image's label, 0 elsewhere"
    few = {
        name: (values.isel(sample=slice(SHOWN)).rename(sample="shown"), title) for name, (values, title) in kept.items()
    }
    return {
        name: xr.DataArray(values.data, dims=values.dims, attrs={"long_name": title, "units": "1"})
        for name, (values, title) in few.items()
    }


@forward_backward.curve("class_kept", title="Endings of the image's class", y_label="share of endings")
def _class(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, {"class": "class_kept"})


@forward_backward.curve("susceptibility", title="Susceptibility of the changes", y_label="D Var(mean change)")
def _susceptibility(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, {"susceptibility": "susceptibility"})


@forward_backward.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say from where on an image keeps its class, and where its changes are most susceptible.

    `class_kept_05` is the first start from which on more than half of the endings have the image's label; the interval
    is where the band, of 95 %, crosses one half. `susceptibility_peak` is the start at which the susceptibility is
    highest; the interval is the bootstrap's over samples, and so holds what choosing the highest adds.
    """
    meaning = f"the image keeps its class: above {HALF} of the endings from this start on"
    found = [
        landmarks.kept_above(series, HALF, "class_kept_05", meaning).called(
            "forward-backward keeps the class", partial(order.kept_above, by_sample, HALF)
        )
        for series, by_sample in zip(_class(result), _series.of_forks_by_sample(result, "class_kept"), strict=False)
    ]
    peak = "changes are most susceptible: most pixels change, or stay, together"
    kinds = _replicas.kinds(result).values()
    for series, variants in zip(_susceptibility(result), kinds, strict=False):
        mark = landmarks.highest_of(series, _redrawn(result.isel(variant=variants)), "susceptibility_peak", peak)
        found.append(mark.called("pixels change together"))
    return found


def _redrawn(result: xr.Dataset) -> Array | None:
    """Give what the susceptibility of each of the bootstrap's sets of samples is proportional to: (draw, variant)."""
    change, within = (result[name].transpose("sample", "variant").to_numpy() for name in ("change", "change_within"))
    samples = len(change)
    if samples < GROUPS or not np.isfinite(change).all():
        return None
    often, centred = landmarks.redrawn(samples), change - change.mean(axis=0)
    between = (often @ centred**2 - (often @ centred) ** 2 / samples) / (samples - 1)
    drawn: Array = between + often @ within / samples
    return drawn


@forward_backward.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how many endings have the image's class where they start from as much noise as signal."""
    meaning = "share of endings of the image's class, started where signal equals noise (log SNR 0)"
    ends = [landmarks.at_log_snr_0(series) for series in _class(result)[:1]]
    return [Number("class_kept_at_log_snr_0", meaning, *found) for found in ends]


def _caption(results: Results) -> str:
    forks = returned.with_starts(results)
    presets = captions.either(str(result.attrs["preset"]) for result in forks.values())
    return (
        "Images are noised to some x_t, and the reverse process goes on from there: what of the image comes back? Over "
        "the log SNR of that x_t: the share of endings that a classifier gives the image's own label (where it was "
        f"asked); how like they are to the image by SSIM (preset {presets}) and PSNR; and how their pixels change. "
        f"{_field(forks)} The susceptibility is the number of pixels times the variance of the mean change; divided "
        "by the variance of a single pixel it is the number of pixels that change together, 1 where each changes "
        "independently. The correlation length is the distance at which the correlation of two pixels' changes falls "
        "to 1/e; it is not drawn where it never does. A peak shows where the whole image is decided. Bands are 95 % "
        "intervals over images; replicas of one image are not independent. "
        f"{captions.PLACE.format('where more than half (dotted) begin to keep their class, and the peak')} "
        f"{captions.replicas(forks)} {captions.samples(forks)} After Sclocchi et al. and Li and Chen."
    )


def _field(forks: Results) -> str:
    """Say what counts as a change."""
    thresholds = {float(result.attrs["threshold"]) for result in forks.values()}
    sized = "A change is the root mean square over channels of a pixel's difference from the image, on [0, 1]."
    counted = [f"it counts as 1 above {level:g} and as 0 below" for level in sorted(thresholds) if level >= 0]
    return f"{sized[:-1]}{'; ' * bool(counted)}{captions.either(counted)}."


@forward_backward.figure("forward_backward", title="What comes back of an image", caption=_caption)
def _draw(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    if not (forks := returned.with_starts(results)):
        return None
    titles = PANELS if any("susceptibility" in result for result in forks.values()) else OF_ANY_EVENT
    figure, axes = panels.over_starts(forks, look, titles, columns=3, places=_places)
    axes[0, 0].axhline(HALF, color="#777777", lw=0.9, ls=":")
    for axis, low in zip(axes[0, :2], (0, -1), strict=True):
        axis.set_ylim(max(low, min(0, axis.get_ylim()[0])) - 0.02, 1.02)
    return figure


def _of_montage(results: Results) -> str:
    return (
        "At the right some images, and in each line what came back from noise of ever less strength, one ending of "
        "each start. Look for the column from which on the image is itself again, and for what survives before it. "
        "Where a classifier was asked, a solid frame means that the ending has the image's label, a dashed one that it "
        "has another."
    )


forward_backward.figure("endings", title="Images, and what they come back as", caption=_of_montage)(returned.montage)


def _of_maps(results: Results) -> str:
    forks = returned.with_starts(results)
    return (
        "How much each pixel changes on the way there and back, mean over images and endings, for starts from much "
        f"noise, at the left, to little. {_field(forks)} {captions.replicas(forks)} {captions.samples(forks)}"
    )


forward_backward.figure("changes", title="Where images change", caption=_of_maps)(returned.maps)
