"""The shortcut of 002: a whole schedule of cuts and an early end, against the unedited run (Figs 11 to 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._edits import families
from traj.analysis._quantity import Look, Number
from traj.analysis._statistics import verdicts
from traj.analysis._statistics.verdicts import CANNOT_TELL, NOT_SEEN, SEEN, SIMILAR, WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 100
"""Of every run that has a shortcut."""

SOURCE_SSIM, SOURCE_MAD, SOURCE_SAMPLES, SOURCE_RANGE = 0.795, 0.044, 100, (0.7, 0.9)
SOURCE_TIME = (0.05, 0.22)
"""What 002 reports: SSIM, and time saved by the cuts and by the steps that are not made."""

USUAL = ("wang2004", "skimage")
"""Windows of SSIM that the source, which names none, may have taken; values by others do not compare with its own."""

HOW = (
    "The source puts its findings together into one schedule of 100 steps, counted from 100 down to 1: cuts of nb = 6 "
    "blocks in steps 65 to 61 and of nb = 8 in 60 to 59, 47 to 41 and 31 to 25, all other steps whole, and an end at "
    "step 18, whose prediction of x_0 is the image; steps 17 to 1 are not made. The places of the cuts were found on "
    "the source’s network and are not adapted to this one."
)


class Saved(NamedTuple):
    """Shares of a whole run that the shortcut leaves out: by cuts, and by steps that are not made."""

    name: str
    cuts: float
    steps: float


def of_result(compared: xr.Dataset) -> xr.Dataset | None:
    """Take the shortcut out of a sweep's result, None where it has none."""
    where = np.flatnonzero(families.is_shortcut(compared))
    return compared.isel(variant=where[0]) if where.size else None


def deviation(ssim: NDArray[Any]) -> float:
    """Average how far values lie from their mean (the source's mad)."""
    return float(np.abs(ssim - ssim.mean()).mean())


def saved(shortcut: xr.Dataset) -> list[Saved]:
    """Say what the shortcut leaves out of a run's multiply-adds, and of its time where that was measured."""
    steps = int(shortcut["evaluations_saved"]) / STEPS
    names = {"multiply_adds_removed": "multiply-adds", "time_removed": "network time"}
    shares = {said: float(shortcut[name]) for name, said in names.items() if name in shortcut.coords}
    return [Saved(said, whole - steps, steps) for said, whole in shares.items() if np.isfinite(whole)]


def rows(shortcut: xr.Dataset) -> list[tuple[str, str, str]]:
    """Set what the source reports of its shortcut beside what is found here."""
    ssim, preset = shortcut["ssim"].to_numpy(), str(shortcut.attrs["preset"])
    low, high = SOURCE_RANGE
    mean, half = verdicts.with_margin(ssim)
    among = (ssim >= low) & (ssim <= high)
    if preset in USUAL:
        beside = {SEEN: "higher", NOT_SEEN: "lower", CANNOT_TELL: "no difference seen"}
        higher = beside[verdicts.beside_published(ssim, SOURCE_SSIM, SOURCE_MAD, SOURCE_SAMPLES)]
        most, window = WORDS[verdicts.most_of_all(int(among.sum()), ssim.size)], ""
    else:
        higher = most = WORDS[CANNOT_TELL]
        window = f"; SSIM by {preset}, another window than the source’s, whose values do not compare"
    told = [
        (
            f"The shortcut’s mean SSIM is {SOURCE_SSIM} (of {SOURCE_SAMPLES} samples; Fig. 12)",
            higher,
            f"{mean:.3f} ± {half:.3f}; {_share(ssim >= SIMILAR)} at {SIMILAR} or above{window}",
        ),
        (f"Mean absolute deviation of that SSIM {SOURCE_MAD}", "", f"{deviation(ssim):.3f}"),
        (
            f"Most samples between {low} and {high}",
            most,
            f"{_share(among)} between, {_share(ssim > high)} above",
        ),
    ]
    for name, cuts, steps in saved(shortcut):
        said = (
            "Multiply-adds are not given; by count, those of the source’s network are 23.4 %: 6.4 by the cuts, 17 by "
            "the steps that are not made"
            if name == "multiply-adds"
            else "Time saved about 27 %: 5 by the cuts, 22 by 17 steps of 100 that are not made (Fig. 13)"
        )
        numbers = f"{percent(cuts + steps)}: {percent(cuts)} by the cuts, {percent(steps)} by the steps"
        told.append((said, "", f"{name} {numbers}"))
    return told


def _share(which: NDArray[Any]) -> str:
    low, high = (100 * end for end in verdicts.wilson(float(which.mean()), which.size))
    return f"{percent(float(which.mean()))} ({low:.0f} to {high:.0f})"


def percent(share: float) -> str:
    """Write a share in per cent, a dash where there is none."""
    return f"{100 * share:.1f} %".replace("-", "−") if np.isfinite(share) else "–"


def numbers(shortcut: xr.Dataset) -> list[Number]:
    """Sum up the shortcut: its likeness, and what it leaves out."""
    ssim = shortcut["ssim"].to_numpy()
    mean, half = verdicts.with_margin(ssim)
    removed = float(shortcut["multiply_adds_removed"])
    return [
        Number(
            "shortcut_ssim",
            "mean SSIM of the shortcut with the run (0.795 in the source)",
            mean,
            mean - half,
            mean + half,
        ),
        Number(
            "shortcut_ssim_deviation",
            "mean absolute deviation of that SSIM over samples (0.044 in the source)",
            deviation(ssim),
        ),
        Number(
            "shortcut_multiply_adds_removed", "share of the run's multiply-adds that the shortcut leaves out", removed
        ),
    ]


def draw(results: Mapping[str, xr.Dataset], look: Look) -> Figure | None:
    """Draw how SSIM is spread over samples, beside what is saved, a row for each sweep (002 Figs 12, 13)."""
    from traj.analysis._drawing import style

    shown = {name: shortcut for name, result in results.items() if (shortcut := of_result(result)) is not None}
    if not shown:
        return None
    figure, axes = style.rows_of(list(shown), 2, 2.9, look, named=len(results) > 1)
    for row, shortcut in zip(axes, shown.values(), strict=True):
        _histogram(row[0], shortcut["ssim"].to_numpy())
        _bars(row[1], [*saved(shortcut), Saved("time, the source", *SOURCE_TIME)])
    axes[-1, 0].set_xlabel("SSIM of the shortcut with $x_0$ of the run")
    axes[-1, 1].set_xlabel("% of the whole run that is left out")
    return figure


def _histogram(axis: Axes, ssim: NDArray[Any]) -> None:
    low = min(np.floor(20 * ssim.min()) / 20, SOURCE_RANGE[0])
    edges = np.linspace(low, 1, round((1 - low) * 20) + 1).tolist()
    mean, mad = ssim.mean(), deviation(ssim)
    axis.hist(ssim, edges, weights=np.full(ssim.size, 1 / ssim.size), color="#8db9d8", zorder=2)
    axis.axvspan(mean - mad, mean + mad, color="#000000", alpha=0.1, lw=0, zorder=1)
    axis.axvline(mean, color="#000000", lw=1.2, zorder=3)
    axis.axvline(SOURCE_SSIM, color="#000000", lw=1, ls=":", zorder=3)
    axis.set_ylabel("share of samples")


def _bars(axis: Axes, shares: list[Saved]) -> None:
    for row, (_, cuts, steps) in enumerate(shares):
        axis.barh(row, 100 * steps, color="#0072B2", height=0.6, label=None if row else "steps not made")
        axis.barh(row, 100 * cuts, left=100 * steps, color="#E69F00", height=0.6, label=None if row else "cuts")
    axis.set_yticks(range(len(shares)), [share.name for share in shares])
    axis.set_ylim(len(shares) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.set_axisbelow(True)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def caption(results: Mapping[str, xr.Dataset]) -> str:
    """Say what the figure shows."""
    return (
        f"{HOW} Left: SSIM of each sample’s shortcut with its unedited image, as a share of samples, with their mean "
        "(line) and the mean absolute deviation from it to either side (shaded); dotted, the source’s mean. Right: "
        "what the shortcut leaves out, by cuts and by steps that are not made; last, the time the source reports. "
        "Time here is that of the network, on the machine that made the sweep, where it was measured; of it, each step "
        f"that is not made counts as one step’s share. {families.samples_of(results)} After 002 Figs 12 and 13."
    )
