"""Label variance: what a classifier makes of one sample's completions (000; METHODS 1.4)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import labels
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, quantity
from traj.analysis._replicas import forks as _replicas
from traj.analysis._statistics import landmarks, order, settling, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import LEARNED_FROM, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_FORKS = {
    "total": Named("label_variance", "label variance"),
    "within": Named("label_variance_within", "label variance within replicas"),
    "between": Named("label_variance_between", "label variance between replicas"),
    "pairwise": Named("label_variance_pairwise", "label variance, unbiased, from pairs of hard labels"),
    "entropy": Named("label_entropy", "entropy of the replicas' mean label distribution", "bit"),
    "entropy_within": Named("label_entropy_within", "mean entropy of each replica's label distribution", "bit"),
    "agreement": Named("label_agreement", "share of pairs of replicas with equal labels"),
    "corrected": Named("label_entropy_corrected", "label entropy, corrected for few replicas", "bit"),
}
OF_STATES = {
    "variance": Named("label_variance", "label variance"),
    "entropy": Named("label_entropy", "entropy of the label distribution", "bit"),
    "flip": Named("flips", "label differs from that of x_0"),
}
"""What the kernels' columns become."""

PARTS = {"total": "label_variance", "between replicas": "label_variance_between", "within": "label_variance_within"}
EQUAL = {"labels of replicas": "label_agreement"}
ENTROPIES = {"corrected": "label_entropy_corrected", "as counted": "label_entropy"}
"""Curves of forks, by what they are."""

AGREED = 0.5
"""Share of pairs with equal labels above which replicas mostly agree."""


@quantity(
    reads="readout",
    numerics=4,
    title="When it is settled what the image shows: labels",
    source="000, label variance",
    needs=("x_0_logits",),
)
def label_variance(ds: xr.Dataset, *, hard: bool = False) -> xr.Dataset:
    """Measure how undecided a classifier is about the images that come of a state.

    With p_r the class probabilities of replica r (softmax of its logits, in float64) and pbar their mean over R
    replicas, `label_variance` = 1 - sum_k pbar_k^2, from 0 to 1 - 1/K. It is the sum of `label_variance_within`,
    mean_r(1 - sum_k p_rk^2), and `label_variance_between`, sum_k Var_r(p_rk) with divisor R.

    A readout of forks gives these three for their x_0 (variant, sample), with `label_entropy`, -sum pbar log2 pbar,
    and `label_entropy_within`, the mean of the replicas' own, in bits. `label_agreement` is the share of pairs of
    replicas with equal labels (largest logit), and `label_variance_pairwise` the rest, 1 - sum_k n_k (n_k - 1) /
    (R (R - 1)), which is without bias for any R and NaN for R = 1. Where the forks keep their states, all of
    this is given of them, too: `state_label_variance` and so on (on, variant, sample, timestep) tell how replicas part
    that have one state in common, and are NaN before it.

    From few replicas the label variance comes out low, its part between them by 1/R of what very many would show, and
    so does `label_entropy`, by far: at most log2 R, and of ten equally likely labels 2.38 bit for 3.32 with R = 8.
    `label_entropy_corrected` is of the same distribution: with `hard` Grassberger's estimate (2003) from the counts n_k
    of labels, (ln R - sum_k n_k G(n_k) / R) / ln 2, which is 3.30 bit in that case and off by less than 0.1 bit where
    some labels are likelier (of Miller-Madow, Chao-Shen, the jackknife and this the one that is off least at R = 8);
    of probabilities, which have no counts, the jackknife's over replicas, R H - (R - 1) mean_r H_without_r, which
    leaves at most a sixth of the bias at R = 8. It may lie a little below 0 or above log2 K in one cell, is for means
    over samples, and NaN for R = 1.

    A readout of trajectories has one image per state, so R = 1, nothing between, and the total is what is within. It
    gives `label_variance` and `label_entropy` (on, sample, timestep); `flips`, 1 where the label differs from that
    of x_0; `flip_fraction` over samples; and `commit_timestep`, `commit_step` and `commit_log_snr` (on, sample): where
    the last run of states with x_0's label begins. Labels that differ to the last stored state commit at x_0 itself:
    timestep -1, one step after the last stored, log SNR infinite.

    All but flips and commitments come with mean, sd and standard error over samples; shares, which are
    `label_agreement` and `flip_fraction`, with an interval of 95 % (Wilson 1927), `_low` and `_high`, which has a width
    at 0 and 1, too. Logits that are NaN give NaN.

    Parameters
    ----------
    hard
        Take one-hot labels in place of probabilities.

    Raises
    ------
    InputError
        A dataset without logits.
    """
    if "x_0_logits" not in ds or ("replica" not in ds["x_0_logits"].dims and "logits" not in ds):
        here = ", ".join(map(str, ds.data_vars)) or "nothing"
        raise InputError(
            f"label variance needs the logits of final samples and of states, or of forks; this dataset of kind "
            f"{ds.attrs.get('kind', '?')} has {here}; run `traj readout classifier STORE OUT` first"
        )
    attrs = {
        "quantity": "label_variance",
        "hard": int(hard),
        "samples": ds.sizes["sample"],
        "replicas": ds.sizes.get("replica", 1),
        "classes": ds.sizes["class"],
    }
    replicas = "replica" in ds["x_0_logits"].dims
    variables = _of_forks(ds, hard) if replicas else _of_states(ds, hard)
    coords = _replicas.coordinates(ds) if replicas else {}
    if "logits" in ds:
        attrs |= {LEARNED_FROM: learned} if (learned := ds["logits"].attrs.get(LEARNED_FROM)) else {}
        along = {"on", "sample", "timestep"}
        coords |= {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= along}
        coords["on"] = ds["on"].assign_attrs(long_name="images read", units="1")
    return xr.Dataset(variables, coords, attrs)


def _of_forks(ds: xr.Dataset, hard: bool) -> dict[str, xr.DataArray]:
    """Measure the final samples of forks and, where they were read, their states."""
    columns = [OF_FORKS[column] for column in labels.REPLICAS]
    variables = with_spread(labels.of_replicas(ds["x_0_logits"], hard), columns)
    if "logits" in ds:
        named = [Named(f"state_{name}", f"{title}, of states", units) for name, title, units in columns]
        variables |= with_spread(labels.of_replicas(ds["logits"], hard), named)
    for name in [name for name in variables if name.endswith("label_agreement")]:
        variables |= labels.interval_of_share(variables, name, ds.sizes["sample"])
    return variables


def _of_states(ds: xr.Dataset, hard: bool) -> dict[str, xr.DataArray]:
    values = labels.of_states(ds["logits"], ds["x_0_logits"], hard)
    variables = with_spread(values, [OF_STATES[column] for column in labels.STATES])
    share = variables.pop("flips_mean")
    del variables["flips_sd"], variables["flips_se"]
    title = "share of samples whose label differs from that of x_0"
    return {
        **variables,
        "flip_fraction": share.assign_attrs(long_name=title),
        **verdicts.interval("flip_fraction", title, ds.sizes["sample"], share),
        **settling.places(ds, variables["flips"], "commit", "where the label last becomes that of x_0"),
    }


def of_states(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results of trajectories."""
    return {run: result for run, result in results.items() if "flip_fraction" in result}


def of_forks(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results of forks, those whose log SNR is known."""
    return {run: result for run, result in results.items() if "at_log_snr" in result.coords}


@label_variance.curve("label_variance", title="Label variance of states", y_label="label variance")
def _variance(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "label_variance") if "flip_fraction" in result else []


@label_variance.curve("flip_fraction", title="Labels that differ from that of x_0", y_label="share of samples")
def _flips(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "flip_fraction")


@label_variance.curve("fork_label_variance", title="Label variance of replicas", y_label="label variance")
def _parts(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, PARTS)


@label_variance.curve("fork_label_agreement", title="Pairs of replicas with equal labels", y_label="share of pairs")
def _agreement(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, EQUAL)


@label_variance.curve("fork_label_entropy", title="Entropy of the labels of replicas", y_label="bit")
def _entropies(result: xr.Dataset) -> list[Series]:
    return _series.of_forks(result, ENTROPIES)


@label_variance.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say when the labels of states are settled, and from where on replicas agree.

    Of states, `commit` is the median over samples of where the label of pred_x0 last becomes that of x_0; the interval
    is that of a median, by the order of the samples. Of forks, `agreement_05` is the first start from which on more
    than half of the pairs of replicas have equal labels; the interval is where the band, of 95 %, crosses one half.
    """
    if "commit_log_snr" in result and "pred_x0" in result["on"]:
        committed = result.sel(on="pred_x0")
        timestep, log_snr = (committed[f"commit_{name}"].to_numpy() for name in ("timestep", "log_snr"))
        meaning = "the label of pred_x0 is settled in half of the samples (median)"
        times = partial(order.settled, committed["commit_log_snr"], result["log_snr"])
        return [landmarks.median(timestep, log_snr, "commit", meaning, "pred_x0").called("label commits", times)]
    meaning = f"replicas mostly have equal labels: above {AGREED} of pairs from this start on"
    return [
        landmarks.kept_above(series, AGREED, "agreement_05", meaning).called(
            "replicas share the label", partial(order.kept_above, by_sample, AGREED)
        )
        for series, by_sample in zip(
            _agreement(result), _series.of_forks_by_sample(result, "label_agreement"), strict=False
        )
    ]


@label_variance.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how many labels of pred_x0 are not the final ones where signal equals noise, with Wilson's interval."""
    meaning = "share of samples whose label of pred_x0 is not the final one, where signal equals noise (log SNR 0)"
    ends = [landmarks.at_log_snr_0(series) for series in _flips(result) if series.on == "pred_x0"]
    return [Number("flips_at_log_snr_0", meaning, *found) for found in ends]


def _of_variance(results: Results) -> str:
    states = of_states(results)
    return (
        "A classifier of images is shown each prediction pred_x0, above, and each state x_t, beneath. Label "
        "variance is 1 - sum p^2, with p the probability it gives to each class: 0 where it is certain, "
        f"{captions.either(f'{most:g}' for most in _most(states))} (dotted) where all classes are alike to it. Lines "
        f"are means over samples. {captions.BAND} {_learned_from(states)}Being certain is not being right. "
        f"{captions.samples(states)} After 000, where label variance has no figure."
    )


@label_variance.figure("label_variance", title="How undecided a classifier is about states", caption=_of_variance)
def _draw_variance(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    if not (states := of_states(results)):
        return None
    figure, axes = panels.over_process(states, look, _variance, "label variance")
    for axis in axes.flat:
        axis.set_ylim(0, 1)
        for most in _most(states):
            axis.axhline(most, color="#777777", lw=0.9, ls=":")
    return figure


def _of_flips(results: Results) -> str:
    states = of_states(results)
    return (
        "Share of samples to which the classifier, shown the prediction or the state, gives another label (its most "
        "probable class) than to the finished image. Bands are 95 % intervals (Wilson's, which have a width at 0 and "
        f"1, too). {_last_flips(states)}{captions.samples(states)}"
    )


@label_variance.figure("flip_fraction", title="Labels that differ from that of x_0", caption=_of_flips)
def _draw_flips(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    if not (states := of_states(results)):
        return None
    figure, axes = panels.over_process(states, look, _flips, "share of other labels")
    for axis in axes.flat:
        axis.set_ylim(-0.02, 1.02)
    return figure


def _of_commits(results: Results) -> str:
    states = of_states(results)
    return (
        "When the label of a sample is settled: the first step from which on the label of its pred_x0 is that of the "
        "finished image. At the left, the share of samples that settle in each interval (what lies beyond the left "
        "edge counts in the first); at the right, the share settled so far. What is missing to 1 at the end is settled "
        f"by the last step alone. {captions.PLACE.format('the median')} {captions.samples(states)}"
    )


@label_variance.figure("commit", title="When labels are settled", caption=_of_commits)
def _draw_commits(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    predicted = {run: result for run, result in of_states(results).items() if "pred_x0" in result["on"]}
    return panels.settled(predicted, look, "commit_log_snr", _places) if predicted else None


def _of_replicas(results: Results) -> str:
    forks = of_forks(results)
    classes = sorted({int(result.attrs["classes"]) for result in forks.values()})
    most = sorted({int(result.attrs["replicas"]) for result in forks.values()})
    return (
        "What a classifier takes the endings of one state for, over the log SNR of that state. At the left, the label "
        "variance 1 - sum p^2, with p the mean over replicas of the probability of each class, and the part of it that "
        "lies between replicas; what is left, between the two lines, is the classifier's own doubt about single "
        "images. From R replicas the part between them comes out, on average, at 1 - 1/R of what very many would show. "
        f"At the dotted line ({captions.either(f'{1 - 1 / k:g}' for k in classes)}) replicas fall into all classes "
        "alike, at 0 all surely into one. In the middle, the share of pairs of replicas with equal labels; dotted "
        f"({captions.either(f'{1 / k:g}' for k in classes)}) what equally frequent classes would give by chance. "
        f"{captions.PLACE.format('the start from which on it stays above one half')} At the right, the entropy of the "
        "labels: corrected for how few replicas there are, and as counted, which is far too low where replicas part: R "
        f"sure ones show at most log2 R bits, here {captions.either(f'{np.log2(count):.3g}' for count in most)}. "
        f"Bands are 95 % intervals; that of the share is Wilson's, which has a width at 0 and 1, too. "
        f"{captions.replicas(forks)} {captions.samples(forks)} After 000, where label variance has no figure."
    )


@label_variance.figure("fork_labels", title="Labels of replicas", caption=_of_replicas)
def _draw_replicas(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    if not (forks := of_forks(results)):
        return None
    titles = {"label variance": PARTS, "pairs with equal labels": EQUAL, "entropy of labels (bit)": ENTROPIES}
    titles["label variance"] = {what: name for what, name in PARTS.items() if what != "within"}
    figure, axes = panels.over_starts(forks, look, titles, columns=3, places=_places)
    for classes in {int(result.attrs["classes"]) for result in forks.values()}:
        for axis, level in zip(axes.flat, (1 - 1 / classes, 1 / classes, np.log2(classes)), strict=True):
            axis.axhline(level, color="#777777", lw=0.9, ls=":")
    for axis, top in zip(axes.flat, (1.02, 1.02, None), strict=True):
        axis.set_ylim(-0.02, top)
    return figure


def _learned_from(states: Results) -> str:
    """Say what the classifiers of runs make of noise."""
    noisy = [run for run, result in states.items() if LEARNED_FROM in result.attrs]
    clean = [run for run in states if run not in noisy]
    of_noisy, of_clean = (f" of {', '.join(runs)}" if noisy and clean else "" for runs in (noisy, clean))
    told = ""
    if clean:
        told += (
            f"The classifier{of_clean} has learned from finished images only: what it says of x_t, while noise "
            "prevails, tells of the noise. "
        )
    if noisy:
        told += (
            f"The classifier{of_noisy} has learned from noisy images, and is told how noisy x_t is: what it says of "
            "x_t tells how much of the image can be seen through the noise. "
        )
    return told


def _most(states: Results) -> list[float]:
    """List the largest values that label variance can have."""
    return sorted({1 - 1 / int(result.attrs["classes"]) for result in states.values()})


def _last_flips(states: Results) -> str:
    """Say for each run where a pred_x0 last had another label, and how many of very many might have one after it."""
    told = []
    for run, result in states.items():
        for series in _flips(result):
            if series.on != "pred_x0":
                continue
            flips = np.flatnonzero(series.value > 0)
            after = flips[-1] + 1 if flips.size else 0
            if after == len(series.value):
                told.append(f"{run} to the last step")
                continue
            last = f"last at timestep {int(series.timestep[after - 1])}" if after else "never"
            most, samples = f"{100 * series.high[after]:.2g} %", int(result.attrs["samples"])
            told.append(f"{run} {last}; after it, of {samples}, none, at most {most} of all")
    return f"A pred_x0 has another label: {'; '.join(told)}. " if told else ""
