"""What SSIM and PSNR share: which events are compared, and the shape of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._drawing import series as _series
from traj.analysis._kernels import gaussian, images
from traj.analysis._quantity import Look, Number, Results, Series
from traj.analysis._similarity.windows import half_gaussian
from traj.analysis._statistics import landmarks
from traj.analysis._statistics.spread import Named, with_spread
from traj.stores import InputError, valid_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(
    ds: xr.Dataset,
    on: Sequence[str],
    against: xr.Dataset | None,
    kernel: Callable[..., NDArray[Any]],
    *,
    name: str,
    title: str,
    units: str,
    options: Mapping[str, Any],
) -> xr.Dataset:
    """Compare every event of `on` with its x_0, or x_0 with the x_0 of another run, `against`.

    `kernel` takes states (sample, timestep, *event) and x_0 (sample, *event), both float32, then
    `low` and `scale` that map the range of values onto [0, 1].

    Raises InputError where a variable is missing or the other run has other samples or image sizes.
    """
    low, high = chunking.value_range(ds)
    to_unit: dict[str, Any] = {"low": low, "scale": 1 / (high - low)}
    if against is None:
        chunking.require(ds, (*on, "x_0"))
        x_0 = chunking.images(ds["x_0"])
        each = {}
        for variable in on:
            states = chunking.images(ds[variable])
            each[variable] = chunking.per_image(
                kernel, states, chunking.aligned(states, x_0), lead="st", dtype=np.float64, **to_unit
            )
        dims: tuple[str, ...] = ("sample", "timestep")
    else:
        chunking.require(ds, ("x_0",))
        states = chunking.images(ds["x_0"])[:, None]
        other = chunking.aligned(states, chunking.images(counterpart(ds, against)["x_0"]))
        each = {"x_0": chunking.per_image(kernel, states, other, lead="st", dtype=np.float64, **to_unit)}
        dims = ("sample",)
    values = xr.DataArray(da.stack(list(each.values())), dims=("on", "sample", "timestep"))
    if "timestep" not in dims:
        values = values.isel(timestep=0)
    variables = with_spread(values.expand_dims("column"), [Named(name, title, units)])
    coords = {"on": ("on", list(each), {"long_name": "images compared", "units": "1"})}
    kept = {key: coord for key, coord in ds.coords.items() if set(coord.dims) <= set(dims)}
    attrs = {"quantity": name, "samples": ds.sizes["sample"], "valid_range": [low, high], **options}
    return xr.Dataset(variables, {**coords, **kept}, attrs)


def structural(
    states: NDArray[Any], x_0: NDArray[Any], low: float, scale: float, preset: str, window: int
) -> NDArray[Any]:
    """Compare states (sample, state, *event) with x_0 (sample, *event) by SSIM: (sample, state), NaN for no preset."""
    similarity: NDArray[Any]
    if preset == "none":
        similarity = np.full(states.shape[:2], np.nan)
    elif preset == "wang2004":
        similarity = gaussian.ssim_gaussian(states, x_0, low, scale, half_gaussian())
    else:
        similarity = images.ssim_uniform(states, x_0, low, scale, window, window**2 / (window**2 - 1))
    return similarity


def counterpart(ds: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Put another run into the order of this one's samples.

    Raises InputError where its x_0 holds other samples, image sizes or a range of values, or one of the two latents.
    """
    chunking.require(other, ("x_0",))
    chunking.require_one_space(ds, other)
    ours, theirs = ds["sample"].to_numpy(), other["sample"].to_numpy()
    unmatched = np.setxor1d(ours, theirs)
    if unmatched.size:
        raise InputError(
            f"the samples differ: {unmatched.size} are in only one of the two, the first is {unmatched[0]} "
            f"(here {ours.size}, in the other run {theirs.size}); compare runs of the same samples"
        )
    here, there = (_lengths(run["x_0"]) for run in (ds, other))
    if here != there:
        raise InputError(f"events of the other run have {there}, here {here}; compare runs of the same model")
    if valid_range(other) != valid_range(ds):
        raise InputError(
            f"values of the other run lie in {valid_range(other)}, here in {valid_range(ds)}; only events on one scale "
            "can be compared"
        )
    return other if np.array_equal(ours, theirs) else other.sel(sample=ours)


def _lengths(x_0: xr.DataArray) -> str:
    return ", ".join(f"{dim} {length}" for dim, length in x_0.sizes.items() if dim != "sample")


def series(result: xr.Dataset) -> list[Series]:
    """Give the mean over samples as curves over the process; none where runs were compared with each other."""
    return _series.of_states(result, result.attrs["quantity"])


def at_log_snr_0(result: xr.Dataset, words: str) -> list[Number]:
    """Read how close pred_x0 is to x_0 where signal equals noise."""
    name = f"{result.attrs['quantity']}_at_log_snr_0"
    ends = [landmarks.at_log_snr_0(curve) for curve in series(result) if curve.on == "pred_x0"]
    return [Number(name, f"{words}, where signal equals noise (log SNR 0)", *found) for found in ends]


def over_process(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results that compare states with their x_0."""
    return {run: result for run, result in results.items() if "timestep" in result.dims}


def of_runs(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results that compare the x_0 of two runs."""
    return {run: result for run, result in results.items() if "timestep" not in result.dims}


def caption(results: Results) -> str:
    """Say what all figures of likeness to x_0 show."""
    return (
        "Between pred_x0, above, or x_t, beneath, and the finished image of the same sample: mean over samples. "
        f"{captions.BAND} Where a line is hidden, it runs under another. Look for how early pred_x0 rises while x_t "
        "is still noise. At the left over log SNR, on which runs of different schedules and lengths compare, at the "
        f"right over the share of steps that are done. {captions.samples(over_process(results))}"
    )


def caption_of_runs(results: Results) -> str:
    """Say what the histograms of two runs compared show."""
    return f"Between the x_0 of two runs, sample by sample. {captions.samples(of_runs(results))}"


def draw_of_runs(results: Results, look: Look, label: str) -> Figure | None:
    """Draw how the likeness of two runs is spread over samples; None where none were compared."""
    from traj.analysis._drawing.panels import histograms

    compared = of_runs(results)
    name = next((str(result.attrs["quantity"]) for result in compared.values()), "")
    return histograms(compared, look, {name: label}) if compared else None
