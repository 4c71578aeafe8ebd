"""Other results, drawn as their quantities draw themselves."""

from __future__ import annotations

from html import escape
from importlib import import_module

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from traj import analysis
from traj.analysis._drawing import STYLE, WIDTH
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Section


def html(material: Material) -> str:
    """Show every result that no section draws, or say that nothing can."""
    drawn = []
    for run in (*material.runs, *material.forks, *material.sweeps):
        for quantity, result in run.others.items():
            figure = own_plot(result, result.attrs.get("quantity", quantity))
            title = f"<h3>{markup.named(run.name, material.colours)}: {escape(quantity)}</h3>"
            body = "<p>Nothing here can draw this result.</p>"
            drawn.append(title + (markup.figure(figure, "", f"{quantity} of {run.name}") if figure else body))
    return "".join(drawn)


def own_plot(result: xr.Dataset, quantity: str) -> Figure | None:
    """Draw a result as its quantity draws itself; None where it doesn't."""
    plot = None
    if quantity in analysis.quantities():
        plot = getattr(import_module(f"traj.analysis.{quantity}"), "plot", None)
    if plot is None:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.6, 3.4), layout="constrained")
        plot(result, ax=figure.add_subplot())
    return figure


SECTION = Section("others", "Other results", html)
