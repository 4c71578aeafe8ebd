"""Curves of results, each with the ends of its band, which is one of 95 %."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from traj.analysis._quantity import Series
from traj.analysis._replicas import forks
from traj.analysis._statistics.spread import GROUPS
from traj.analysis._statistics.verdicts import student


def banded(result: xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Give a variable, or its mean over samples, and the low and high ends of its band.

    A share has its interval; a mean has Student's; what pools all samples has the one of the jackknife.
    """
    mean, samples = (f"{name}_mean", int(result.attrs["samples"])) if f"{name}_mean" in result else (name, GROUPS)
    if f"{name}_low" in result:
        return result[mean], result[f"{name}_low"], result[f"{name}_high"]
    half = student(samples) * result[f"{name}_se"]
    return result[mean], result[mean] - half, result[mean] + half


def of_states(result: xr.Dataset, name: str) -> list[Series]:
    """Give a variable as curves over the process, one for each `on`; none where it does not lie over timesteps."""
    if not {name, f"{name}_mean"} & set(result) or "timestep" not in result.dims:
        return []
    return lines(result, *banded(result, name))


def lines(result: xr.Dataset, value: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> list[Series]:
    """Give values (on, timestep) and the ends of their band as curves; without `on` they are of x_t."""
    along = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    parts = [part if "on" in part.dims else part.expand_dims(on=["x_t"]) for part in (value, low, high)]
    curves = (
        Series(str(on), *along, *(part.sel(on=on).to_numpy() for part in parts)) for on in parts[0]["on"].to_numpy()
    )
    return [_finite(curve, result.attrs.get("cap", np.inf)) for curve in curves]


def of_forks(result: xr.Dataset, names: Mapping[str, str]) -> list[Series]:
    """Give variables as curves over where forks start, by what each is of; none where they lie over no such place.

    Forks that differ in more than where they start have a curve for each kind, which is named after a comma.
    """
    if "at_log_snr" not in result.coords:
        return []
    curves = []
    for of, name in names.items():
        if not {name, f"{name}_mean"} & set(result):
            continue
        cap = result.attrs.get("cap", np.inf) if name == "psnr" else np.inf
        band = [one.to_numpy() for one in banded(result, name)]
        for kind, variants in forks.kinds(result).items():
            along = result["at"].to_numpy()[variants], result["at_log_snr"].to_numpy()[variants]
            on = ", ".join(filter(None, (of, kind)))
            curves.append(_finite(Series(on, *along, *(one[variants] for one in band)), cap))
    return curves


def of_forks_by_sample(result: xr.Dataset, name: str) -> list[xr.DataArray]:
    """Give what the curves of `of_forks` are means of, one array (sample, variant) for each kind of forks."""
    there = name in result and "at_log_snr" in result.coords
    kinds = forks.kinds(result).values() if there else ()
    return [result[name].isel(variant=variants) for variants in kinds]


def _finite(series: Series, cap: float) -> Series:
    """Leave out what is infinite, and values at the cap, which stand for it."""
    there = series.value < cap
    value, low, high = (np.where(there, part, np.nan) for part in (series.value, series.low, series.high))
    return series._replace(value=value, low=low, high=high)
