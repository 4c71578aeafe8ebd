"""Times that were measured beside results."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj.stores import EDIT


def with_times(result: xr.Dataset, times: Path, remarks: list[str]) -> xr.Dataset:
    """Add what was measured beside a result, as coordinates, where that was done.

    Of a sweep it is the share of network time that each variant does not take, of a run the seconds that a sample
    takes.
    """
    if not times.exists():
        return result
    of_sweep = set(EDIT) <= set(result.coords)
    try:
        with times.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        measured = _time_removed(result, rows) if of_sweep else _seconds(rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        verb = "fork ... --sweep ..." if of_sweep else "generate ..."
        remark = f"{times} does not fit the results beside it; measure with `traj {verb} --times {times}`"
        remarks += [remark] if remark not in remarks else []
        return result
    return result.assign_coords(measured)


def _time_removed(result: xr.Dataset, rows: list[dict[str, str]]) -> dict[str, Any]:
    edits = list(zip(*(map(str, result[name].to_numpy().tolist()) for name in EDIT), strict=True))
    if [tuple(row[name] for name in EDIT) for row in rows] != edits:
        raise ValueError
    removed = np.array([float(row["time_removed"]) for row in rows])
    words = {"long_name": "share of the run's network time that is not taken", "units": "1"}
    return {"time_removed": ("variant", removed, words)}


def _seconds(rows: list[dict[str, str]]) -> dict[str, Any]:
    (row,) = rows
    return {"seconds": ((), float(row["seconds"]), {"long_name": "time that a sample takes, measured", "units": "s"})}
