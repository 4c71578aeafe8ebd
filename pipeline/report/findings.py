"""What 002 reports of interventions, beside what a sweep shows of it."""

from __future__ import annotations

from html import escape
from itertools import pairwise, product

import numpy as np
import xarray as xr

from pipeline.report import markup
from pipeline.report.edits import Family, families

SIMILAR = 0.8
"""SSIM from which 002 calls two images alike."""

ERRORS = 2
"""Standard errors that count as a difference."""


def table(compared: xr.Dataset, phases: xr.Dataset | None) -> str:
    """Set what the source reports beside what this sweep shows."""
    rows = [
        ("An edit early on changes what the image shows: SSIM below 0.8, phase 1 (Figs 4, 7)", _lowest(compared)),
        ("Then PSNR falls (phase 2), and late in the process it rises again (phase 3)", _dips(phases)),
        ("After phase 1, cutting 2 skips costs more PSNR than cutting 2 blocks (Fig. 7)", _skips_and_blocks(compared)),
        ("The more blocks are cut, the later SSIM reaches 0.8 (Fig. 8)", _more_blocks(compared)),
    ]
    body = [[said, *map(escape, found)] for said, found in rows if found is not None]
    return markup.table(("the source reports", "here", "in numbers"), body, numbers=())


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
    for family in families(phases):
        of_family = phases.isel(variant=family.variants)
        later = of_family.isel(variant=np.flatnonzero(of_family["phase"].to_numpy() != 1))
        seen.append({2, 3} <= set(of_family["phase"].to_numpy().tolist()))
        if later.sizes["variant"]:
            lowest = later.isel(variant=int(later["psnr_mean"].to_numpy().argmin()))
            dip = f"{family.name}: lowest {float(lowest['psnr_mean']):.1f} dB from t = {int(lowest['at'])}"
            told.append(dip if seen[-1] else f"{dip}, not both")
    return _verdict(seen), "; ".join(told)


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
    cuts = sorted((f for f in families(compared) if f.edit == "blocks" and f.r < 0), key=lambda f: (f.n, f.nb))
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


def _first(compared: xr.Dataset, family: Family) -> float:
    """Find the first start from which a family reaches an SSIM of 0.8, minus infinity where none does."""
    of_family = compared.isel(variant=family.variants)
    reached = np.flatnonzero(of_family["ssim_mean"].to_numpy() >= SIMILAR)
    return float(of_family["at"][reached[0]]) if reached.size else -np.inf


def _start(at: float) -> str:
    return f"t = {at:g}" if np.isfinite(at) else "no start"
