"""Sample quality: how like data the images of a run are, beside what they cost (001; METHODS 2.4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray
from scipy import special

from traj.analysis._blocks import chunking, datasets
from traj.analysis._drawing import captions
from traj.analysis._posterior import nearest as _nearest
from traj.analysis._quantity import Look, Number, Results, Table, quantity
from traj.analysis._similarity import compared as similarity
from traj.analysis._statistics import asked, verdicts
from traj.analysis._statistics import mmd as _mmd
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

NEAREST = Named("nearest_distance", "distance to the nearest image of the dataset")
DIVIDED = "divided by the mean distance of an image to its nearest other image"
RATIO = Named("nearest_ratio", f"distance to the nearest image, {DIVIDED}")
COPIED = Named(
    "copied", "1 where the nearest image is at no distance, or less than a third as far as the second, else 0"
)
SURE = (
    Named("confidence", "largest probability that a classifier gives"),
    Named("label_entropy", "entropy of a classifier's probabilities", "bit"),
)
DISCREPANCY = {
    "value": "maximum mean discrepancy, squared, unbiased",
    "se": "maximum mean discrepancy, squared, standard error by the jackknife",
    "low": "maximum mean discrepancy, squared, low end of its interval",
    "high": "maximum mean discrepancy, squared, high end of its interval",
    "p": "share of permutations with as much discrepancy or more",
}

YARDSTICK = 1000
"""Images of the dataset whose distance to the others is taken, at most."""

SHOWN = 8
"""Samples that are kept for the figure."""

PANELS = {
    "MMD² with the dataset": "mmd",
    "nearest image, over the usual": "nearest_ratio",
    "confidence of a classifier": "confidence",
    "entropy of its labels (bit)": "label_entropy",
}
"""Panels of the figure, and what is drawn in each."""

MEASURED = {
    "confidence": "confidence",
    "label_entropy": "label entropy (bit)",
    "nearest_ratio": "nearest image, over the usual",
    "copied": "copies",
    "as_asked": "labelled as asked",
}
"""Columns of the table: what is in them, and their heads."""


@quantity(
    reads="trajectories",
    needs=("x_0",),
    numerics=3,
    title="How like data the samples are, and what they cost",
    source="001, VAE and diffusion; Gretton et al. 2012",
)
def sample_quality(
    ds: xr.Dataset,
    *,
    dataset: xr.Dataset | None = None,
    baseline: xr.Dataset | None = None,
    readout: xr.Dataset | None = None,
    at_most: int = 1000,
    permutations: int = 999,
) -> xr.Dataset:
    """Compare the samples of a run with a dataset, and with those of another run.

    `nearest_distance` (sample) is |x_0 - x_i| to the nearest image of the dataset, and `nearest_index` its position
    there. The yardstick `dataset_distance` (image) is the same of images of the dataset, each left out in turn, of 1000
    of them at most, evenly chosen. `nearest_ratio` is the distance over the mean of the yardstick: 0 for a copy, 1 for
    as far as images are from one another. `copied` is 1 where the nearest image is at no distance, or less than a
    third as far as the second (Yoon et al. 2023); its mean has Wilson's interval.

    `mmd` (against) is the unbiased estimate of the squared maximum mean discrepancy between the run's x_0 and the
    dataset, and with a baseline between the two runs (Gretton et al. 2012, eq. 3), of `at_most` samples and images at
    most, evenly chosen. The kernel is exp(-|a - b|^2 / (2 h^2)), h the median distance of the dataset's images. It is 0
    on average for equal distributions, then more often below 0 than above. `mmd_se` is the jackknife's, on average too
    large rather than too small, and the interval of 95 % Student's; `mmd_p` is of permutations between the two sets,
    (1 + count) / (1 + permutations). A run and its baseline, of the same samples, have noise in common: they are
    compared in pairs, k of a pair is not counted, and permutations swap the two of a pair.

    With a readout, `confidence` is the largest probability that the classifier gives to a sample, and `label_entropy`
    the entropy of its probabilities, in bits. What is per sample comes with mean, sd and standard error over samples.
    `as_asked` (sample) is 1 where the classifier's label is the one that the sample was asked to have, NaN where none
    was; its mean has Wilson's interval, and so has that of each label, `class_as_asked` (asked_class).
    The attribute `evaluations` counts evaluations of the network for a sample, a guided one, of two inputs, once, 0 for
    noised data, and `first_timestep` is where the process starts. A few samples and their nearest images are kept for
    the figure.

    Parameters
    ----------
    dataset
        Real images, a store that `traj dataset` makes; needed.
    baseline
        Another run of the same samples, the full one.
    readout
        A classifier's readout of this run: adds confidence, label_entropy and, where samples have labels, as_asked.
    at_most
        Most samples and images that the discrepancy is of; time and memory go by its square.
    permutations
        Permutations behind a p-value, which is at least 1 / (1 + permutations).

    Raises
    ------
    InputError
        No dataset, or one of images of another shape; fewer than two samples or images; a baseline of other samples or
        images; a readout without x_0_logits, of another run, or of classes that a label is none of; at_most below 2,
        permutations below 1.
    """
    chunking.require(ds, ("x_0",))
    images = datasets.opened(ds, dataset, "sample_quality")
    _require_enough(ds.sizes["sample"], images.count, at_most, permutations)
    x_0 = chunking.images(ds["x_0"])
    found = chunking.per_image(
        _nearest.of_events, x_0, lead="s", dtype=np.float64, width=len(_nearest.COLUMNS), images=images
    )
    yardstick = _yardstick(images)
    others = {} if baseline is None else {"baseline": chunking.images(similarity.counterpart(ds, baseline)["x_0"])}
    index = da.where(da.isnan(found[:, 2]), -1, found[:, 2]).astype(np.int64)
    variables = {
        **_near(found, yardstick, ds.sizes["sample"]),
        "nearest_index": _named(index, "position of the nearest image in the dataset, -1 for none", "sample"),
        "dataset_distance": _named(yardstick, "distance of an image of the dataset to the nearest other", "image"),
        **_discrepancies(x_0, images, others, at_most, permutations),
        **_shown(ds["x_0"], index, images),
    }
    if readout is not None:
        logits = _logits(ds, readout)
        variables |= with_spread(_sure(logits), SURE) | asked.as_asked(logits, ds["label"].to_numpy())
    coords = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"sample"}}
    coords["against"] = ["dataset", *others]
    attrs = {
        "quantity": "sample_quality",
        "samples": ds.sizes["sample"],
        "images": images.count,
        "at_most": at_most,
        "permutations": permutations,
        "evaluations": _evaluations(ds),
        "first_timestep": int(ds["timestep"][0]),
        **chunking.noted_range(ds),
    }
    return xr.Dataset(variables, coords, attrs)


@sample_quality.takes_memory
def _held(ds: xr.Dataset, *, at_most: int, permutations: int, **_: Any) -> int:
    """Bound the memory of the kernel of all pairs, and of what permutations make of it."""
    both = 2 * at_most
    return (3 * both * both + 3 * both * permutations) * np.dtype(np.float64).itemsize


def _require_enough(samples: int, images: int, at_most: int, permutations: int) -> None:
    if min(samples, images) < 2:
        raise InputError(f"{samples} samples and {images} images were given; expected two or more of each, to compare")
    if at_most < 2 or permutations < 1:
        raise InputError(
            f"at_most {at_most} and permutations {permutations} were given; expected 2 or more, and 1 or more"
        )


def _evaluations(ds: xr.Dataset) -> int:
    """Count the network's evaluations for a sample: one a step, guided or not; Heun's rule two but in the last."""
    config = json.loads(ds.attrs.get("config", "{}"))
    if "noised" in config:
        return 0
    steps = int(ds["step"].max()) + 1
    rules = {run["rule"] for run in config.get("plan", {}).get("runs", [])}
    return 2 * steps - 1 if rules == {"heun"} else steps


def _named(values: da.Array, title: str, *dims: str, units: str = "1") -> xr.DataArray:
    return xr.DataArray(values, dims=dims, attrs={"units": units, "long_name": title})


def _evenly(count: int, most: int) -> Array:
    """Choose most of some evenly: their positions."""
    chosen: Array = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    return chosen


def _yardstick(images: datasets.Images) -> da.Array:
    chosen = _evenly(images.count, YARDSTICK)
    apart = delayed(_nearest.of_one_another, pure=True)(images, chosen)
    distance: da.Array = da.from_delayed(apart, (len(chosen),), np.float64)
    return distance


def _near(found: da.Array, yardstick: da.Array, samples: int) -> dict[str, xr.DataArray]:
    """Say how near samples are to images, by the usual distance of these, and which are copies."""
    distance, second = found[:, 0], found[:, 1]
    copied = da.where(da.isnan(distance), np.nan, (distance == 0) | (distance < _nearest.COPY * second))
    values = da.stack([distance, distance / yardstick.mean(), copied], axis=-1)
    variables = with_spread(xr.DataArray(values, dims=("sample", "column")), [NEAREST, RATIO, COPIED])
    share = variables["copied_mean"].rename("copied")
    return variables | verdicts.interval("copied", "share of samples that are copies", samples, share)


def _discrepancies(
    x_0: da.Array, images: datasets.Images, others: dict[str, da.Array], at_most: int, permutations: int
) -> dict[str, xr.DataArray]:
    """Compare the run with the dataset and the others: variables along against."""
    chosen = _evenly(len(x_0), at_most)
    ours, *theirs = (_nearest.whole(array[chosen]) for array in (x_0, *others.values()))
    compare = delayed(_compare, pure=True)
    values = compare(ours, theirs, images, _evenly(images.count, at_most), permutations)
    both = da.from_delayed(values, (1 + len(theirs), len(DISCREPANCY)), np.float64)
    return {
        "mmd" if column == "value" else f"mmd_{column}": _named(both[:, k], title, "against")
        for k, (column, title) in enumerate(DISCREPANCY.items())
    }


def _compare(ours: Array, theirs: list[Array], images: datasets.Images, chosen: Array, permutations: int) -> Array:
    """Compare x_0 with chosen images, then with the x_0 of other runs: (against, column)."""
    rows, *others = (events.reshape(len(events), -1).astype(np.float64) for events in (ours, *theirs))
    real = images.pick(chosen[:, None])[:, 0].astype(np.float64)
    width = _mmd.median_distance(real)
    found = [_mmd.discrepancy(rows, real, width, permutations)]
    found += [_mmd.discrepancy(rows, other, width, permutations, paired=True) for other in others]
    return np.stack(found)


def _shown(x_0: xr.DataArray, index: da.Array, images: datasets.Images) -> dict[str, xr.DataArray]:
    """Keep a few samples and their nearest images."""
    few = x_0.isel(sample=slice(SHOWN))
    pick = delayed(_nearest.picked, pure=True)(images, _nearest.whole(index[:SHOWN]))
    nearest = da.from_delayed(pick, few.shape, np.float32)
    dims = ("shown", *event_dims(x_0.dims))
    return {
        "shown_x_0": xr.DataArray(few.data, dims=dims, attrs={"units": "1", "long_name": "sample"}),
        "shown_nearest": _named(nearest, "nearest image of the dataset", *dims),
    }


def _logits(ds: xr.Dataset, readout: xr.Dataset) -> xr.DataArray:
    """Take the logits of a run's x_0 off a classifier's readout."""
    if "x_0_logits" not in readout or readout["x_0_logits"].dims != ("sample", "class"):
        raise InputError(
            "the readout has no x_0_logits of a run; expected the readout of this run that `traj readout classifier` "
            "makes"
        )
    parent = json.loads(readout.attrs.get("config", "{}")).get("parent", {}).get("fingerprint")
    if not np.array_equal(readout["sample"], ds["sample"]) or parent not in (None, ds.attrs["fingerprint"]):
        raise InputError("the readout is one of another run, or of a part of this; run `traj readout classifier` on it")
    return readout["x_0_logits"]


def _sure(logits: xr.DataArray) -> xr.DataArray:
    """Give the columns of SURE of logits: (sample, column)."""
    return chunking.per_cell(_confidence, logits, within=[["class"]], width=len(SURE))


def _confidence(logits: Array) -> Array:
    p = special.softmax(np.float64(logits), axis=-1)
    return np.stack([p.max(axis=-1), special.entr(p).sum(axis=-1) / np.log(2)], axis=-1)


# --- what it shows ------------------------------------------------------------------------------------------------


def _interval(result: xr.Dataset, name: str) -> tuple[float, float, float]:
    """Give a number of a run, or its mean over samples, and the ends of its interval; NaN where it was not computed."""
    if name == "mmd":
        mmd, low, high = (float(result[part].sel(against="dataset")) for part in ("mmd", "mmd_low", "mmd_high"))
        return mmd, low, high
    if f"{name}_mean" not in result:
        return np.nan, np.nan, np.nan
    mean = float(result[f"{name}_mean"])
    if f"{name}_low" in result:
        return mean, float(result[f"{name}_low"]), float(result[f"{name}_high"])
    half = float(verdicts.student(int(result.attrs["samples"])) * result[f"{name}_se"])
    return mean, mean - half, mean + half


@sample_quality.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Sum up how like data the samples are."""
    meanings = {
        "mmd": "squared maximum mean discrepancy with the dataset",
        "nearest_ratio": f"distance to the nearest image, {DIVIDED}",
        "copied": "share of samples that are copies of an image",
    }
    if "as_asked" in result:
        meanings["as_asked"] = asked.TITLE
    return [Number(name, meaning, *_interval(result, name)) for name, meaning in meanings.items()]


def in_order(results: Results) -> list[str]:
    """Name runs in the order of what a sample costs."""
    return sorted(results, key=lambda run: int(results[run].attrs["evaluations"]))


@sample_quality.gives_tables
def _tables(results: Results) -> list[Table]:
    if not results:
        return []
    rows = []
    for run in in_order(results):
        result = results[run]
        measured = [_with_ends(*_interval(result, name)) for name in MEASURED]
        compared = [told for against in ("dataset", "baseline") for told in _told(result, against)]
        cost = [str(result.attrs["evaluations"]), _milliseconds(result), str(result.attrs["first_timestep"])]
        rows.append([run, *cost, *measured, *compared])
    note = (
        "In brackets, intervals of 95 %. Evaluations are of the network, for one sample; a guided one, of two inputs, "
        "counts once. Times were measured on one machine, with whole blocks of samples, where that was asked for. "
        "Copies are samples whose nearest image is at no distance, or less than a third as far as the second. "
        "A p-value below 0.05 says that samples are told from those they are compared with; a high one does not say "
        "that they are alike."
    )
    head = ["run", "evaluations", "ms", "from t", *MEASURED.values()]
    head += ["MMD² with the dataset", "p", "MMD² with the baseline", "p"]
    of_runs = Table("Quality beside what a sample costs", head, rows, note, range(1, len(head)))
    return [of_runs, *asked.tables({run: results[run] for run in in_order(results)})]


def _milliseconds(result: xr.Dataset) -> str:
    """Say what a sample takes, where the report found it measured."""
    return f"{1000 * float(result['seconds']):.3g}" if "seconds" in result.coords else ""


def _with_ends(value: float, low: float, high: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g} ({low:.3g} to {high:.3g})"


def _told(result: xr.Dataset, against: str) -> tuple[str, str]:
    """Say what the discrepancy is, and its p-value; nothing where there is none."""
    if against not in result["against"]:
        return "", ""
    of = {name: float(result[name].sel(against=against)) for name in ("mmd", "mmd_low", "mmd_high", "mmd_p")}
    return _with_ends(of["mmd"], of["mmd_low"], of["mmd_high"]), "" if np.isnan(of["mmd_p"]) else f"{of['mmd_p']:.3g}"


def _caption(results: Results) -> str:
    images = captions.either(int(result.attrs["images"]) for result in results.values())
    return (
        "How like data the samples of each run are, over the evaluations of the network that one sample takes. MMD² is "
        "the squared maximum mean discrepancy between samples and dataset (Gaussian kernel as wide as the median "
        "distance of two images): 0 on average for samples from the dataset's own distribution, and so sometimes "
        f"below 0. The distance to the nearest image is {DIVIDED}: 0 would be "
        "copies, above 1 is farther than images are. Beneath, what a classifier of such images says of them, where it "
        f"was asked. Bars are 95 % intervals. The dataset has {images} images. {captions.samples(results)} After 001."
    )


@sample_quality.figure("sample_quality", title="Quality beside what a sample costs", caption=_caption)
def _draw(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import sampled

    return sampled.over_cost(results, look, in_order(results), PANELS, _interval)


def _of_nearest(results: Results) -> str:
    return (
        "Some samples of each run, and beneath each the image of the dataset that is nearest to it. Where the two are "
        "the same, the run gives back what its model has learned from. Above each pair stands its distance, "
        f"{DIVIDED}: 0 is a copy."
    )


@sample_quality.figure("nearest_images", title="Samples, and the nearest images of the dataset", caption=_of_nearest)
def _draw_nearest(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import sampled

    beneath = "above each pair: its distance, divided by the mean distance of an image to its nearest other image"
    return sampled.nearest(results, look, in_order(results), "nearest_ratio", beneath)
