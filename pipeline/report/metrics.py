"""The numbers and curves of a report: gathered from its sections, written for `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj.pipeline.configs import shown
from traj.pipeline.models.folder import json_object
from traj.pipeline.report.contents import Numbers, Run, Section, Series
from traj.pipeline.report.failures import Failed, attempt
from traj.stores import InputError
from traj.stores.partials import write_file

POINTS = 100


def numbers(run: Run, sections: Sequence[Section], failed: Failed) -> Numbers:
    """Sum up one run, or forks, in a few numbers. None stands for never; what no result says is left out."""
    found: Numbers = {}
    for section in sections:
        if section.kind == run.kind:
            where = f"numbers for “{section.title}”"
            found |= attempt(partial(section.numbers, run), where, failed, run.remarks) or {}
    return found


def rounded(value: xr.DataArray | float, digits: int = 3) -> float | None:
    """Round a number, None for one that is not finite."""
    number = round(float(value), digits)
    return number if np.isfinite(number) else None


def training_metrics(models: Path, failed: Failed, remarks: list[str]) -> dict[str, dict[str, float]]:
    """Read the final losses that training left beside each model: means over the last tenth of the steps."""
    files = sorted(models.glob("*/metrics.json"))
    found = {path.parent.name: attempt(partial(_final_losses, path), str(path), failed, remarks) for path in files}
    return {model: of_model for model, of_model in found.items() if of_model is not None}


def _final_losses(path: Path) -> dict[str, float]:
    final = {key: x for key, x in json_object(path).items() if key.startswith("final_")}
    if not all(isinstance(x, float | int) for x in final.values()):
        raise InputError(f"final losses {shown(final)}; expected numbers")
    return {key: float(f"{x:.4g}") for key, x in final.items()}


def losses(models: Path, failed: Failed, remarks: list[str]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Read every model's loss.csv: column names, the first of them step, and rows of numbers."""
    files = sorted(models.glob("*/loss.csv"))
    found = {path.parent.name: attempt(partial(_losses, path), str(path), failed, remarks) for path in files}
    return {model: of_model for model, of_model in found.items() if of_model is not None and len(of_model[1])}


def _losses(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        return names, np.array(rows, float)
    except (ValueError, csv.Error) as error:
        raise InputError(f"expected a line of names and lines of as many numbers ({error})") from None


def curve_rows(run: str, series: Sequence[Series]) -> list[list[str]]:
    """Thin each curve to at most 100 points: run, on, timestep, log_snr, value, low, high.

    low and high are the ends of its band.
    """
    rows = []
    for on, *along, cap, in_band in series:
        kept = np.unique(np.linspace(0, len(along[0]) - 1, POINTS).round().astype(int))
        timestep, log_snr, value, error = (values[..., kept] for values in along)
        ends = error if error.ndim == 2 else (value - in_band * error, value + in_band * error)
        points = np.stack([log_snr, value, *ends], axis=1)
        rows += [
            [run, on, str(t), *("" if np.isnan(x) else f"{x:.5g}" for x in row)]
            for t, row in zip(timestep, points, strict=True)
            if row[1] < cap
        ]
    return rows


def write_curves(folder: Path, runs: Sequence[Run], sections: Sequence[Section], failed: Failed) -> None:
    """Write one csv file per curve, the runs one after the other; curves no run has are left out."""
    files: dict[str, list[list[str]]] = {}
    for run in runs:
        for section in sections:
            if section.kind == run.kind:
                where = f"curves for “{section.title}”"
                of_run = attempt(partial(_rows, run, section), where, failed, run.remarks) or {}
                for name, rows in of_run.items():
                    files.setdefault(name, []).extend(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        if rows:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([["run", "on", "timestep", "log_snr", "value", "low", "high"], *rows])
            write_file(folder / f"{name}.csv", text.getvalue().encode(errors="replace"))


def _rows(run: Run, section: Section) -> dict[str, list[list[str]]]:
    return {name: curve_rows(run.name, series) for name, series in section.curves(run).items()}


def write_json(path: Path, value: Any) -> None:
    """Write numbers for people and programs."""
    write_file(path, json.dumps(value, indent=2) + "\n")
