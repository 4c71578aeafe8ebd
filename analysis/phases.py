"""Phases of the reverse process, as edits of it find them (002; METHODS 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _edits, _verdicts
from traj.analysis.intervention import intervention
from traj.analysis.psnr import CAP
from traj.stores import FAMILY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "sweep"

Array = NDArray[Any]

PHASES = (1, 2, 3)
"""An edit changes what the image shows; adds noise that stays; takes ever less away from pure denoising."""

SMALL = 1.0
"""Fall or rise of mean PSNR (dB), or larger, that must be ruled out to say that there is none."""


def phases(ds: xr.Dataset, *, baseline: str | None = None, threshold: float = 0.8, preset: str = "auto") -> xr.Dataset:
    """Find the phases of the reverse process in how much an edit does, over where it starts.

    Each family of edits (equal edit, ns, nb, n and r) is a curve over t_start, from its highest timestep down, of SSIM
    and PSNR with the run that was edited, as the quantity intervention gives them. Phase 1 is all before mean SSIM
    first reaches `threshold`. What is left is divided at its smallest mean PSNR, the last one of equals: phase 2 goes
    down to it, where PSNR falls to it, and phase 3 comes after it, where PSNR rises again. Without a fall, a rise
    makes all that is left phase 3; without a rise, a fall makes it all phase 2. Edits that change no image (mean PSNR
    at its cap of 100 dB) are left out of the curve; a single start, as that of the shortcut, is no curve.

    `seen` (family, phase_number) says of each phase 1 for seen, -1 for not seen and 0 for cannot tell. Phase 1 is seen
    where the interval of 95 % of mean SSIM at the first start (Student) lies below `threshold`, and not where it lies
    above. The fall from the first start after phase 1 to the lowest, and the rise from it to the highest after it, are
    means of differences of the same samples, the places of which were chosen: they are seen where Student's t exceeds
    what the largest t between any two points of a flat curve exceeds in 5 % of cases (by flipping signs of samples'
    curves, which takes 6 samples), and not seen where that bound leaves room for less than 1 dB from any start to any
    later one. `sequence` (family) is 1 where all three are seen, -1 where one is not, else 0.

    `phase` (variant) is 1, 2 or 3 in the phases that are seen, and NaN; `first_timestep` and `last_timestep` (family,
    phase_number) are the highest and lowest t_start in a phase, NaN where there is no such phase. SSIM and PSNR are
    kept as mean, sd and standard error (variant).

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
    InputError
        A threshold outside 0 to 1, and what the quantity intervention refuses.
    """
    _edits.require_threshold(threshold)
    compared = intervention(ds, baseline=baseline, preset=preset)
    families, of = _edits.groups(ds, FAMILY)
    at = ds["at"].to_numpy()
    kept = [f"{name}_{part}" for name in ("ssim", "psnr") for part in ("mean", "sd", "se")]
    curves = compared["ssim"], compared["psnr"]
    options = {"at": at, "of": of, "threshold": threshold}
    sizes = {"family": len(families), "phase_number": len(PHASES)}
    phase = _edits.over_variants(_phase_of, *curves, sizes={"variant": len(at)}, **options)
    seen = _edits.over_variants(_seen_of, *curves, sizes=sizes, **options).astype(np.int8)
    first, last = (_edits.over_variants(_ends, phase, sizes=sizes, at=at, of=of, end=end) for end in (np.max, np.min))
    result = compared[kept].assign(
        phase=phase.assign_attrs(long_name="phase of the reverse process an edit starts in", units="1"),
        seen=seen.assign_attrs(_verdicts.FLAGS, long_name="whether a phase is seen"),
        sequence=seen.min("phase_number").assign_attrs(_verdicts.FLAGS, long_name="whether phases 1, 2, 3 are seen"),
        first_timestep=first.assign_attrs(long_name="highest timestep of a phase", units="1"),
        last_timestep=last.assign_attrs(long_name="lowest timestep of a phase", units="1"),
    )
    family = ("family", families, {"long_name": "edits that differ in where they start", "units": "1"})
    number = ("phase_number", list(PHASES), {"long_name": "phase of the reverse process", "units": "1"})
    attrs = {**compared.attrs, "quantity": "phases", "threshold": threshold, "smallest_change": SMALL}
    return result.assign_coords(family=family, phase_number=number).assign_attrs(attrs)


def _curves(psnr: Array, at: Array, of: Array) -> list[Array]:
    """Give the variants of each family in order of falling t_start, without those that change nothing."""
    edited = ~(psnr.mean(axis=1) >= CAP)
    members = [np.flatnonzero((of == family) & edited) for family in range(of.max() + 1)]
    return [member[np.argsort(-at[member], kind="stable")] for member in members]


def _phase_of(ssim: Array, psnr: Array, at: Array, of: Array, threshold: float) -> Array:
    phase = np.full(len(at), np.nan)
    for curve in _curves(psnr, at, of):
        phase[curve] = of_curve(ssim[curve], psnr[curve], threshold)[0]
    return phase


def _seen_of(ssim: Array, psnr: Array, at: Array, of: Array, threshold: float) -> Array:
    return np.array([of_curve(ssim[curve], psnr[curve], threshold)[1] for curve in _curves(psnr, at, of)], np.float64)


def of_curve(ssim: Array, psnr: Array, threshold: float) -> tuple[Array, tuple[int, int, int]]:
    """Tell the phase at each point of one curve, and which are seen: arrays (point, sample), by falling t_start."""
    count, samples = ssim.shape
    phase = np.full(count, np.nan)
    unknown = (_verdicts.CANNOT_TELL,) * 3
    ssim, psnr = np.ascontiguousarray(ssim), np.ascontiguousarray(psnr)  # sums in one order
    if count < 2 or samples < 2 or np.isnan(ssim).any() or np.isnan(psnr).any():
        return phase, unknown
    changes = -int(_verdicts.of_means(ssim[0], threshold))
    reached = np.flatnonzero(ssim.mean(axis=1) >= threshold)
    if not reached.size:
        never = (_verdicts.of_means(ssim, threshold, count) == _verdicts.NOT_SEEN).all()
        later = _verdicts.NOT_SEEN if never else _verdicts.CANNOT_TELL
        falls, rises = later, later
    else:
        first = int(reached[0])
        level = psnr[first:].mean(axis=1)
        lowest = first + int(np.flatnonzero(level == level.min())[-1])
        highest = lowest + int(level[lowest - first :].argmax())
        bound = _verdicts.largest_t(psnr[first:].T)
        falls = _change(psnr, first, lowest, (slice(first, first + 1), slice(first, None)), bound, -1)
        rises = _change(psnr, lowest, highest, (slice(first, None), slice(first, None)), bound, 1)
        if falls == _verdicts.SEEN:
            phase[first:] = 2
        if rises == _verdicts.SEEN:
            phase[lowest + 1 if falls == _verdicts.SEEN else first :] = 3
    if changes == _verdicts.SEEN:
        phase[: reached[0] if reached.size else count] = 1
    return phase, (changes, falls, rises)


def _change(psnr: Array, start: int, end: int, among: tuple[slice, slice], bound: float, sign: int) -> int:
    """Say whether PSNR rises (sign 1) or falls (-1) from one point of a curve to another, chosen `among` pairs."""
    if np.isinf(bound):
        return _verdicts.CANNOT_TELL
    change, error = _verdicts.paired(psnr[start], psnr[end])
    if sign * change > bound * error:
        return _verdicts.SEEN
    first, second = (np.arange(len(psnr))[part] for part in among)
    earlier, later = (index.ravel() for index in np.meshgrid(first, second, indexing="ij"))
    earlier, later = earlier[earlier < later], later[earlier < later]
    if not earlier.size:
        return _verdicts.CANNOT_TELL
    changes, errors = _verdicts.paired(psnr[earlier], psnr[later])
    return _verdicts.NOT_SEEN if (sign * changes + bound * errors < SMALL).all() else _verdicts.CANNOT_TELL


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
