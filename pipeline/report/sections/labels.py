"""When it is settled what the image shows: what a classifier reads from every state (000, label variance)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, Curve, left_edge, legend, on, over_time_and_log_snr, panels
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section, Series, errors_of
from traj.pipeline.report.metrics import curve, over_timesteps, rounded, where_signal_equals_noise
from traj.pipeline.report.sections.savings import percent

BINS = 20

VARIABLES = {
    "label_variance": ("label_variance_mean", "label_variance_se"),
    "flip_fraction": ("flip_fraction", "flip_fraction_low", "flip_fraction_high"),
}
"""Curves of this section: their values, and standard errors or ends of intervals."""


def html(material: Material) -> str:
    """Show how undecided the labels are, how many differ from the last, and when each is settled."""
    results = material.results("label_variance")
    if not results:
        return ""
    fed, samples = markup.fed(results), markup.samples(results)
    variance = (
        "A classifier of finished images is shown each prediction pred_x0, above, and each state x_t, beneath. Label "
        "variance is 1 − Σ p², with p the probability it gives to each class: 0 where it is certain, "
        f"{_undecided(results)} (dotted) where all classes are alike to it. Lines are means, bands two standard errors "
        "over samples. The classifier has learned from finished images only: what it says of x_t, while noise "
        f"prevails, tells of the noise, and being certain is not being right. {fed}{samples} After 000’s section on "
        "label variance, which has no figure."
    )
    flips = (
        "Share of samples that the classifier, shown the prediction or the state, gives another label (its most "
        "probable class) than it gives the finished image; bands are intervals of 95 % (Wilson’s, which have a width "
        f"at 0 and 1, too). {_last_flips(results)}"
    )
    commits = (
        "When a sample’s label is settled: the first step from which on the label of its pred_x0 is that of the "
        "finished image and stays so. Above, the share of samples that settle in each interval (what lies beyond the "
        "left edge counts in the first); beneath, the share settled so far. What "
        f"is missing to 1 at the end is settled by the last step alone. {samples}"
    )
    shown = markup.figure(undecided(results, material.colours, material.markers), variance, "Label variance of states")
    shown += markup.figure(flipped(results, material.colours, material.markers), flips, "Labels that differ from x_0's")
    predicted = {run: result for run, result in results.items() if "pred_x0" in result["on"]}
    if predicted:
        drawn = commit_times(predicted, material.colours, material.markers)
        shown += markup.figure(drawn, commits, "When labels are settled")
    return shown


def _last_flips(results: Mapping[str, xr.Dataset]) -> str:
    """Say for each run where a pred_x0 last had another label, and how many of very many might have one after it."""
    told = []
    for run, result in results.items():
        if "pred_x0" not in result["on"]:
            continue
        of_run = result.sel(on="pred_x0")
        flips = np.flatnonzero(of_run["flip_fraction"].to_numpy() > 0)
        after = flips[-1] + 1 if flips.size else 0
        if after == of_run.sizes["timestep"]:
            told.append(f"{escape(run)} to the last step")
            continue
        most = percent(float(of_run["flip_fraction_high"][after]))
        last = f"last at timestep {int(of_run['timestep'][after - 1])}" if after else "never"
        told.append(f"{escape(run)} {last}; after it, of {int(result.attrs['samples'])}, none, at most {most} of all")
    return f"A pred_x0 has another label: {'; '.join(told)}." if told else ""


def _undecided(results: Mapping[str, xr.Dataset]) -> str:
    return markup.either([f"{most:g}" for most in _most(results)])


def _most(results: Mapping[str, xr.Dataset]) -> list[float]:
    """List the largest values that label variance can have."""
    return sorted({1 - 1 / int(result.attrs["classes"]) for result in results.values()})


def undecided(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]) -> Figure:
    """Draw label variance of predictions and states over time and over log SNR."""
    figure, axes = _over_process(results, "label_variance", "label variance", colours, markers)
    for axis in axes.flat:
        axis.set_ylim(0, 1)
        for most in _most(results):
            axis.axhline(most, color="#777777", lw=0.9, ls=":")
    return figure


def flipped(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]) -> Figure:
    """Draw the share of samples whose label differs from that of x_0 over time and over log SNR."""
    figure, axes = _over_process(results, "flip_fraction", "share of other labels", colours, markers)
    for axis in axes.flat:
        axis.set_ylim(-0.02, 1.02)
    return figure


def _over_process(
    results: Mapping[str, xr.Dataset], name: str, label: str, colours: Mapping[str, Any], markers: Mapping[str, str]
) -> tuple[Figure, np.ndarray]:
    def curves(read: str, over: str) -> list[Curve]:
        return [
            Curve(run, result[over].to_numpy(), value, errors_of(*errors), marker=markers[run])
            for run, result in results.items()
            if read in result["on"]
            for value, *errors in [on(result, read, *VARIABLES[name])]
        ]

    rows = [
        [
            (f"{read}, over {what}", curves(read, over))
            for over, what in (("model_time", "time"), ("log_snr", "log SNR"))
        ]
        for read in ("pred_x0", "x_t")
    ]
    figure, axes = panels(rows, colours, "", [label] * 2)
    over_time_and_log_snr(axes, results)
    return figure, axes


def commit_times(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]) -> Figure:
    """Draw when labels of pred_x0 are settled: a histogram above, the share settled so far beneath."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row")
        for column, over in zip(axes.T, ("model_time", "log_snr"), strict=True):
            places = {run: _in_order(_committed(result, over), over) for run, result in results.items()}
            ends = np.concatenate([result[over].to_numpy()[[0, -1]] for result in results.values()])
            ends = ends[np.isfinite(ends)] if np.isfinite(ends).any() else np.array([0, 1])
            edges = np.linspace(np.min(ends), np.max(ends), BINS + 1)
            if over == "log_snr":
                edges = np.linspace(left_edge(results), np.max(ends), BINS + 1)
            for run, (x, share) in places.items():
                column[0].hist(
                    x.clip(edges[0], edges[-1]),
                    edges,
                    weights=np.diff(share, prepend=0),
                    histtype="stepfilled",
                    facecolor=(colours[run], 0.12),
                    edgecolor=colours[run],
                    lw=1.4,
                )
                last = results[run][over].to_numpy()[-1]
                so_far = np.append(share, share.max(initial=0))
                column[1].step(np.append(x, last), so_far, where="post", color=colours[run])
        over_time_and_log_snr(axes, results)
        axes[0, 0].set_title("pred_x0, over time", loc="left")
        axes[0, 1].set_title("pred_x0, over log SNR", loc="left")
        axes[0, 0].set_ylabel("share of samples settled here")
        axes[1, 0].set(ylabel="share settled so far", ylim=(0, 1.02))
        legend(figure, {run: markers[run] for run in results}, colours)
    return figure


def _committed(result: xr.Dataset, over: str) -> np.ndarray:
    """Read where each sample's label is settled, NaN where it is by the last step alone."""
    timestep = result["commit_timestep"].sel(on="pred_x0").to_numpy()
    places = result[over].to_numpy()
    found = timestep[:, None] == result["timestep"].to_numpy()
    return np.where(found.any(axis=1), places[found.argmax(axis=1)], np.nan)


def _in_order(places: np.ndarray, over: str) -> tuple[np.ndarray, np.ndarray]:
    """Sort places the way the process runs, and count the share of samples up to each."""
    there = np.sort(places[np.isfinite(places)])
    return there[::-1] if over == "model_time" else there, np.arange(1, len(there) + 1) / len(places)


def numbers(run: Run) -> Numbers:
    """Say when labels are settled, and how many are not where signal equals noise."""
    flips = curve(run, "label_variance", "flip_fraction")
    if flips is None:
        return {}
    result = run.results["label_variance"].sel(on="pred_x0")
    timestep = float(result["commit_timestep"].median())
    return {
        "commit_timestep": rounded(timestep, 1) if timestep >= 0 else None,
        "commit_log_snr": rounded(result["commit_log_snr"].median(), 2),
        "flips_at_log_snr_0": rounded(where_signal_equals_noise(flips)),
    }


def curves(run: Run) -> dict[str, list[Series]]:
    """Give label variance and the share of other labels."""
    result = run.results.get("label_variance")
    return {} if result is None else {name: over_timesteps(result, *names) for name, names in VARIABLES.items()}


SECTION = Section(
    "labels",
    "When it is settled what the image shows: labels",
    html,
    quantities=("label_variance",),
    optional=True,
    meanings={
        "commit_timestep": "timestep from which the label of pred_x0 is settled (median)",
        "commit_log_snr": "… and its log SNR",
        "flips_at_log_snr_0": "share of samples whose label of pred_x0 is not the final one at log SNR 0",
    },
    numbers=numbers,
    curves=curves,
)
