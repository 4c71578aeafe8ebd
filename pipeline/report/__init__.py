"""Pages from everything under results/: the answer, one per run, one per quantity; numbers as json, curves as csv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

from traj import analysis
from traj.analysis._drawing import axis as _axis
from traj.analysis._drawing.style import MARKERS, colours
from traj.analysis._quantity import Look
from traj.pipeline.report import answer, metrics, pages, training
from traj.pipeline.report.entries import Entry, collect, of_studies
from traj.pipeline.report.failures import Failed, attempt, sentence, warn
from traj.stores import InputError, place, require_writable, write_file

__all__ = ["report"]

OF_NONE = "#999999"
"""Colour of what is of no process on the answer page."""


def report(
    out: Path, *, root: Path = Path(), beside: Path | None = None, axis: str = "log_snr", failed: Failed = warn
) -> Path:
    """Write the report of the project at root into the folder out; return the path of its first page.

    index.html is the answer, with its picture in answer.png and answer.svg; runs/NAME.html has everything of one name,
    quantities/QUANTITY.html one quantity of all names. Numbers are in metrics.json and metrics/NAME.json, curves in
    plots/CURVE.csv, and all landmarks in landmarks.csv, those of the studies under root too. What is missing is said on
    the pages. beside is the folder of another project, whose runs are shown too. axis is what figures lie over:
    log_snr, timestep, information, or information:NAME for the bits as measured in that run. Same inputs, same bytes.

    What is damaged or cannot be drawn is left out, said on its page, and told to `failed`: the place, and the error.

    Raises MissingFile where there is no result at all, and InputError for an axis that there is not or on which these
    runs cannot lie together.
    """
    require_writable(place(out, folder=True) / "index.html")
    entries = collect(root, beside, failed)
    over = _axis_named(axis, entries)
    remarks: list[str] = []

    def told(where: str, error: Exception) -> None:  # what is wrong with a study costs no more than its part here
        remarks.append(f"{where}: {sentence(error)}")

    studied = of_studies(root, entries, told) if over is _axis.LOG_SNR else []
    processes = answer.processes(entries, studied)
    look = _look(entries, studied, processes, over)
    names = {name for entry in (*entries, *studied) for name in entry.results}
    found = {
        name: attempt(partial(analysis.load, name), name, failed, remarks)
        for name in analysis.quantities()
        if name in names
    }
    quantities = {name: one for name, one in found.items() if one is not None}
    summaries = {entry.name: metrics.summary(entry, quantities, failed) for entry in entries}
    summaries |= {entry.name: metrics.summary(entry, quantities, told) for entry in studied}
    losses = training.losses(root / "models", failed, remarks)
    final = training.final_losses(root / "models", failed, remarks)
    metrics.write_curves(out / "plots", entries, quantities, failed)
    of_names = {entry.name: summaries[entry.name].metrics for entry in entries}
    metrics.write_json(out / "metrics.json", {"runs": of_names, "training": final})
    for name, numbers in of_names.items():  # a file each: `dvc metrics show` makes a row of it
        write = partial(metrics.write_json, out / "metrics" / f"{name}.json", numbers)
        attempt(write, f"numbers of {name}", failed, remarks)
    material = pages.Material(entries, studied, summaries, quantities, look, remarks, failed)
    for entry in entries:
        write_file(out / "runs" / f"{entry.name}.html", pages.of_name(entry, material))
    for name in quantities:
        if len(material.results(name)) > 1:
            write_file(out / "quantities" / f"{name}.html", pages.of_quantity(name, material))
    index = out / "index.html"
    first = pages.answer(material, processes, _others(root, beside, out), training.html(losses))
    for name, content in first.files.items():
        write_file(out / name, content)
    write_file(out / "landmarks.csv", answer.as_csv((*entries, *studied), summaries, quantities))
    write_file(index, first.page)
    return index


def _others(root: Path, beside: Path | None, out: Path) -> list[tuple[str, str]]:
    """List the reports of studies and of the project beside, as far as they are there: names and addresses."""
    found = [(f"study {file.parents[1].name}", file) for file in sorted(root.glob("studies/*/report/index.html"))]
    found += [("the project beside", beside / "report" / "index.html")] if beside is not None else []
    return [(name, Path(os.path.relpath(file, out)).as_posix()) for name, file in found if file.exists()]


def _axis_named(axis: str, entries: list[Entry]) -> _axis.Axis:
    """Find the axis, in the result of a run where it is its information, and see that all runs can lie on it."""
    if axis in _axis.AXES:
        found = _axis.named(axis)
        _axis.require_one_table(found, ((entry.name, one) for entry in entries for one in entry.results.values()))
        return found
    name, _, run = axis.partition(":")
    if name != "information":
        raise InputError(f"unknown axis {axis!r}; expected {', '.join(_axis.AXES)}, information or information:NAME")
    measured = {entry.name: entry.results[name] for entry in entries if name in entry.results}
    if run not in measured:
        known = [one for one, result in measured.items() if not result.attrs["flaw"]]
        if run or len(known) != 1:
            raise InputError(
                f"axis {axis!r} was given; expected information:NAME, and as NAME noised data with a result of "
                f"information: {', '.join(known) or 'there is none, run `traj analyze information` first'}"
            )
        run = known[0]
    return _axis.of_information(measured[run], run)


def _look(entries: list[Entry], studied: list[Entry], processes: Sequence[answer.Process], axis: _axis.Axis) -> Look:
    """Give every run a colour, and what was made of it the same, with a marker that tells it apart.

    What studies have of the process of a run has its colour; what is of none has grey.
    """
    palette = colours([process.name for process in processes])
    markers = {entry.origin: cycle(MARKERS[1:]) for entry in entries}
    of_processes = {entry.name: palette[process.name] for process in processes for entry in process.entries}
    grey = {name: OF_NONE for entry in studied for name in (entry.name, entry.origin)}
    return Look(
        grey | of_processes | palette,
        {entry.name: "" if entry.name == entry.origin else next(markers[entry.origin]) for entry in entries},
        axis,
    )
