"""What quantities of forks share: the coordinates they keep, and curves over the timestep that forks start at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import STUDENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def coordinates(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Keep what lies along variant and sample, and add the log SNR of the states that forks start at."""
    kept = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"variant", "sample"}}
    if {"at", "log_snr"} <= set(ds.coords):
        log_snr = ds["log_snr"].sel(timestep=ds["at"]).to_numpy()
        attrs = {"units": ds["log_snr"].attrs.get("units", "nat"), "long_name": "log SNR of the x_t a fork starts from"}
        kept["at_log_snr"] = xr.DataArray(log_snr, dims="variant", attrs=attrs)
    return kept


def curve(result: xr.Dataset, name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give a variable of forks as a curve, and the low and high ends of its band.

    A share has its interval; what pools all samples, that of the jackknife's eight groups; a mean over samples has two
    standard errors.
    """
    if f"{name}_mean" not in result:
        value, error = result[name].to_numpy(), result[f"{name}_se"].to_numpy()
        half = STUDENT * error
        return value, value - half, value + half
    mean, error = (result[f"{name}_{part}"].to_numpy() for part in ("mean", "se"))
    if f"{name}_low" in result:
        return mean, result[f"{name}_low"].to_numpy(), result[f"{name}_high"].to_numpy()
    return mean, mean - 2 * error, mean + 2 * error


def draw(result: xr.Dataset, curves: Mapping[str, str], ax: Axes | None) -> Axes:
    """Draw curves (label -> name of the variable) over `at`, with their bands.

    Forks that differ in more than where they start get a line for each kind. Curves without a number are left out.
    """
    import matplotlib.pyplot as plt

    ax = plt.figure().add_subplot() if ax is None else ax
    kinds = _kinds(result)
    for label, name in curves.items():
        for kind, variants in kinds.items():
            part = result.isel(variant=variants).sortby("at", ascending=False)
            mean, low, high = curve(part, name)
            if np.isnan(mean).all():
                continue
            at = part["at"].to_numpy()
            (line,) = ax.plot(at, mean, marker=".", label=", ".join(filter(None, (label, kind))))
            ax.fill_between(at, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="timestep of the fork")
    ax.xaxis.set_inverted(True)
    ax.legend()
    return ax


def _kinds(result: xr.Dataset) -> dict[str, list[int]]:
    """Group variants by all that was edited beside where they start: words for a legend -> positions."""
    along = [name for name, coord in result.coords.items() if coord.dims == ("variant",)]
    edited = [n for n in along if n not in ("variant", "at", "at_log_snr") and len(np.unique(result[n])) > 1]
    kinds: dict[str, list[int]] = {}
    for position in range(result.sizes["variant"]):
        values: list[Any] = [f"{name} {result[name].to_numpy()[position]}" for name in edited]
        kinds.setdefault(", ".join(values), []).append(position)
    return kinds
