"""Values of every sample, and what their spread makes of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import xarray as xr

from analysis import _blocks, _kernels

SPREAD = {"mean": "mean over samples", "sd": "standard deviation over samples", "se": "standard error of the mean"}


class Named(NamedTuple):
    """A variable of a result: its name, what it is, and its units."""

    name: str
    title: str
    units: str = "1"


def with_spread(values: xr.DataArray, columns: Sequence[Named]) -> dict[str, xr.DataArray]:
    """Name the columns of lazy values (sample, column and other dims), and their mean, sd and standard error."""
    by_sample = values.transpose("sample", ..., "column")
    dims = by_sample.dims[1:-1]
    spread = _blocks.over_samples(by_sample.data, _kernels.spread, len(SPREAD))
    variables = {}
    for column, (name, title, units) in enumerate(columns):
        variables[name] = values.isel(column=column).assign_attrs(units=units, long_name=title)
        for row, (suffix, meaning) in enumerate(SPREAD.items()):
            attrs = {"units": units, "long_name": f"{title}, {meaning}"}
            variables[f"{name}_{suffix}"] = xr.DataArray(spread[row, ..., column], dims=dims, attrs=attrs)
    return variables
