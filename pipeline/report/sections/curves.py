"""Sections of quantities that draw and sum up themselves, each by its name."""

from __future__ import annotations

from functools import partial
from html import escape

import numpy as np

from traj import analysis
from traj.analysis._quantity import Look
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Kind, Material, Numbers, Run, Section, Series
from traj.pipeline.report.metrics import rounded


def html(material: Material, *, quantity: str, kind: Kind) -> str:
    """Show the figures of a quantity."""
    results = material.results(quantity, kind)
    look = Look(material.colours, material.markers)
    shown = ""
    for figure in analysis.load(quantity).figures:
        drawn = figure.draw(results, look) if results else None
        if drawn is not None:
            shown += markup.figure(drawn, escape(figure.caption(results)), figure.title)
    return shown


def numbers(run: Run, *, quantity: str) -> Numbers:
    """Sum up one run by landmarks and numbers."""
    if quantity not in run.results:
        return {}
    found: Numbers = {}
    one = analysis.load(quantity)
    for place in one.landmarks(run.results[quantity]):
        for part in ("timestep", "log_snr", "low", "high"):
            found[f"{place.name}_{part}"] = rounded(getattr(place, part), 2)
    for number in one.numbers(run.results[quantity]):
        found[number.name] = rounded(number.value)
    return found


def curves(run: Run, *, quantity: str) -> dict[str, list[Series]]:
    """Give the curves for csv files."""
    if quantity not in run.results:
        return {}
    found = {curve.name: curve.of(run.results[quantity]) for curve in analysis.load(quantity).curves}
    return {name: [Series(*one[:4], np.stack(one[4:])) for one in curves] for name, curves in found.items() if curves}


def section(quantity: str, kind: Kind = "trajectories", optional: bool = False) -> Section:
    """Make the section of a quantity of one kind of stores."""
    return Section(
        quantity if kind == "trajectories" else f"{quantity}_{kind}",
        analysis.load(quantity).title,
        partial(html, quantity=quantity, kind=kind),
        kind=kind,
        quantities=(quantity,),
        optional=optional,
        numbers=partial(numbers, quantity=quantity),
        curves=partial(curves, quantity=quantity),
    )
