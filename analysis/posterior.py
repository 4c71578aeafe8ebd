"""The posterior over a finite dataset along a run: which images a state may come from (001; METHODS 2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking, datasets
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._posterior import columns as posterior_columns
from traj.analysis._posterior import shown, spectrum
from traj.analysis._posterior.columns import Bounds, columns_of, of_states
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, Table, quantity
from traj.analysis._statistics import landmarks, order, settling, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

MEASURES = (
    Named("entropy", "entropy of the posterior over the dataset", "bit"),
    Named("effective_number", "effective number of images, 2 to the entropy"),
    Named("max_weight", "largest posterior weight of an image"),
    Named("distance_to_pred_x0", "posterior mean to pred_x0, root of the mean square"),
    Named("distance_to_nearest", "posterior mean to the nearest image, root of the mean square"),
    Named("distance_ratio", "posterior mean to the dataset's mean, over the nearest image to that"),
    Named("label_entropy", "entropy of the posterior over labels", "bit"),
)
REGIMES = ("statistics", "feature", "denoising")
"""In the order in which a run goes through them."""

COLLAPSES = ("speciation", "collapse_gaussian", "collapse")
BOUNDARIES = {
    "statistics_end": ("the state leaves the statistics regime for good", "statistics regime ends"),
    "denoising_start": ("the state enters the denoising regime for good", "denoising regime begins"),
}
"""Landmarks of the regimes: what they mean, and in short."""


@quantity(
    reads="trajectories",
    numerics=2,
    title="Which images of a dataset a state may come from",
    source="001, the posterior of a finite dataset",
)
def posterior(
    ds: xr.Dataset,
    *,
    dataset: xr.Dataset | None = None,
    top: int = 5,
    keep_mean: bool = False,
    denoising_weight: float = 0.99,
    denoising_number: float = 1.05,
    statistics_share: float = 0.5,
) -> xr.Dataset:
    """Find which images of a dataset each stored state may come from, and how likely.

    For x_t = c x_0 + d eps (`signal` c, `noise_scale` d) and an x_0 that is one of the N images x_i, all as likely, the
    posterior is w_i, proportional to exp(-|x_t - c x_i|^2 / (2 d^2)). Of each state (sample, timestep): the `top`
    largest weights `weight` (rank), their natural logarithms `log_weight`, which never underflow, so that the log-odds
    of a pair are a difference, and which images these are, `index`, by position in the dataset, -1 for states that are
    not numbers. `entropy` is H_w = -sum w log2 w in bits, `effective_number` 2^H_w, `max_weight` the largest weight.

    The posterior mean, sum w_i x_i, is what a network predicts that knows this dataset by heart.
    `distance_to_pred_x0` and `distance_to_nearest` are its distances to the run's pred_x0 and to the nearest image
    x_nn (that of rank 0), roots of the mean square over values; `distance_ratio` is |mean - m| / |x_nn - m|, with m the
    mean of the dataset: 0 where only its statistics count, 1 where one image does, NaN, and so in the mean over
    samples, where x_nn is m. Where all images have labels, `class_probability` (class) is the sum of weights by class,
    which is P(c | x_t), and `label_entropy` its entropy.

    `regime` is 2, denoising, where the largest weight is above `denoising_weight` or the effective number below
    `denoising_number`; else 0, statistics, where that number is above `statistics_share` of N; else 1, feature.
    `statistics_share`, `feature_share` and `denoising_share` (timestep) are shares of samples, with intervals of 95 %
    (Wilson 1927), `_low` and `_high`. `statistics_end` and `denoising_start`, as `_timestep`, `_step` and `_log_snr`
    (sample), are the first stored states from which on a sample is never in the statistics regime, or always in that of
    denoising. Where a sample is not there at its last stored state: timestep -1, log SNR infinity.

    `spectrum` (component) are the eigenvalues lambda of the covariance of the dataset, `spectrum_se` the standard error
    of the largest, Lambda, if its images were drawn from many more. Classes part (speciation) where c^2 / (c^2 + d^2) =
    1 / Lambda (Biroli and others 2024). `gaussian_entropy` (timestep) is what Gaussian data of this covariance would
    leave of log2 N, max(0, log2 N - I), I = 1/2 sum log2(1 + lambda c^2 / d^2). No data of a covariance tell more of
    themselves than Gaussian ones, so the mean `entropy` of noised data of this dataset is not below 1 bit before
    `gaussian_entropy` is. Images of more than 4,096 values have none of these.

    The dataset is read block by block, once for each chunk of the run; sums are in float64. What is per state but
    weights and classes comes with mean, sd and standard error over samples. Of a few states, `shown_x_t`,
    `shown_pred_x0`, `shown_mean` and the `shown_nearest` images are kept as they are drawn, while this is below 16 MiB.

    Parameters
    ----------
    dataset
        The images, a store that `traj dataset` makes; needed.
    top
        How many of the largest weights are kept.
    keep_mean
        Keep the posterior mean of every state, as `posterior_mean`.
    denoising_weight
        Largest weight above which one image is taken for all.
    denoising_number
        Effective number of images below which one image is taken for all.
    statistics_share
        Share of the images above which the effective number is taken for all of them.

    Raises
    ------
    InputError
        No dataset, an empty one, one of images of another shape or with values that are not numbers; `top` below 1 or
        above the number of images; a run without pred_x0, signal or noise_scale.
    """
    chunking.require(ds, ("x_t", "pred_x0"))
    images = datasets.opened(ds, dataset, "posterior")
    if not 1 <= top <= images.count:
        raise InputError(f"top {top}; expected 1 to {images.count}, the number of images in the dataset")
    levels = _levels(ds)
    x_t, pred_x0 = (chunking.images(ds[name]) for name in ("x_t", "pred_x0"))
    bounds = Bounds(denoising_weight, denoising_number, statistics_share * images.count)
    columns = columns_of(images, top, keep_mean)
    values = of_states(x_t, pred_x0, levels, columns, images=images, top=top, bounds=bounds)
    part = {
        name: xr.DataArray(values[..., there], dims=("sample", "timestep", "column")) for name, there in columns.items()
    }
    measures = MEASURES if images.labels is not None else MEASURES[:-1]
    variables = with_spread(part["measures"], measures)
    variables |= _of_ranks(part) | _regimes(part["flags"], part["regime"], ds)
    coords = {str(name): one for name, one in ds.coords.items() if set(one.dims) <= {"sample", "timestep"}}
    coords["rank"] = ("rank", np.arange(top), {"long_name": "place among the largest weights", "units": "1"})
    if images.labels is not None:
        coords["class"] = ("class", images.classes, {"long_name": "label of the class", "units": "1"})
        variables["class_probability"] = _named(part["classes"], "class", "posterior probability of the class")
    if keep_mean:
        mean = values[..., columns["mean"]].astype(np.float32).reshape(x_t.shape)
        attrs = {"long_name": "posterior mean of x_0", "units": ds["x_t"].attrs.get("units", "1")}
        variables["posterior_mean"] = xr.DataArray(mean, dims=ds["x_t"].dims, attrs=attrs)
    attrs = {
        "quantity": "posterior",
        **chunking.noted_range(ds),
        "samples": ds.sizes["sample"],
        "images": images.count,
        "dataset": str(dataset.attrs.get("fingerprint", "")) if dataset is not None else "",
        "denoising_weight": denoising_weight,
        "denoising_number": denoising_number,
        "statistics_share": statistics_share,
    }
    variables |= spectrum.variables_of(images, posterior_columns.log_snr(levels))
    return xr.Dataset(variables | shown.states(ds, x_t, pred_x0, levels, images, top), coords, attrs)


@posterior.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the dataset's covariance, and of the sums of the states that go through it together."""
    values = int(np.prod(ds["x_t"].shape[2:]))
    return spectrum.bytes_held(values) + posterior_columns.BYTES * posterior_columns.HELD


def _levels(ds: xr.Dataset) -> Array:
    """Read signal and noise scale, (timestep, 2) float64."""
    missing = [name for name in ("signal", "noise_scale") if name not in ds.coords]
    if missing:
        raise InputError(f"this store has no {' and no '.join(missing)} along timestep; write it again with traj")
    return np.stack([ds["signal"].to_numpy(), ds["noise_scale"].to_numpy()], axis=-1).astype(np.float64)


def _named(values: xr.DataArray, dim: str, title: str, units: str = "1") -> xr.DataArray:
    return values.rename(column=dim).assign_attrs(long_name=title, units=units)


def _of_ranks(part: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Name the largest weights and the images that have them."""
    return {
        "weight": _named(part["weight"], "rank", "posterior weight of the image"),
        "log_weight": _named(part["log_weight"], "rank", "natural logarithm of the weight", "nat"),
        "index": _named(part["index"].astype(np.int64), "rank", "position of the image in the dataset, -1 for none"),
    }


def _regimes(flags: xr.DataArray, regime: xr.DataArray, ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Name the regime of every state, the shares of samples in each, and where samples pass from one to the next."""
    statistics, _, denoising = (flags.isel(column=column) for column in range(len(REGIMES)))
    meanings = {"flag_values": [-1, 0, 1, 2], "flag_meanings": "none statistics feature denoising"}
    number = regime.isel(column=0).astype(np.int8)
    variables = {"regime": number.assign_attrs(long_name="regime of the posterior", units="1", **meanings)}
    titles = {name: f"share of samples in the {name} regime" for name in REGIMES}
    shares = with_spread(flags, [Named(f"{name}_share", title) for name, title in titles.items()])
    for name, title in titles.items():
        share = shares[f"{name}_share_mean"].assign_attrs(long_name=title)
        variables[f"{name}_share"] = share
        variables |= verdicts.interval(f"{name}_share", title, ds.sizes["sample"], share)
    for (name, (meaning, _)), differs in zip(BOUNDARIES.items(), (statistics, 1 - denoising), strict=True):
        variables |= settling.places(ds, differs, name, f"where {meaning}")
    return variables


# --- what it shows ------------------------------------------------------------------------------------------------


@posterior.curve("posterior_entropy", title="Entropy of the posterior over the dataset", y_label="bit")
def _entropy(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "entropy")


@posterior.curve("posterior_distance", title="Posterior mean to pred_x0", y_label="root of the mean square")
def _distance(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "distance_to_pred_x0")


@posterior.curve("posterior_ratio", title="Posterior mean to the dataset's mean", y_label="ratio")
def _ratio(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "distance_ratio")


@posterior.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say where half of the samples change regimes, where classes part, and where states collapse onto single images.

    `collapse` is where the mean entropy comes below one bit for good, two images as likely; its interval is where the
    band crosses it. `collapse_gaussian`, where Gaussian data would leave one bit, the earliest that it can be for
    noised data, and `speciation` follow from the covariance; the interval of the latter is by the standard error of the
    largest eigenvalue, to first order.
    """
    (entropy,) = _entropy(result)
    meaning = f"the mean entropy of the posterior stays below {spectrum.COLLAPSED:g} bit: fewer than two images"
    collapse = landmarks.kept_below(entropy, spectrum.COLLAPSED, "collapse", meaning).called("posterior collapses")
    found = [*spectrum.landmarks(result), collapse]
    for name, (meaning, short) in BOUNDARIES.items():
        timestep, log_snr = (result[f"{name}_{along}"] for along in ("timestep", "log_snr"))
        half = f"{meaning}, in half of the samples (median)"
        mark = landmarks.median(timestep.to_numpy(), log_snr.to_numpy(), name, half, "x_t")
        found.append(mark.called(short, partial(order.settled, log_snr, result["log_snr"])))
    return found


@posterior.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how many images a state may come from, and how far pred_x0 is from their mean, where signal equals noise."""
    where = "where signal equals noise (log SNR 0)"
    meanings = {
        "entropy": f"entropy of the posterior over the dataset (bit), {where}",
        "distance_to_pred_x0": f"distance of pred_x0 to the posterior mean, {where}",
    }
    return [
        Number(f"posterior_{name}_at_log_snr_0", meaning, *landmarks.at_log_snr_0(series))
        for name, meaning in meanings.items()
        for series in _series.of_states(result, name)
    ]


@posterior.gives_tables
def _tables(results: Results) -> list[Table]:
    rows, times = [], []
    for run, result in results.items():
        places = {place.name: place for place in _places(result)}
        times.append([run, *(_when(places[name]) if name in places else "" for name in COLLAPSES)])
        regime = result["regime"].to_numpy()
        through = (regime[:, 0] == 0) & (regime == 1).any(axis=1) & (regime[:, -1] == REGIMES.index("denoising"))
        count, samples = int(through.sum()), len(through)
        ratio = [f"{float(result['distance_ratio_mean'][step]):.3f}" for step in (0, -1)]
        verdict = verdicts.WORDS[verdicts.most_of_all(count, samples)]
        rows.append([run, *(_when(places[name]) for name in BOUNDARIES), *ratio, f"{count} of {samples}: {verdict}"])
    head = ("run", "statistics until", "denoising from", "mean, first state", "last state", "through all three")
    note = (
        "The source says that a model learns statistics of its data while noise prevails, then features, and at last "
        "only takes noise off one image. Places are log SNR with intervals of 95 %. The mean is that of the posterior: "
        "its distance to the mean of the dataset, divided by that of the nearest image; 0 is all images, 1 is one. "
        "The last column counts the samples that begin in the first regime, end in the third and visit the second."
    )
    said = (
        "Biroli and others find that a run first chooses a class, where the variance of the data's part of x_t, in its "
        "main direction, reaches 1 (at the scale signal^2 + noise^2 = 1), and later collapses onto one image of those "
        "a network knows by heart: where Gaussian data would leave one bit, and where one bit is left here. Places are "
        "log SNR with intervals of 95 %. Data that are not Gaussian tell less of themselves than Gaussian ones of the "
        "same covariance, so, of noised data, the second collapse is not before the first."
    )
    parting = ("run", "classes part", "collapse, Gaussian data", "collapse, here")
    return [
        Table("Three regimes, one after another", head, rows, note, (3, 4)),
        Table("When classes part, and when images do", parting, times, said),
    ]


def _when(place: Landmark) -> str:
    """Write a place with its interval."""
    if np.isnan(place.log_snr):
        return "never"
    between = f" ({_at(place.low)} to {_at(place.high)})" if not np.isnan(place.low) else ""
    return f"{_at(place.log_snr)}{between}"


def _at(log_snr: float) -> str:
    """Write a log SNR; minus infinity lies at or before the first state, infinity at x_0 itself."""
    return {-np.inf: "the start", np.inf: "the end"}.get(log_snr, f"{log_snr:.1f}")


def _of_images(results: Results) -> str:
    counts = captions.either(f"{int(result.attrs['images']):,}" for result in results.values())
    return f"The dataset has {counts} images. {captions.samples(results)}"


def _of_nearest(results: Results) -> str:
    return (
        "A few samples along their run, from noise at the left. From above: the state, divided by the root of "
        "signal^2 + noise^2; what the network predicts from it; what a network would predict that knew the dataset by "
        "heart, which is the mean of the dataset's images, each weighed by how likely the state comes from it; and the "
        f"images of the largest weights: the number on each is its weight. {_of_images(results)} After 001."
    )


@posterior.figure("posterior_nearest", title="Which images a state may come from", caption=_of_nearest)
def _draw_nearest(results: Results, look: Look) -> Figure | None:
    from traj.analysis._posterior import figures

    return figures.nearest(results, look)


def _of_entropy(results: Results) -> str:
    return (
        "How many images a state may come from: the entropy of the posterior over the dataset. At H bits there are "
        f"about 2 to the H of them; dotted, all: {captions.either(f'{bits:.1f}' for bits in _all_bits(results))} bit. "
        f"Lines are means over samples. {captions.BAND} "
        "Dashed, what Gaussian data of the dataset's covariance would leave, which is the least that any data of that "
        "covariance can, on the average over noised data. Diamonds: classes part (S), where the variance of the data's "
        "part of x_t, in its main direction, reaches 1 (at the scale signal^2 + noise^2 = 1); Gaussian data would "
        "leave one bit (G); the state has come down to fewer than two images (C). Their bars are 95 % intervals. "
        f"{_of_images(results)} After 001."
    )


@posterior.figure("posterior_entropy", title="How many images a state may come from", caption=_of_entropy)
def _draw_entropy(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels
    from traj.analysis._posterior import figures

    figure, axes = panels.over_process(results, look, _entropy, "entropy (bit)")
    for run, result in results.items():
        figures.entropies(axes[0, 0], result, _entropy(result)[0], _places(result), look, run)
    for axis in axes.flat:
        for bits in _all_bits(results):
            axis.axhline(bits, color="#777777", lw=0.9, ls=":")
    return figure


def _all_bits(results: Results) -> list[float]:
    """List the entropies at which all images are as likely."""
    return sorted({float(np.log2(result.attrs["images"])) for result in results.values()})


def _of_regimes(results: Results) -> str:
    weights, numbers, shares = (
        captions.either(f"{result.attrs[name]:g}" for result in results.values())
        for name in ("denoising_weight", "denoising_number", "statistics_share")
    )
    return (
        "Share of samples in each regime. Statistics: the effective number of images a state may come from is above "
        f"{shares} of all. Denoising: one image has a weight above {weights}, or that number is below {numbers}. "
        "Feature: between them. Black lines are the medians over samples of where the first is left and the last is "
        f"entered for good; grey their 95 % intervals. {_of_images(results)} After 001, which draws no such figure."
    )


@posterior.figure("posterior_regimes", title="Statistics, features, denoising", caption=_of_regimes)
def _draw_regimes(results: Results, look: Look) -> Figure | None:
    from traj.analysis._posterior import figures

    places = {run: [one for one in _places(result) if one.name in BOUNDARIES] for run, result in results.items()}
    return figures.regimes(results, look, places)


def _of_distance(results: Results) -> str:
    return (
        "Above, how far the network's prediction is from the posterior mean over the dataset, which is what a network "
        "predicts that knows these images by heart: the root of the mean square over values. 0: the network has "
        "learned just this dataset. Late in the process, the rest is what it generalises, or has not learned. Beneath, "
        "how far the posterior mean is from the mean of the dataset, divided by how far the nearest "
        f"image is: 0 where only statistics of the dataset count, 1 where one image does. {captions.BAND} "
        f"{_of_images(results)} After 001."
    )


@posterior.figure("posterior_distance", title="How far pred_x0 is from the posterior mean", caption=_of_distance)
def _draw_distance(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    def named(result: xr.Dataset) -> list[Series]:
        return [
            series._replace(on=title)
            for title, of in (("pred_x0", _distance), ("the dataset's mean", _ratio))
            for series in of(result)
        ]

    figure, axes = panels.over_process(results, look, named, "")
    for axis, label in zip(axes[:, 0], ("distance to the mean", "distance ratio"), strict=True):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    return figure
