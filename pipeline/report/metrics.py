"""The numbers, landmarks and curves of a report, as its quantities declare them: for `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from traj.analysis._quantity import Landmark, Number, Quantity
from traj.pipeline.report.entries import Entry
from traj.pipeline.report.failures import Failed, attempt
from traj.stores import write_file

POINTS = 100
"""Most rows of one curve."""

Metrics = dict[str, float | None]


@dataclass
class Summary:
    """What the quantities say of one entry: numbers and landmarks, by quantity."""

    numbers: dict[str, Sequence[Number]] = field(default_factory=dict)
    landmarks: dict[str, Sequence[Landmark]] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """All numbers by name. None stands for never; ends of intervals that are not known are left out."""
        found: Metrics = {}
        for number in (one for group in self.numbers.values() for one in group):
            found |= {number.name: rounded(number.value), **_ends(number.name, number.low, number.high)}
        marks = [one for group in self.landmarks.values() for one in group]
        several = Counter(mark.name for mark in marks)
        for mark in marks:
            of = re.sub(r"\W+", "_", mark.of).strip("_")
            name = mark.name if several[mark.name] == 1 else f"{mark.name}_{of}"
            found |= {f"{name}_timestep": rounded(mark.timestep), f"{name}_log_snr": rounded(mark.log_snr)}
            found |= _ends(name, mark.low, mark.high)
        return found


def _ends(name: str, low: float, high: float) -> Metrics:
    ends = {f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
    return {} if np.isnan([low, high]).all() else ends


def rounded(value: float) -> float | None:
    """Round to three digits after the point, or to four in all where that is finer; None for what is not finite."""
    number = float(value)
    if not np.isfinite(number):
        return None
    number = round(number, 3) if abs(number) >= 0.1 else float(f"{number:.4g}")
    return int(number) if number.is_integer() else number


def summary(entry: Entry, quantities: Mapping[str, Quantity], failed: Failed) -> Summary:
    """Ask every quantity with a result what sums it up."""
    of = Summary()
    for name, quantity in quantities.items():
        if name in entry.results:
            result, where = entry.results[name], f"{entry.name}, sums of {name}"
            numbers = attempt(partial(quantity.numbers, result), where, failed, entry.remarks)
            landmarks = attempt(partial(quantity.landmarks, result), where, failed, entry.remarks)
            of.numbers[name], of.landmarks[name] = numbers or (), landmarks or ()
    return of


def write_curves(folder: Path, entries: Sequence[Entry], quantities: Mapping[str, Quantity], failed: Failed) -> None:
    """Write one csv file per curve, the entries one after the other; curves that none has are left out."""
    files: dict[str, list[list[str]]] = {}
    for entry in entries:
        for name, quantity in quantities.items():
            for curve in quantity.curves if name in entry.results else ():
                thinned = partial(_rows, entry.name, curve.of, entry.results[name])
                of_entry = attempt(thinned, f"{entry.name}, curve {curve.name}", failed, entry.remarks)
                files.setdefault(curve.name, []).extend(of_entry or [])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        if rows:
            head = ["run", "on", "timestep", "log_snr", "value", "low", "high"]
            write_file(folder / f"{name}.csv", as_csv([head, *rows]))


def _rows(run: str, of: Any, result: Any) -> list[list[str]]:
    """Thin each curve to so many points, its first and last among them."""
    rows = []
    for series in of(result):
        kept = np.unique(np.linspace(0, len(series.timestep) - 1, POINTS).round().astype(int))
        columns = [np.asarray(values)[kept] for values in series[1:]]
        for timestep, *point in zip(*columns, strict=True):
            log_snr, value, low, high = ("" if np.isnan(x) else f"{x:.5g}" for x in point)
            if value:
                rows.append([run, series.on, str(timestep), log_snr, value, low, high])
    return rows


def as_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Write a table for other programs; letters that are no UTF-8 become question marks."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="replace")


def write_json(path: Path, value: Any) -> None:
    """Write numbers for people and programs."""
    write_file(path, json.dumps(value, indent=2) + "\n")
