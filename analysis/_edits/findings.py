"""What 002 reports of jumps and cuts, beside what a sweep shows of it: seen, not seen, or cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._edits.families import Line, lines
from traj.analysis._quantity import Table
from traj.analysis._statistics import verdicts
from traj.analysis._statistics.verdicts import CANNOT_TELL, NOT_SEEN, SEEN, SIMILAR, together
from traj.stores import FAMILY, ONCE

Array = NDArray[Any]

HEAD = ("the source reports", "here", "in numbers")

HOW = (
    "“Seen” and “not seen” are said where an interval of 95 % leaves no doubt: of means over samples, by Student’s t; "
    "of differences, of the same samples; and wider where one of several was chosen. Else the samples cannot tell."
)

Found = tuple[int, str]
"""The verdict on one line of edits, and the numbers behind it."""


def rows(compared: xr.Dataset) -> list[tuple[str, str, str]]:
    """Set what the source reports of jumps and cuts beside what a result of intervention shows."""
    reported: tuple[tuple[str, Callable[[xr.Dataset], list[Found]]], ...] = (
        (f"An edit from the first start on changes what the image shows: SSIM below {SIMILAR} (Figs 4, 7)", _first),
        ("After phase 1, cutting 2 skips costs more PSNR than cutting 2 blocks (Fig. 7)", _skips_and_blocks),
        (f"The more blocks are cut, the later SSIM reaches {SIMILAR} (Fig. 8)", _more_blocks),
        (f"Jumps of n = 5 take SSIM below {SIMILAR} from most starts (Fig. 18)", _most_starts),
        (f"Cuts keep SSIM at {SIMILAR} up to a largest n (there 7), and not beyond (Fig. 9)", _up_to),
        (
            f"Two cuts of 7 keep SSIM at {SIMILAR} only with enough steps between them (there 15 to 20; Fig. 10)",
            _pauses,
        ),
    )
    told = []
    for said, find in reported:
        if found := find(compared):
            told.append((said, together([verdict for verdict, _ in found]), "; ".join(words for _, words in found)))
    return told


def keeps(compared: xr.Dataset, variants: Array, among: int = 1) -> Array:
    """Say of edits whether they keep mean SSIM at SIMILAR, by intervals that hold together for `among`."""
    return verdicts.of_means(compared["ssim"].to_numpy()[variants], SIMILAR, among)


def _first(compared: xr.Dataset) -> list[Found]:
    words = {SEEN: "below", NOT_SEEN: "not below", CANNOT_TELL: "too near to tell"}
    found = []
    for line in lines(compared, "at"):
        first = line.variants[:1]
        below = -int(keeps(compared, first)[0])
        mean, at = float(compared["ssim_mean"][first[0]]), int(compared["at"][first[0]])
        found.append((below, f"{line.name}: {mean:.3f} from t = {at}, {words[below]}"))
    return found


def late_pairs(compared: xr.Dataset) -> list[tuple[Line, Line, Array, Array]]:
    """Pair cuts of as many skips as blocks (nb), n and r alike.

    Gives the two, their common starts after phase 1, in falling order, and there the PSNR of the cut blocks less that
    of the cut skips, of every sample: (start, sample).
    """
    at, ssim, psnr = (compared[name].to_numpy() for name in ("at", "ssim_mean", "psnr"))
    what = list(zip(*(compared[name].to_numpy().tolist() for name in FAMILY), strict=True))
    found = []
    for skips, blocks in product(lines(compared, "at"), repeat=2):
        edit, ns, _, *long = what[skips.variants[0]]
        other, _, nb, *other_long = what[blocks.variants[0]]
        if (edit, other) != ("skips", "blocks") or (ns, long) != (nb, other_long):
            continue
        common, *where = np.intersect1d(at[skips.variants], at[blocks.variants], return_indices=True)
        pair = np.stack([skips.variants[where[0]], blocks.variants[where[1]]])[:, ::-1]
        after = np.logical_or.accumulate((ssim[pair] >= SIMILAR).all(axis=0))
        found.append((skips, blocks, common[::-1][after], (psnr[pair[1]] - psnr[pair[0]])[after]))
    return found


def _skips_and_blocks(compared: xr.Dataset) -> list[Found]:
    found = []
    for skips, blocks, starts, difference in late_pairs(compared):
        if len(starts):
            each, on_average = verdicts.of_means(difference, 0), difference.mean(axis=0)
            mean, half = verdicts.with_margin(on_average)
            whole = " (there is no phase 1: all starts count)" if len(starts) == len(skips.variants) else ""
            words = (
                f"{skips.name} against {blocks.name}{whole}: PSNR is lower with the skips cut, by {mean:.1f} ± "
                f"{half:.1f} dB on average over starts; of single starts, seen to be lower at "
                f"{(each == SEEN).sum()} of {len(starts)}, higher at {(each == NOT_SEEN).sum()}".replace("-", "−")
            )
            found.append((int(verdicts.of_means(on_average, 0)), words))
    return found


def _more_blocks(compared: xr.Dataset) -> list[Found]:
    """Compare each cut of blocks with the next larger one of as many steps, if it is one on this network."""
    cuts = []
    for line in lines(compared, "at"):
        cut = compared.isel(variant=line.variants[0])
        if cut["edit"] == "blocks" and cut["r"] == ONCE:
            cuts.append((int(cut["n"]), int(cut["nb"]), int(cut["unet_blocks"]), line))
    found = []
    for (n, _, here, fewer), (other_n, _, other_here, more) in pairwise(sorted(cuts, key=lambda cut: cut[:2])):
        if n == other_n and here != other_here:
            early, late = (_reached(compared, line) for line in (fewer, more))
            later, no_later = late[0] < early[2], late[2] >= early[0]
            verdict = SEEN if later else NOT_SEEN if no_later else CANNOT_TELL
            found.append((verdict, f"{fewer.name} from {_start(early)}, {more.name} from {_start(late)}"))
    return found


def _reached(compared: xr.Dataset, line: Line) -> tuple[float, float, float]:
    """Find the first start at which edits keep SSIM, minus infinity for none: possibly, by the mean, surely."""
    at, mean = (compared[name].to_numpy()[line.variants] for name in ("at", "ssim_mean"))
    verdict = keeps(compared, line.variants, len(line.variants))
    ways = verdict != NOT_SEEN, mean >= SIMILAR, verdict == SEEN
    possibly, by_mean, surely = (float(at[kept.argmax()]) if kept.any() else -np.inf for kept in ways)
    return possibly, by_mean, surely


def _start(reached: tuple[float, float, float]) -> str:
    possibly, by_mean, surely = (f"t = {at:g}" if np.isfinite(at) else "no start" for at in reached)
    return by_mean if possibly == surely else f"{by_mean} (between {possibly} and {surely})"


def _most_starts(compared: xr.Dataset) -> list[Found]:
    found = []
    for line in lines(compared, "at"):
        edit = compared.isel(variant=line.variants[0])
        if (str(edit["edit"].item()), int(edit["n"])) == ("jump", 5):
            verdict = keeps(compared, line.variants)
            below, unsure = int((verdict == NOT_SEEN).sum()), int((verdict == CANNOT_TELL).sum())
            words = f"mean SSIM below {SIMILAR} from {below} of {verdict.size} starts"
            words += f", {unsure} too near to tell" if unsure else ""
            found.append((verdicts.most(below, unsure, verdict.size), words))
    return found


def _up_to(compared: xr.Dataset) -> list[Found]:
    cuts = [line for line in lines(compared, "n") if compared["edit"][line.variants[0]] != "jump"]
    return [_limit(compared, line.name, line.variants, "n") for line in cuts]


def _pauses(compared: xr.Dataset) -> list[Found]:
    return [_limit(compared, line.name, line.variants[::-1], "r") for line in lines(compared, "r")]


def _limit(compared: xr.Dataset, name: str, variants: Array, along: str) -> Found:
    """Say whether mean SSIM stays at SIMILAR along a line, from its harmless end, up to a limit and not beyond it."""
    x = compared[along].to_numpy()[variants]
    sure = np.logical_and.accumulate(keeps(compared, variants) == SEEN)
    possible = np.logical_and.accumulate(keeps(compared, variants, len(variants)) != NOT_SEEN)
    surely, perhaps = (
        f"not with any {along} that was tried"
        if not kept.any()
        else f"to {along} = {x[kept][-1]}" + (", the last that was tried" if kept.all() else "")
        for kept in (sure, possible)
    )
    known = not possible.any() or bool(sure.all())  # there is no limit among those that were tried
    verdict = NOT_SEEN if known else SEEN if sure.any() and not possible.all() else CANNOT_TELL
    return verdict, f"{name}: {surely if surely == perhaps else f'surely {surely}, perhaps {perhaps}'}"


class Common(NamedTuple):
    """A family that two sweeps have in common: its starts, from high to low, and variants of both at these."""

    name: str
    starts: Array
    variants: tuple[Array, Array]


def with_and_without_noise(results: Mapping[str, xr.Dataset]) -> list[Table]:
    """Compare each sweep of a run that gets no new noise (DDIM with eta 0) with that which is most like it but does."""
    silent = {name: result for name, result in results.items() if _is_silent(result)}
    tables = []
    for name, compared in silent.items():
        common = {other: _in_common(results[other], compared) for other in results if other not in silent}
        alike = max(common, key=lambda other: sum(len(of.starts) for of in common[other]), default=None)
        if alike is not None and common[alike]:
            tables.append(_noise((alike, name), (results[alike], compared), common[alike]))
    return tables


def _is_silent(compared: xr.Dataset) -> bool:
    return "eta" in compared.coords and bool((compared["eta"].to_numpy() == "0").all())


def _in_common(noisy: xr.Dataset, silent: xr.Dataset) -> list[Common]:
    of_silent = {line.name: line for line in lines(silent, "at")}
    found = []
    for line in lines(noisy, "at"):
        if (other := of_silent.get(line.name)) is not None:
            starts = noisy["at"].to_numpy()[line.variants], silent["at"].to_numpy()[other.variants]
            common, *where = np.intersect1d(*starts, return_indices=True)
            if common.size:
                variants = line.variants[where[0]][::-1], other.variants[where[1]][::-1]
                found.append(Common(line.name, common[::-1], variants))
    return found


def _noise(names: tuple[str, str], both: tuple[xr.Dataset, xr.Dataset], common: list[Common]) -> Table:
    """Set SSIM from the earliest start of every family, and the lowest, side by side."""
    body, falls = [], ([], [])  # type: tuple[list[list[str]], tuple[list[int], list[int]]]
    for name, starts, variants in common:
        mean = [result["ssim_mean"].to_numpy()[of] for result, of in zip(both, variants, strict=True)]
        for k, (result, of) in enumerate(zip(both, variants, strict=True)):
            falls[k].append(-int(keeps(result, of, len(of)).min()))
        lowest = [f"{of.min():.3f} (t = {starts[of.argmin()]})" for of in mean]
        body.append([name, f"{starts[0]}", *(f"{of[0]:.3f}" for of in mean), *lowest])
    counts = [
        f"{of.count(SEEN)} of {len(of)} families"
        + (f" ({of.count(CANNOT_TELL)} too near to tell)" if CANNOT_TELL in of else "")
        for of in falls
    ]
    head = ("edit", "earliest t", *(f"SSIM there, {name}" for name in names), *(f"lowest, {name}" for name in names))
    note = (
        "After an edit, the edited process and its run get the same noise. New noise takes the place of what the state "
        "was, so that the difference an early edit made can be forgotten. With eta 0 no noise comes: what an edit did "
        "fades only as far as the network draws both states to one image. Mean SSIM falls below "
        f"{SIMILAR} at some start in {counts[0]} with new noise, in {counts[1]} without. Not in the source."
    )
    return Table(f"With and without new noise: {names[0]} and {names[1]}", head, body, note, range(1, len(head)))
