"""What 002 reports of interventions, beside what a sweep shows of it: seen, not seen, or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import xarray as xr

from traj.analysis import _edits, _verdicts
from traj.analysis._verdicts import CANNOT_TELL, NOT_SEEN, SEEN, WORDS, together
from traj.pipeline.report import markup
from traj.pipeline.report.edits import Family, families, is_shortcut, lines, over_starts
from traj.stores import FAMILY

SIMILAR = _verdicts.SIMILAR

HOW = (
    "<p>“Seen” and “not seen” are said where an interval of 95 % leaves no doubt: of means over samples, by Student’s "
    "t; of differences, of the same samples; and wider where one of several was chosen. Else the samples cannot "
    "tell.</p>"
)


def table(compared: xr.Dataset, phases: xr.Dataset | None) -> str:
    """Set what the source reports of edits, over where they start, beside what this sweep shows."""
    compared = compared.isel(variant=~is_shortcut(compared))
    return _set(
        ("An edit from the first start on changes what the image shows: SSIM below 0.8 (Figs 4, 7)", _lowest(compared)),
        ("Three phases: first that; then PSNR falls; and late in the process it rises again", _phases(phases)),
        ("After phase 1, cutting 2 skips costs more PSNR than cutting 2 blocks (Fig. 7)", _skips_and_blocks(compared)),
        ("The more blocks are cut, the later SSIM reaches 0.8 (Fig. 8)", _more_blocks(compared)),
    )


def of_lengths(compared: xr.Dataset) -> str:
    """Set what the source reports of how long edits may last beside what this sweep shows."""
    return _set(
        ("Jumps of n = 5 take SSIM below 0.8 from most starts (Fig. 18)", _most_starts(compared)),
        ("Cuts keep SSIM at 0.8 up to a largest n (there 7), and not beyond (Fig. 9)", _up_to(compared)),
        (
            "Two cuts of 7 keep SSIM at 0.8 only from so many steps between them on (there 15 to 20; Fig. 10)",
            _pauses(compared),
        ),
    )


def _set(*rows: tuple[str, tuple[str, str] | None]) -> str:
    body = [[said, *map(escape, found)] for said, found in rows if found is not None]
    if not body:
        return ""
    return HOW + markup.table(("the source reports", "here", "in numbers"), body, numbers=())


def _keeps(compared: xr.Dataset, variants: np.ndarray, among: int = 1) -> np.ndarray:
    """Say of edits whether they keep mean SSIM at 0.8."""
    return _verdicts.of_means(compared["ssim"].to_numpy()[variants], SIMILAR, among)


def _lowest(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for family in over_starts(compared):
        first = family.variants[:1]
        seen.append(-int(_keeps(compared, first)[0]))
        mean = float(compared["ssim_mean"][first[0]])
        told.append(f"{family.name}: {mean:.3f} from t = {int(compared['at'][first[0]])}, {_below(seen[-1])}")
    ssim = compared["ssim_mean"].to_numpy()
    if not told:
        return None
    worst = int(ssim.argmin())
    (family,) = (family for family in families(compared) if worst in family.variants)
    lowest = f"lowest mean SSIM of all starts {ssim[worst]:.3f}, {family.name} from t = {int(compared['at'][worst])}"
    return together(seen), f"{'; '.join(told)}; {lowest}"


def _below(verdict: int) -> str:
    return {SEEN: "below", NOT_SEEN: "not below", CANNOT_TELL: "too near to tell"}[verdict]


def _phases(phases: xr.Dataset | None) -> tuple[str, str] | None:
    if phases is None:
        return None
    told, sequences = [], []
    labels, of = _edits.groups(phases, FAMILY)
    for family in over_starts(phases):
        of_family = phases.isel(variant=family.variants)
        if (of_family["psnr_mean"] >= phases.attrs["cap"]).all():
            continue  # an edit that does nothing
        here = phases.sel(family=labels[of[family.variants[0]]])
        sequences.append(int(here["sequence"]))
        told.append(f"{family.name}: {', '.join(_phase(here.isel(phase_number=k)) for k in range(3))}")
    return (together(sequences), "; ".join(told)) if sequences else None


def _phase(phase: xr.Dataset) -> str:
    first, last = (float(phase[f"{end}_timestep"]) for end in ("first", "last"))
    where = f" (t = {first:g} to {last:g})" if np.isfinite(first) else ""
    return f"phase {int(phase['phase_number'])} {WORDS[int(phase['seen'])]}{where}"


def late_pairs(compared: xr.Dataset) -> list[tuple[Family, Family, np.ndarray, np.ndarray]]:
    """Pair cuts of as many skips as blocks (nb), n and r alike.

    Gives the two, their common starts after phase 1, in falling order, and there the PSNR of the cut blocks less that
    of the cut skips, of every sample: (start, sample).
    """
    found = []
    among = families(compared)
    for skips, blocks in product(among, among):
        if (skips.edit, blocks.edit) != ("skips", "blocks") or (skips.ns, skips.n, skips.r) != blocks[3:6]:
            continue
        starts = [compared["at"].to_numpy()[family.variants] for family in (skips, blocks)]
        common, of_skips, of_blocks = np.intersect1d(*starts, return_indices=True)
        pair = np.stack([skips.variants[of_skips], blocks.variants[of_blocks]])[:, ::-1]
        ssim, psnr = (compared[name].to_numpy()[pair] for name in ("ssim_mean", "psnr"))
        after = np.logical_or.accumulate((ssim >= SIMILAR).all(axis=0))
        found.append((skips, blocks, common[::-1][after], (psnr[1] - psnr[0])[after]))
    return found


def _skips_and_blocks(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for skips, blocks, starts, difference in late_pairs(compared):
        if len(starts):
            each = _verdicts.of_means(difference, 0)
            on_average = difference.mean(axis=0)
            seen.append(int(_verdicts.of_means(on_average, 0)))
            mean, error = _verdicts.means(on_average)
            whole = " (there is no phase 1: all starts count)" if len(starts) == len(skips.variants) else ""
            half = _verdicts.student(on_average.size) * error
            told.append(
                f"{skips.name} against {blocks.name}{whole}: PSNR is lower with the skips cut, by {mean:.1f} ± "
                f"{half:.1f} dB on average over starts; of single starts, seen to be lower at "
                f"{(each == SEEN).sum()} of {len(starts)}, higher at {(each == NOT_SEEN).sum()}".replace("-", "−")
            )
    return (together(seen), "; ".join(told)) if told else None


def _more_blocks(compared: xr.Dataset) -> tuple[str, str] | None:
    cuts = sorted((f for f in over_starts(compared) if f.edit == "blocks" and f.r < 0), key=lambda f: (f.n, f.nb))
    cuts = [cut for cut, before in zip(cuts, [None, *cuts], strict=False) if not _same(cut, before)]
    told, seen = [], []
    for fewer, more in pairwise(cuts):
        if fewer.n == more.n:
            early, late = (_reached(compared, family) for family in (fewer, more))
            later, no_later = late[0] < early[2], late[2] >= early[0]
            seen.append(SEEN if later else NOT_SEEN if no_later else CANNOT_TELL)
            told.append(f"{fewer.name} from {_start(early)}, {more.name} from {_start(late)}")
    return (together(seen), "; ".join(told)) if told else None


def _same(cut: Family, other: Family | None) -> bool:
    """Say whether two cuts of blocks are as many of this network's."""
    return other is not None and cut.here is not None and (cut.n, cut.here) == (other.n, other.here)


def _reached(compared: xr.Dataset, family: Family) -> tuple[float, float, float]:
    """Find the first start at which a family keeps SSIM, minus infinity for none: possibly, by the mean, surely."""
    at = compared["at"].to_numpy()[family.variants]
    verdict = _keeps(compared, family.variants, len(family.variants))
    ways = verdict != NOT_SEEN, compared["ssim_mean"].to_numpy()[family.variants] >= SIMILAR, verdict == SEEN
    possibly, by_mean, surely = (float(at[kept.argmax()]) if kept.any() else -np.inf for kept in ways)
    return possibly, by_mean, surely


def _start(reached: tuple[float, float, float]) -> str:
    possibly, by_mean, surely = (f"t = {at:g}" if np.isfinite(at) else "no start" for at in reached)
    return by_mean if possibly == surely else f"{by_mean} (between {possibly} and {surely})"


def _most_starts(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for family in sorted((f for f in over_starts(compared) if f.edit == "jump"), key=lambda f: f.n):
        verdict = _keeps(compared, family.variants)
        below, unsure = int((verdict == NOT_SEEN).sum()), int((verdict == CANNOT_TELL).sum())
        told.append(
            f"{family.name}: {below} of {verdict.size} starts" + (f", {unsure} too near to tell" if unsure else "")
        )
        if family.n == 5:
            seen.append(_verdicts.most(below, unsure, verdict.size))
    return (together(seen), f"mean SSIM below 0.8 with {'; '.join(told)}") if seen else None


def _up_to(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for line in lines(compared, "n"):
        if compared["edit"].to_numpy()[line.variants[0]] != "jump":
            verdict, said = _limit(compared, line.variants, "n")
            told.append(f"{line.name}: {said}")
            seen.append(verdict)
    return (together(seen), "; ".join(told)) if seen else None


def _pauses(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for line in lines(compared, "r"):
        verdict, said = _limit(compared, line.variants[::-1], "r")
        told.append(f"{line.name}: {said}")
        seen.append(verdict)
    return (together(seen), "; ".join(told)) if seen else None


def _limit(compared: xr.Dataset, line: np.ndarray, along: str) -> tuple[int, str]:
    """Say whether mean SSIM stays at 0.8 along a line, from its harmless end, up to a limit and not beyond it."""
    x = compared[along].to_numpy()[line]
    sure = np.logical_and.accumulate(_keeps(compared, line) == SEEN)
    possible = np.logical_and.accumulate(_keeps(compared, line, len(line)) != NOT_SEEN)
    none, all_ = f"not with any {along} that was tried", f"to {along} = {x[-1]}, the last that was tried"
    if not possible.any():
        return NOT_SEEN, none
    if sure.all():
        return NOT_SEEN, all_
    words = [
        none if not kept.any() else all_ if kept.all() else f"to {along} = {x[kept][-1]}" for kept in (sure, possible)
    ]
    verdict = SEEN if sure.any() and not possible.all() else CANNOT_TELL
    return verdict, words[0] if words[0] == words[1] else f"surely {words[0]}, perhaps {words[1]}"


def noise(sweeps: Mapping[str, xr.Dataset]) -> str:
    """Compare each sweep of a run that gets no new noise (DDIM with eta 0) with that which is most like it but does."""
    noisy = {name: compared for name, compared in sweeps.items() if not _is_silent(compared)}
    shown = ""
    for name, compared in sweeps.items():
        if _is_silent(compared) and noisy:
            common = {other: _in_common(noisy[other], compared) for other in noisy}
            likest = max(common, key=lambda other: sum(len(of.ssim) for of in common[other].values()))
            if common[likest]:
                shown += _noise((likest, name), common[likest])
    return shown


def _is_silent(compared: xr.Dataset) -> bool:
    return "eta" in compared.coords and bool((compared["eta"].to_numpy() == "0").all())


class Common(NamedTuple):
    """One family of two sweeps: by common start, from high to low, both mean SSIM; and whether each falls below 0.8."""

    ssim: dict[int, tuple[float, float]]
    falls: tuple[int, int]


def _in_common(noisy: xr.Dataset, silent: xr.Dataset) -> dict[str, Common]:
    """Gather every family that both sweeps have at common starts."""
    of_silent = {family.name: family for family in over_starts(silent)}
    found = {}
    for family in over_starts(noisy):
        if family.name in of_silent:
            sweeps = ((noisy, family.variants), (silent, of_silent[family.name].variants))
            starts = [compared["at"].to_numpy()[of].tolist() for compared, of in sweeps]
            if common := [at for at in starts[0] if at in starts[1]]:
                members = [of[[at.index(t) for t in common]] for (_, of), at in zip(sweeps, starts, strict=True)]
                means, falls = [], []
                for (compared, _), of in zip(sweeps, members, strict=True):
                    means.append(compared["ssim_mean"].to_numpy()[of].tolist())
                    verdicts = _keeps(compared, of, len(of))
                    falls.append(-int(verdicts.min()))
                ssim: dict[int, tuple[float, float]] = dict(zip(common, zip(*means, strict=True), strict=True))
                found[family.name] = Common(ssim, (falls[0], falls[1]))
    return found


def _noise(names: tuple[str, str], common: Mapping[str, Common]) -> str:
    """Set the earliest start of every family, and the lowest SSIM, side by side."""
    rows = []
    for family, (curve, _) in common.items():
        first, lowest = max(curve), [_lowest_at(curve, k) for k in (0, 1)]
        rows.append(
            [
                escape(family),
                f"{first}",
                *(f"{ssim:.3f}" for ssim in curve[first]),
                *(f"{curve[at][k]:.3f} (t = {at})" for k, at in enumerate(lowest)),
            ]
        )
    counts = [_families([of_family.falls[k] for of_family in common.values()]) for k in (0, 1)]
    said = [escape(name) for name in names]
    head = ("edit", "earliest t", *(f"SSIM there, {name}" for name in said), *(f"lowest, {name}" for name in said))
    return (
        f"<h3>With and without new noise: {said[0]} and {said[1]}</h3><p>After an edit, the edited process and its "
        "run get the same noise. Where there is such noise, it takes the place of what the state was, and the "
        "difference that an early edit made can be forgotten; with eta 0 nothing new comes, and what an edit did can "
        "only fade as far as the network draws both states to one image. Mean SSIM falls below 0.8 at some start in "
        f"{counts[0]} with new noise, in {counts[1]} without. Not in the source.</p>"
        + markup.table(head, rows, numbers=range(1, len(head)))
    )


def _lowest_at(curve: Mapping[int, tuple[float, float]], sweep: int) -> int:
    """Find the start at which a sweep, 0 or 1, has its lowest SSIM."""
    return min(curve, key=lambda at: curve[at][sweep])


def _families(verdicts: list[int]) -> str:
    unsure = verdicts.count(CANNOT_TELL)
    return f"{verdicts.count(SEEN)} of {len(verdicts)} families" + (f" ({unsure} too near to tell)" if unsure else "")
