"""Stepwise entropy and joint probability maps (000 eq. 11, Figs 2 and 3)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.local import get_sync
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._blocks.pooled import ESTIMATORS, bytes_per_timestep, pooled
from traj.analysis._drawing import captions, joint_maps
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import histograms
from traj.analysis._kernels import images as kernels
from traj.analysis._kernels.histograms import COLUMNS
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, quantity
from traj.analysis._statistics import landmarks, order
from traj.analysis._statistics.spread import GROUPS, dealt
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "stepwise_entropy": "stepwise entropy H(x_0 | state)",
    "state_entropy": "entropy of the state H(state)",
    "x_0_entropy": "entropy of the final sample H(x_0)",
    "joint_entropy": "joint entropy H(x_0, state)",
    "mutual_information": "mutual information I(x_0; state)",
}
"""In the order of the kernels' columns."""

MAPS = 5


@quantity(
    reads="trajectories",
    numerics=4,
    title="How much is still open: stepwise entropy",
    source="000 Figs 2 and 3, eq. 11",
)
def entropy(
    ds: xr.Dataset,
    *,
    on: tuple[str, ...] = ("x_t", "pred_x0"),
    bins: int = 256,
    at: tuple[int, ...] = (),
    by_class: bool = True,
) -> xr.Dataset:
    """Measure how much of the final sample a state leaves open, in bits per pixel.

    Grey codes of co-located pixels of x_0 and of the state are counted jointly; the stepwise entropy is
    H(x_0 | state) = H(x_0, state) - H(state), 000 eq. 11. Values of x_0's valid_range become bytes
    clip(round(255 (x - low) / (high - low)), 0, 255), three channels become one by ITU-R 601 luma, and the
    byte loses its lowest bits down to `bins` codes.

    Gives `stepwise_entropy`, `state_entropy`, `x_0_entropy`, `joint_entropy` and `mutual_information`: plug-in
    values of one histogram over all samples (on, timestep), and each `_per_sample` from every image's own
    histogram (on, sample, timestep), the stepwise one with mean, sd and standard error over samples.

    A histogram of few pixels reads low. So the pooled stepwise entropy also comes corrected in three ways: by Miller
    and Madow's count of occupied cells, by Grassberger's estimator (2003, of H(x_0, state) less that of H(state):
    exactly 0 where state and x_0 are equal, and it may fall below 0 where few pixels share a cell), and
    `stepwise_entropy_debiased` by the jackknife over eight groups that samples are dealt out to, which alone knows
    that pixels of one image depend on each other; it is the value to quote. `stepwise_entropy_se` is its standard
    error, `stepwise_entropy_bias` how far the other two lie from it at most, a measure of the bias that may be left,
    and `stepwise_entropy_half_width` half of a 95 % interval: 2.36 standard errors (Student's quantile for seven
    degrees of freedom) and that bias. Below eight samples those three are NaN, and the debiased value is Grassberger's.
    `reliable` (on, timestep) says where the bias is below the standard error; elsewhere the histogram has too few
    pixels for its bins, and the interval may miss.

    `convergence` (on, at, samples_used, estimator) are the pooled values of the first of the eight groups, the
    first two, ... all. `joint_counts` (on, at, x_0_bin, state_bin) has summaries: `joint_correlation` (Pearson;
    NaN for a constant image), `joint_mean_distance` and `joint_near_diagonal` (share of pairs at most one code
    apart).

    Where labels name more than one class, `stepwise_entropy_by_class` and `stepwise_entropy_by_class_miller_madow`
    (on, class, timestep) pool each class's samples alone, without errors; label -1 belongs to no class.

    Parameters
    ----------
    on
        Variables taken as the state.
    bins
        Grey codes counted: a power of two up to 256.
    at
        Timesteps whose joint counts are kept; without any, five spread evenly over the stored ones.
    by_class
        Also pool each class alone, where there are labels; many classes of a large run take memory.

    Raises
    ------
    InputError
        A missing variable; other than one or three channels; bins that are no power of two; a timestep that
        is not in the store; events that are no images; when computed, images that are NaN.
    """
    chunking.require_images(ds, "entropy of grey codes")
    chunking.require(ds, (*on, "x_0"))
    chunking.value_range(ds)
    if bins not in (2, 4, 8, 16, 32, 64, 128, 256):
        raise InputError(f"bins is {bins}; expected a power of two from 2 to 256, so that all bins are equal")
    channels = ds.sizes["channel"]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels; grey codes are defined for 1 (grey) and 3 (RGB)")
    chosen = _positions(ds["timestep"].to_numpy(), at)

    x_0 = _codes(ds, "x_0", bins)
    classes = _classes(ds) if by_class else {}
    single, whole = [], []
    for name in on:
        states = _codes(ds, name, bins)
        firsts = chunking.aligned(states, x_0)
        single.append(
            chunking.per_image(
                histograms.image_bits, states, firsts, lead="st", dtype=np.float64, width=len(NAMES), bins=bins
            )
        )
        whole.append(pooled(states, firsts, bins, chosen, list(classes.values())))
    pairs = ds.sizes["sample"] * ds.sizes["y"] * ds.sizes["x"]
    pooled_bits, image_bits = da.stack([each.bits for each in whole]), da.stack(single)
    spread = da.stack([chunking.over_samples(bits[:, :, 0], kernels.spread, 3) for bits in single])
    variables: dict[str, Any] = {}
    for column, (name, meaning) in enumerate(NAMES.items()):
        variables[name] = _curves(pooled_bits[..., column], f"{meaning}, pooled over samples")
        variables[f"{name}_per_sample"] = (
            ("on", "sample", "timestep"),
            image_bits[..., column],
            {"units": "bit", "long_name": f"{meaning}, of each image alone"},
        )
    variables |= _corrected(pooled_bits)
    for row, (suffix, meaning) in enumerate((("mean", "mean"), ("sd", "sd"), ("se", "standard error of the mean"))):
        variables[f"stepwise_entropy_per_sample_{suffix}"] = _curves(
            spread[:, row], f"per-image stepwise entropy, {meaning} over samples"
        )
    variables |= joint_maps.described([each.joint_counts for each in whole])
    variables["convergence"] = (
        ("on", "at", "samples_used", "estimator"),
        da.stack([each.converging for each in whole]),
        {"units": "bit", "long_name": "stepwise entropy, pooled over the first groups of samples"},
    )
    variables["pixel_pairs"] = ((), np.int64(pairs), {"units": "1", "long_name": "pixel pairs pooled per timestep"})
    if classes:
        variables |= _class_curves(da.stack([each.by_class for each in whole]), classes, pairs // ds.sizes["sample"])
    codes = np.arange(bins)
    coords: dict[str, Any] = {
        "on": ("on", list(on), {"long_name": "variable taken as the state", "units": "1"}),
        "at": ("at", ds["timestep"].to_numpy()[chosen], {"long_name": "timestep of the joint counts", "units": "1"}),
        "x_0_bin": ("x_0_bin", codes, {"long_name": "grey code of x_0", "units": "1"}),
        "state_bin": ("state_bin", codes, {"long_name": "grey code of the state", "units": "1"}),
        "samples_used": (
            "samples_used",
            np.cumsum(np.bincount(dealt(ds.sizes["sample"]), minlength=GROUPS)),
            {"long_name": "number of samples in the first groups", "units": "1"},
        ),
        "estimator": ("estimator", list(ESTIMATORS), {"long_name": "estimator of entropy", "units": "1"}),
    }
    if classes:
        coords["class"] = ("class", list(classes), {"long_name": "label of the class", "units": "1"})
    kept = {key: coord for key, coord in ds.coords.items() if set(coord.dims) <= {"sample", "timestep"}}
    attrs = {
        "quantity": "entropy",
        "bins": bins,
        "samples": ds.sizes["sample"],
        "valid_range": list(chunking.value_range(ds)),
    }
    return xr.Dataset(variables, coords | kept, attrs)


@entropy.takes_memory
def _held(ds: xr.Dataset, *, on: tuple[str, ...], bins: int, at: tuple[int, ...], by_class: bool) -> int:
    """Bound the memory that pooling holds on to while the samples go by, whatever their number."""
    pairs = ds.sizes["sample"] * ds.sizes["y"] * ds.sizes["x"]
    lengths = ds["x_t"].chunksizes.get("timestep", (ds.sizes["timestep"],))
    classes = len(_classes(ds)) if by_class else 0
    return len(on) * bytes_per_timestep(pairs, bins, classes) * max(lengths)


def _classes(ds: xr.Dataset) -> dict[int, NDArray[Any]]:
    """Find the positions of each class's samples; none where labels name fewer than two classes."""
    if "label" not in ds.coords:
        return {}
    labels = ds["label"].compute(scheduler=get_sync).to_numpy()
    classes = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels) if label != -1}
    return classes if len(classes) > 1 else {}


def _class_curves(bits: da.Array, classes: dict[int, NDArray[Any]], pixels: int) -> dict[str, Any]:
    """Describe the stepwise entropies (on, class, timestep, estimator) of each class."""
    pairs = np.array([samples.size * pixels for samples in classes.values()])
    dims, meaning = ("on", "class", "timestep"), "stepwise entropy, pooled over samples of one class"
    return {
        "stepwise_entropy_by_class": (dims, bits[..., 0], {"units": "bit", "long_name": meaning}),
        "stepwise_entropy_by_class_miller_madow": (
            dims,
            bits[..., 1],
            {"units": "bit", "long_name": f"{meaning}, Miller-Madow corrected"},
        ),
        "class_pixel_pairs": ("class", pairs, {"units": "1", "long_name": "pixel pairs pooled per timestep and class"}),
    }


def _corrected(bits: da.Array) -> dict[str, Any]:
    """Describe the corrected stepwise entropies (on, timestep, column), their error, and the bias they may have."""
    meanings = {
        "miller_madow": "stepwise entropy, pooled, Miller-Madow corrected",
        "grassberger": "stepwise entropy, pooled, by Grassberger's estimator",
        "debiased": "stepwise entropy, pooled, corrected by the jackknife",
        "error": f"standard error of the pooled stepwise entropy, jackknife over {GROUPS} groups of samples",
        "bias": "bias the debiased stepwise entropy may have left: its largest distance to the other corrections",
        "half_width": "half of the 95 % interval around the debiased stepwise entropy",
    }
    variables: dict[str, Any] = {}
    for column, meaning in meanings.items():
        name = "se" if column == "error" else column
        variables[f"stepwise_entropy_{name}"] = _curves(bits[..., COLUMNS.index(column)], meaning)
    reliable = "the debiased stepwise entropy has a bias below its standard error"
    variables["reliable"] = (
        ("on", "timestep"),
        bits[..., COLUMNS.index("reliable")] > 0,
        {"units": "1", "long_name": reliable},
    )
    return variables


def _codes(ds: xr.Dataset, name: str, bins: int) -> da.Array:
    """Turn a variable into grey codes (sample[, timestep], pixel), one byte each."""
    low, high = chunking.value_range(ds)
    options = {
        "low": np.float32(low),
        "scale": np.float32(255 / (high - low)),
        "shift": 8 - (bins.bit_length() - 1),
    }
    pixels = ds.sizes["y"] * ds.sizes["x"]
    return chunking.per_image(
        _grey, chunking.images(ds[name]), lead="s" if name == "x_0" else "st", dtype=np.uint8, width=pixels, **options
    )


def _grey(images: NDArray[Any], low: np.float32, scale: np.float32, shift: int) -> NDArray[Any]:
    lead, (channels, height, width) = images.shape[:-3], images.shape[-3:]
    flat = images.reshape(lead[0], -1, channels, height * width)
    codes = np.empty((*flat.shape[:2], height * width), np.uint8)
    if not histograms.grey_codes(flat, low, scale, shift, codes):
        raise InputError(
            "pixels that are not a number have no grey code; leave out the samples that have some, or are not there yet"
        )
    return codes.reshape(*lead, height * width)


def _positions(timesteps: NDArray[Any], at: tuple[int, ...]) -> list[int]:
    """Find the positions of `at` among the stored timesteps, in the store's order."""
    if not at:
        return sorted({round(position) for position in np.linspace(0, timesteps.size - 1, MAPS)})
    positions = {int(timestep): position for position, timestep in enumerate(timesteps)}
    for timestep in at:
        if timestep not in positions:
            nearest = sorted(positions, key=lambda stored: abs(stored - timestep))[:2]
            raise InputError(
                f"timestep {timestep} is not stored; the nearest stored ones are {' and '.join(map(str, nearest))}"
            )
    return sorted({positions[timestep] for timestep in at})


def _curves(values: da.Array, meaning: str) -> tuple[tuple[str, ...], da.Array, dict[str, str]]:
    return ("on", "timestep"), values, {"units": "bit", "long_name": meaning}


def _pooled(result: xr.Dataset) -> list[Series]:
    value, half = result["stepwise_entropy_debiased"], result["stepwise_entropy_half_width"]
    return _series.lines(result, value, value - half, value + half)


def _alone(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "stepwise_entropy_per_sample")


entropy.curve("stepwise_entropy", title="Stepwise entropy, pooled over samples", y_label="bit per pixel")(_pooled)
entropy.curve("stepwise_entropy_per_image", title="Stepwise entropy of each image", y_label="bit per pixel")(_alone)


@entropy.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say where half of what is open is settled, and where an image's own entropy is highest, both given pred_x0.

    The first, `entropy_half`, is the step from which on the pooled stepwise entropy, debiased, stays below half of
    H(x_0), the entropy of one who knows nothing; its interval is where the 95 % band crosses that level. The second,
    `entropy_peak`, is where the mean over images of their own stepwise entropy is highest; its interval is the
    bootstrap's over samples.
    """
    found = []
    for series in _pooled(result):
        if series.on == "pred_x0":
            half = float(result["x_0_entropy"].sel(on="pred_x0")[0]) / 2
            meaning = "half of the bits of a pixel are settled: pooled stepwise entropy given pred_x0 below H(x_0) / 2"
            found.append(landmarks.kept_below(series, half, "entropy_half", meaning).called("entropy knee"))
    for series in _alone(result):
        if series.on == "pred_x0":
            name, of_each, times = "stepwise_entropy_per_sample", None, None
            if name in result:
                by_sample = result[name].sel(on="pred_x0")
                of_each, times = by_sample.to_numpy(), partial(order.highest, by_sample)
            meaning = "stepwise entropy of an image alone, given pred_x0, is highest"
            found.append(landmarks.highest(series, of_each, "entropy_peak", meaning).called("entropy peak", times))
    return found


@entropy.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how high an image's own entropy, given pred_x0, is at first, and at its highest."""
    found = []
    for series in _alone(result):
        if series.on == "pred_x0" and np.isfinite(series.value).any():
            start, low, high = (float(part[0]) for part in series[3:])
            what = "stepwise entropy of an image alone, given {} (bit)"
            found.append(Number("entropy_start", what.format("the first pred_x0"), start, low, high))
            peak = float(np.nanmax(series.value))
            found.append(Number("entropy_peak", what.format("pred_x0, where it is highest"), peak))
    return found


def _of_pooled(results: Results) -> str:
    bins = captions.either(sorted({int(result.attrs["bins"]) for result in results.values()}))
    unreliable = [run for run, result in results.items() if not result["reliable"].all()]
    caption = (
        "Stepwise entropy H(x_0 | state): how many bits of a pixel of x_0 remain open to one who knows the pixel of "
        f"the state at the same place. It is counted on {bins} grey levels, in one histogram over all samples, and "
        "corrected by the jackknife over eight groups of samples. Bands are 95 % intervals, with the bias that may be "
        "left. Dotted lines are H(x_0), all that is open to one who knows nothing: where a curve leaves its line and "
        f"falls, pixels settle. {captions.PLACE.format('where it stays below half of that')} At the left over log "
        "SNR, on which runs of different schedules and lengths compare; at most a hundredth of the steps, the first "
        "ones, lie beyond its left edge. At the right over the share of steps that are done, as in the source. "
        f"{captions.samples(results)} After 000 Fig. 2, eq. 11."
    )
    if unreliable:
        caption += (
            f" Dashed: too few pixels for so many grey levels ({', '.join(unreliable)}). There, three ways to correct "
            "the value differ by more than its standard error, and the truth may lie outside the band: take the course "
            "of the line, not its height, or use more samples or fewer bins."
        )
    return caption


@entropy.figure("stepwise_entropy", title="Stepwise entropy, all images together", caption=_of_pooled)
def _draw_pooled(results: Results, look: Look) -> Figure:
    from traj.analysis._drawing import panels

    def half(result: xr.Dataset) -> list[Landmark]:
        return [place for place in _places(result) if place.name == "entropy_half"]

    label = "stepwise entropy (bit per pixel)"
    figure, axes = panels.over_process(results, look, _pooled, label, places=half, unsure="reliable")
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        for run, result in results.items():
            axis.axhline(float(result["x_0_entropy"][0, 0]), color=look.colours[run], lw=0.9, ls=":")
    return figure


def _of_alone(results: Results) -> str:
    pixels = captions.either(sorted({int(r["pixel_pairs"]) // int(r.attrs["samples"]) for r in results.values()}))
    return (
        "The same from the histogram of each image alone, as in the source: mean over images. "
        f"{captions.BAND} One image has only {pixels} pixels, too few to fill a histogram. So these values lie below "
        "those of all images together, and compare with one another only. How they begin depends on the network: a "
        "flat first prediction gives low values, and features that appear then show as a rise before the fall; a noisy "
        f"one gives high values. {captions.PLACE.format('where the mean given pred_x0 is highest')} "
        f"{captions.samples(results)} After 000 Fig. 2."
    )


@entropy.figure("stepwise_entropy_per_image", title="Stepwise entropy of each image", caption=_of_alone)
def _draw_alone(results: Results, look: Look) -> Figure:
    from traj.analysis._drawing import panels

    def peak(result: xr.Dataset) -> list[Landmark]:
        return [place for place in _places(result) if place.name == "entropy_peak"]

    figure, axes = panels.over_process(results, look, _alone, "stepwise entropy (bit per pixel)", places=peak)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
    return figure


def _of_maps(results: Results) -> str:
    return (
        "How often a grey level of x_0 (horizontal) goes with a grey level of the state at the same pixel (vertical), "
        "over all samples, at a few timesteps; white cells never occur. A column of a map is how the state is "
        "distributed where x_0 has that level. Where all columns are alike, the state knows nothing yet; on the "
        "diagonal (dotted) the pixel is settled. r is Pearson's correlation of the two. States beyond the range of "
        "images count in the first and last level, which is why these rows of x_t are dark at first. A sampler without "
        "noise (DDIM) makes x_0 from the first x_t by a fixed rule, so its first map has some correlation already. "
        "After 000 Fig. 3."
    )


@entropy.figure("joint_maps", title="How grey levels settle: joint maps", caption=_of_maps)
def _draw_maps(results: Results, look: Look) -> Figure:
    return joint_maps.draw(results)
