"""The numbers and curves of a report: gathered from its sections, written for `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.report.contents import Numbers, Run, Section, Series

POINTS = 100


def numbers(run: Run, sections: Sequence[Section]) -> Numbers:
    """Sum up one run, or forks, in a few numbers. None stands for never; what no result says is left out."""
    return {
        key: value for section in sections if section.kind == run.kind for key, value in section.numbers(run).items()
    }


def curve(run: Run, quantity: str, variable: str, on: str = "pred_x0") -> xr.DataArray | None:
    """Look up a curve over timesteps, None where it was not computed."""
    if quantity not in run.results or on not in run.results[quantity]["on"]:
        return None
    return run.results[quantity][variable].sel(on=on)


def where_signal_equals_noise(values: xr.DataArray) -> float:
    """Read a curve at log SNR 0, between two timesteps; NaN where the run does not get there."""
    values = values.isel(timestep=np.isfinite(values["log_snr"].to_numpy()))  # nothing lies between -inf and a number
    return float(np.interp(0, values["log_snr"], values, left=np.nan, right=np.nan))


def rounded(value: xr.DataArray | float, digits: int = 3) -> float | None:
    """Round a number, None for one that is not finite."""
    number = round(float(value), digits)
    return number if np.isfinite(number) else None


def training_metrics(models: Path) -> dict[str, dict[str, float]]:
    """Read the final losses that training left beside each model: means over the last tenth of the steps."""
    found = {}
    for path in sorted(models.glob("*/metrics.json")):
        left = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.name] = {key: float(f"{x:.4g}") for key, x in left.items() if key.startswith("final_")}
    return found


def losses(models: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Read every model's loss.csv: column names, the first of them step, and rows of numbers."""
    curves = {}
    for path in sorted(models.glob("*/loss.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file)
        if rows:
            curves[path.parent.name] = (columns, np.array(rows, float))
    return curves


def over_timesteps(result: xr.Dataset, values: str, errors: str) -> list[Series]:
    """Take a curve of a result over its timesteps, one for each variable it was computed on."""
    along = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    return [
        Series(
            str(on),
            *along,
            result[values].sel(on=on).to_numpy(),
            result[errors].sel(on=on).to_numpy(),
            result.attrs.get("cap", np.inf),
        )
        for on in result["on"].to_numpy()
    ]


def curve_rows(run: str, series: Sequence[Series]) -> list[list[str]]:
    """Thin each curve to at most 100 points: run, on, timestep, log_snr, value, low, high.

    low and high lie two standard errors about the value.
    """
    rows = []
    for on, *along, cap in series:
        kept = np.unique(np.linspace(0, len(along[0]) - 1, POINTS).round().astype(int))
        timestep, log_snr, value, error = (values[kept] for values in along)
        points = np.stack([log_snr, value, value - 2 * error, value + 2 * error], axis=1)
        rows += [
            [run, on, str(t), *("" if np.isnan(x) else f"{x:.5g}" for x in row)]
            for t, row in zip(timestep, points, strict=True)
            if row[1] < cap
        ]
    return rows


def write_curves(folder: Path, runs: Sequence[Run], sections: Sequence[Section]) -> None:
    """Write one csv file per curve, the runs one after the other; curves no run has are left out."""
    files: dict[str, list[list[str]]] = {}
    for run in runs:
        for section in sections:
            if section.kind == run.kind:
                for name, series in section.curves(run).items():
                    files.setdefault(name, []).extend(curve_rows(run.name, series))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        if rows:
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([["run", "on", "timestep", "log_snr", "value", "low", "high"], *rows])


def write_json(path: Path, value: Any) -> None:
    """Write numbers for people and programs."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
