"""Geometry of trajectories: how straight they are, and where they turn (METHODS 10.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import paths
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, quantity
from traj.analysis._statistics import landmarks, verdicts
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

COMPONENTS = 3
"""Principal components that are looked at."""

OF_STATES = (
    Named("distance", "distance to the straight line between the ends of the path, over its length"),
    Named("turning", "angle between the change to this state and the change on from it", "degree"),
)
OF_PATHS = (
    Named("detour", "length of the path over the distance of its ends"),
    Named("explained_1", "share of the variance of a path's points along its first principal component"),
    *(
        Named(f"explained_{k}", f"share of the variance of a path's points along its first {k} principal components")
        for k in range(2, COMPONENTS + 1)
    ),
)

STRAIGHT = 1e-5
"""Distance to the line that the rounding of float32 states may make of none."""


@quantity(
    reads="trajectories",
    numerics=1,
    title="How straight the way is, and where it turns: geometry",
    source="Chen et al. 2024, trajectory regularity",
)
def geometry(ds: xr.Dataset, *, on: tuple[str, ...] = ("x_t", "pred_x0"), over_signal: bool = False) -> xr.Dataset:
    """Measure how straight the way of each sample is, where it turns, and how many dimensions it needs.

    The path of x_t goes through its stored states and ends in x_0; that of pred_x0 goes through the stored predictions.
    Events may have any dims.

    `distance` (on, sample, timestep) is that of a state to the straight line from the first to the last point of its
    path, over the distance of these two: 0 on the line. `turning` (on, sample, timestep) is the angle in degrees
    between the change to a state and the change on from it: 0 for straight on, 90 on average for steps that are
    independent noise in many dims, 180 for straight back. It is NaN at the ends of a path, and beside a change of
    nothing.

    And of each path, (on, sample): `detour`, its length over the distance of its ends, 1 for straight; and
    `explained_1`, `explained_2` and `explained_3`, the share of the variance of its points, all counted alike, that its
    first 1, 2 and 3 principal components explain together. All with mean, sd and standard error over samples; NaN for
    paths that do not move.

    For normal data N(m, v I) the network is exact and ddim without noise gives x_t / signal = m + (x_T / signal_T - m)
    g, with a number g for each step: a straight line, whatever the schedule. x_t itself is straight only where m is 0;
    else it bends in the plane of m and x_T, as the signal grows. `over_signal` takes this bend out; but the first
    states are then far away, 1 / signal times, and the line is mostly theirs.

    Parameters
    ----------
    on
        Variables whose paths are measured.
    over_signal
        Measure x_t / signal = x_0 + sigma eps, x_t as a variance-exploding process has it, in place of x_t.

    Raises
    ------
    InputError
        A missing variable; with over_signal, a stored state without signal.
    """
    chunking.require(ds, (*on, "x_0"))
    steps = ds.sizes["timestep"]
    measured = []
    for variable in on:
        scale = _scale(ds) if over_signal and variable == "x_t" else np.ones(steps)
        states = chunking.images(ds[variable]).rechunk({1: -1})
        ends = [chunking.aligned(states, chunking.images(ds["x_0"]))] if variable == "x_t" else []
        width = steps * len(OF_STATES) + len(OF_PATHS)
        measured.append(
            chunking.per_image(_of_paths, states, *ends, lead="s", dtype=np.float64, width=width, scale=scale)
        )
    columns = da.stack(measured)
    along, whole = columns[..., : -len(OF_PATHS)], columns[..., -len(OF_PATHS) :]
    by_state = along.reshape(len(on), -1, steps, len(OF_STATES))
    variables = with_spread(xr.DataArray(by_state, dims=("on", "sample", "timestep", "column")), OF_STATES)
    variables |= with_spread(xr.DataArray(whole, dims=("on", "sample", "column")), OF_PATHS)
    coords = {str(key): coord for key, coord in ds.coords.items() if set(coord.dims) <= {"sample", "timestep"}}
    coords["on"] = xr.DataArray(list(on), dims="on", attrs={"long_name": "states measured", "units": "1"})
    attrs = {
        "quantity": "geometry",
        "over_signal": int(over_signal),
        "noisy": int("noise_sd" in ds.coords and bool((ds["noise_sd"].to_numpy()[:-1] != 0).any())),
        "samples": ds.sizes["sample"],
    }
    return xr.Dataset(variables, coords, attrs)


@geometry.takes_memory
def _held(ds: xr.Dataset, *, on: tuple[str, ...], **_: Any) -> int:
    """Hold the whole paths of a block, in pieces and joined."""
    blocks = (ds[variable] for variable in on)
    return sum(2 * one.nbytes // one.sizes["sample"] * chunking.images(one).chunks[0][0] for one in blocks)


def _scale(ds: xr.Dataset) -> Array:
    """Give what x_t is multiplied by to have a signal of 1."""
    signal = ds["signal"].to_numpy()
    if not signal.all():
        without = int(ds["timestep"][signal == 0][0])
        raise InputError(
            f"over_signal was given and x_t of timestep {without} has no signal to be divided by; leave it out, or "
            "store later timesteps only"
        )
    scale: Array = 1 / signal
    return scale


def _of_paths(states: Array, x_0: Array | None = None, *, scale: Array) -> Array:
    """Give one chunk (sample, timestep, *event), and x_0 (sample, *event) that paths end in, its columns.

    These are those of OF_STATES for each timestep in turn, then those of OF_PATHS.
    """
    samples, steps = states.shape[:2]
    values = np.full((samples, steps * len(OF_STATES) + len(OF_PATHS)), np.nan)
    for k in range(samples):
        path = states[k].reshape(steps, -1) * scale[:, None]
        if x_0 is not None:
            path = np.vstack([path, x_0[k].reshape(1, -1)])
        if np.isfinite(path).all():
            along = np.stack([paths.distance_to_line(path), paths.turning(path)], axis=-1)[:steps]
            values[k] = np.concatenate([along.ravel(), [paths.detour(path)], paths.explained(path, COMPONENTS)])
    return values


# --- what it shows ------------------------------------------------------------------------------------------------


@geometry.curve("distance_to_line", title="Distance to the straight line", y_label="over the line's length")
def _distances(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "distance")


@geometry.curve("turning", title="Turning of the path", y_label="degrees a step")
def _turnings(result: xr.Dataset) -> list[Series]:
    return _series.of_states(result, "turning")


def farthest(result: xr.Dataset) -> list[Landmark]:
    """Find where paths are farthest from the straight line, on average; not there where they are straight."""
    found = []
    for series in _distances(result):
        if np.nanmax(series.value, initial=0) < STRAIGHT:
            series = series._replace(value=np.full(len(series.value), np.nan))
        by_sample = result["distance"].sel(on=series.on).transpose("sample", "timestep").to_numpy()
        meaning = f"{series.on} is farthest from the straight line of its path"
        found.append(landmarks.highest(series, by_sample, "distance_peak", meaning))
    return found


def half_turned(result: xr.Dataset) -> list[Landmark]:
    """Find where half of all turning is done, in half of the samples that turn, by more than rounding.

    Nowhere where steps have noise of their own.
    """
    found: list[Landmark] = []
    if result.attrs["noisy"]:
        return found  # noise turns at every step alike: half of the steps would be half of the turning
    timestep, log_snr = (result[name].to_numpy().astype(float) for name in ("timestep", "log_snr"))
    for series in _turnings(result):
        turning = result["turning"].sel(on=series.on).transpose("sample", "timestep").to_numpy()
        done = np.nancumsum(turning, axis=1)
        turns = (done[:, -1] > 0) & ~_straight(result.sel(on=series.on))
        half = (done >= done[:, -1:] / 2).argmax(axis=1)
        when, where = (np.where(turns, along[half], np.nan) for along in (timestep, log_snr))
        meaning = f"half of the turning of {series.on} is done"
        found.append(landmarks.median(when, where, "turning_half", meaning, series.on))
    return found


def _straight(result: xr.Dataset) -> Array:
    """Say which paths (sample,) go straight on, but for rounding."""
    straight = (result["distance"].max("timestep") < STRAIGHT) & (result["detour"] - 1 < STRAIGHT)
    return straight.to_numpy()


@geometry.gives_landmarks
def _places(result: xr.Dataset) -> list[Landmark]:
    """Say where paths are farthest from the straight line, and where half of their turning is done.

    `distance_peak` is where the mean distance is largest; the interval is the bootstrap's over samples. `turning_half`
    is the median over samples of the first state by which half of a path's turning, added up, is done, for
    samplers without noise and paths that are not straight; the interval is that of a median, by the order of the
    samples.
    """
    return [*farthest(result), *half_turned(result)]


@geometry.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how far paths stray, how much longer than straight they are, and whether three components hold them."""
    meanings = {
        "strays": "largest distance to the straight line, over its length",
        "detour": "length of the path over the distance of its ends",
        "explained_3": "share of its variance along three principal components",
    }
    values = result.assign(strays=result["distance"].max("timestep"))
    numbers = []
    for on in result["on"].to_numpy():
        for name, meaning in meanings.items():
            mean, half = verdicts.with_margin(values[name].sel(on=on).to_numpy())
            numbers.append(Number(f"{on}_{name}", f"path of {on}: {meaning}", mean, mean - half, mean + half))
    return numbers


def _measured(results: Results) -> str:
    """Say which coordinates paths are measured in."""
    over = {run for run, result in results.items() if result.attrs["over_signal"]}
    if not over:
        return ""
    of = "" if len(over) == len(results) else f" ({', '.join(sorted(over))})"
    return f"x_t is divided by its signal{of}. "


def _of_distance(results: Results) -> str:
    return (
        "How far from straight the way from noise to image is: the distance of a state to the straight line between "
        "the ends of its path, over the length of that line; mean over samples. 0 would be a straight way, which a "
        "sampler could go in one step. The path of x_t goes from the first stored state to x_0, that of pred_x0 from "
        f"the first prediction to the last. {_measured(results)}{captions.BAND} "
        f"{captions.PLACE.format('where it is farthest')} {captions.samples(results)} After Chen et al."
    )


@geometry.figure("distance_to_line", title="How far from straight the way is", caption=_of_distance)
def _draw_distance(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels as _panels

    figure, axes = _panels.over_process(results, look, _distances, "distance / length", places=farthest)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
    return figure


def _of_turning(results: Results) -> str:
    return (
        "How sharply the path turns at each state: the angle between the change to it and the change on from it, mean "
        "over samples. 0 degrees is straight on, 180 straight back; steps that are mostly fresh noise turn by about 90 "
        "(dotted). Angles are those of the stored steps: the same curve in more steps turns less at each. "
        f"{_measured(results)}{captions.BAND} "
        f"{captions.PLACE.format('where half of all turning is done, in samplers without noise')} "
        f"{captions.samples(results)} After Chen et al."
    )


@geometry.figure("turning", title="Where the way turns", caption=_of_turning)
def _draw_turning(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels as _panels

    figure, axes = _panels.over_process(results, look, _turnings, "degrees", places=half_turned)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.axhline(90, color="#777777", lw=0.9, ls=":")
    return figure


def _all_measured(results: Results) -> list[str]:
    """List what was measured in all of the results."""
    each = [set(result["on"].to_numpy().tolist()) for result in results.values()]
    return sorted(set.intersection(*each), reverse=True)


def _of_components(results: Results) -> str:
    return (
        "How many dimensions the way needs: the share of the variance of a path's states that its first one, two and "
        "three principal components explain together, mean over samples. 1 at one component is a straight line, 1 at "
        f"two a curve in a plane. {_measured(results)}{captions.BAND} {captions.samples(results)} After Chen et al."
    )


@geometry.figure("components", title="How many dimensions the way needs", caption=_of_components)
def _draw_components(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels as _panels

    components = np.arange(1, COMPONENTS + 1)

    def line(run: str, on: str) -> _panels.Line:
        each = [_series.banded(results[run].sel(on=on), f"explained_{k}") for k in components]
        value, low, high = np.array(each, float).T
        return _panels.Line(run, look.colours[run], components, value, low, high, "-", look.markers[run])

    panels = [(f"path of {on}", [line(run, on) for run in results]) for on in _all_measured(results)]
    if not panels:
        return None
    figure, axes = _panels.panels([panels], ["share of variance explained"])
    for axis in axes.flat:
        axis.set(xlabel="principal components", xticks=components)
    return figure


def _of_detours(results: Results) -> str:
    return (
        "How much longer than straight the way is: how many samples have which detour, the length of the path over the "
        "distance of its ends. 1 is straight; fresh noise in each step makes it long. Dashed: the mean. "
        f"{_measured(results)}{captions.samples(results)}"
    )


@geometry.figure("detours", title="How much longer than straight the way is", caption=_of_detours)
def _draw_detours(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels as _panels

    names = {on: f"detour of {on}" for on in _all_measured(results)}
    by_on = {run: result["detour"].to_dataset("on") for run, result in results.items()}
    return _panels.histograms(by_on, look, names) if names else None
