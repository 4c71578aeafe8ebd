"""What quantities of forks share: the coordinates they keep, and the kinds there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def coordinates(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Keep what lies along variant and sample, and add the log SNR of the states that forks start at."""
    kept = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"variant", "sample"}}
    if {"at", "log_snr"} <= set(ds.coords):
        log_snr = ds["log_snr"].sel(timestep=ds["at"]).to_numpy()
        attrs = {"units": ds["log_snr"].attrs.get("units", "nat"), "long_name": "log SNR of the x_t a fork starts from"}
        kept["at_log_snr"] = xr.DataArray(log_snr, dims="variant", attrs=attrs)
    return kept


def kinds(result: xr.Dataset) -> dict[str, list[int]]:
    """Group variants by all that was edited beside where they start: words for a legend -> positions."""
    along = [name for name, coord in result.coords.items() if coord.dims == ("variant",)]
    edited = [n for n in along if n not in ("variant", "at", "at_log_snr") and len(np.unique(result[n])) > 1]
    found: dict[str, list[int]] = {}
    for position in range(result.sizes["variant"]):
        values: list[Any] = [f"{name} {result[name].to_numpy()[position]}" for name in edited]
        found.setdefault(", ".join(values), []).append(position)
    return found
