"""Information: how far predictions are from x_0, and how many bits of x_0 a state holds (METHODS 10.4)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, Table, quantity
from traj.analysis._statistics import landmarks, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

COLUMNS = (
    Named("squared_error", "squared error of pred_x0, summed over the values of the event"),
    Named("information", "information of x_t on x_0", "bit"),
    Named("open", "information on x_0 that x_t leaves open", "bit"),
)

BITS = 1 / math.log(2)
"""Bits in a nat."""

NETWORKS = (
    "Only an exact denoiser has the least possible error, the mmse. The extra error of a network is counted as "
    "information that does not exist, most of it where noise is weak: SNR times a small error is large."
)

FLAWS = {
    "noise": "the sampler adds less noise than the process has, so that x_t knows more of the x_0 it becomes. The "
    "curve says how far predictions are from the end of the run.",
    "end": "the last step of a run adds no noise, so that its last prediction is its x_0; near the end all errors are "
    "too small. Noise the x_0 anew, or give the finite dataset that they are from.",
}
"""Why the errors of a run are not those of draws from p(x_0 | x_t)."""

LEVELS = 6
"""Log SNR at which a table compares two runs."""


@quantity(
    reads="trajectories",
    numerics=1,
    title="How much of the image a state holds: information",
    source="Guo, Shamai and Verdu 2005; Kong, Brekelmans and Ver Steeg 2023",
)
def information(ds: xr.Dataset, *, dataset: xr.Dataset | None = None) -> xr.Dataset:
    """Measure the denoising error, and integrate it to the information of x_t on x_0.

    With gamma = SNR = exp(log_snr), d I(x_0; x_t) / d gamma = mmse(gamma) / 2 in nats (Guo, Shamai and Verdu 2005,
    eq. 1), where mmse = E |x_0 - pred_x0|^2 of the exact denoiser, summed over the event; that of any other denoiser is
    larger. `squared_error` (on, sample, timestep) is |x_0 - pred_x0|^2, its mean over samples the mmse. `information`
    (on, sample, timestep), in bits, is 1/2 the integral of gamma squared_error over log SNR, by the trapezoid rule from
    the noisiest stored state on; below that, squared_error is taken as constant. `open` is what is left of the entropy
    of x_0: of log2 N for a dataset of N samples, else of the information of the last stored state, which is all that
    can be known of an entropy that is infinite. Each has its mean, sd and standard error over samples.

    The mmse falls with gamma. So for the mean over samples of an exact denoiser, sums of rectangles are bounds of the
    information, whatever the distance of the stored states: `information_at_least` and `information_at_most` (on,
    timestep), without the standard error. The trapezoid rule is off by a share of about d^2 / 12, for steps of d in
    log SNR, while x_t is nearly pure noise, and by much less in the sum of all. `gaussian_error` (timestep) is the
    mmse of data with independent normal values of the same variances v, the sum of v / (1 + gamma v): no data have a
    larger one.

    Errors are those of the mmse where x_0 is a draw from p(x_0 | x_t), as for noised data. It is nearly so in a run of
    an exact denoiser with all its noise, but the last step adds none: its pred_x0 is x_0, and errors near the end are
    too small, which does not matter where data are finite. It is not so in a run with less noise than its process has
    (DDIM with eta below 1, Heun). The attribute `flaw` says which: end, noise, or nothing. With a flaw there are no
    landmarks and no numbers: noise the x_0 anew.

    Parameters
    ----------
    dataset
        The data, where they are finite: a dataset of N different samples, alike in frequency, which x_0 are drawn from.

    Raises
    ------
    InputError
        No pred_x0 or x_0; a dataset without x_0, or with events of another size.
    """
    chunking.require(ds, ("pred_x0", "x_0"))
    data = ds if dataset is None else _of_size(dataset, ds["x_0"])
    log_snr = ds["log_snr"].to_numpy().astype(np.float64)
    states = chunking.images(ds["pred_x0"])
    x_0 = chunking.aligned(states, chunking.images(ds["x_0"]))
    errors = chunking.per_image(_squared_errors, states, x_0, lead="st", dtype=np.float64)
    entropy = None if dataset is None else math.log2(data.sizes["sample"])
    columns = errors.rechunk({1: -1}).map_blocks(
        _columns, log_snr, entropy, dtype=np.float64, new_axis=2, chunks=(errors.chunks[0], len(log_snr), len(COLUMNS))
    )
    variables = with_spread(xr.DataArray(columns[None], dims=("on", "sample", "timestep", "column")), COLUMNS)
    curves = _compared(_moments(chunking.images(data["x_0"])), variables["squared_error_mean"].data[0], log_snr)
    said = {
        "gaussian_error": ("mmse of independent normal values with the variances of x_0", "1"),
        "information_at_least": ("lower bound of the information of x_t on x_0, between stored states", "bit"),
        "information_at_most": ("upper bound of the information of x_t on x_0, between stored states", "bit"),
    }
    for row, (name, (title, units)) in enumerate(said.items()):
        curve = xr.DataArray(curves[row], dims="timestep", attrs={"long_name": title, "units": units})
        variables[name] = curve if name == "gaussian_error" else curve.expand_dims("on")
    coords = {"on": ("on", ["pred_x0"], {"long_name": "prediction compared with x_0", "units": "1"})}
    kept = {key: coord for key, coord in ds.coords.items() if set(coord.dims) <= {"sample", "timestep"}}
    attrs = {
        "quantity": "information",
        "samples": ds.sizes["sample"],
        "values": _values(ds["x_0"]),
        "flaw": _flaw(ds, finite=dataset is not None),
    }
    return xr.Dataset(variables, {**coords, **kept}, attrs)


def _flaw(ds: xr.Dataset, *, finite: bool) -> str:
    """Say why the errors of a run are not those of draws from p(x_0 | x_t), in one word; nothing where they are."""
    config = json.loads(ds.attrs.get("config", "{}"))
    if "inversion" in config:
        return "noise"
    if "noised" in config:
        return ""
    if "plan" not in config:
        return "noise" if "noise_sd" in ds.coords and not ds["noise_sd"].to_numpy().any() else ""
    quiet = any(
        run["noise"] == "zero" or (run["rule"] != "posterior" and run["variance"] < 1) for run in config["plan"]["runs"]
    )
    return "noise" if quiet else "" if finite else "end"


@information.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the sums that go from chunk to chunk: two of each value, once more while they grow."""
    return 4 * _values(ds["x_0"]) * np.dtype(np.float64).itemsize


def _values(x_0: xr.DataArray) -> int:
    return math.prod(x_0.sizes[dim] for dim in event_dims(x_0.dims))


def _of_size(dataset: xr.Dataset, x_0: xr.DataArray) -> xr.Dataset:
    """Take a dataset of events like these."""
    chunking.require(dataset, ("x_0",))
    here, there = x_0.shape[1:], dataset["x_0"].shape[1:]
    if here != there:
        raise InputError(f"events of the dataset have the shape {there}, those of this store {here}; expected the same")
    return dataset


def _squared_errors(pred_x0: Array, x_0: Array) -> Array:
    """Give |x_0 - pred_x0|^2 (sample, timestep)."""
    samples, steps = pred_x0.shape[:2]
    errors = np.empty((samples, steps))
    for error, predicted, image in zip(errors, pred_x0.reshape(samples, steps, -1), x_0, strict=True):
        np.square(predicted - image.ravel().astype(np.float64)).sum(axis=-1, out=error)
    return errors


def _columns(errors: Array, log_snr: Array, entropy: float | None) -> Array:
    """Give squared errors (sample, timestep), the information by the trapezoid rule, and what is open."""
    with np.errstate(over="ignore", invalid="ignore"):
        gamma, steps = np.exp(log_snr), np.diff(log_snr)
        rate = gamma * errors / 2
        parts = np.where(np.isneginf(log_snr[:-1]), rate[:, 1:], (rate[:, 1:] + rate[:, :-1]) / 2 * steps)
    known = BITS * np.cumsum(np.concatenate([rate[:, :1], parts], axis=1), axis=1)
    return np.stack([errors, known, (known[:, -1:] if entropy is None else entropy) - known], axis=-1)


def _moments(x_0: da.Array) -> Delayed:
    """Sum values and their squares over samples (2, value), one sample after the other: the same for any chunks."""
    sums: Delayed | None = None
    for chunk in x_0.to_delayed(optimize_graph=False).ravel():
        sums = delayed(_add_chunk, pure=True)(sums, chunk)
    variances: Delayed = delayed(_variances, pure=True)(sums, len(x_0))
    return variances


def _add_chunk(before: Array | None, images: Array) -> Array:
    flat = np.ascontiguousarray(images, np.float64).reshape(len(images), -1)
    sums = np.zeros((2, flat.shape[1])) if before is None else before.copy()
    for values in flat:
        sums += values, values**2
    return sums


def _variances(sums: Array, samples: int) -> Array:
    """Give the unbiased variance of each value; NaN for one sample."""
    mean, square = sums / samples
    variances: Array = (square - mean**2).clip(0) * (samples / (samples - 1) if samples > 1 else np.nan)
    return variances


def _compared(variances: Delayed, mmse: da.Array, log_snr: Array) -> da.Array:
    """Lay out the mmse of normal values, and the least and most information (curve, timestep)."""
    (whole,) = mmse.rechunk(-1).to_delayed(optimize_graph=False)
    lines = delayed(_lines, pure=True)(variances, whole, log_snr)
    curves: da.Array = da.from_delayed(lines, (3, len(log_snr)), np.float64)
    return curves


def _lines(variances: Array, mmse: Array, log_snr: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        gamma = np.exp(log_snr)
        gaussian = np.array([(variances / (1 + snr * variances)).sum() for snr in gamma])
        widths = np.diff(gamma, prepend=0)
        ends = mmse, np.concatenate([[variances.sum()], mmse[:-1]])  # before the first state, all of x_0 is open
        least, most = (BITS / 2 * np.cumsum(widths * end) for end in ends)
    return np.stack([gaussian, least, most])


def _scaled(series: Sequence[Series], by: Any) -> list[Series]:
    return [one._replace(value=one.value * by, low=one.low * by, high=one.high * by) for one in series]


def _error(result: xr.Dataset) -> list[Series]:
    """Give the mmse, per value of the event."""
    return _scaled(_series.of_states(result, "squared_error"), 1 / result.attrs["values"])


def _bits(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "information")


def _rate(result: xr.Dataset) -> list[Series]:
    """Give d I / d log SNR = gamma mmse / 2, in bits."""
    return _scaled(_series.of_states(result, "squared_error"), _gamma(result) * BITS / 2)


def _gamma(result: xr.Dataset) -> Array:
    gamma: Array = np.exp(result["log_snr"].to_numpy())
    return gamma


information.curve("denoising_error", title="Denoising error", y_label="mean squared error per value")(_error)
information.curve("information", title="Information of x_t on x_0", y_label="bit")(_bits)
information.curve("information_rate", title="Information per unit of log SNR", y_label="bit per unit")(_rate)


def _by_sample(result: xr.Dataset, name: str) -> Array:
    values: Array = result[name].isel(on=0).to_numpy()
    return values


def _half(result: xr.Dataset) -> list[Landmark]:
    """Find where half of the information is there: the difference to half of each sample's own is paired."""
    known = _by_sample(result, "information")
    mean, error = verdicts.means((known - known[:, -1:] / 2).T)
    (bits,) = _bits(result)
    low, high = verdicts.band(mean, error, len(known))
    series = bits._replace(value=mean, low=low, high=high)
    meaning = "by pred_x0, x_t holds half of the information on x_0 that the last one holds"
    return [landmarks.kept_above(series, 0, "information_half", meaning).called("half of the information")]


def _peak(result: xr.Dataset) -> list[Landmark]:
    by_sample = _by_sample(result, "squared_error") * _gamma(result)
    meaning = "by pred_x0, information on x_0 grows fastest, per unit of log SNR"
    return [
        landmarks.highest(series, by_sample, "information_peak", meaning).called("information grows fastest")
        for series in _rate(result)
    ]


@information.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say where x_t holds half of the information, and where this grows fastest.

    `information_half` is the step from which on the information is above half of that of the last stored state; its
    interval is where the 95 % band of the difference, paired over samples, crosses 0. `information_peak` is where
    gamma mmse is highest; its interval is the bootstrap's over samples. Runs with a flaw have neither.
    """
    return [] if result.attrs["flaw"] else [*_half(result), *_peak(result)]


@information.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how much information the last stored state holds, with the interval over samples, and what bounds it."""
    if result.attrs["flaw"]:
        return []
    (series,) = _bits(result)
    total = Number("information", "information of the last x_t on x_0 (bit)", *(float(part[-1]) for part in series[3:]))
    meaning = "information of the last x_t on x_0, {} whatever the error is between stored states (bit)"
    ends = [
        Number(f"information_at_{end}", meaning.format(f"at {end}"), float(result[f"information_at_{end}"][0, -1]))
        for end in ("least", "most")
    ]
    return [one for one in (total, *ends) if not np.isinf(one.value)]


@information.gives_tables
def _tables(results: Results) -> list[Table]:
    """Compare runs of the same x_0 at the same log SNR, sample by sample."""
    return [
        _beside(names, pair)
        for names, pair in zip(combinations(results, 2), combinations(results.values(), 2), strict=True)
        if all(np.array_equal(pair[0][key], pair[1][key]) for key in ("sample", "log_snr", "gaussian_error"))
    ]


def _beside(names: tuple[str, str], pair: tuple[xr.Dataset, xr.Dataset]) -> Table:
    log_snr = pair[0]["log_snr"].to_numpy()
    finite = np.flatnonzero(np.isfinite(log_snr))
    wanted = np.linspace(log_snr[finite[0]], log_snr[finite[-1]], LEVELS) if finite.size else np.empty(0)
    chosen = np.unique([finite[np.abs(log_snr[finite] - level).argmin()] for level in wanted]).astype(int)
    rows = []
    for name, places, what in (
        ("squared_error", chosen, "error at log SNR {:.1f}"),
        ("information", chosen[-1:], "information at log SNR {:.1f}, bit"),
    ):
        values = [_by_sample(result, name) for result in pair]
        for place in places:
            one, other = (of_run[:, place] for of_run in values)
            mean, half = verdicts.with_margin(other - one)
            cells = f"{one.mean():.4g}", f"{other.mean():.4g}", f"{mean:+.3g} ± {half:.2g}"
            rows.append([text.replace("-", "−") for text in (what.format(log_snr[place]), *cells)])
    note = (
        "Squared error of pred_x0, summed over the values of an event; the last column is the mean of the differences "
        "of the same samples, with its 95 % interval. No denoiser has a smaller error than the exact one: if one run "
        "is exact, the difference is the network's own error."
    )
    head = ("", *names, "second minus first")
    return Table(f"Denoising error of the same samples: {names[0]} and {names[1]}", head, rows, note, (1, 2, 3))


def _about(results: Results) -> str:
    """Say what all these figures have in common."""
    said = f"{NETWORKS} {captions.BAND} {captions.samples(results)}"
    for flaw, words in FLAWS.items():
        if runs := [run for run, result in results.items() if result.attrs["flaw"] == flaw]:
            said += f" No information, and no mmse, of {', '.join(runs)}: {words}"
    return said


def _of_error(results: Results) -> str:
    return (
        "How far pred_x0 is from x_0: the squared error, per value of the event, as a mean over samples. "
        "Dotted: the mmse that normal values of the same variances would have, if they told nothing "
        f"of each other. The gap is what the shape of the data tells: values that depend on each other, or are not "
        f"normal. {_about(results)}"
    )


@information.figure("denoising_error", title="How far predictions are from x_0", caption=_of_error)
def _draw_error(results: Results, look: Look) -> Figure:
    from traj.analysis._drawing import panels

    label = "squared error per value"
    return panels.over_process(results, look, _error, label, beside=_gaussian)[0]


def _gaussian(result: xr.Dataset) -> list[Series]:
    curve = result["gaussian_error"].to_numpy() / result.attrs["values"]
    return [one._replace(value=curve, low=curve, high=curve) for one in _error(result)]


def _of_rate(results: Results) -> str:
    return (
        "How many bits of information on x_0 come with each unit of log SNR: SNR times mmse, halved. Where the curve "
        f"is high, much is decided. {captions.PLACE.format('where it is highest')} Its area is the information. "
        f"{_about(results)}"
    )


@information.figure("information_rate", title="When information comes", caption=_of_rate)
def _draw_rate(results: Results, look: Look) -> Figure:
    from traj.analysis._drawing import panels

    def peak(result: xr.Dataset) -> list[Landmark]:
        return [place for place in _places(result) if place.name == "information_peak"]

    figure, axes = panels.over_process(results, look, _rate, "bit per unit of log SNR", places=peak)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
    return figure


def _of_bits(results: Results) -> str:
    return (
        "How many bits x_t tells of x_0: the integral of the denoising error. Of data of N equally frequent images it "
        "ends at log2 N. Of other data it grows without end, at last by one bit for each value of the event whenever "
        "the standard deviation of the noise is halved. Dotted: bounds of it, whatever the error is "
        f"between stored states. {captions.PLACE.format('where it passes half of its last value')} {_about(results)}"
    )


@information.figure("information", title="How much of the image a state holds", caption=_of_bits)
def _draw_bits(results: Results, look: Look) -> Figure:
    from traj.analysis._drawing import panels

    def half(result: xr.Dataset) -> list[Landmark]:
        return [place for place in _places(result) if place.name == "information_half"]

    figure, axes = panels.over_process(results, look, _bits, "information (bit)", places=half, beside=_bounds)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
    return figure


def _bounds(result: xr.Dataset) -> list[Series]:
    ends = (result[f"information_at_{end}"][0].to_numpy() for end in ("least", "most"))
    return [one._replace(value=end, low=end, high=end) for one in _bits(result) for end in ends]
