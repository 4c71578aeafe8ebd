"""The pages of a report: the answer first, then a page per name, and one per quantity that several names have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import NamedTuple, TypeGuard
from urllib.parse import quote

import numpy as np
import xarray as xr

from traj.analysis._drawing import axis as _axis
from traj.analysis._drawing.montages import montage
from traj.analysis._drawing.style import of_images
from traj.analysis._drawing.timeline import NARROW, WIDE, Strip, picture
from traj.analysis._quantity import Figure, Look, Number, Quantity, Table
from traj.pipeline.computing.project import Stored
from traj.pipeline.report import answer as of_answer
from traj.pipeline.report import markup, runs, words
from traj.pipeline.report.answer import Cell, Process
from traj.pipeline.report.entries import Entry
from traj.pipeline.report.failures import Failed, attempt, without_faulty
from traj.pipeline.report.metrics import Summary, rounded

QUESTION = "When do features emerge in a diffusion model’s reverse process?"

CAPTION = (
    "Each process starts from noise, at the left, and turns it into images, to the right; log SNR says how much of a "
    "state is image and how much noise. {}Each line is one answer to “when”: a marker where it happens in a process, "
    "in its colour, and a band, the interval of 95 % for samples drawn by chance. An arrow at an end of the axis "
    "points to what lies beyond."
)
STRIP = (
    "On top, states of {} on their way, and beneath what the network predicts from each as the finished image: one "
    "sample, each picture over its place on the axis. "
)

GLOSSARY = {
    "timestep t": "how noisy a state is, as the place in the training schedule: the highest is pure noise, 0 almost "
    "clean. The process runs from high to low, in every figure from left to right.",
    "x_t": "the state the network is given at timestep t.",
    "pred_x0": "the finished image as the network predicts it from x_t alone, not clipped.",
    "x_0": "the finished image, at the end of the process.",
    "log SNR": "2 ln(signal / noise): how much of x_t is image and how much noise. It does not depend on how a "
    "schedule counts its timesteps, so schedules compare on it.",
}


COMPARED = (
    "Two landmarks of one run, or one landmark in two runs, are compared in each sample that both have. A landmark "
    "lies between two stored states; where these are the same, neither comes first. The sign test says which comes "
    "first, and the interval of the median difference whether they agree. {} comparisons were made, each the more "
    "strictly the more there are, so that all claims hold together with 95 % certainty. A landmark of all samples "
    "together has no place in a single sample, so it is not compared."
)


class Answer(NamedTuple):
    """The first page, and the files of its picture by name."""

    page: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Material:
    """What pages are made of: entries, what sums up each, the quantities that have results, and how runs look.

    studied are entries of studies, which have their own pages and here a part in the answer only.
    """

    entries: Sequence[Entry]
    studied: Sequence[Entry]
    summaries: Mapping[str, Summary]
    quantities: Mapping[str, Quantity]
    look: Look
    remarks: Sequence[str]
    failed: Failed

    def results(self, quantity: str) -> dict[str, xr.Dataset]:
        """Gather the results of a quantity by name."""
        return {entry.name: entry.results[quantity] for entry in self.entries if quantity in entry.results}

    def pictured(self, stored: Stored) -> Stored:
        """Give what shows a store: the images its latents were decoded to, where they are at hand, or itself."""
        decoded = (one.stored["decoded"] for one in self.entries if "decoded" in one.stored)
        return next((one for one in decoded if one.of is stored and one.ds is not None), stored)

    def run_of(self, stored: Stored) -> xr.Dataset | None:
        """Give the run that forks or a sweep were made of, decoded where they are."""
        parent = stored.of.of if stored.kind == "decoded" and stored.of is not None else stored.of
        if parent is None:
            return None
        return self.pictured(parent).ds if stored.kind == "decoded" else parent.ds

    @property
    def places(self) -> dict[str, _axis.Places]:
        """Give the function from log SNR to places on the axis, of each name: by what its results lie over."""
        found = {}
        for entry in (*self.entries, *self.studied):
            tables = [_axis.table(result) for result in entry.results.values()]
            most = max(tables, key=lambda table: len(table[0]), default=(np.empty(0), np.empty(0)))
            found[entry.name] = self.look.axis.places(*most)
        return found


def answer(
    material: Material, processes: Sequence[Process], studies: Sequence[tuple[str, str]], training: str
) -> Answer:
    """Write the first page; studies are names and addresses of other reports, training is HTML."""
    colours = material.look.colours
    said: list[str] = []
    drawn, body = _landmarks(material, processes, said)
    body += f'<h2 id="runs">What was run</h2>{runs.tables(material.entries, colours, "runs/")}'
    missing = [f"{entry.name}: {remark}" for entry in material.entries for remark in entry.remarks]
    body += markup.remarks([*missing, *material.remarks, *said], "Missing or out of step:")
    body += f'<h2 id="numbers">In numbers</h2>{_numbers(material)}'
    body += f'<h2 id="pages">More</h2>{_links(material, studies)}'
    body += f'<h2 id="training">How the networks were trained</h2>{training}' if training else ""
    glossary = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in GLOSSARY.items())
    return Answer(markup.page(QUESTION, f'{body}<h2 id="words">Words</h2><dl>{glossary}</dl>'), drawn)


def _landmarks(material: Material, processes: Sequence[Process], said: list[str]) -> tuple[Mapping[str, bytes], str]:
    """Show the one picture, and say it in words; gives the picture's files, too."""
    cells = of_answer.cells(processes, material.summaries, material.quantities)
    rows = of_answer.rows(cells)
    if not rows:
        return {}, "<p>No quantity was computed that has a landmark: a point that answers “when”.</p>"
    labels = {process.name: process.label for process in processes}
    shown = _shown(material, cells)

    def draw(strip: Strip | None) -> tuple[dict[str, bytes], str]:
        axis, places = material.look.axis, material.places
        wide, narrow = (picture(rows, labels, material.look, places, strip, width) for width in (WIDE, NARROW))
        caption = f"{CAPTION.format('' if strip is None else STRIP.format(strip.name))} {axis.note}".strip()
        return markup.two_figures(wide, narrow, caption, f"Landmarks of all processes over {axis.name}", "answer")

    drawn = attempt(lambda: draw(shown), f"pictures of {shown.name if shown else 'landmarks'}", material.failed, said)
    if drawn is None and shown:
        drawn = attempt(lambda: draw(None), "the picture of landmarks", material.failed, said)
    files, html = drawn or ({}, "")
    colours = material.look.colours
    compared = of_answer.comparisons(cells, material.failed, said)
    html += f"<h2>In words</h2>{words.sentences(compared, colours) if compared else ''}"
    if compared:
        table = words.compared(compared, colours)
        html += (
            f"<details><summary>How this was compared</summary><p>{COMPARED.format(len(compared))}</p>{table}</details>"
        )
    html += f"<details><summary>All landmarks in numbers</summary>{_table(material)}</details>{words.unsaid(rows)}"
    return files, html


def _shown(material: Material, cells: Sequence[Cell]) -> Strip | None:
    """Choose the run whose pictures are shown: of those that have some, the one with most landmarks."""
    runs_of = {e.name: e.stored["trajectories"] for e in material.entries if "trajectories" in e.stored}
    here = {name: material.pictured(run).ds for name, run in runs_of.items()}
    pictured = [Strip(name, ds) for name, ds in here.items() if _has_pictures(ds)]
    return max(pictured, key=lambda strip: sum(cell.process == strip.name for cell in cells), default=None)


def _has_pictures(run: xr.Dataset | None) -> TypeGuard[xr.Dataset]:
    """Whether a run has its states, and they are images in which something can be seen: more than one pixel."""
    return of_images(run) and {"x_t", "pred_x0"} <= set(run) and run.sizes["y"] * run.sizes["x"] > 1


def _table(material: Material) -> str:
    everything = of_answer.every((*material.entries, *material.studied), material.summaries, material.quantities)
    cells = [
        [
            escape(words.meaning(mark)),
            markup.named(entry.name, material.look.colours),
            markup.breakable(of_answer.network(entry)),
            *(markup.number(rounded(x)) for x in (mark.timestep, mark.log_snr, mark.low, mark.high)),
        ]
        for entry, _, mark in everything
    ]
    head = (markup.words("landmark"), "run", "network", "timestep", "log SNR", "low", "high")
    return (
        f'<p>As a file: <a href="landmarks.csv">landmarks.csv</a></p>{markup.table(head, cells, numbers=range(3, 7))}'
    )


def _numbers(material: Material, only: str = "") -> str:
    """Set a table of numbers for each quantity that has some, of all names or of one."""
    shown = ""
    for key, quantity in material.quantities.items():
        of = {
            entry.name: {one.name: one for one in numbers}
            for entry in material.entries
            if only in ("", entry.name) and (numbers := material.summaries[entry.name].numbers.get(key))
        }
        if of:
            meanings = {number.name: number.meaning for numbers in of.values() for number in numbers.values()}
            rows = [
                [escape(meaning), *(_value(numbers.get(number)) for numbers in of.values())]
                for number, meaning in meanings.items()
            ]
            head = [markup.words(quantity.title), *(markup.named(name, material.look.colours) for name in of)]
            shown += markup.table(head, rows, numbers=range(1, len(head)))
    return shown


def _value(one: Number | None) -> str:
    """Write a number with its interval, all to the second digit of half of that."""
    every = (one.value, one.low, one.high) if one else [np.nan] * 3
    half = (every[2] - every[1]) / 2
    places = max(1 - math.floor(math.log10(half)), 0) if 1e-6 < half < 1e6 else None
    value, low, high = (markup.number(rounded(x), places) for x in every)
    return value if low == high == "–" else f"{value} ({low} to {high})"


def _links(material: Material, studies: Sequence[tuple[str, str]]) -> str:
    names = "".join(f"<li>{markup.link(e.name, 'runs/', material.look.colours)}</li>" for e in material.entries)
    shared = "".join(
        f'<li><a href="quantities/{key}.html">{escape(quantity.title)}</a></li>'
        for key, quantity in material.quantities.items()
        if len(material.results(key)) > 1
    )
    others = "".join(f'<li><a href="{escape(quote(to))}">{escape(name)}</a></li>' for name, to in studies)
    groups = (
        ("Everything of one run, fork or sweep, pictures first", names),
        ("One question, all runs together", shared),
        ("Other reports", others),
    )
    return "".join(f"<h3>{title}</h3><ul>{items}</ul>" for title, items in groups if items)


def of_name(entry: Entry, material: Material) -> bytes:
    """Write the page of one name: what it is, its pictures, and every quantity."""
    colours, said = material.look.colours, list(entry.remarks)
    kin = [one for one in material.entries if one.origin == entry.origin and one is not entry]
    body = f"<p>Of the same run: {', '.join(markup.link(one.name, '', colours) for one in kin)}</p>" if kin else ""
    body += runs.tables([entry], colours, "")
    marks = [mark for group in material.summaries[entry.name].landmarks.values() for mark in group]
    body += words.in_order(entry.name, marks, colours)
    for stored in {shown.path: shown for shown in map(material.pictured, entry.stored.values())}.values():
        made = attempt(
            partial(montage, stored.ds, stored.stands_for, material.run_of(stored)),
            f"pictures of {stored.path}",
            material.failed,
            said,
        )
        if made is not None:
            title, figure, caption = made
            body += f"<h2>{title}</h2>{markup.figure(figure, caption, f'{title}: {entry.name}')}"
    for key, quantity in material.quantities.items():
        if key in entry.results:
            body += section(quantity, {entry.name: entry.results[key]}, material)
    for key in sorted(set(entry.results) - set(material.quantities)):
        result = entry.results[key]
        named = ", ".join(f"{name} ({', '.join(map(str, one.dims))})" for name, one in result.items())
        body += f"<h2>{escape(key)}</h2><p>Nothing here can draw this result: {escape(named)}.</p>"
    numbers = _numbers(material, entry.name)
    body += f"<h2>In numbers</h2>{numbers}" if numbers else ""
    return markup.page(entry.name, markup.remarks(said, "Missing or out of step:") + body, "../index.html")


def of_quantity(key: str, material: Material) -> bytes:
    """Write the page of one quantity: its figures with all runs together."""
    quantity = material.quantities[key]
    about = f"<p>{escape((quantity.__doc__ or '').strip().splitlines()[0])}</p>" if quantity.__doc__ else ""
    return markup.page(
        quantity.title, about + section(quantity, material.results(key), material, headed=False), "../index.html"
    )


def section(quantity: Quantity, results: Mapping[str, xr.Dataset], material: Material, headed: bool = True) -> str:
    """Show all figures and tables of a quantity for some results."""
    shown = ""
    said: list[str] = []
    for figure in quantity.figures:
        made, faults = without_faulty(partial(_drawn, figure, material.look), results, figure.title, material.failed)
        said += faults
        shown += f"<h3>{escape(figure.title)}</h3>{made}" if made else ""
    made, faults = without_faulty(
        lambda some: "".join(map(_said, quantity.tables(some))), results, f"tables of {quantity.title}", material.failed
    )
    shown += (made or "") + markup.remarks([*said, *faults])
    source = f"<p>After {escape(quantity.source)}.</p>" if quantity.source else ""
    title = f'<h2 id="{quantity.name}">{escape(quantity.title)}</h2>' if headed else ""
    return f"{title}{source}{shown}" if shown else ""


def _drawn(figure: Figure, look: Look, results: Mapping[str, xr.Dataset]) -> str:
    drawn = figure.draw(results, look)
    if drawn is None:
        return ""
    note = look.axis.note if look.axis.is_of(drawn) else ""
    return markup.figure(drawn, f"{figure.caption(results)} {note}".strip(), figure.title)


def _said(table: Table) -> str:
    head = [escape(text) for text in table.head]
    rows = [[escape(text) for text in row] for row in table.rows]
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{markup.table(head, rows, table.numbers)}{note}"
