"""The answer: when everything happens in every process, on one axis, in three sentences, and as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from traj.analysis._drawing.timeline import Row
from traj.analysis._quantity import Landmark, Quantity, Times
from traj.analysis._statistics import order as _order
from traj.pipeline.process.in_words import plan_of, sampler_name
from traj.pipeline.report import metrics, runs, words
from traj.pipeline.report.entries import Entry
from traj.pipeline.report.failures import Failed, attempt
from traj.pipeline.report.metrics import Summary

Summaries = Mapping[str, Summary]

COLUMNS = ("run", "network", "quantity", "name", "of", "timestep", "log_snr", "low", "high", "meaning")


class Kind(NamedTuple):
    """What makes runs be of one process, however many steps they take."""

    model: str
    sampler: str
    condition: str
    noised: bool
    shape: str

    @property
    def family(self) -> str:
        """The sampler without its options."""
        return self.sampler.split(",")[0]


@dataclass(frozen=True)
class Process:
    """One way from noise to images: a run, what was made of it, and runs of studies that go the same way.

    name is that of the run, and label says what it is; kind is None where that is not known.
    """

    name: str
    label: str
    kind: Kind | None
    entries: list[Entry]


class Cell(NamedTuple):
    """A landmark of a process, and the entry it was found in."""

    process: str
    quantity: str
    entry: Entry
    mark: Landmark

    @property
    def key(self) -> tuple[str, str, str]:
        """Which landmark it is, and of which curve, part or family of edits."""
        return self.quantity, self.mark.name, self.mark.of


class Timed(NamedTuple):
    """A landmark with its place in each sample."""

    cell: Cell
    times: Times


class Comparison(NamedTuple):
    """Two landmarks of one run, or one landmark of two runs, in the samples both have."""

    first: Timed
    second: Timed
    order: _order.Order


def processes(entries: Sequence[Entry], studied: Sequence[Entry]) -> list[Process]:
    """Gather what tells of one process: each run of the project is one, with its forks, sweeps and readouts.

    Of the studies, a run joins the process that it repeats. It is one of its own where its sampler has no run in the
    project, or where it is the noised data of a network that has. What starts late, or is guided, or is read by
    another network than made it, is part of no process; nor are other networks.
    """
    found: dict[str, Process] = {}
    for entry in entries:
        found.setdefault(entry.origin, _process(entry)).entries.append(entry)
    own = [made.kind for made in found.values() if made.kind is not None]
    for entry in studied:
        kind = _kind(entry)
        if kind is None or _is_read_by_another(entry):
            continue
        same = found.get(entry.origin) or next((made for made in found.values() if made.kind == kind), None)
        new = kind.model in {one.model for one in own} if kind.noised else kind.family not in {k.family for k in own}
        if same is None and new and kind.shape in {one.shape for one in own}:
            same = found.setdefault(entry.origin, _process(entry))
        if same is not None:
            same.entries.append(entry)
    return list(found.values())


def _process(entry: Entry) -> Process:
    """Begin the process of a run with none of its entries."""
    kind, label = _kind(entry), entry.origin
    if kind is not None:
        asked = {"labels cycle": "label asked for", "labels none": "no label"}.get(kind.condition, kind.condition)
        label += ": noised data" if kind.noised else f": {kind.family}, {asked}"
    return Process(entry.origin, label, kind, [])


def _kind(entry: Entry) -> Kind | None:
    config = entry.run.config if entry.run is not None else {}
    if plan_of(config) is None or {"start", "guidance"} & set(config):
        return None
    store = config.get("store")
    of_store = store.get("shape") if isinstance(store, dict) else None
    model, shape = (json.dumps(one, sort_keys=True) for one in (config.get("model"), of_store))
    return Kind(model, sampler_name(config), runs.condition(config), "noised" in config, shape)


def _is_read_by_another(entry: Entry) -> bool:
    run = entry.run
    return run is not None and any(
        one.config.get("model", run.config.get("model")) != run.config.get("model") for one in entry.stored.values()
    )


def cells(found: Sequence[Process], summaries: Summaries, quantities: Mapping[str, Quantity]) -> list[Cell]:
    """Take the place of each landmark in each process: of its own run if that has one, else of the first that has.

    Of curves, parts of a network, families of edits and decisions between classes it is the first that is reached;
    where there are several, its short name says which.
    """
    taken: dict[tuple[str, str, str], Cell] = {}
    several: dict[tuple[str, str], set[str]] = {}
    for quantity in quantities:
        for process in found:
            for entry in process.entries:
                for mark in summaries[entry.name].landmarks.get(quantity, ()):
                    several.setdefault((quantity, mark.name), set()).add(mark.of)
                    key = (quantity, mark.name, process.name)
                    if key not in taken or (np.isnan(taken[key].mark.log_snr) and not np.isnan(mark.log_snr)):
                        taken[key] = Cell(process.name, quantity, entry, mark)
    return [
        cell._replace(mark=cell.mark.called(f"{words.short(cell.mark)} ({cell.mark.of})", cell.mark.times))
        if len(several[quantity, name]) > 1
        else cell
        for (quantity, name, _), cell in taken.items()
    ]


def rows(of: Sequence[Cell]) -> list[Row]:
    """Set the cells of one landmark into a row."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in of:
        found.setdefault(cell.key, []).append(cell)
    return [
        Row(
            words.short(some[0].mark),
            words.meaning(some[0].mark),
            {cell.process: cell.mark for cell in some},
            frozenset(cell.process for cell in some if cell.entry.origin != cell.process),
        )
        for some in found.values()
    ]


def comparisons(of: Sequence[Cell], failed: Failed, remarks: list[str]) -> list[Comparison]:
    """Compare landmarks of one run, and one landmark of several runs, within samples; all of them are paid for."""
    timed = []
    for cell in of:
        if cell.mark.times is not None:
            times = attempt(cell.mark.times, f"{cell.entry.name}, times of {cell.mark.name}", failed, remarks)
            timed += [] if times is None else [Timed(cell, times)]
    timed.sort(key=lambda one: _order.typical(one.times))
    pairs = [
        (one, other)
        for one, other in combinations(timed, 2)
        if one.cell.entry.origin == other.cell.entry.origin or one.cell.key == other.cell.key
    ]
    return [Comparison(one, other, _order.compare(one.times, other.times, among=len(pairs))) for one, other in pairs]


def every(
    entries: Sequence[Entry], summaries: Summaries, quantities: Mapping[str, Quantity]
) -> Iterator[tuple[Entry, str, Landmark]]:
    """Go through all landmarks of all entries, with the quantity of each."""
    for entry in entries:
        for quantity in quantities:
            for mark in summaries[entry.name].landmarks.get(quantity, ()):
                yield entry, quantity, mark


def network(entry: Entry) -> str:
    """Name the network that made the run at the beginning of an entry."""
    return runs.model_name(entry.run) if entry.run is not None else ""


def as_csv(entries: Sequence[Entry], summaries: Summaries, quantities: Mapping[str, Quantity]) -> bytes:
    """Write all landmarks of all entries, a row each; an empty cell is not known, inf is x_0 and -inf the start."""
    rows = [list(COLUMNS)]
    for entry, quantity, mark in every(entries, summaries, quantities):
        places = ("" if np.isnan(x) else f"{x:.6g}" for x in (mark.timestep, mark.log_snr, mark.low, mark.high))
        rows.append([entry.name, network(entry), quantity, mark.name, mark.of, *places, mark.meaning])
    return metrics.as_csv(rows)
