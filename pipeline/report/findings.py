"""What 002 reports of interventions, beside what a sweep shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise, product

import numpy as np
import xarray as xr

from pipeline.report import markup
from pipeline.report.edits import Family, families, is_shortcut, lines, over_starts

SIMILAR = 0.8
"""SSIM from which 002 calls two images alike."""

ERRORS = 2
"""Standard errors that count as a difference."""


def table(compared: xr.Dataset, phases: xr.Dataset | None) -> str:
    """Set what the source reports of edits, over where they start, beside what this sweep shows."""
    compared = compared.isel(variant=~is_shortcut(compared))
    return _set(
        ("An edit early on changes what the image shows: SSIM below 0.8, phase 1 (Figs 4, 7)", _lowest(compared)),
        ("Then PSNR falls (phase 2), and late in the process it rises again (phase 3)", _dips(phases)),
        ("After phase 1, cutting 2 skips costs more PSNR than cutting 2 blocks (Fig. 7)", _skips_and_blocks(compared)),
        ("The more blocks are cut, the later SSIM reaches 0.8 (Fig. 8)", _more_blocks(compared)),
    )


def of_lengths(compared: xr.Dataset) -> str:
    """Set what the source reports of how long edits may last beside what this sweep shows."""
    return _set(
        ("Jumps of n = 5 take SSIM below 0.8 from most starts (Fig. 18)", _most_starts(compared)),
        ("Cuts keep SSIM at 0.8 up to n = 7, and not beyond (Fig. 9)", _up_to(compared)),
        ("Two cuts of 7 keep SSIM at 0.8 only with 15 to 20 steps between them (Fig. 10)", _pauses(compared)),
    )


def _set(*rows: tuple[str, tuple[str, str] | None]) -> str:
    body = [[said, *map(escape, found)] for said, found in rows if found is not None]
    return markup.table(("the source reports", "here", "in numbers"), body, numbers=()) if body else ""


def _lowest(compared: xr.Dataset) -> tuple[str, str]:
    ssim = compared["ssim_mean"].to_numpy()
    below = [family.name for family in families(compared) if (ssim[family.variants] < SIMILAR).any()]
    worst = compared.isel(variant=int(ssim.argmin()))
    (family,) = (family for family in families(compared) if int(ssim.argmin()) in family.variants)
    lowest = f"lowest mean SSIM {ssim.min():.3f}, {family.name} from t = {int(worst['at'])}"
    if not below:
        return "not seen", f"no edit takes mean SSIM below 0.8; {lowest}"
    return "seen", f"below 0.8 with {'; '.join(below)}; {lowest}"


def _dips(phases: xr.Dataset | None) -> tuple[str, str] | None:
    if phases is None:
        return None
    told, seen = [], []
    for family in over_starts(phases):
        of_family = phases.isel(variant=family.variants)
        if (of_family["psnr_mean"] >= phases.attrs["cap"]).all():
            continue  # an edit that does nothing
        later = of_family.isel(variant=np.flatnonzero(of_family["phase"].to_numpy() != 1))
        seen.append({2, 3} <= set(of_family["phase"].to_numpy().tolist()))
        if later.sizes["variant"]:
            lowest = later.isel(variant=int(later["psnr_mean"].to_numpy().argmin()))
            dip = f"{family.name}: lowest {float(lowest['psnr_mean']):.1f} dB from t = {int(lowest['at'])}"
            told.append(dip if seen[-1] else f"{dip}, not both")
    return (_verdict(seen), "; ".join(told)) if seen else None


def _verdict(seen: list[bool]) -> str:
    return "seen" if all(seen) else "seen in some" if any(seen) else "not seen"


def late_pairs(compared: xr.Dataset) -> list[tuple[Family, Family, np.ndarray, np.ndarray]]:
    """Pair cuts of as many skips as blocks (nb), n and r alike.

    Gives the two, their common starts after phase 1, in falling order, and there the mean PSNR of the cut blocks less
    that of the cut skips, with its standard error: (start, 2).
    """
    found = []
    among = families(compared)
    for skips, blocks in product(among, among):
        if (skips.edit, blocks.edit) != ("skips", "blocks") or (skips.ns, skips.n, skips.r) != blocks[3:6]:
            continue
        starts = [compared["at"].to_numpy()[family.variants] for family in (skips, blocks)]
        common, of_skips, of_blocks = np.intersect1d(*starts, return_indices=True)
        pair = np.stack([skips.variants[of_skips], blocks.variants[of_blocks]])[:, ::-1]
        ssim, psnr, error = (compared[name].to_numpy()[pair] for name in ("ssim_mean", "psnr_mean", "psnr_se"))
        after = np.logical_or.accumulate((ssim >= SIMILAR).all(axis=0))
        difference = np.stack([psnr[1] - psnr[0], np.hypot(*error)], axis=1)
        found.append((skips, blocks, common[::-1][after], difference[after]))
    return found


def _skips_and_blocks(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for skips, blocks, starts, difference in late_pairs(compared):
        if len(starts):
            clear = difference[:, 0] > ERRORS * difference[:, 1]
            seen.append(bool(difference[:, 0].mean() > 0 and clear.mean() > 0.5))
            whole = " (there is no phase 1: all starts count)" if len(starts) == len(skips.variants) else ""
            told.append(
                f"{skips.name} against {blocks.name}{whole}: PSNR is clearly lower with the skips cut (by more than "
                f"two standard errors) at {clear.sum()} of {len(starts)} starts, by {difference[:, 0].mean():.1f} dB "
                f"on average, by {difference[-1, 0]:.1f} dB at the last, t = {starts[-1]}".replace("-", "−")
            )
    return (_verdict(seen), "; ".join(told)) if told else None


def _more_blocks(compared: xr.Dataset) -> tuple[str, str] | None:
    cuts = sorted((f for f in over_starts(compared) if f.edit == "blocks" and f.r < 0), key=lambda f: (f.n, f.nb))
    cuts = [cut for cut, before in zip(cuts, [None, *cuts], strict=False) if not _same(cut, before)]
    told, ordered, equal = [], [], []
    for fewer, more in pairwise(cuts):
        if fewer.n == more.n:
            first = [_first(compared, family) for family in (fewer, more)]
            ordered.append(first[0] > first[1])
            equal.append(first[0] == first[1])
            psnr = [float(compared["psnr_mean"].to_numpy()[family.variants].mean()) for family in (fewer, more)]
            told.append(
                f"{fewer.name} from {_start(first[0])}, {more.name} from {_start(first[1])}; their mean PSNR over all "
                f"starts {psnr[0]:.1f} and {psnr[1]:.1f} dB"
            )
    if not told:
        return None
    return ("not seen: equally early" if all(equal) else _verdict(ordered)), "; ".join(told)


def _same(cut: Family, other: Family | None) -> bool:
    """Say whether two cuts of blocks are as many of this network's."""
    return other is not None and cut.here is not None and (cut.n, cut.here) == (other.n, other.here)


def _first(compared: xr.Dataset, family: Family) -> float:
    """Find the first start from which a family reaches an SSIM of 0.8, minus infinity where none does."""
    of_family = compared.isel(variant=family.variants)
    reached = np.flatnonzero(of_family["ssim_mean"].to_numpy() >= SIMILAR)
    return float(of_family["at"][reached[0]]) if reached.size else -np.inf


def _start(at: float) -> str:
    return f"t = {at:g}" if np.isfinite(at) else "no start"


def _most_starts(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for family in sorted((f for f in over_starts(compared) if f.edit == "jump"), key=lambda f: f.n):
        below = compared["ssim_mean"].to_numpy()[family.variants] < SIMILAR
        told.append(f"{family.name}: {below.sum()} of {below.size} starts")
        if family.n == 5:
            seen.append(bool(below.mean() > 0.5))
    return (_verdict(seen), f"mean SSIM below 0.8 with {'; '.join(told)}") if seen else None


def _up_to(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for line in lines(compared, "n"):
        if compared["edit"].to_numpy()[line.variants[0]] != "jump":
            kept, most = _kept(compared.isel(variant=line.variants), "n")
            limit = "not with any n that was tried" if kept is None else f"up to n = {kept}"
            told.append(f"{line.name}: {limit}{', the most that was tried' if kept == most else ''}")
            seen.append(kept is not None and kept < most)
    return (_verdict(seen), "; ".join(told)) if seen else None


def _pauses(compared: xr.Dataset) -> tuple[str, str] | None:
    told, seen = [], []
    for line in lines(compared, "r"):
        kept, least = _kept(compared.isel(variant=line.variants[::-1]), "r")
        limit = "not with any r that was tried" if kept is None else f"from r = {kept} on"
        told.append(f"{line.name}: {limit}{', the least that was tried' if kept == least else ''}")
        seen.append(kept is not None and kept > least)
    return (_verdict(seen), "; ".join(told)) if seen else None


def _kept(line: xr.Dataset, along: str) -> tuple[int | None, int]:
    """Find how far along a line, from its harmless end, mean SSIM stays at 0.8, and where the line ends."""
    x = line[along].to_numpy()
    kept = np.logical_and.accumulate(line["ssim_mean"].to_numpy() >= SIMILAR)
    return (int(x[kept][-1]) if kept.any() else None), int(x[-1])


def noise(sweeps: Mapping[str, xr.Dataset]) -> str:
    """Compare each sweep of a run that gets no new noise (DDIM with eta 0) with that which is most like it but does."""
    noisy = {name: compared for name, compared in sweeps.items() if not _is_silent(compared)}
    shown = ""
    for name, compared in sweeps.items():
        if _is_silent(compared) and noisy:
            common = {other: _in_common(noisy[other], compared) for other in noisy}
            likest = max(common, key=lambda other: sum(map(len, common[other].values())))
            if common[likest]:
                shown += _noise((likest, name), common[likest])
    return shown


def _is_silent(compared: xr.Dataset) -> bool:
    return "eta" in compared.coords and bool((compared["eta"].to_numpy() == "0").all())


def _in_common(noisy: xr.Dataset, silent: xr.Dataset) -> dict[str, dict[int, tuple[float, float]]]:
    """Give both mean SSIM at the common starts, from high to low, of every family that both sweeps have."""
    of_silent = {family.name: family for family in over_starts(silent)}
    found = {}
    for family in over_starts(noisy):
        if family.name in of_silent:
            curves = [
                dict(zip(*(compared[name].to_numpy()[of].tolist() for name in ("at", "ssim_mean")), strict=True))
                for compared, of in ((noisy, family.variants), (silent, of_silent[family.name].variants))
            ]
            if starts := [at for at in curves[0] if at in curves[1]]:
                found[family.name] = {at: (curves[0][at], curves[1][at]) for at in starts}
    return found


def _noise(names: tuple[str, str], common: Mapping[str, Mapping[int, tuple[float, float]]]) -> str:
    """Set the earliest start of every family, and the lowest SSIM, side by side."""
    rows, below = [], [0, 0]
    for family, curve in common.items():
        first, lowest = max(curve), [min(curve, key=lambda at, k=k: curve[at][k]) for k in (0, 1)]
        below = [count + (curve[at][k] < SIMILAR) for k, (count, at) in enumerate(zip(below, lowest, strict=True))]
        rows.append(
            [
                escape(family),
                f"{first}",
                *(f"{ssim:.3f}" for ssim in curve[first]),
                *(f"{curve[at][k]:.3f} (t = {at})" for k, at in enumerate(lowest)),
            ]
        )
    said = [escape(name) for name in names]
    head = ("edit", "earliest t", *(f"SSIM there, {name}" for name in said), *(f"lowest, {name}" for name in said))
    return (
        f"<h3>With and without new noise: {said[0]} and {said[1]}</h3><p>After an edit, the edited process and its "
        "run get the same noise. Where there is such noise, it takes the place of what the state was, and the "
        "difference that an early edit made can be forgotten; with eta 0 nothing new comes, and what an edit did can "
        "only fade as far as the network draws both states to one image. Mean SSIM falls below 0.8 at some start in "
        f"{below[0]} of {len(common)} families with new noise, in {below[1]} without. Not in the source.</p>"
        + markup.table(head, rows, numbers=range(1, len(head)))
    )
