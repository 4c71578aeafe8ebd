"""Phases of the reverse process, as edits of it find them (002; METHODS 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._drawing import captions
from traj.analysis._edits import families as edits
from traj.analysis._quantity import Landmark, Look, Results, Table, quantity
from traj.analysis._statistics import verdicts
from traj.analysis.intervention import intervention
from traj.analysis.psnr import CAP
from traj.stores import FAMILY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

PHASES = (1, 2, 3)
"""An edit changes what the image shows; adds noise that stays; takes ever less away from pure denoising."""

BEGINS = ("first_timestep_earliest", "first_timestep_latest")
"""The ends of where a phase may begin."""

SMALL = 1.0
"""Fall or rise of mean PSNR (dB), or larger, that must be ruled out to say that there is none."""


@quantity(reads="sweep", numerics=5, title="Phases of the process, as edits of it find them", source="002 Figs 3 to 7")
def phases(
    ds: xr.Dataset,
    *,
    baseline: xr.Dataset | None = None,
    threshold: float = verdicts.SIMILAR,
    preset: str = "auto",
) -> xr.Dataset:
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
    phase_number) are the highest and lowest t_start in a phase, NaN where there is no such phase. The phase begins
    between `first_timestep_earliest` and `first_timestep_latest`, by intervals of 95 % that pay for the choice of the
    place: phase 2 where mean SSIM possibly, and surely, first reaches `threshold`; phase 3 next to a start than which
    none is seen to have a lower PSNR. NaN is where that cannot be told, for too few samples or because it may lie
    beyond the starts that were tried. SSIM and PSNR are kept as mean, sd and standard error (variant).

    Parameters
    ----------
    baseline
        The run that was forked; needed.
    threshold
        Mean SSIM from which on an edit leaves alone what the image shows.
    preset
        Window of SSIM, as for the quantity intervention. Without SSIM there are no phases.

    Raises
    ------
    InputError
        A threshold outside 0 to 1, and what the quantity intervention refuses.
    """
    edits.require_threshold(threshold)
    compared = intervention(ds, baseline=baseline, preset=preset)
    families, of = edits.groups(ds, FAMILY)
    at = ds["at"].to_numpy()
    kept = [f"{name}_{part}" for name in ("ssim", "psnr") for part in ("mean", "sd", "se")]
    curves = compared["ssim"], compared["psnr"]
    options = {"at": at, "of": of, "threshold": threshold}
    sizes = {"family": len(families), "phase_number": len(PHASES)}
    phase = edits.over_variants(_phase_of, *curves, sizes={"variant": len(at)}, **options)
    seen = edits.over_variants(_seen_of, *curves, sizes=sizes, **options).astype(np.int8)
    begins = edits.over_variants(_begins_of, *curves, sizes={**sizes, "end": 2}, **options)
    first, last = (edits.over_variants(_ends, phase, sizes=sizes, at=at, of=of, end=end) for end in (np.max, np.min))
    result = compared[kept].assign(
        phase=phase.assign_attrs(long_name="phase of the reverse process an edit starts in", units="1"),
        seen=seen.assign_attrs(verdicts.FLAGS, long_name="whether a phase is seen"),
        sequence=seen.min("phase_number").assign_attrs(verdicts.FLAGS, long_name="whether phases 1, 2, 3 are seen"),
        first_timestep=first.assign_attrs(long_name="highest timestep of a phase", units="1"),
        last_timestep=last.assign_attrs(long_name="lowest timestep of a phase", units="1"),
    )
    for end, name in enumerate(BEGINS):
        words = f"{name.split('_')[-1]} timestep that a phase may begin at"
        there = begins.isel(end=end).where(np.isfinite(result["first_timestep"]))
        result[name] = there.assign_attrs(long_name=words, units="1")
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
    unknown = (verdicts.CANNOT_TELL,) * 3
    ssim, psnr = np.ascontiguousarray(ssim), np.ascontiguousarray(psnr)  # sums in one order
    if count < 2 or samples < 2 or np.isnan(ssim).any() or np.isnan(psnr).any():
        return phase, unknown
    changes = -int(verdicts.of_means(ssim[0], threshold))
    reached = np.flatnonzero(ssim.mean(axis=1) >= threshold)
    if not reached.size:
        never = (verdicts.of_means(ssim, threshold, count) == verdicts.NOT_SEEN).all()
        later = verdicts.NOT_SEEN if never else verdicts.CANNOT_TELL
        falls, rises = later, later
    else:
        first = int(reached[0])
        level = psnr[first:].mean(axis=1)
        lowest = first + int(np.flatnonzero(level == level.min())[-1])
        highest = lowest + int(level[lowest - first :].argmax())
        bound = verdicts.largest_t(psnr[first:].T)
        falls = _change(psnr, first, lowest, (slice(first, first + 1), slice(first, None)), bound, -1)
        rises = _change(psnr, lowest, highest, (slice(first, None), slice(first, None)), bound, 1)
        if falls == verdicts.SEEN:
            phase[first:] = 2
        if rises == verdicts.SEEN:
            phase[lowest + 1 if falls == verdicts.SEEN else first :] = 3
    if changes == verdicts.SEEN:
        phase[: reached[0] if reached.size else count] = 1
    return phase, (changes, falls, rises)


def _change(psnr: Array, start: int, end: int, among: tuple[slice, slice], bound: float, sign: int) -> int:
    """Say whether PSNR rises (sign 1) or falls (-1) from one point of a curve to another, chosen `among` pairs."""
    if np.isinf(bound):
        return verdicts.CANNOT_TELL
    change, error = verdicts.paired(psnr[start], psnr[end])
    if sign * change > bound * error:
        return verdicts.SEEN
    first, second = (np.arange(len(psnr))[part] for part in among)
    earlier, later = (index.ravel() for index in np.meshgrid(first, second, indexing="ij"))
    earlier, later = earlier[earlier < later], later[earlier < later]
    if not earlier.size:
        return verdicts.CANNOT_TELL
    changes, errors = verdicts.paired(psnr[earlier], psnr[later])
    return verdicts.NOT_SEEN if (sign * changes + bound * errors < SMALL).all() else verdicts.CANNOT_TELL


def _ends(phase: Array, at: Array, of: Array, end: Any) -> Array:
    """Take the first or last timestep (family, phase) of the variants in a phase."""
    members = [[at[(of == family) & (phase == number)] for number in PHASES] for family in range(of.max() + 1)]
    return np.array([[end(there) if len(there) else np.nan for there in row] for row in members], np.float64)


def begins_of_curve(ssim: Array, psnr: Array, threshold: float) -> Array:
    """Give the first and last point of a curve at which each phase may begin: (phase, 2), NaN where it cannot be told.

    Phase 2, or phase 3 where PSNR does not fall, begins where mean SSIM possibly, and surely, first reaches `threshold`
    (Student's intervals that hold together for all points). After a fall, phase 3 begins next to a point than which no
    other in phases 2 and 3 is seen to be lower. Both hold together. What may lie at the first point or before it cannot
    be told.
    """
    begins = np.full((len(PHASES), 2), np.nan)
    _, (_, falls, rises) = of_curve(ssim, psnr, threshold)
    if verdicts.SEEN not in (falls, rises):
        return begins
    verdict = verdicts.of_means(ssim, threshold, 2 * len(ssim))
    if not (verdict == verdicts.SEEN).any():
        return begins
    after = int((verdict != verdicts.NOT_SEEN).argmax()), int((verdict == verdicts.SEEN).argmax())
    if falls == verdicts.SEEN:
        begins[1] = after
    if rises == verdicts.SEEN:
        begins[2] = _after_lowest(psnr, after) if falls == verdicts.SEEN else after
    return np.where(begins[:, :1] > 0, begins, np.nan)


def _after_lowest(psnr: Array, after: tuple[int, int]) -> tuple[float, float]:
    """Give the first and last point that may come next to the lowest PSNR from a point of those `after` phase 1 on."""
    bound = verdicts.largest_t(np.ascontiguousarray(psnr[after[0] :].T), among=2)
    if np.isinf(bound):
        return np.nan, np.nan
    changes, errors = zip(*(verdicts.paired(one, psnr) for one in psnr), strict=True)
    lower = np.stack(changes) < -bound * np.stack(errors)  # (point, other): the other is seen to be lower
    lowest = np.concatenate(
        [first + np.flatnonzero(~lower[first:, first:].any(axis=1)) for first in range(after[0], after[1] + 1)]
    )
    return (lowest.min() + 1.0, lowest.max() + 1.0) if lowest.max() + 1 < len(psnr) else (np.nan, np.nan)


def _begins_of(ssim: Array, psnr: Array, at: Array, of: Array, threshold: float) -> Array:
    """Give the timesteps (family, phase, 2) that phases may begin at."""
    found = []
    for curve in _curves(psnr, at, of):
        points = begins_of_curve(ssim[curve], psnr[curve], threshold)
        known = np.isfinite(points)
        found.append(np.full(points.shape, np.nan))
        found[-1][known] = at[curve][points[known].astype(int)]
    return np.array(found)


# --- what it shows ------------------------------------------------------------------------------------------------

SHADES = {1: "#9d9d9d", 2: "#c9c9c9", 3: "#ebebeb"}


def _caption(results: Results) -> str:
    thresholds = captions.either(f"{one:g}" for one in sorted(result.attrs["threshold"] for result in results.values()))
    return (
        "The phases that are seen in each family of edits, over the timestep at which the edit starts: 1, until mean "
        f"SSIM with the unedited run first reaches {thresholds}; 2, from there to "
        "the lowest mean PSNR; 3, after it. A phase is drawn only where the samples leave no doubt that SSIM begins "
        "below, that PSNR falls, and that it rises again. Black lines go over all starts at which phase 2 or 3 may "
        f"begin (95 %). {edits.samples_of(results)} After 002 Figs 4 and 7."
    )


@phases.figure("phases", title="Phases of the process, as edits find them", caption=_caption)
def _strips(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import style

    strips = [(run, line) for run, result in results.items() for line in edits.lines(result, "at")]
    if not strips:
        return None
    figure, axes = style.rows_of([""], 1, 0.7 + 0.32 * len(strips), look, named=False)
    axis = axes[0, 0]
    for row, (run, line) in enumerate(strips):
        _strip(axis, row, results[run], line)
    names = [style.legible(line.name if len(results) == 1 else f"{run}: {line.name}") for run, line in strips]
    axis.set_yticks(range(len(strips)), names)
    for label, (run, _) in zip(axis.get_yticklabels(), strips, strict=True):
        label.set_color("black" if len(results) == 1 else look.colours[run])
    axis.set(ylim=(len(strips) - 0.5, -0.5), xlabel=edits.START)
    axis.xaxis.set_inverted(True)
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure


def _strip(axis: Axes, row: int, result: xr.Dataset, line: edits.Line) -> None:
    """Draw a bar for each phase of a family, from halfway between two starts to the next, and where it may begin."""
    of_family = result.isel(variant=line.variants)
    at, phase = (of_family[name].to_numpy().astype(float) for name in ("at", "phase"))
    edges = np.concatenate([at[:1], (at[1:] + at[:-1]) / 2, at[-1:]])
    for number, shade in SHADES.items():
        if (there := np.flatnonzero(phase == number)).size:
            first, last = edges[there[0]], edges[there[-1] + 1]
            axis.barh(row, last - first, left=first, height=0.86, color=shade)
            axis.text((first + last) / 2, row, f"{number}", ha="center", va="center", fontsize=8)
    begins = result.sel(family=line.name)
    for number in PHASES[1:]:
        earliest, latest = (float(begins[name].sel(phase_number=number)) for name in BEGINS)
        if np.isfinite(earliest):
            axis.plot([earliest, latest], [row + 0.3] * 2, "|-", color="black", lw=1, markersize=5)


STARTS = (
    (2, "an edit no longer changes what the image shows", "phase 2 begins"),
    (3, "pure denoising begins", "phase 3 begins"),
)
"""Phases that begin within the process: what that means, and in short."""


@phases.gives_landmarks
def _landmarks(result: xr.Dataset) -> list[Landmark]:
    """Give where phases 2 and 3 begin in each family: phase 1 begins with the process."""
    found = []
    for line in edits.lines(result, "at"):
        for number, meaning, short in STARTS:
            of_phase = result.sel(family=line.name, phase_number=number)
            places = [float(of_phase[name]) for name in ("first_timestep", *BEGINS)]
            at, low, high = (edits.log_snr_of(result, place) for place in places)
            name = f"phase_{number}_from"
            found.append(Landmark(name, f"{meaning} (phase {number})", places[0], at, low, high, line.name, short))
    return found


@phases.gives_tables
def _tables(results: Results) -> list[Table]:
    rows, sequences = [], []
    for run, result in results.items():
        for line in edits.lines(result, "at"):
            if (result["psnr_mean"][line.variants] >= result.attrs["cap"]).all():
                continue  # an edit that does nothing
            family = result.sel(family=line.name)
            sequences.append(int(family["sequence"]))
            told = [_told(family.sel(phase_number=number)) for number in PHASES]
            rows.append([run, line.name, *told, verdicts.WORDS[sequences[-1]]])
    if not rows:
        return []
    note = (
        "The source finds three phases: early edits change what the image shows; then PSNR falls; late in the process "
        f"it rises again (Figs 4, 7). All three, here: {verdicts.together(sequences)}. In brackets are the starts at "
        "which a phase may begin, by intervals of 95 %."
    )
    head = ("sweep", "edit", *(f"phase {number}" for number in PHASES), "all three")
    return [Table("Phases: seen, not seen, or cannot tell", head, rows, note)]


def _told(phase: xr.Dataset) -> str:
    words = verdicts.WORDS[int(phase["seen"])]
    first, last, *ends = (float(phase[name]) for name in ("first_timestep", "last_timestep", *BEGINS))
    if not np.isfinite(first):
        return words
    between = f" ({ends[0]:g} to {ends[1]:g})" if np.isfinite(ends[0]) and ends[0] != ends[1] else ""
    return f"{words}, t = {first:g}{between} to {last:g}"
