"""Memorization: how many samples are copies of what a model has learned from, and from when on (004; METHODS 5.6)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from traj.analysis._blocks import chunking, datasets
from traj.analysis._drawing import captions, series
from traj.analysis._posterior import nearest
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, Table, quantity
from traj.analysis._statistics import landmarks, order, settling, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

OF_SAMPLES = (
    Named("nearest_distance", "distance to the nearest training image"),
    Named("distance_ratio", "distance to the nearest training image over that to the second"),
    Named("memorized", "1 where that ratio is below the threshold, else 0"),
)
STATE_RATIO = Named("state_ratio", "distance to the nearest training image over that to the second, of pred_x0")
NEARER = Named("nearer", "1 where the nearest training image is nearer than any held-out one, else 0")

SHOWN, AMONG, BYTES = 12, 256, 1 << 24
"""Pairs that are kept for the figure, and of how many samples they are chosen: the bytes come first."""


@quantity(
    reads="trajectories",
    needs=("pred_x0", "x_0"),
    numerics=2,
    title="Which samples are copies of training images",
    source="004, memorization and generalization; Yoon et al. 2023",
)
def memorization(
    ds: xr.Dataset,
    *,
    dataset: xr.Dataset | None = None,
    held_out: xr.Dataset | None = None,
    threshold: float = nearest.COPY,
) -> xr.Dataset:
    """Tell samples that are copies of training images from samples that are new.

    `distance_ratio` (sample) is |x_0 - x_1| / |x_0 - x_2|, of the nearest training image x_1 and the second x_2: 0 for
    a copy, 1 halfway between two images; 0 where both are at no distance. `memorized` is 1 where it is below the
    threshold (Yoon et al. 2023), and its mean over samples has Wilson's interval. `generalization` is GL, 1 - that mean
    (METHODS 5.6). The source takes a similarity of features of a large network instead, SSCD above 0.6: the two cannot
    be compared as numbers. GL is no quality: noise has GL 1, too, see sample_quality. `nearest_distance` is
    |x_0 - x_1|, and `nearest_index` the position of x_1.

    Held-out images, of the same kind but not learned from, calibrate this. `held_out_ratio` (image) is their own ratio
    among the training images, and `false_positives` the share of them below the threshold: what samples that are new
    would have. `nearer` is 1 where a sample is nearer to a training image than to any held-out one, 1/2 where as near.
    Of samples that know none of these images, N / (N + M) would be, for N training images and M held out (the attribute
    `nearer_by_chance`), so that its mean tells a smaller leaning to the training images than copies do. By chance it
    has the standard deviation `nearer_deviation`, where images change places between the two datasets (a few images may
    be nearest to many samples, so that this is larger than that of as many tosses of a coin); its interval, Wilson's,
    is of other samples beside the same images.

    `state_ratio` (on, sample, timestep) is the ratio of pred_x0, and `nearest_settled`, as `_timestep`, `_step` and
    `_log_snr` (on, sample), the first stored state from which on its nearest training image is that of x_0. What is per
    sample comes with mean, sd and standard error. Of the first samples, a few from the smallest ratio to the largest
    are kept with their nearest images for the figure.

    The datasets are read block by block, a few times for each chunk of the run.

    Parameters
    ----------
    dataset
        The images the run's model has learned from, a store that `traj dataset` makes; needed.
    held_out
        Images of the same kind that it has not learned from.
    threshold
        Ratio below which a sample is memorized.

    Raises
    ------
    InputError
        No dataset, or images of another shape; fewer than two training images; a threshold that is not above 0 and
        below 1; a run without pred_x0.
    """
    chunking.require(ds, ("pred_x0", "x_0"))
    images = datasets.opened(ds, dataset, "memorization")
    if images.count < 2:
        raise InputError("the dataset has one image; expected two or more, the nearest and the second")
    if not 0 < threshold < 1:
        raise InputError(f"threshold {threshold:g}; expected a number above 0 and below 1")
    pred_x0 = chunking.images(ds["pred_x0"])
    x_0 = chunking.aligned(pred_x0, chunking.images(ds["x_0"]))
    find = partial(chunking.per_image, lead="s", dtype=np.float64)
    found = find(_of_samples, x_0, width=4, images=images, threshold=threshold)
    variables = with_spread(xr.DataArray(found[:, :3], dims=("sample", "column")), OF_SAMPLES)
    variables |= _share(variables, "memorized", "share of samples that are memorized", ds.sizes["sample"])
    variables["generalization"] = (1 - variables["memorized_mean"]).assign_attrs(
        long_name="generalization score, share of samples that are not memorized", units="1"
    )
    index = found[:, 3].astype(np.int64)
    variables["nearest_index"] = _named(index, "position of the nearest training image, -1 for none", "sample")
    variables |= _along(ds, pred_x0, index, images) | _shown(ds["x_0"], x_0, found, images)
    coords = {str(name): one for name, one in ds.coords.items() if set(one.dims) <= {"sample", "timestep"}}
    coords["on"] = ("on", ["pred_x0"], {"long_name": "images compared", "units": "1"})
    attrs = {
        "quantity": "memorization",
        "samples": ds.sizes["sample"],
        "images": images.count,
        "threshold": threshold,
        **chunking.noted_range(ds),
    }
    if held_out is not None:
        others = datasets.opened(ds, held_out, "memorization")
        new = find(_of_samples, chunking.images(held_out["x_0"]), width=4, images=images, threshold=threshold)
        nearer = find(_nearer, x_0, width=3, images=images, others=others)
        variables |= _calibrated(new, nearer, images.count, others.count)
        attrs |= {"held_out": others.count, "nearer_by_chance": images.count / (images.count + others.count)}
    return xr.Dataset(variables, coords, attrs)


@memorization.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the memory of the events that go through a dataset together, and of what is kept for the figure."""
    return 10 * nearest.HELD * np.dtype(np.float64).itemsize + BYTES


def _of_samples(events: Array, *, images: datasets.Images, threshold: float) -> Array:
    """Give distance, ratio, whether that is below the threshold, and which image is nearest: (sample, column)."""
    distance, second, index = nearest.of_events(events, images).T
    ratio = _over(distance, second)
    memorized = np.where(np.isnan(ratio), np.nan, ratio < threshold)
    return np.stack([distance, ratio, memorized, np.where(np.isnan(index), -1, index)], axis=-1)


def _over(distance: Array, second: Array) -> Array:
    """Divide distances, 0 where both are 0."""
    ratio: Array = np.divide(distance, second, out=distance * 0, where=second != 0)
    return ratio


def _nearer(events: Array, *, images: datasets.Images, others: datasets.Images) -> Array:
    """Say whether events are nearer to images than to others, 1, 1/2 or 0, and which these are: (sample, column)."""
    ours, theirs = (nearest.of_events(events, one) for one in (images, others))
    nearer = np.where(np.isnan(ours[:, 0]), np.nan, (1 + np.sign(theirs[:, 0] - ours[:, 0])) / 2)
    return np.column_stack([nearer, ours[:, -1], theirs[:, -1]])


def _deviation(found: Array, count: int, others: int) -> float:
    """Give the standard deviation of the mean of `nearer` by chance, of samples (sample, column) as `_nearer` says.

    The sum is that of how many samples each image is nearest to, over `count` of all images, drawn without replacement.
    """
    nearer, *index = found[np.isfinite(found).all(axis=1)].T
    ours, theirs = (one.astype(np.int64) for one in index)
    of_image = np.concatenate([np.bincount(ours, nearer, count), np.bincount(theirs, 1 - nearer, others)])
    return float(np.sqrt(count * others / (count + others) * of_image.var(ddof=1)) / len(nearer))


def _of_states(states: Array, final: Array, *, images: datasets.Images) -> Array:
    """Give the ratio of states, and whether their nearest image is not the final one: (sample, timestep, column)."""
    distance, second, index = nearest.of_events(states.reshape(-1, *states.shape[2:]), images).T
    differs = np.where(np.isnan(index), np.nan, index != final.repeat(states.shape[1]))
    return np.stack([_over(distance, second), differs], axis=-1).reshape(*states.shape[:2], 2)


def _named(values: Any, title: str, *dims: str) -> xr.DataArray:
    return xr.DataArray(values, dims=dims, attrs={"units": "1", "long_name": title})


def _share(variables: dict[str, xr.DataArray], name: str, title: str, cases: int) -> dict[str, xr.DataArray]:
    """Give the ends of Wilson's interval of a mean of zeros and ones."""
    return verdicts.interval(name, title, cases, variables[f"{name}_mean"].rename(name))


def _along(ds: xr.Dataset, pred_x0: da.Array, final: da.Array, images: datasets.Images) -> dict[str, xr.DataArray]:
    """Follow pred_x0: its ratio, and where its nearest image is settled."""
    found = chunking.per_image(_of_states, pred_x0, final, lead="st", dtype=np.float64, width=2, images=images)
    values = xr.DataArray(found, dims=("sample", "timestep", "column")).expand_dims("on")
    meaning = "where the nearest training image of pred_x0 last becomes that of x_0"
    return {
        **with_spread(values.isel(column=slice(1)), [STATE_RATIO]),
        **settling.places(ds, values.isel(column=1), "nearest_settled", meaning),
    }


def _calibrated(new: da.Array, nearer: da.Array, count: int, held_out: int) -> dict[str, xr.DataArray]:
    """Name what held-out images tell, of so many training images and of these."""
    variables = with_spread(xr.DataArray(nearer[:, :1], dims=("sample", "column")), [NEARER])
    title = "share of held-out images whose ratio is below the threshold"
    variables["false_positives"] = _named(new[:, 2].mean(), title)
    deviation = delayed(_deviation, pure=True)(nearest.whole(nearer), count, held_out)
    variables["nearer_deviation"] = _named(
        da.from_delayed(deviation, (), np.float64), "standard deviation of nearer_mean by chance"
    )
    return {
        **variables,
        **_share(variables, "nearer", "share of samples nearer to training than to held-out images", nearer.shape[0]),
        "held_out_ratio": _named(new[:, 1], "distance ratio of a held-out image among the training images", "image"),
        **verdicts.interval("false_positives", title, held_out, variables["false_positives"]),
    }


def _shown(x_0: xr.DataArray, cut: da.Array, found: da.Array, images: datasets.Images) -> dict[str, xr.DataArray]:
    """Keep a few samples and their nearest images, from the smallest ratio to the largest."""
    among = min(x_0.sizes["sample"], AMONG, max(1, BYTES // (4 * images.values)))
    shown = min(SHOWN, among)
    pick = delayed(_pairs, pure=True)
    pairs = pick(nearest.whole(cut[:among]), nearest.whole(found[:among]), images, shown)
    values = da.from_delayed(pairs, (shown, 1 + 2 * images.values), np.float64)
    dims, shape = ("shown", *event_dims(x_0.dims)), (shown, *images.shape)
    samples, beneath = values[:, 1 : 1 + images.values], values[:, 1 + images.values :]
    return {
        "shown_ratio": _named(values[:, 0], "distance ratio of a sample that is shown", "shown"),
        "shown_x_0": _named(samples.astype(np.float32).reshape(shape), "sample", *dims),
        "shown_nearest": _named(beneath.astype(np.float32).reshape(shape), "its nearest training image", *dims),
    }


def _pairs(events: Array, found: Array, images: datasets.Images, shown: int) -> Array:
    """Choose samples evenly in the order of their ratio: the ratio, the sample and its nearest image in one row."""
    rising = np.argsort(found[:, 1], kind="stable")
    chosen = rising[np.linspace(0, len(rising) - 1, shown).round().astype(int)]
    beneath = nearest.picked(images, found[chosen, 3].astype(np.int64)).reshape(shown, -1)
    return np.column_stack([found[chosen, 1], events[chosen].reshape(shown, -1), beneath])


# --- what it shows ------------------------------------------------------------------------------------------------


@memorization.curve("memorization", title="Distance ratio of pred_x0", y_label="distance ratio")
def _ratios(result: xr.Dataset) -> list[Series]:
    return series.of_states(result, "state_ratio")


@memorization.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say from where on the nearest training image of pred_x0 is the final one, in half of the samples."""
    settled = result.sel(on="pred_x0")
    timestep, log_snr = (settled[f"nearest_settled_{name}"] for name in ("timestep", "log_snr"))
    meaning = "the nearest training image of pred_x0 is the final one, in half of the samples (median)"
    mark = landmarks.median(timestep.to_numpy(), log_snr.to_numpy(), "nearest_settled", meaning, "pred_x0")
    times = partial(order.settled, log_snr, result["log_snr"])
    return [mark.called("nearest image settles", times)]


def _interval(result: xr.Dataset, name: str) -> tuple[float, float, float]:
    """Give a share and the ends of its interval; NaN without held-out images where it needs these."""
    mean = f"{name}_mean" if f"{name}_mean" in result else name
    ends = (mean, f"{name}_low", f"{name}_high")
    value, low, high = (float(result[end]) if end in result else np.nan for end in ends)
    return value, low, high


@memorization.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Give the share of memorized samples, GL, and how both are calibrated."""
    share, low, high = _interval(result, "memorized")
    meaning = "GL, share of samples that are not copies of a training image"
    found = [
        Number("memorized", "share of samples that are copies of a training image", share, low, high),
        Number("generalization", meaning, 1 - share, 1 - high, 1 - low),
    ]
    calibrated = {
        "false_positives": "share of held-out images that count as copies of a training image",
        "nearer": "share of samples nearer to training images than to held-out ones",
    }
    return found + [
        Number(name, meaning, *_interval(result, name))
        for name, meaning in calibrated.items()
        if "held_out" in result.attrs
    ]


@memorization.gives_tables
def _tables(results: Results) -> list[Table]:
    rows = []
    for run, result in results.items():
        shares = [_told(*_interval(result, name)) for name in ("memorized", "false_positives", "nearer")]
        chance = float(result.attrs.get("nearer_by_chance", np.nan))
        known = "" if np.isnan(chance) else f"{chance:.3f}"
        gl = f"{float(result['generalization']):.3f}"
        leaning = verdicts.WORDS[_leaning(result)] if known else ""
        rows.append([run, str(result.attrs["images"]), shares[0], gl, *shares[1:], known, leaning])
    head = [
        "run",
        "training images",
        "memorized",
        "GL",
        "held-out images",
        "nearer to training",
        "by chance",
        "leaning",
    ]
    note = (
        "A sample is memorized where its nearest training image is less than a third (or the threshold asked for) as "
        "far as the second; GL is the share that is not. GL is no quality: bad samples are no copies either. Held-out "
        "images tell how many new images would count as memorized. The last columns compare distances to training and "
        "to held-out images: by chance, the nearest of all is a training image as often as such images are among all; "
        "leaning to the training images is seen where that share is above chance, and not seen where it is below, by "
        "more than in 95 of 100 cases in which training and held-out images change places at random. In brackets, "
        "intervals of 95 %, of other samples beside the same images. The source's GL is of another similarity (SSCD), "
        "and its numbers are not these."
    )
    return [Table("Memorization", head, rows, note, range(1, len(head) - 1))] if rows else []


def _told(value: float, low: float, high: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _leaning(result: xr.Dataset) -> int:
    """Say whether samples are nearer to training images than chance would have them: not, where they are further."""
    beyond = float(result["nearer_mean"]) - float(result.attrs["nearer_by_chance"])
    margin = verdicts.normal() * float(result["nearer_deviation"])
    return verdicts.SEEN if beyond > margin else verdicts.NOT_SEEN if beyond < -margin else verdicts.CANNOT_TELL


def _of_ratios(results: Results) -> str:
    thresholds = captions.either(f"{result.attrs['threshold']:.2g}" for result in results.values())
    held_out = any("held_out" in result.attrs for result in results.values())
    calibrated = (
        "Dashed, and hollow at the right: the same of held-out images, which the model has not learned from, so that "
        "this is what new images look like. "
    )
    return (
        "Are samples copies of what the model has learned from? At the left, the share of samples whose distance ratio "
        "is at most the number beneath: the distance to the nearest training image over that to the second nearest, 0 "
        f"for a copy, near 1 for an image between others. Below {thresholds} (dotted) a sample counts as memorized; at "
        "the right, the share of these, with 95 % intervals (Wilson's). "
        f"{calibrated if held_out else ''}{captions.samples(results)}"
    )


@memorization.figure("memorization", title="How many samples are memorized", caption=_of_ratios)
def _draw_ratios(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import sampled

    return sampled.memorized(results, look, _interval) if results else None


def _of_pairs(results: Results) -> str:
    return (
        "Samples, and beneath each the training image that is nearest to it, from the smallest distance ratio (the "
        "number above) to the largest. Ratios near 0 are copies, ratios near 1 are images that lie as near to another "
        f"training image. They are chosen evenly in this order among the first {AMONG} samples or fewer."
    )


@memorization.figure("training_images", title="Samples, and the nearest training images", caption=_of_pairs)
def _draw_pairs(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import sampled

    beneath = "above each pair: its distance over that to the second nearest training image"
    return sampled.nearest(results, look, list(results), "shown_ratio", beneath)


def _of_states_drawn(results: Results) -> str:
    place = "where, in half of the samples, the nearest image is the final one"
    return (
        "When it is settled which training image a sample ends up nearest to: the distance ratio of the prediction "
        "pred_x0, mean over samples, along the process. Where a model copies, it falls towards 0. "
        f"{captions.BAND} {captions.PLACE.format(place)} {captions.samples(results)}"
    )


@memorization.figure("when_memorized", title="When samples come near one training image", caption=_of_states_drawn)
def _draw_states(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    figure, axes = panels.over_process(results, look, _ratios, "distance ratio", places=_places)
    for axis in axes.flat:
        axis.set_ylim(-0.02, 1.02)
    return figure
