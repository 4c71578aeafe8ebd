"""Where something is settled in each sample: the step from which on it no longer changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking

Array = NDArray[Any]


def places(ds: xr.Dataset, differs: xr.DataArray, name: str, meaning: str) -> dict[str, xr.DataArray]:
    """Find where the last run of zeros of `differs` (..., timestep) begins, as NAME_timestep, _step and _log_snr.

    What differs to the last stored state is settled at x_0 itself: timestep -1, one step after the last stored, log SNR
    infinite. meaning goes on from the name of the coordinate: ", where ...".
    """
    there = {one: ds[one].to_numpy() for one in ("timestep", "step", "log_snr") if one in ds.coords}
    at_x_0 = {"timestep": -1, "step": there["step"][-1] + 1 if "step" in there else -1, "log_snr": np.inf}
    table = np.stack([np.append(values, at_x_0[one]) for one, values in there.items()], axis=-1)
    found = chunking.per_cell(last_turn, differs, within=[["timestep"]], width=len(there), places=table)
    return {
        f"{name}_{one}": found.isel(column=column).assign_attrs(
            long_name=f"{ds[one].attrs.get('long_name', one)}, {meaning}", units=ds[one].attrs.get("units", "1")
        )
        for column, one in enumerate(there)
    }


def last_turn(differs: Array, places: Array) -> Array:
    """Say where each row of `differs` (..., timestep) last turns to 0, as (..., column of `places`).

    `places` is (timestep + 1, column), its last row for those that never do within the stored timesteps.
    """
    steps = differs.shape[-1]
    missing = np.isnan(differs.max(axis=-1, keepdims=True))
    there = differs.astype(bool)
    after_last = steps - np.argmax(np.flip(there, -1), axis=-1)
    first: Array = np.where(there.any(axis=-1), after_last, 0)
    where: Array = np.where(missing, np.nan, places[first])
    return where
