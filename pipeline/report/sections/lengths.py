"""For how long, and how often: likeness over the steps that are edited, and over pauses (002 Figs 9, 10, 18)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, colours, legible
from traj.pipeline.report import findings, markup
from traj.pipeline.report.contents import Material, Run, Section
from traj.pipeline.report.edits import FEWEST, START, Line, lines

LINES = 8
"""Most lines in a panel."""

X = {"n": "steps n that are edited", "r": "steps r between the two cuts"}

HOW = (
    "<p>The same edit for more and more steps n, and cuts made twice with more and more steps r between them, in which "
    "the network is whole: how long can a part be missed, and how long a pause does the image need to recover?</p>"
)


def html(material: Material) -> str:
    """Show every sweep in which an edit was tried at several lengths or with several pauses."""
    shown = "".join(
        f"<h3>{markup.named(sweep.name, material.colours)}</h3>{body}"
        for sweep in material.sweeps
        if (body := _of_sweep(sweep))
    )
    return HOW + shown if shown else ""


def _of_sweep(sweep: Run) -> str:
    shown = ""
    compared, redundancy = sweep.results.get("intervention"), sweep.results.get("redundancy")
    if compared is not None and (figure := over_lengths(compared)) is not None:
        more = [len(lines(compared, along)) - LINES for along in X]
        caption = (
            "SSIM with the unedited run over the number of steps that are edited, or that lie between two cuts: means, "
            f"with two standard deviations of samples to either side; dotted, if SSIM gets there, {findings.SIMILAR}. "
            f"{markup.samples({sweep.name: compared})} "
            + (f"At most {LINES} lines are drawn of a panel, evenly chosen. " if max(more) > 0 else "")
            + "After 002 Figs 9 and 18 (n) and 10 (r)."
        )
        shown += markup.figure(figure, caption, f"SSIM over lengths and pauses: {sweep.name}")
    if redundancy is not None and (figure := longest(redundancy)) is not None:
        threshold = f"{redundancy.attrs['threshold']:g}"
        caption = (
            f"The largest n, of those tried, that keeps mean SSIM at {threshold} together with all smaller ones, over "
            "the start of the edit (002 Figs 9 and 18); and, where cuts were made twice, the fewest steps r between "
            "them that keep it together with all longer pauses (002 Fig. 10). Dots are by the means; where there is no "
            "dot, none does. Bars go from what is sure to what is not ruled out, by intervals of 95 % over samples."
        )
        shown += markup.figure(figure, caption, f"Longest edits and shortest pauses: {sweep.name}")
    return shown + (findings.of_lengths(compared) if compared is not None and shown else "")


def over_lengths(compared: xr.Dataset) -> Figure | None:
    """Draw SSIM over n, and over r, a line for each edit and start, with two sd (002 Figs 9, 10)."""
    drawn = {along: found for along in X if (found := lines(compared, along))}
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4), layout="constrained")
        axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for axis, (along, found) in zip(axes, drawn.items(), strict=True):
            few = np.unique(np.linspace(0, len(found) - 1, LINES).round().astype(int))
            palette = colours([found[k].name for k in few])
            for k in few:
                line = found[k]
                of_line = compared.isel(variant=line.variants)
                x, mean, sd = (of_line[name].to_numpy() for name in (along, "ssim_mean", "ssim_sd"))
                colour = palette[line.name]
                axis.fill_between(x, mean - 2 * sd, np.minimum(mean + 2 * sd, 1), color=colour, alpha=0.12, lw=0)
                axis.plot(x, mean, ".-", color=colour, label=legible(line.name))
            axis.set(xlabel=X[along], xticks=np.unique(compared[along].to_numpy()[_all(found)]))
            axis.legend(loc="lower left", fontsize=8)
        axes[0].set_ylabel("SSIM")
        low = axes[0].get_ylim()[0]
        for axis in axes:
            axis.axhline(findings.SIMILAR, color="#555555", lw=0.8, ls=":")
        axes[0].set_ylim(bottom=low)  # the line has no part in the scale
    return figure


def longest(redundancy: xr.Dataset) -> Figure | None:
    """Draw the longest cut and the shortest pause that keep SSIM, where they were tried at several starts."""
    drawn = []
    for along, name, dim, label in (
        ("n", "longest_n", "part", "longest n that keeps SSIM"),
        ("r", "shortest_r", "cut", "shortest r that keeps SSIM"),
    ):
        found = _all(lines(redundancy, along))
        if _most_starts(redundancy.isel(variant=found)) >= FEWEST:
            edges = [redundancy[f"{name}{by}"].transpose(dim, "t_start") for by in ("", "_sure", "_possible")]
            drawn.append((edges, np.unique(redundancy[along].to_numpy()[found]), label))
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axis, (edges, tried, label) in zip(axes, drawn, strict=True):
            _over_starts(axis, edges, tried, label)
    return figure


def _most_starts(redundancy: xr.Dataset) -> int:
    """Count the starts of the part that was left out from most."""
    tried: dict[tuple[object, ...], set[int]] = {}
    for *part, at in zip(*(redundancy[name].to_numpy().tolist() for name in ("edit", "ns", "nb", "at")), strict=True):
        tried.setdefault(tuple(part), set()).add(at)
    return max(map(len, tried.values()), default=0)


def _over_starts(axis: Axes, edges: list[xr.DataArray], tried: np.ndarray, label: str) -> None:
    """Draw edges by the mean, and bars from the sure to the possible ones; none lies one beyond what was tried."""
    values = edges[0]
    labels = [str(part) for part in values[values.dims[0]].to_numpy()]
    palette = colours(labels)
    beyond = tried[0] - 1 if "longest" in label else tried[-1] + 1
    for part, line, *ends in zip(labels, *(edge.to_numpy() for edge in edges), strict=True):
        if np.isfinite(ends[1]).any():
            there = np.isfinite(line) | np.isfinite(ends[1])
            sure, possible = (np.where(np.isnan(end), beyond, end)[there] for end in ends)
            axis.vlines(values["t_start"][there], sure, possible, color=palette[part], alpha=0.35, lw=5)
            axis.plot(values["t_start"], line, ".-", color=palette[part], label=legible(part))
    axis.set(xlabel=START, ylabel=label, yticks=tried)
    axis.xaxis.set_inverted(True)
    if axis.lines:
        axis.legend()


def _all(found: list[Line]) -> np.ndarray:
    """Gather the variants of all lines."""
    return np.concatenate([np.array([], int), *(line.variants for line in found)])


SECTION = Section(
    "lengths", "For how long, and how often", html, kind="sweep", quantities=("intervention", "redundancy")
)
