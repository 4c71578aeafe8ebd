"""Phases of the reverse process, as edits of it find them (002; METHODS 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis import _edits
from analysis.intervention import intervention
from analysis.psnr import CAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "fork"

Array = NDArray[Any]

PHASES = (1, 2, 3)
"""An edit changes what the image shows; adds noise that stays; takes ever less away from pure denoising."""

ERRORS = 2
"""Standard errors of their difference that two means must be apart to count as different."""


def phases(ds: xr.Dataset, *, baseline: str | None = None, threshold: float = 0.8, preset: str = "auto") -> xr.Dataset:
    """Find the phases of the reverse process in how much an edit does, over where it starts.

    Each family of edits (equal edit, ns, nb, n and r) is a curve over t_start, from its highest timestep down, of SSIM
    and PSNR with the run that was edited, means over samples as the quantity intervention gives them. Phase 1 is all
    before mean SSIM first reaches `threshold`. What is left is divided at its smallest mean PSNR, the last one of
    equals: phase 2 goes down to it, where PSNR falls to it, and phase 3 comes after it, where PSNR rises again.
    Without a fall, a rise makes all that is left phase 3; without a rise, a fall makes it all phase 2; without both,
    it is no phase. Falls and rises are those from the first mean to the smallest, and from it to the largest after
    it, and count above two standard errors of a difference of independent means, sqrt(se_a^2 + se_b^2); with one
    sample there are none. Edits that change no image (mean PSNR at its cap of 100 dB) are left out of the curve; a
    single start, as that of the shortcut, is no curve and has no phase.

    `phase` (variant) is 1, 2, 3 or NaN for none; `first_timestep` and `last_timestep` (family, phase) are the highest
    and lowest t_start found in a phase, NaN where there is no such phase. SSIM and PSNR are kept as mean, sd and
    standard error (variant).

    Parameters
    ----------
    baseline
        Store of the run that was forked; needed.
    threshold
        Mean SSIM from which on an edit leaves alone what the image shows.
    preset
        Window of SSIM, as for the quantity intervention. Without SSIM there are no phases.

    Raises
    ------
    ValueError
        A threshold outside 0 to 1, and what the quantity intervention refuses.
    """
    _edits.require_threshold(threshold)
    compared = intervention(ds, baseline=baseline, preset=preset)
    families, of = _edits.groups(ds, _edits.FAMILY)
    at = ds["at"].to_numpy()
    kept = [f"{name}_{part}" for name in ("ssim", "psnr") for part in ("mean", "sd", "se")]
    curves = compared["ssim_mean"], compared["psnr_mean"], compared["psnr_se"]
    phase = _edits.over_variants(_of_families, *curves, sizes={"variant": len(at)}, at=at, of=of, threshold=threshold)
    sizes = {"family": len(families), "phase_number": len(PHASES)}
    first, last = (_edits.over_variants(_ends, phase, sizes=sizes, at=at, of=of, end=end) for end in (np.max, np.min))
    result = compared[kept].assign(
        phase=phase.assign_attrs(long_name="phase of the reverse process an edit starts in", units="1"),
        first_timestep=first.assign_attrs(long_name="highest timestep of a phase", units="1"),
        last_timestep=last.assign_attrs(long_name="lowest timestep of a phase", units="1"),
    )
    family = ("family", families, {"long_name": "edits that differ in where they start", "units": "1"})
    number = ("phase_number", list(PHASES), {"long_name": "phase of the reverse process", "units": "1"})
    attrs = {**compared.attrs, "quantity": "phases", "threshold": threshold}
    return result.assign_coords(family=family, phase_number=number).assign_attrs(attrs)


def _of_families(ssim: Array, psnr: Array, error: Array, at: Array, of: Array, threshold: float) -> Array:
    phase = np.full(len(at), np.nan)
    for family in range(of.max() + 1):
        edited = np.flatnonzero((of == family) & ~(psnr >= CAP))
        curve = edited[np.argsort(-at[edited], kind="stable")]
        phase[curve] = of_curve(ssim[curve], psnr[curve], error[curve], threshold)
    return phase


def of_curve(ssim: Array, psnr: Array, error: Array, threshold: float) -> Array:
    """Tell the phase at each point of one curve, in order of falling t_start; `error` is the one of `psnr`."""
    phase = np.full(len(ssim), np.nan)
    if len(ssim) < 2 or np.isnan(ssim).any() or np.isnan(psnr).any():
        return phase
    reached = ssim >= threshold
    first = int(reached.argmax()) if reached.any() else len(ssim)
    phase[:first] = 1
    if first == len(ssim):
        return phase
    lowest = first + int(np.flatnonzero(psnr[first:] == psnr[first:].min())[-1])
    highest = lowest + int(psnr[lowest:].argmax())

    def above_lowest(k: int) -> bool:
        return bool(psnr[k] - psnr[lowest] > ERRORS * np.hypot(error[k], error[lowest]))

    falls, rises = above_lowest(first), above_lowest(highest)
    if falls:
        phase[first:] = 2
    if rises:
        phase[lowest + 1 if falls else first :] = 3
    return phase


def _ends(phase: Array, at: Array, of: Array, end: Any) -> Array:
    """Take the first or last timestep (family, phase) of the variants in a phase."""
    members = [[at[(of == family) & (phase == number)] for number in PHASES] for family in range(of.max() + 1)]
    return np.array([[end(there) if len(there) else np.nan for there in row] for row in members], np.float64)


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw PSNR over where edits start, mean and one standard deviation; the phase stands at each point."""
    ax = _edits.draw(result, "psnr", 1, ax)
    for at, mean, phase in zip(*(result[name].to_numpy() for name in ("at", "psnr_mean", "phase")), strict=True):
        if np.isfinite(phase):
            ax.annotate(f"{phase:.0f}", (at, mean), textcoords="offset points", xytext=(0, 4), ha="center")
    return ax
