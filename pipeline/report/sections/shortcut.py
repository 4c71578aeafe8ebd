"""The shortcut: a whole schedule of cuts and an early end, against the unedited run (002 Figs 11 to 13, 22)."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from traj.analysis._drawing import CELL, STYLE, WIDTH, displayed, of_images, tiled
from traj.analysis._verdicts import (
    CANNOT_TELL,
    NOT_SEEN,
    SEEN,
    WORDS,
    beside_published,
    means,
    most_of_all,
    student,
    wilson,
)
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section
from traj.pipeline.report.edits import ends, is_shortcut
from traj.pipeline.report.findings import SIMILAR
from traj.pipeline.report.metrics import rounded
from traj.pipeline.report.sections.savings import percent

STEPS = 100
"""Of every run that has a shortcut."""

COLUMNS, BANDS = 16, 2
"""Most samples beside one another in a montage, and such lines of pairs."""

SOURCE_SSIM, SOURCE_MAD, SOURCE_SAMPLES, SOURCE_RANGE = 0.795, 0.044, 100, (0.7, 0.9)
SOURCE_TIME = (0.05, 0.22)
"""What 002 reports: SSIM, and time saved by the cuts and by the steps that are not made."""

BESIDE = {SEEN: "higher", NOT_SEEN: "lower", CANNOT_TELL: "no difference seen"}

USUAL = ("wang2004", "skimage")
"""Windows of SSIM that the source, which names none, may have taken; values by others do not compare with its own."""

HOW = (
    "<p>The source puts its findings together into one schedule of 100 steps, counted from 100 down to 1: cuts of "
    "nb = 6 blocks in steps 65 to 61 and of nb = 8 in 60 to 59, 47 to 41 and 31 to 25, all other steps whole, and an "
    "end at step 18, whose prediction of x_0 is the image; steps 17 to 1 are not made. The places of the cuts were "
    "found on the source’s network and are not adapted to this one.</p>"
)


class Saved(NamedTuple):
    """Shares of a whole run that the shortcut leaves out: by cuts, and by steps that are not made."""

    name: str
    cuts: float
    steps: float


def html(material: Material) -> str:
    """Show every sweep that has the shortcut."""
    shown = "".join(
        f"<h3>{markup.named(sweep.name, material.colours)}</h3>{_of_sweep(sweep)}"
        for sweep in material.sweeps
        if _where(sweep) is not None
    )
    return HOW + shown if shown else ""


def _where(sweep: Run) -> int | None:
    """Find the variant that is the shortcut, where a sweep has results and one."""
    compared = sweep.results.get("intervention")
    if compared is None or not is_shortcut(compared).any():
        return None
    return int(np.flatnonzero(is_shortcut(compared))[0])


def _of_sweep(sweep: Run) -> str:
    ssim, shares = of_samples(sweep), saved(sweep)
    shown = ""
    if of_images(sweep.store) and (figure := montage(sweep)) is not None:
        caption = (
            "Pairs of images, one sample each: above, where the unedited run ends; beneath, where the shortcut ends, "
            "from the same noise. After 002 Figs 11 and 22."
        )
        shown += markup.figure(figure, caption, f"x_0 above, endings of the shortcut beneath: {sweep.name}")
    caption = (
        "SSIM of each sample’s shortcut with its unedited image: share of samples, with their mean (line) and the mean "
        "absolute deviation from it to either side (shaded); dotted, the source’s mean. "
        f"N = {ssim.size} samples. After 002 Fig. 12."
    )
    shown += markup.figure(histogram(ssim), caption, f"SSIM of the shortcut: {sweep.name}")
    caption = (
        "What the shortcut leaves out, in per cent of the whole run, by cuts and by steps that are not made; last, the "
        "time the source reports. Time here is that of the network, on the machine that made the sweep; what each "
        "step that is not made saves of it is one step’s share. After 002 Fig. 13."
    )
    shown += markup.figure(bars(shares), caption, f"What the shortcut saves: {sweep.name}")
    return shown + _findings(ssim, shares, str(sweep.results["intervention"].attrs["preset"]))


def of_samples(sweep: Run) -> np.ndarray:
    """Take the SSIM of every sample's shortcut with its unedited image: (sample,)."""
    return sweep.results["intervention"]["ssim"].isel(variant=_where(sweep)).to_numpy()


def deviation(values: np.ndarray) -> float:
    """Average how far values lie from their mean (the source's mad)."""
    return float(np.abs(values - values.mean()).mean())


def saved(sweep: Run) -> list[Saved]:
    """Say what the shortcut leaves out of a run's multiply-adds, and of its time where that was measured."""
    variant = _where(sweep)
    edit = sweep.results["intervention"].isel(variant=variant)
    steps = int(edit["evaluations_saved"]) / STEPS
    shares = {"multiply-adds": float(edit["multiply_adds_removed"])}
    if sweep.time_removed is not None:
        shares["network time"] = float(sweep.time_removed[variant])
    return [Saved(name, whole - steps, steps) for name, whole in shares.items()]


def montage(sweep: Run) -> Figure | None:
    """Draw x_0 of as many samples as fit, above the ending of the shortcut; None where the run is not at hand."""
    assert sweep.store is not None
    few = sweep.store.isel(variant=_where(sweep), replica=0, sample=slice(BANDS * COLUMNS))
    if (unedited := ends(sweep, few)) is None:
        return None
    limits = few["x_0"].attrs.get("valid_range", [-1, 1])
    pairs = np.stack([unedited, few["x_0"].to_numpy()])
    bands = []
    for first in range(0, pairs.shape[1], COLUMNS):
        band = np.concatenate(tiled(displayed(pairs[:, first : first + COLUMNS], *limits)), axis=1)
        bands.append(band)
    width = bands[0].shape[1]
    filled = [np.pad(band, ((0, CELL // 4), (0, width - band.shape[1]), (0, 0)), constant_values=1) for band in bands]
    canvas = np.concatenate(filled)[: -CELL // 4]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, WIDTH * canvas.shape[0] / (COLUMNS * CELL)), layout="constrained")
        axis = figure.add_subplot()
        axis.imshow(canvas, interpolation="none", vmin=0, vmax=1)
        axis.set_xlim(0, COLUMNS * width / min(COLUMNS, pairs.shape[1]))
        height = bands[0].shape[0]
        places = [k * (height + CELL // 4) + part * height for k in range(len(bands)) for part in (0.25, 0.75)]
        axis.set_yticks(places, ["$x_0$", "shortcut"] * len(bands), fontsize=8)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def histogram(ssim: np.ndarray) -> Figure:
    """Draw how SSIM is spread over samples, with mean and mean absolute deviation (002 Fig. 12)."""
    low = min(np.floor(20 * ssim.min()) / 20, SOURCE_RANGE[0])
    edges = np.linspace(low, 1, round((1 - low) * 20) + 1).tolist()
    mean, mad = ssim.mean(), deviation(ssim)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axis = figure.add_subplot()
        axis.hist(ssim, edges, weights=np.full(ssim.size, 1 / ssim.size), color="#8db9d8", zorder=2)
        axis.axvspan(mean - mad, mean + mad, color="#000000", alpha=0.1, lw=0, zorder=1)
        axis.axvline(mean, color="#000000", lw=1.2, zorder=3)
        axis.axvline(SOURCE_SSIM, color="#000000", lw=1, ls=":", zorder=3)
        axis.set(xlabel="SSIM of the shortcut with $x_0$ of the run", ylabel="share of samples")
    return figure


def bars(shares: list[Saved]) -> Figure:
    """Draw what is saved by the cuts and by the steps that are not made, beside what the source reports (Fig. 13)."""
    drawn = [*shares, Saved("time, the source", *SOURCE_TIME)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.45 * len(drawn)), layout="constrained")
        axis = figure.add_subplot()
        for row, (_, cuts, steps) in enumerate(drawn):
            axis.barh(row, 100 * steps, color="#0072B2", height=0.6, label=None if row else "steps not made")
            axis.barh(row, 100 * cuts, left=100 * steps, color="#E69F00", height=0.6, label=None if row else "cuts")
        axis.set_yticks(range(len(drawn)), [share.name for share in drawn])
        axis.set_ylim(len(drawn) - 0.5, -0.5)
        axis.set_xlabel("% of the whole run")
        axis.grid(visible=False, axis="y")
        axis.set_axisbelow(True)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _findings(ssim: np.ndarray, shares: list[Saved], preset: str) -> str:
    """Set what the source reports of its shortcut beside what is found here."""
    low, high = SOURCE_RANGE
    mean, half = with_margin(ssim)
    among, above = (ssim >= low) & (ssim <= high), ssim > high
    usual = preset in USUAL
    window = "" if usual else f"; SSIM by {preset}, another window than the source’s, whose values do not compare"
    rows = [
        [
            f"Mean SSIM {SOURCE_SSIM} (of {SOURCE_SAMPLES} samples)",
            BESIDE[beside_published(ssim, SOURCE_SSIM, SOURCE_MAD, SOURCE_SAMPLES)] if usual else "cannot tell",
            f"{mean:.3f} ± {half:.3f}; {_share(ssim >= SIMILAR)} at 0.8 or above{escape(window)}",
        ],
        [f"Mean absolute deviation of SSIM {SOURCE_MAD}", "", f"{deviation(ssim):.3f}"],
        [
            f"Most samples between {low} and {high}",
            WORDS[most_of_all(int(among.sum()), ssim.size)] if usual else "cannot tell",
            f"{_share(among)} between, {_share(above)} above",
        ],
    ]
    for name, cuts, steps in shares:
        rows.append(
            [
                "Time saved about 27 %: 5 by the cuts, 22 by 17 steps of 100 that are not made"
                if name != "multiply-adds"
                else "Multiply-adds are not given; by count, those of the source’s network are 23.4 %: 6.4 and 17",
                "",
                f"{name} {percent(cuts + steps)}: {percent(cuts)} by the cuts, {percent(steps)} by the steps",
            ]
        )
    return markup.table(("the source reports", "here", "in numbers"), rows, numbers=())


def with_margin(ssim: np.ndarray) -> tuple[float, float]:
    """Give a mean over samples, and half of its interval of 95 % (Student)."""
    mean, error = means(ssim)
    return float(mean), float(student(ssim.size) * error)


def _share(which: np.ndarray) -> str:
    low, high = (100 * end for end in wilson(float(which.mean()), which.size))
    return f"{percent(float(which.mean()))} ({low:.0f} to {high:.0f})"


def numbers(run: Run) -> Numbers:
    """Sum up the shortcut: its likeness, and what it leaves out."""
    if (variant := _where(run)) is None:
        return {}
    removed = run.results["intervention"]["multiply_adds_removed"][variant]
    ssim = of_samples(run)
    return {
        "shortcut_ssim": rounded(ssim.mean()),
        "shortcut_ssim_deviation": rounded(deviation(ssim)),
        "shortcut_multiply_adds_removed": rounded(removed),
    }


SECTION = Section(
    "shortcut",
    "The shortcut: all of it at once",
    html,
    kind="sweep",
    quantities=("intervention",),
    meanings={
        "shortcut_ssim": "mean SSIM of the shortcut with the run (0.795 in the source)",
        "shortcut_ssim_deviation": "mean absolute deviation of that SSIM over samples (0.044 in the source)",
        "shortcut_multiply_adds_removed": "share of the run's multiply-adds that the shortcut leaves out",
    },
    numbers=numbers,
)
