"""What it saves: multiply-adds and time that edits leave out, against the likeness they cost (002; METHODS 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, colours, legible
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Run, Section
from traj.pipeline.report.edits import families, is_shortcut

ROWS = 14
"""Most of a table."""

HOW = (
    "<p>What an edit saves, in per cent of the whole run from noise: the <b>multiply-adds</b> of the network that it "
    "does not do, which depend on the network alone, and the <b>time</b> of the network that it does not take, as "
    "measured on the machine that made the sweep. What it costs is the mean structural similarity (SSIM) that is lost "
    "with the image of the unedited run. An edit is on the front where no other edit of the run saves as much at less "
    "loss, or more at no more. Without a figure in the source, which gives time only for its shortcut.</p>"
)


def html(material: Material) -> str:
    """Show the front of what the sweeps of every run tried."""
    runs: dict[tuple[str, str, int], list[Run]] = {}
    for sweep in material.sweeps:
        if (redundancy := sweep.results.get("redundancy")) is not None:
            settings = redundancy.attrs["preset"], redundancy.attrs["samples"]  # without which SSIM is not the same
            runs.setdefault((sweep.origin.name, *settings), []).append(sweep)
    shown = "".join(
        _of_run(name, sweeps, material)
        for (name, *_), sweeps in runs.items()
        if any(_saves(sweep.results["redundancy"]) for sweep in sweeps)
    )
    return HOW + shown if shown else ""


def _saves(redundancy: xr.Dataset) -> bool:
    """Say whether an edit beside the shortcut, which has a section of its own, leaves any multiply-adds out."""
    return bool((redundancy["multiply_adds_removed"] > 0)[~is_shortcut(redundancy)].any())


def _of_run(name: str, sweeps: Sequence[Run], material: Material) -> str:
    tried = pooled(sweeps)
    among = ", ".join(escape(sweep.name) for sweep in sweeps)
    caption = (
        f"Multiply-adds left out against mean SSIM lost by all edits of {among}: a dot for every edit, the more it "
        "leaves out the further to the right, the closer the image to the unedited one the lower; above the lowest "
        f"mark the scale is logarithmic. Rings and the line mark the front, by the means; {_beside(tried)} "
        f"{markup.samples({name: tried})}"
    )
    figure = markup.figure(pareto(tried), caption, f"Multiply-adds removed against SSIM lost: {name}")
    return f"<h3>{markup.named(name, material.colours)}</h3>{figure}{_table(tried)}"


def _beside(tried: xr.Dataset) -> str:
    """Count what may be on the front as well."""
    saves = tried["multiply_adds_removed"].to_numpy() > 0
    possible = int((tried["pareto_possible"].to_numpy() & saves).sum())
    return (
        f"of {int(saves.sum())} edits that save something, {possible} are not seen to be beaten by another of their "
        "sweep (differences of the same samples, by intervals of 95 % that hold together)."
    )


def pooled(sweeps: Sequence[Run]) -> xr.Dataset:
    """Put what several sweeps of one run tried one after the other, with the time it saves, NaN where unknown."""
    parts = []
    for sweep in sweeps:
        part = sweep.results["redundancy"][["ssim_mean", "pareto", "pareto_possible"]].drop_vars(
            "variant", errors="ignore"
        )
        unknown = np.full(part.sizes["variant"], np.nan)
        time = unknown if sweep.time_removed is None else sweep.time_removed
        parts.append(part.assign_coords(time_removed=("variant", time)))
    return xr.concat(parts, "variant", combine_attrs="override")


def pareto(tried: xr.Dataset) -> Figure:
    """Draw the multiply-adds that every edit leaves out against the SSIM it costs; rings are on the front."""
    among = families(tried)
    palette = colours([family.name for family in among])
    removed = 100 * tried["multiply_adds_removed"].to_numpy()
    lost = 1 - tried["ssim_mean"].to_numpy()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, max(3.8, 0.21 * len(among))), layout="constrained")
        axis = figure.add_subplot()
        kept = front(tried)
        axis.plot(removed[kept], lost[kept], color="#bbbbbb", lw=1, zorder=1)
        for family in among:
            of_family, colour = family.variants, palette[family.name]
            axis.scatter(
                removed[of_family],
                lost[of_family],
                s=16,
                color=colour,
                alpha=0.8,
                lw=0,
                label=legible(family.name),
                zorder=2,
            )
            best = np.intersect1d(of_family, kept)
            axis.scatter(
                removed[best], lost[best], s=70, facecolors="none", edgecolors=colour, linewidths=1.3, zorder=3
            )
        if (lost > 0).any():
            axis.set_yscale("symlog", linthresh=float(f"{max(lost[lost > 0].min(), 1e-5):.0e}"))
        axis.set(xlabel="multiply-adds left out, % of the whole run", ylabel="mean SSIM lost")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def front(tried: xr.Dataset) -> np.ndarray:
    """Find the variants that save something and that no other beats, by what they save; of equal edits the first."""
    removed, ssim = tried["multiply_adds_removed"].to_numpy(), tried["ssim_mean"].to_numpy()
    best = np.flatnonzero(tried["pareto"].to_numpy() & (removed > 0))  # of its sweep; now among all
    kept: dict[tuple[Any, ...], np.intp] = {}
    for variant in best:
        more = (removed[best] > removed[variant]) & (ssim[best] >= ssim[variant])
        higher = (removed[best] == removed[variant]) & (ssim[best] > ssim[variant])
        if not (more | higher).any():
            part = "unet_blocks" if "unet_blocks" in tried.coords else "nb"
            edit = tuple(tried[name].to_numpy()[variant] for name in ("edit", "ns", part, "n", "r", "at"))
            kept.setdefault(edit, variant)
    found = np.array(list(kept.values()), int)
    return found[np.argsort(removed[found], kind="stable")]


def _table(tried: xr.Dataset) -> str:
    """List the front, thinned evenly where it is long, from what saves least to what saves most."""
    kept = front(tried)
    shown = kept[np.unique(np.linspace(0, len(kept) - 1, ROWS).round().astype(int))] if len(kept) else kept
    names = {variant: family.name for family in families(tried) for variant in family.variants}
    rows = []
    for variant in shown:
        edit = tried.isel(variant=variant)
        ssim = float(edit["ssim_mean"])
        rows.append(
            [
                escape(names[variant]),
                *(f"{int(edit[name])}" for name in ("at", "evaluations_saved", "evaluations_cut")),
                *(percent(float(edit[name])) for name in ("multiply_adds_removed", "time_removed")),
                f"{ssim:.4f}",
                f"{1 - ssim:.2g}",
            ]
        )
    head = (
        "on the front",
        "from t",
        "evaluations not made",
        "made with a part",
        "multiply-adds removed",
        "time removed",
        "mean SSIM",
        "SSIM lost",
    )
    left_out = f"<p>{len(shown)} of the {len(kept)} edits on the front.</p>" if len(shown) < len(kept) else ""
    untimed = np.isnan(tried["time_removed"].to_numpy()[shown]).any()
    said = "<p>–: time was not measured; <code>traj fork … --times</code> does.</p>" if untimed else ""
    return markup.table(head, rows, numbers=range(1, len(head))) + left_out + said


def percent(share: float) -> str:
    """Write a share in per cent, a dash where there is none."""
    return f"{100 * share:.1f} %".replace("-", "−") if np.isfinite(share) else "–"


SECTION = Section("savings", "What that saves", html, kind="sweep", quantities=("redundancy",))
