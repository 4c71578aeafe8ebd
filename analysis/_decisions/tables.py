"""Tables of decisions between classes: where they are made, what the source says of them, and how runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import xarray as xr

from traj.analysis._decisions.words import asked, class_names, curves, guided, no_samples, noiseless
from traj.analysis._drawing.style import signed
from traj.analysis._quantity import Results, Table
from traj.analysis._statistics import landmarks, verdicts

LITTLE = 0.05
"""Share of its peak below which a rate counts as vanished."""


def tables(results: Results) -> list[Table]:
    """Give all tables of some results."""
    found = [_decisions(results), _classes(results), _source(results)]
    return found + ([_lags(results)] if len(results) > 1 else [])


def _decisions(results: Results) -> Table:
    rows = []
    for run, result in results.items():
        for decision in asked(result):
            of = result.sel(decision=decision)
            bits = of["entropy"].to_numpy()
            rows.append([run, decision, f"{bits[0]:.3f}", f"{bits[-1]:.3f}", f"{_area(of):.3f}", *_peak(of, "")])
    head = ("run", "decision", "bits, first state", "last state", "decided (E3)", *PEAK)
    by = sorted({"tau" if result.attrs["per"] == "tau" else "log SNR" for result in results.values()})
    note = (
        f"Rates are compared per unit of {' or '.join(by)}. Decided (E3) is the area under the rate, which is the "
        "difference of the two columns before it where the network is calibrated and steps are small. The window is "
        f"where the rate is above half its peak. {guided(results)}{noiseless(results)}{no_samples(results)}"
    )
    return Table("When decisions are made", head, rows, note, range(2, len(head)))


PEAK = ("fastest at t", "log SNR (95 %)", "window, t")


def _peak(of: xr.Dataset, prefix: str) -> list[str]:
    """Write a peak, its interval and its window."""
    timestep, place, low, high, first, last = (
        float(of[f"{prefix}{name}"])
        for name in (
            "peak_timestep",
            "peak_log_snr",
            "peak_low_log_snr",
            "peak_high_log_snr",
            "window_first_timestep",
            "window_last_timestep",
        )
    )
    if not np.isfinite(place):
        return ["–"] * 3
    ends = f" ({signed(low)} to {signed(high)})" if np.isfinite(low) else ""
    return [f"{timestep:g}", f"{signed(place)}{ends}", f"{first:g} to {last:g}"]


def _area(of: xr.Dataset) -> float:
    """Integrate the rate over log SNR."""
    rate, log_snr = of["entropy_rate_log_snr"].to_numpy(), of["log_snr"].to_numpy()
    known = np.isfinite(log_snr)
    return float(np.trapezoid(rate[known], log_snr[known]))


def _classes(results: Results) -> Table:
    rows = []
    for run, result in results.items():
        for k, name in enumerate(class_names(result)):
            of = result.isel({"class": k})
            samples = int((_of_samples(result) == int(of["class"])).sum())
            rows.append([run, name, str(samples), *_peak(of, "class_")])
    note = (
        "Where each class is told from the others fastest, by samples of that class (weighted by their posterior "
        "where there are no labels; samples are then those that end in it). The intervals of a run hold all together "
        f"in 95 % of cases. {no_samples(results)}"
    )
    return Table("Each class by itself", ("run", "class", "samples", *PEAK), rows, note, range(2, 6))


def _of_samples(result: xr.Dataset) -> np.ndarray:
    of: np.ndarray = result["label" if result.attrs["labelled"] else "decided_class"].to_numpy()
    return of


def _source(results: Results) -> Table:
    rows = []
    for run, result in results.items():
        for claim, (verdict, seen) in zip(CLAIMS, (_between(result), _vanishes(result), _apart(result)), strict=True):
            rows.append([claim, run, verdicts.WORDS[verdict], seen])
    note = (
        "The source reports all three for diffusion models of CIFAR-10, and the first two for its 1-D experiment; each "
        "verdict rests on intervals of 95 %."
    )
    return Table("What the source reports, and what is seen here", ("003 reports", "run", "seen?", "here"), rows, note)


CLAIMS = (
    "the class is decided fastest at intermediate times",
    "the rate vanishes at the end",
    "classes differ in when they are decided",
)


def _between(result: xr.Dataset) -> tuple[int, str]:
    """Say whether the rate of the decision between all classes peaks within the process."""
    of = result.sel(decision=asked(result)[0])
    place, low, high = (float(of[f"peak{end}_log_snr"]) for end in ("", "_low", "_high"))
    along = result["log_snr"].to_numpy()
    along = along[np.isfinite(along)]
    if not np.isfinite(low):
        return verdicts.CANNOT_TELL, "peak or its interval is not known"
    told = f"peak at log SNR {signed(place)} ({signed(low)} to {signed(high)})"
    if low > along.min() and high < along.max():
        return verdicts.SEEN, told
    return (verdicts.NOT_SEEN if place in along[[0, -1]] and low == high else verdicts.CANNOT_TELL), told


def _vanishes(result: xr.Dataset) -> tuple[int, str]:
    """Say whether the rate at the last state is below a small share of its peak, per what rates are compared by."""
    rate = curves(result, "entropy_rate" if result.attrs["per"] == "tau" else "entropy_rate_log_snr")[0]
    of_peak = LITTLE * np.nanmax(rate.value) if np.isfinite(rate.value).any() else np.nan
    low, value, high = rate.low[-1], rate.value[-1], rate.high[-1]
    verdict = verdicts.SEEN if high < of_peak else verdicts.NOT_SEEN if low > of_peak else verdicts.CANNOT_TELL
    return verdict, f"at the last state {100 * LITTLE * value / of_peak:.2g} % of the peak"


def _apart(result: xr.Dataset) -> tuple[int, str]:
    """Say whether the peaks of some two classes have intervals that do not meet; these hold all together."""
    place, low, high = (result[f"class_peak{end}_log_snr"].to_numpy() for end in ("", "_low", "_high"))
    known = np.flatnonzero(np.isfinite(low))
    if known.size < 2:
        return verdicts.CANNOT_TELL, "peaks or their intervals are not known"
    names = class_names(result)
    first, last = known[place[known].argmin()], known[place[known].argmax()]
    told = f"class {names[first]} at {signed(place[first])}, class {names[last]} at {signed(place[last])}"
    return (verdicts.SEEN if low[known].max() > high[known].min() else verdicts.CANNOT_TELL), told


def _lags(results: Results) -> Table:
    """Compare runs of the same classes by where each of their common samples is decided."""
    rows = [
        [one, other, *_lag(results[one], results[other])]
        for one, other in combinations(results, 2)
        if np.array_equal(results[one]["class"], results[other]["class"])
    ]
    note = (
        "A sample is decided where the posterior of the class it ends in passes one half for good. Above 0, the second "
        "run decides later in denoising. Differences are of samples with the same number, which share their noise "
        "where the runs share their seed; in brackets is the 95 % interval of the median, by the order of samples."
    )
    head = ("run", "compared with", "common samples", "log SNR later, median (95 %)", "same class")
    return Table("How far decisions lag, between runs", head, rows, note, (2, 3, 4))


def _lag(one: xr.Dataset, other: xr.Dataset) -> Sequence[str]:
    common, first, second = np.intersect1d(one["sample"], other["sample"], return_indices=True)
    if not common.size:
        return ["0", "–", "–"]
    place, beyond = (result["decision_log_snr"].to_numpy()[there] for result, there in ((one, first), (other, second)))
    with np.errstate(invalid="ignore"):
        later = np.where(place == beyond, 0.0, beyond - place)
    median = landmarks.median(np.zeros(len(later)), later, "", "", "")
    ends = f" ({signed(median.low)} to {signed(median.high)})" if not np.isnan(median.low) else ""
    classes = (result["decided_class"].to_numpy()[there] for result, there in ((one, first), (other, second)))
    same = np.mean(np.equal(*classes))
    return [str(common.size), "–" if np.isnan(median.log_snr) else f"{signed(median.log_snr)}{ends}", f"{same:.0%}"]
