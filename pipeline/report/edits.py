"""Figures of edited processes: how far an edit takes the image away from the one of the run (002)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, beside, colours, displayed, legible, tiled
from traj.pipeline.report.contents import Run
from traj.stores import ONCE, SHORTCUT

SAMPLES, STARTS, FAMILIES = 3, 8, 8
"""Most that is shown of each in a montage."""

SHADES = {1: "#9d9d9d", 2: "#c9c9c9", 3: "#ebebeb"}
"""Of the phases of a process."""

FEWEST = 3
"""Starts or lengths that make a curve."""

START = "timestep at which the edit starts   (denoising →)"


class Family(NamedTuple):
    """Edits that differ in where they start only: their name in words, what they are, and variants by falling start.

    here is how many blocks of this network nb stands for, None where that is not at hand.
    """

    name: str
    edit: str
    ns: int
    nb: int
    n: int
    r: int
    variants: np.ndarray
    here: int | None


def families(ds: xr.Dataset) -> list[Family]:
    """Group the variants of a sweep, or of a result of one, into families, in order of appearance."""
    columns = (ds[name].to_numpy().tolist() for name in ("edit", "ns", "nb", "n", "r"))
    keys: list[tuple[str, int, int, int, int]] = list(zip(*columns, strict=True))
    found = []
    for key in dict.fromkeys(keys):
        members = np.flatnonzero([other == key for other in keys])
        order = np.argsort(-ds["at"].to_numpy()[members], kind="stable")
        here = _here(ds, members[0])
        found.append(Family(_name(*key, here), *key, members[order], here))
    return found


def is_shortcut(ds: xr.Dataset) -> np.ndarray:
    """Say which variants are 002's shortcut, a whole schedule of cuts, rather than single edits."""
    chosen: np.ndarray = ds["edit"].to_numpy() == SHORTCUT
    return chosen


def over_starts(ds: xr.Dataset) -> list[Family]:
    """Keep the families of a sweep, or of a result of one, that were begun at so many starts that they make a curve."""
    return [family for family in families(ds) if len(family.variants) >= FEWEST]


def scaled(ds: xr.Dataset) -> list[tuple[int, int]]:
    """List which nb of the source's blocks are how many of this network's."""
    cuts = ds["edit"].to_numpy() == "blocks"
    return sorted(set(zip(*(ds[name].to_numpy()[cuts].tolist() for name in ("nb", "unet_blocks")), strict=True)))


class Line(NamedTuple):
    """Edits that differ in how many steps they take, or in the pause between them: a name, and variants by rising x."""

    name: str
    variants: np.ndarray


def lines(ds: xr.Dataset, along: str) -> list[Line]:
    """Group edits into curves over their steps n, or over the pauses r of what was cut twice (002 Figs 9, 10)."""
    names = ("edit", "ns", "nb", "at") if along == "n" else ("edit", "ns", "nb", "n", "at")
    twice = ds["r"].to_numpy() != ONCE
    keys = list(zip(*(ds[name].to_numpy().tolist() for name in names), strict=True))
    found = []
    for key in dict.fromkeys(keys):
        members = np.flatnonzero([other == key for other in keys] & (twice == (along == "r")))
        if len(np.unique(ds[along].to_numpy()[members])) >= FEWEST:
            edit = dict(zip(names, key, strict=True))
            n = f", n = {edit['n']}" if along == "r" else ""
            part = _part(edit["edit"], edit["ns"], edit["nb"], _here(ds, members[0]))
            order = np.argsort(ds[along].to_numpy()[members], kind="stable")
            found.append(Line(f"{part}{n} from t = {edit['at']}", members[order]))
    return found


def _name(edit: str, ns: int, nb: int, n: int, r: int, blocks: int | None) -> str:
    if edit == SHORTCUT:
        return "the shortcut"
    again = "" if r == ONCE else f", again {r} later"
    return f"{_part(edit, ns, nb, blocks)}{' ' if edit == 'jump' else ', '}n = {n}{again}"


def _part(edit: str, ns: int, nb: int, blocks: int | None) -> str:
    here = "" if blocks is None else f" ({blocks} here)"
    return {"skips": f"skips ns = {ns}", "blocks": f"blocks nb = {nb}{here}"}.get(edit, edit)


def _here(ds: xr.Dataset, variant: int) -> int | None:
    return int(ds["unet_blocks"][variant]) if "unet_blocks" in ds.coords else None


def similarity(compared: xr.Dataset, phases: xr.Dataset | None) -> Figure:
    """Draw SSIM and PSNR with the run over where edits start, with one sd, and phases beneath (002 Figs 4, 7, 8)."""
    among = over_starts(compared)
    palette = colours([family.name for family in among])
    strip = 0 if phases is None else 0.22 * len(among) + 0.15
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.2 + strip), layout="constrained")
        heights = [2.6, 2.6, strip] if strip else [2.6, 2.6]
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        for axis, name, label in zip(axes, ("ssim", "psnr"), ("SSIM", "PSNR (dB)"), strict=False):
            for family in among:
                values = compared.isel(variant=family.variants)
                at, mean, sd = (values[part].to_numpy() for part in ("at", f"{name}_mean", f"{name}_sd"))
                mean = np.where((name == "psnr") & (mean >= compared.attrs["cap"]), np.nan, mean)
                axis.fill_between(at, mean - sd, mean + sd, color=palette[family.name], alpha=0.15, lw=0)
                axis.plot(at, mean, ".-", color=palette[family.name], label=legible(family.name))
            axis.set_ylabel(label)
        axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 1 + 0.02 * np.ptp(axes[0].get_ylim())))
        if phases is not None:
            _shade(axes[2], phases, among)
        axes[-1].set_xlabel(START)
        axes[0].xaxis.set_inverted(True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _shade(axis: Axes, phases: xr.Dataset, among: Sequence[Family]) -> None:
    """Draw a bar of phases for every family, halfway from one start to the next."""
    for row, family in enumerate(among):
        of_family = phases.isel(variant=family.variants)
        at, phase = (of_family[name].to_numpy().astype(float) for name in ("at", "phase"))
        middles = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([at[:1], middles, at[-1:]])
        for number, shade in SHADES.items():
            if not (there := np.flatnonzero(phase == number)).size:
                continue
            first, last = edges[there[0]], edges[there[-1] + 1]
            axis.barh(row, last - first, left=first, height=0.86, color=shade)
            axis.text((first + last) / 2, row, f"{number}", ha="center", va="center", fontsize=8)
    axis.set_yticks(range(len(among)), [legible(family.name) for family in among], fontsize=8)
    axis.set_ylim(len(among) - 0.5, -0.5)
    axis.set_title("phases", loc="left", fontsize=8.5)
    axis.grid(visible=False)
    axis.tick_params(axis="y", length=0)


def montage(sweep: Run) -> Figure:
    """Draw where edited processes of a few samples end, and where their run ended (002 Figs 3, 5, 6)."""
    assert sweep.store is not None
    among = over_starts(sweep.store)[:FAMILIES]
    few = sweep.store.isel(replica=0, sample=slice(SAMPLES))
    limits = few["x_0"].attrs.get("valid_range", [-1, 1])
    unedited = ends(sweep, few)
    columns = min(2, len(among))
    rows = -(-len(among) // columns)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        height = 0.35 + WIDTH / columns / (STARTS + 1.6) * few.sizes["sample"]
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, family in zip(axes.flat, among, strict=False):
            shown = family.variants[thinned(len(family.variants))]
            endings = few["x_0"].isel(variant=shown).transpose("sample", "variant", ...).to_numpy()
            titles = [f"{at}" for at in few["at"].to_numpy()[shown]]
            groups = [endings] if unedited is None else [unedited[:, None], endings]
            canvas = beside(*(tiled(displayed(group, *limits)) for group in groups))
            cell = canvas.shape[0] / few.sizes["sample"]
            places = (np.arange(len(shown)) + 0.5 + (1.25 if len(groups) > 1 else 0)) * cell
            if len(groups) > 1:
                places, titles = np.concatenate([[cell / 2], places]), ["$x_0$", *titles]
            axis.imshow(canvas, interpolation="none", vmin=0, vmax=1)
            axis.set_xticks(places, titles, fontsize=8)
            axis.set_yticks([])
            axis.xaxis.tick_top()
            axis.tick_params(length=0)
            axis.set_title(legible(family.name), loc="left")
        for axis in axes.flat:
            axis.spines[:].set_visible(False)
            if not axis.images:
                axis.set_axis_off()
    return figure


def thinned(count: int) -> np.ndarray:
    """Choose at most STARTS of so many, evenly."""
    return np.unique(np.linspace(0, count - 1, STARTS).round().astype(int))


def ends(sweep: Run, few: xr.Dataset) -> np.ndarray | None:
    """Read where the run of a sweep ended, (sample, channel, y, x); None where that is not at hand."""
    run = None if sweep.parent is None else sweep.parent.store
    if run is None or run["x_0"].shape[1:] != few["x_0"].shape[-3:] or not np.isin(few["sample"], run["sample"]).all():
        return None
    return run["x_0"].sel(sample=few["sample"].to_numpy()).to_numpy()


def betas(run: xr.Dataset) -> np.ndarray:
    """Give the beta of every step between stored timesteps, 1 - alpha_bar / alpha_bar after the step.

    Where a process does not preserve variance, alpha_bar is that of its states scaled to do so.
    """
    signal, noise = run["signal"].to_numpy() ** 2, run["noise_scale"].to_numpy() ** 2
    alpha_bar = signal / (signal + noise)
    of_steps: np.ndarray = 1 - alpha_bar / np.append(alpha_bar[1:], 1)
    return of_steps


def schedules(runs: dict[str, xr.Dataset], palette: dict[str, str]) -> Figure:
    """Draw the noise that every step takes away, over timesteps (002 Fig. 15)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axis = figure.add_subplot()
        for name, run in runs.items():
            axis.plot(run["timestep"], betas(run), color=palette[name], label=legible(name))
        axis.set(xlabel="timestep t   (denoising →)", ylabel="β of the step")
        axis.xaxis.set_inverted(True)
        axis.legend()
    return figure
