"""Values of every sample, and what their spread makes of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._kernels import images

SPREAD = {"mean": "mean over samples", "sd": "standard deviation over samples", "se": "standard error of the mean"}

GROUPS = 8
"""Groups of samples that the jackknife leaves out in turn."""


class Named(NamedTuple):
    """A variable of a result: its name, what it is, and its units."""

    name: str
    title: str
    units: str = "1"


def with_spread(values: xr.DataArray, columns: Sequence[Named]) -> dict[str, xr.DataArray]:
    """Name the columns of lazy values (sample, column and other dims), and their mean, sd and standard error."""
    by_sample = values.transpose("sample", ..., "column")
    dims = by_sample.dims[1:-1]
    spread = chunking.over_samples(by_sample.data, images.spread, len(SPREAD))
    variables = {}
    for column, (name, title, units) in enumerate(columns):
        variables[name] = values.isel(column=column).assign_attrs(units=units, long_name=title)
        for row, (suffix, meaning) in enumerate(SPREAD.items()):
            attrs = {"units": units, "long_name": f"{title}, {meaning}"}
            variables[f"{name}_{suffix}"] = xr.DataArray(spread[row, ..., column], dims=dims, attrs=attrs)
    return variables


def dealt(samples: int) -> NDArray[Any]:
    """Say which of the jackknife's groups each sample is in, as if dealt from a shuffled pack: (sample,).

    Groups that go by the order of samples would have classes of their own, where samples are sorted by class (each
    group a run) or labels go round (each group every eighth): errors would be several times too large or too small.
    """
    order = np.argsort(np.random.Philox(key=0).random_raw(samples), kind="stable")
    groups = np.empty(samples, np.int64)
    groups[order] = np.arange(samples) % GROUPS
    return groups
