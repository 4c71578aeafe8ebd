"""Label entropy: when the class of a sample is decided, by the network's own Bayes posterior (003; METHODS 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._decisions import loops
from traj.analysis._decisions import means as bayes_means
from traj.analysis._decisions import options as bayes_options
from traj.analysis._decisions import words as bayes_words
from traj.analysis._decisions.words import curves
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, Table, quantity
from traj.analysis._statistics import landmarks, order, settling, verdicts
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


@quantity(
    reads="readout",
    numerics=3,
    title="When the class is decided: entropy of the label, given the state",
    source="003, 1-D experiment and CIFAR-10",
    needs=("squared_distance", "eps_product"),
)
def label_entropy(
    ds: xr.Dataset,
    *,
    partitions: tuple[str, ...] = (),
    priors: tuple[float, ...] = (),
    variance: str = "large",
    per: Literal["auto", "tau", "log_snr"] = "auto",
) -> xr.Dataset:
    """Follow how sure a class-conditional network is, along each trajectory, of the class of its sample.

    Of what `traj readout likelihood` read. `posterior` (sample, timestep, class) is P(c | x_t) of the online Bayes
    classifier: log P(c | x_T) is the log prior, each step to x_s adds -|x_s - mu_c|^2 / (2 s_t^2), and the sum over
    classes is made 1 (METHODS 4.2). `log_total` (sample, timestep) is the log of that sum before, with the
    unconditional prediction in place of the classes' own: 0 where the two fit, NaN where the network has none.

    A decision is which side of a partition of classes a sample is on, given that it is on one: `all` classes apart,
    each of `partitions`, and each class against the rest. Over samples, (decision, timestep): `entropy`, E2, the mean
    of -sum_z P(z | x_t) log2 P(z | x_t), in bits; `entropy_labelled`, E1, the mean of -log2 P(z | x_t) of the true
    side, where labels are known, the same as E2 where the network is calibrated; `entropy_rate_log_snr`, E3, the mean
    of sum_z P(z | x_t) |eps_z - eps|^2 / (2 ln 2), the bits decided per unit of log SNR, where eps of a side, and of
    all sides together, is the mean of the classes' eps weighted by P (I-MMSE; METHODS 4.3); and
    `entropy_rate_differenced_log_snr`, central differences of E2. Where the process has a table of T timesteps,
    `entropy_rate` and `entropy_rate_differenced` are the same per unit of tau = (timestep + 1) / T. Means have
    standard errors, `_se`, and are of `decision_samples` or `class_samples` samples. Samples with labels are selected
    and weighted by priors; others stand for the mixture of all classes, and are weighted by P(one of the sides | x_t)
    (METHODS 4.1). Without labels, the classes of the readout must be all that the samples are of.

    `class_entropy` (class, timestep), the mean of -log2 P(c | x_t) where c is the class, adds up to E1 by the priors,
    and `class_entropy_rate_log_snr` is how fast it falls. A class without samples has NaN, and so have decisions it
    takes part in, if its prior is not 0; the attribute `without_samples` names such classes. Without labels, NaN is
    where the sides' P, summed over samples, is below 1.

    `peak_timestep` and `peak_log_snr` (decision) say where the rate, per tau or log SNR as `per` says, is highest, by
    curves smoothed over half a unit of log SNR; `peak_low_...` and `peak_high_...` are the ends of an interval of 95 %
    (bootstrap over samples), `window_...` those of where the rate is above half its peak. The same is given of classes,
    `class_peak_...`, and of all pairs of classes, `pair_peak_...` (class, other_class); the intervals of all classes
    hold together, and so do those of all pairs.

    `decided_class` (sample) is the likeliest class of the last stored state, `decision_timestep` and
    `decision_log_snr` where its probability passes one half for good; timestep -1 and an infinite log SNR where that
    is not so in any stored state.

    Trajectories guided by another weight than 1 are no draws of the network's own mixture: what averages over them say
    is how sure the network is there, no longer the entropy of its process. Along trajectories without noise (ddim, eta
    0) the classifier is exact for classes that are points only: on digits its error is at most .03, with noise
    .005.

    Parameters
    ----------
    partitions
        Decisions between groups of classes, as 0+1|2+3: numbers of classes, + within a side, | between sides; rest is
        a side of all classes that are not named.
    priors
        Probability of each class, in the order of the store; all alike by default.
    variance
        s_t^2 of a step, of x_s given x_t and the class: large, all the noise a step takes away, safe for classes that
        have a spread and for trained networks, whose errors `small` magnifies in the last steps; small, that for one
        known x_0, exact for classes that are points; spread:V, exact for normal classes of values with variance V.
    per
        What rates are compared per, to find the peaks: tau, log_snr, or auto, tau where the process has a table.

    Raises
    ------
    InputError
        A dataset that is no likelihood readout of trajectories with its products; an option that does not fit the
        classes; labels for some samples only.
    """
    _require(ds)
    classes = ds["class"].to_numpy()
    prior = bayes_options.read_priors(priors, len(classes))
    decisions = bayes_options.decisions(partitions, classes.tolist())
    labels = bayes_options.positions(ds["label"].to_numpy(), classes)
    config = json.loads(ds.attrs.get("config", "{}"))
    timestep, log_snr = ds["timestep"].to_numpy(), ds["log_snr"].to_numpy()
    tau = bayes_options.tau_of(timestep, config, per)
    compared_by = "tau" if tau is not None and per != "log_snr" else "log_snr"
    pace = None if tau is None else -bayes_options.slope(log_snr, tau)
    sides = np.array([*decisions.values(), *bayes_options.pairs(len(classes))])
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)
    of_states = _lazily(
        loops.of_trajectories,
        {
            "squared_distance": ("timestep", "class"),
            "squared_distance_null": ("timestep",),
            "eps_product": ("timestep", "class", "other_class"),
        },
        ds,
        loops.STATES,
        {"decision": len(decisions), "pair": len(sides) - len(decisions)},
        log_prior=log_prior,
        variance=loops.step_variance(ds["signal"].to_numpy(), ds["noise_scale"].to_numpy(), variance),
        sides=sides,
        classes=classes,
    )
    inputs = {name: ("sample", *loops.STATES[name]) for name in AVERAGED}
    means = _lazily(
        bayes_means.over_samples,
        inputs,
        of_states,
        bayes_means.MEANS,
        {"part": len(bayes_means.PARTS), "end": len(bayes_means.PEAK), "other_class": len(classes)},
        labels=labels,
        prior=prior,
        sides=sides,
        log_snr=log_snr,
        pace=pace if pace is not None and compared_by == "tau" else np.ones(len(log_snr)),
    )
    variables = {
        **_of_samples(ds, of_states),
        **_of_means(means, log_snr, pace),
        **_of_peaks(means, timestep, log_snr),
    }
    along = {"sample", "timestep", "class"}
    coords = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= along}
    coords["decision"] = xr.DataArray(list(decisions), dims="decision", attrs={"long_name": "what is decided"})
    coords["other_class"] = ("other_class", classes, ds["class"].attrs)
    if tau is not None:
        coords["tau"] = ("timestep", tau, {"long_name": "noise additions, of all there are", "units": "1"})
    missing = [] if not labels.size else [c for k, c in enumerate(classes.tolist()) if not (labels == k).any()]
    attrs = {
        "quantity": "label_entropy",
        "variance": variance,
        "priors": prior.tolist(),
        "decisions": [bayes_options.ALL, *partitions],
        "per": compared_by,
        "samples": ds.sizes["sample"],
        "labelled": int(labels.size > 0),
        "without_samples": missing,
        "guidance": float(config.get("parent_guidance", 1)),
        "noisy": int("noise_sd" not in ds.coords or bool((ds["noise_sd"].to_numpy()[:-1] != 0).any())),
    }
    return xr.Dataset(variables, coords, attrs)


AVERAGED = ("log_p", "entropy", "rate", "pair_rate", "class_rate")
"""What is averaged over samples."""


def _require(ds: xr.Dataset) -> None:
    dims = ds["squared_distance"].dims if "squared_distance" in ds else ()
    if dims != ("sample", "timestep", "class") or "eps_product" not in ds:
        here = ", ".join(map(str, ds.data_vars)) or "nothing"
        raise InputError(
            "label entropy needs a likelihood readout of trajectories, with the products of its predictions; this "
            f"dataset of kind {ds.attrs.get('kind', '?')} has {here}{f', along {dims}' if dims else ''}; run `traj "
            "readout likelihood RUN OUT` first"
        )
    if ds.sizes["class"] < 2:
        raise InputError(
            "this readout is of one class only, between which and no other nothing is decided; expected two"
        )


def _lazily(
    function: Callable[..., tuple[Array, ...]],
    within: Mapping[str, tuple[str, ...]],
    variables: Mapping[Any, xr.DataArray],
    gives: Mapping[str, tuple[str, ...]],
    sizes: Mapping[str, int],
    **options: Any,
) -> dict[str, xr.DataArray]:
    """Apply a function along the dims `within` of variables, all of these at once: float64 arrays by name."""
    inputs = []
    for name, dims in within.items():
        variable = variables[name].drop_vars(list(variables[name].coords))
        if variable.chunks is None:
            variable = variable.copy(data=da.from_array(variable.data, -1, name=False))
        inputs.append(variable.chunk(dict.fromkeys(dims, -1)))
    found = xr.apply_ufunc(
        function,
        *inputs,
        kwargs=options,
        input_core_dims=[list(dims) for dims in within.values()],
        output_core_dims=[list(dims) for dims in gives.values()],
        dask="parallelized",
        output_dtypes=[np.float64] * len(gives),
        dask_gufunc_kwargs={"output_sizes": dict(sizes)},
    )
    return dict(zip(gives, found, strict=True))


def _of_samples(ds: xr.Dataset, of_states: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Name what is known of every sample."""
    posterior: xr.DataArray = xr.apply_ufunc(np.exp, of_states["log_p"], dask="allowed")
    named = {
        "posterior": (posterior, "probability of the class, given the state", "1"),
        "log_total": (of_states["log_total"], "log of the sum over classes, before it is made 1", "nat"),
        "decided_class": (of_states["decided"], "likeliest class of the last state", "1"),
    }
    variables = {name: one.assign_attrs(long_name=title, units=units) for name, (one, title, units) in named.items()}
    meaning = "where the decided class passes one half for good"
    return variables | settling.places(ds, of_states["doubt"], "decision", meaning)


ENTROPIES = {
    "entropy": "entropy of the decision, given the state (E2)",
    "entropy_labelled": "surprise at the true side, given the state (E1)",
    "class_entropy": "surprise at the class, where it is the true one",
}
RATES = {
    "entropy_rate": "bits decided (E3)",
    "entropy_rate_differenced": "bits decided, by differences of E2",
    "class_entropy_rate": "bits of surprise lost, where the class is the true one",
}
"""Curves over samples, and what they are."""


GAP = "surprise at the true class above the entropy, mean over the stored states"


def _of_means(means: Mapping[str, xr.DataArray], log_snr: Array, pace: Array | None) -> dict[str, xr.DataArray]:
    """Name curves and their standard errors; rates per log SNR and, where there is a pace, per tau."""
    variables: dict[str, xr.DataArray] = {}
    for name, title in ENTROPIES.items():
        variables |= _with_error(name, title, "bit", means[name])
    variables |= _with_error("calibration_gap", GAP, "bit", means["calibration_gap"])
    differenced = xr.apply_ufunc(
        lambda curves: -np.apply_along_axis(bayes_options.slope, -1, curves, log_snr),
        means["entropy"].isel(part=[0]),
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    for name in ("decision_samples", "class_samples"):
        variables[name] = means[name].assign_attrs(long_name="samples that means are of", units="1")
    rates = means["rate"], differenced, means["class_rate"]
    for (name, title), values in zip(RATES.items(), rates, strict=True):
        variables |= _with_error(f"{name}_log_snr", f"{title}, per unit of log SNR", "bit / nat", values)
        if pace is not None:
            by_tau = values * xr.DataArray(pace, dims="timestep")
            variables |= _with_error(name, f"{title}, per unit of tau", "bit", by_tau)
    return variables


def _with_error(name: str, title: str, units: str, curves: xr.DataArray) -> dict[str, xr.DataArray]:
    titles = {"": title, "_se": f"{title}, standard error"}
    return {
        f"{name}{suffix}": curves.isel(part=part).assign_attrs(long_name=words, units=units)
        for part, (suffix, words) in zip(range(curves.sizes["part"]), titles.items(), strict=False)
    }


ENDS = {
    "peak": "where the rate is highest",
    "peak_low": "low end of the interval of the peak",
    "peak_high": "high end of the interval of the peak",
    "window_first": "where the rate passes half its peak",
    "window_last": "where the rate is last above half its peak",
}
"""What is told of a peak, in the order of `bayes_means.PEAK`."""


WINDOW = (
    ("window_first", "the class begins to be decided at half of the fastest rate", "label-entropy window opens"),
    ("window_last", "the class is last decided at half of the fastest rate", "label-entropy window closes"),
)
"""Landmarks of the window around the peak: name, meaning, and in short."""


def _of_peaks(means: Mapping[str, xr.DataArray], timestep: Array, log_snr: Array) -> dict[str, xr.DataArray]:
    """Name peaks and windows, by timestep and by log SNR."""
    variables = {}
    of_pairs = {name: f"{title}, of the decision between two classes" for name, title in list(ENDS.items())[:3]}
    for prefix, ends in (("", ENDS), ("class_", ENDS), ("pair_", of_pairs)):
        for along, values, units in (("timestep", timestep, "1"), ("log_snr", log_snr, "nat")):
            places = means[f"{prefix}peak"]
            there = xr.apply_ufunc(
                _at, places, kwargs={"values": values}, dask="parallelized", output_dtypes=[np.float64]
            )
            for k, (name, title) in enumerate(ends.items()):
                named = there.isel(end=k).assign_attrs(long_name=title, units=units)
                variables[f"{prefix}{name}_{along}"] = named
    return variables


def _at(places: Array, values: Array) -> Array:
    """Take values at positions, NaN at NaN."""
    there: Array = np.append(values, np.nan)[np.where(np.isnan(places), len(values), places).astype(int)]
    return there


@label_entropy.curve("label_entropy", title="Entropy of the class, given the state", y_label="bit")
def _entropies(result: xr.Dataset) -> list[Series]:
    return curves(result, "entropy")


@label_entropy.curve("label_entropy_rate", title="Bits decided, per unit of log SNR", y_label="bit per log SNR")
def _rates(result: xr.Dataset) -> list[Series]:
    return curves(result, "entropy_rate_log_snr")


@label_entropy.curve("class_entropy", title="Surprise at the true class, by class", y_label="bit")
def _by_class(result: xr.Dataset) -> list[Series]:
    return curves(result, "class_entropy", "class")


@label_entropy.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say where decisions are made fastest, and where the class of half of the samples is decided.

    `decision_peak` is where the entropy rate of a decision is highest; the interval is the bootstrap's over samples.
    `decision_window_first` and `_last` are where that of the class passes half its peak, and is last above it.
    `class_decided` is the median over samples of where P of the class they end in passes one half for good; the
    interval is that of a median, by the order of the samples.
    """
    found = []
    for one in _entropies(result):
        peak = result.sel(decision=one.on)
        place, low, high = (float(peak[f"peak{end}_log_snr"]) for end in ("", "_low", "_high"))
        meaning = "the class is decided fastest" if one.on == bayes_options.ALL else f"{one.on} is decided fastest"
        mark = Landmark("decision_peak", meaning, float(peak["peak_timestep"]), place, low, high, one.on)
        found.append(mark.called("label-entropy rate peaks"))
    every = result.sel(decision=bayes_options.ALL)
    for name, meaning, short in WINDOW:
        when, where = (float(every[f"{name}_{along}"]) for along in ("timestep", "log_snr"))
        found.append(Landmark(f"decision_{name}", meaning, when, where, of=bayes_options.ALL, short=short))
    timestep, log_snr = (result[f"decision_{name}"] for name in ("timestep", "log_snr"))
    meaning = "the class is decided in half of the samples (P above one half for good)"
    half = landmarks.median(timestep.to_numpy(), log_snr.to_numpy(), "class_decided", meaning, bayes_options.ALL)
    return [*found, half.called("class decided", partial(order.settled, log_snr, result["log_snr"]))]


@label_entropy.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how many bits there are to decide, and how far the network's posterior is from being calibrated."""
    bits = result["entropy"].sel(decision=bayes_options.ALL).to_numpy()
    numbers = [
        Number("label_bits_at_start", "entropy of the class at the first state (bit)", float(bits[0])),
        Number("label_bits_at_end", "entropy of the class at the last stored state (bit)", float(bits[-1])),
    ]
    gap = float(result["calibration_gap"])
    half = float(verdicts.student(int(result["decision_samples"][0])) * result["calibration_gap_se"])
    if np.isfinite(gap):
        numbers.append(Number("calibration_gap", f"{GAP} (bit); 0 where calibrated", gap, gap - half, gap + half))
    return numbers


@label_entropy.gives_tables
def _tables(results: Results) -> list[Table]:
    from traj.analysis._decisions import tables

    return tables.tables(results)


@label_entropy.figure("decisions", title="When decisions are made, and single samples", caption=bayes_words.traces)
def _draw_traces(results: Results, look: Look) -> Figure | None:
    from traj.analysis._decisions import figures

    return figures.traces(results, look)


@label_entropy.figure("label_entropy", title="How undecided the class is", caption=bayes_words.entropy)
def _draw_entropy(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    def peaks(result: xr.Dataset) -> list[Landmark]:
        return [mark for mark in _places(result) if mark.name == "decision_peak"]

    return panels.over_process(results, look, _entropies, "bit", places=peaks)[0]


@label_entropy.figure("class_entropy", title="Each class by itself", caption=bayes_words.classes)
def _draw_classes(results: Results, look: Look) -> Figure | None:
    from traj.analysis._decisions import figures

    return figures.classes(results, look)


@label_entropy.figure("pair_peaks", title="When two classes part", caption=bayes_words.pairs)
def _draw_pairs(results: Results, look: Look) -> Figure | None:
    from traj.analysis._decisions import figures

    return figures.pairs(results, look)


@label_entropy.takes_memory
def _memory(ds: xr.Dataset, *, partitions: tuple[str, ...] = (), **_: Any) -> int:
    """Hold the values of all states until all samples have gone by, and draw from them for one decision at a time."""
    states = ds.sizes["sample"] * ds.sizes["timestep"]
    count = ds.sizes["class"]
    kept = 2 * count + count * (count - 1) // 2 + 2 * (1 + len(partitions) + count)
    return 8 * (states * (kept + 8) + 4 * landmarks.DRAWS * ds.sizes["timestep"] + ds.sizes["timestep"] ** 2)
