"""Curves of decisions between classes, their captions, and what must be said of the results they are from."""

from __future__ import annotations

import xarray as xr

from traj.analysis._drawing import captions
from traj.analysis._quantity import Results, Series
from traj.analysis._statistics import verdicts

BESIDE, WRITTEN = 8, 16
"""Most samples drawn beside the first of each class, and most classes whose pairs have their timestep written."""


def curves(result: xr.Dataset, name: str, along: str = "decision") -> list[Series]:
    """Give a curve and its band of 95 %, for each decision that was asked for, or for each class."""
    places = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    half = xr.apply_ufunc(verdicts.student, result[f"{along}_samples"]) * result[f"{name}_se"]
    ends = result[name], result[name] - half, result[name] + half
    of = asked(result) if along == "decision" else result[along].to_numpy()
    return [Series(str(one), *places, *(part.sel({along: one}).to_numpy() for part in ends)) for one in of]


def asked(result: xr.Dataset) -> list[str]:
    """List the decision between all classes, and those that were asked for."""
    return [str(one) for one in result.attrs["decisions"]]


def guided(results: Results) -> str:
    """Say which runs are guided."""
    weights = {run: float(result.attrs["guidance"]) for run, result in results.items()}
    runs = [f"{run} by {weight:g}" for run, weight in weights.items() if weight != 1]
    if not runs:
        return ""
    return (
        f"Guided: {', '.join(runs)}. Posteriors and rates are of the network without guidance, along guided "
        "trajectories; these are no draws of its own mixture, so averages are how sure it is there, and no entropy of "
        "its process. "
    )


def noiseless(results: Results) -> str:
    """Say which runs add no noise."""
    runs = [run for run, result in results.items() if not result.attrs["noisy"]]
    if not runs:
        return ""
    return f"Without noise in their steps, where the posterior is exact for classes of points only: {', '.join(runs)}. "


def no_samples(results: Results) -> str:
    """Say which classes have no samples."""
    told = [
        f"{run} has no samples of class {', '.join(map(str, result.attrs['without_samples']))}"
        for run, result in results.items()
        if len(result.attrs["without_samples"])
    ]
    return f"{'; '.join(told)}: decisions with this class are not drawn. " if told else ""


def class_names(result: xr.Dataset) -> list[str]:
    """Name the classes."""
    name = "class_name" if "class_name" in result.coords else "class"
    return [str(one) for one in result[name].to_numpy()]


def caveats(results: Results) -> str:
    """Say what the averages of these results are not."""
    return f"{guided(results)}{noiseless(results)}{no_samples(results)}{captions.samples(results)}"


# --- the source's layout ------------------------------------------------------------------------------------------


def entropy(results: Results) -> str:
    """Explain the curves of entropy."""
    return (
        "How many bits of the class are still open, over the process: the entropy of the network's own step-by-step "
        "Bayes posterior P(class | x_t), mean over samples (E2). all is the decision between all classes; A|B: "
        "is the sample of A or of B, given one of the two. It falls from the entropy of the priors to 0 where "
        f"the class is decided. {captions.BAND} {captions.PLACE.format('where the decision is made fastest')} "
        f"{caveats(results)} After 003, 1-D experiment."
    )


def traces(results: Results) -> str:
    """Explain `traces`."""
    return (
        "At the left, how many bits of a decision are made while the image is denoised, per unit of τ (the share of "
        "noise additions) or of log SNR, as the label says: all, "
        "between all classes; A|B, whether a sample of one of these classes is of A or of B (+ joins classes, rest is "
        "all others). Rates go by the mean squared difference between the noise predicted under each side and under "
        "all sides together (E3). Bands are 95 % intervals of the mean over samples; a diamond marks where the rate, "
        "smoothed, is highest, with its 95 % interval. At the right, the probability of every class, by the network's "
        "own step-by-step Bayes posterior, for a single sample of each class (strong lines), and the probability of "
        f"that class for up to {BESIDE} others of it (faint). {caveats(results)} After 003, 1-D experiment."
    )


def classes(results: Results) -> str:
    """Explain `classes`."""
    return (
        "Each class by itself. At the left, the mean surprise -log2 P(c | x_t) at class c over samples of that class: "
        "how undecided it still is; averaged by the priors, these are the entropy of the class. At the right, how fast "
        "it falls, which goes by the mean squared difference between the noise predicted under the class and under all "
        "classes together. A diamond marks where that, smoothed, is fastest; bars are intervals that all hold together "
        f"in 95 % of cases. {caveats(results)} After 003, CIFAR-10."
    )


def pairs(results: Results) -> str:
    """Explain `pairs`."""
    return (
        "When any two classes part: where the decision between them is made fastest, given that the sample is of one "
        "of the two. Colour is the log SNR of that place, brighter for later in denoising, when finer differences "
        f"count. Where there are at most {WRITTEN} classes, its timestep stands above the diagonal, and its interval "
        "beneath it; the intervals of all pairs hold together in 95 % of cases. With few samples of a class they are "
        f"wide, or not there. {caveats(results)}"
    )
