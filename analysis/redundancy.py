"""Redundancy: how much of the network's work can be left out, and when (002 Figs 8 to 10; METHODS 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _edits, _verdicts
from traj.analysis.intervention import intervention
from traj.stores import FAMILY, ONCE, SHORTCUT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "sweep"

Array = NDArray[Any]

TITLES = {
    "safe_from": "highest timestep from which on down the edit keeps SSIM",
    "longest_n": "most steps, with all fewer ones, for which the edit keeps SSIM",
    "shortest_r": "fewest steps between two cuts, with all more, for which they keep SSIM",
}

HOW_SURE = {"": "", "_sure": ", as is seen", "_possible": ", as is not ruled out"}
"""Edges by the mean, by what is seen to be kept, and by what is not seen to be lost: their suffixes and titles."""


def redundancy(
    ds: xr.Dataset, *, baseline: str | None = None, threshold: float = 0.8, preset: str = "auto"
) -> xr.Dataset:
    """Find where, for how long and how often parts of the process can be left out.

    An edit keeps SSIM where its mean over samples, with the run that was edited, is `threshold` or more. `keeps`
    (variant) says 1 where the interval of 95 % of that mean (Student) lies at or above `threshold`, -1 where it lies
    below, and 0 where it cannot be told. Only edits of the sweep are looked at; NaN is where there is none, or none
    keeps SSIM.

    `safe_from` (family) is the highest t_start at which, and at all lower ones, a family of edits keeps SSIM (equal
    edit, ns, nb, n and r; Fig. 8); of a family with a single start, as the shortcut is, that start or NaN. `longest_n`
    (part, t_start) is the largest n that keeps SSIM with all smaller ones (equal edit, ns and nb, cuts made once;
    Fig. 9). `shortest_r` (cut, t_start) is the smallest number of steps between two cuts that keeps SSIM with all
    larger ones (equal edit, ns, nb and n; Fig. 10). The shortcut has no n or r, and is NaN in both. These three go by
    the mean. Each has an interval: `safe_from_sure` and so on go by what is seen to be kept, one after the other from
    the least harmful on, and `safe_from_possible` and so on by what is not seen to be lost, by intervals that hold
    together for all edits of a curve (Bonferroni). Between the two it cannot be told.

    `pareto` (variant) is true where no other variant, of whatever edit, removes as large a share of the run's
    multiply-adds and has as high a mean SSIM, and more of one of the two. `pareto_possible` is true where no other is
    seen to do so: differences of SSIM are those of the same samples, their intervals hold together for all others.
    That share is the coordinate `multiply_adds_removed` of the forks; it is kept with `evaluations_saved` and
    `evaluations_cut`, network evaluations per sample that are not made, and that are made with a part of the network.
    SSIM is kept as mean, sd and standard error (variant).

    Parameters
    ----------
    baseline
        Store of the run that was forked; needed.
    threshold
        Mean SSIM that an edit must keep.
    preset
        Window of SSIM, as for the quantity intervention. Without SSIM nothing is kept.

    Raises
    ------
    InputError
        A threshold outside 0 to 1, what the quantity intervention refuses, and a sweep that does not say what it saves.
    """
    _edits.require_threshold(threshold)
    compared = intervention(ds, baseline=baseline, preset=preset)
    _edits.require_saved(ds)
    ssim = compared["ssim"]
    at, n, r = (ds[name].to_numpy() for name in ("at", "n", "r"))
    t_starts = np.unique(at)[::-1]
    where = np.searchsorted(-t_starts, -at)
    families, family = _edits.groups(ds, FAMILY)
    parts, part = _edits.groups(ds, ("edit", "ns", "nb"))
    cuts, cut = _edits.groups(ds, ("edit", "ns", "nb", "n"))

    def edges(
        name: str, sizes: dict[str, int], cell: tuple[Array, ...], values: Array, harm: Array, among: Array
    ) -> Any:
        options = {"shape": tuple(sizes.values()), "cell": cell, "values": values, "harm": harm, "among": among}
        return {
            f"{name}{by}": _edits.over_variants(
                _edge, ssim, sizes=sizes, threshold=threshold, by=by, **options
            ).assign_attrs(long_name=TITLES[name] + how, units="1")
            for by, how in HOW_SURE.items()
        }

    everywhere = np.ones(len(at), bool)
    once = (r == ONCE) & (ds["edit"].to_numpy() != SHORTCUT)
    saved = ds["multiply_adds_removed"].to_numpy()
    over = {"variant": len(at)}
    keeps = _edits.over_variants(_keeps, ssim, sizes=over, threshold=threshold).astype(np.int8)
    pareto, possible = (
        _edits.over_variants(function, ssim, sizes=over, saved=saved).astype(bool)
        for function in (_pareto, _pareto_possible)
    )
    on_front = "no edit removes as many multiply-adds and keeps a higher mean SSIM, or removes more and keeps as much"
    variables = {
        "keeps": keeps.assign_attrs(_verdicts.FLAGS, long_name="whether the edit keeps SSIM"),
        **edges("safe_from", {"family": len(families)}, (family,), at, at, everywhere),
        **edges("longest_n", {"part": len(parts), "t_start": len(t_starts)}, (part, where), n, n, once),
        **edges("shortest_r", {"cut": len(cuts), "t_start": len(t_starts)}, (cut, where), r, -r, r != ONCE),
        "pareto": pareto.assign_attrs(long_name=on_front, units="1"),
        "pareto_possible": possible.assign_attrs(long_name=f"{on_front}, as far as is seen", units="1"),
    }
    coords = {
        "family": ("family", families, {"long_name": "edits that differ in where they start", "units": "1"}),
        "part": ("part", parts, {"long_name": "what is left out", "units": "1"}),
        "cut": ("cut", cuts, {"long_name": "what is left out, and for how many steps", "units": "1"}),
        "t_start": ("t_start", t_starts, {"long_name": "timestep at which the edit starts", "units": "1"}),
    }
    attrs = {**compared.attrs, "quantity": "redundancy", "threshold": threshold}
    kept = compared[["ssim_mean", "ssim_sd", "ssim_se"]]
    return kept.assign(variables).assign_coords(coords).assign_attrs(attrs)


def _keeps(ssim: Array, threshold: float) -> Array:
    return _verdicts.of_means(ssim, threshold).astype(np.float64)


def _edge(
    ssim: Array,
    threshold: float,
    by: str,
    shape: tuple[int, ...],
    cell: tuple[Array, ...],
    values: Array,
    harm: Array,
    among: Array,
) -> Array:
    """Find in each cell the value of the most harmful variant that keeps SSIM together with all less harmful ones."""
    if by == "":
        kept = _verdicts.means(ssim)[0] >= threshold
    elif by == "_sure":
        kept = _verdicts.of_means(ssim, threshold) == _verdicts.SEEN
    else:
        count = np.zeros(shape, int)
        np.add.at(count, cell, among)
        kept = _verdicts.of_means(ssim, threshold, count[cell].clip(1)) != _verdicts.NOT_SEEN
        kept &= ~np.isnan(ssim).any(axis=1)
    edges = np.full(shape, np.nan)
    lost = np.zeros(shape, bool)
    for variant in np.argsort(harm, kind="stable"):
        if among[variant]:
            place = tuple(index[variant] for index in cell)
            lost[place] |= not kept[variant]
            if not lost[place]:
                edges[place] = values[variant]
    return edges


def _pareto(ssim: Array, saved: Array) -> Array:
    """Say 1 for each variant that no other dominates, 0 for the others and where SSIM is NaN."""
    mean = _verdicts.means(ssim)[0]
    at_least = (saved[:, None] >= saved) & (mean[:, None] >= mean)
    more = (saved[:, None] > saved) | (mean[:, None] > mean)
    dominated = (at_least & more).any(axis=0)
    return np.where(dominated | np.isnan(mean), 0.0, 1.0)


def _pareto_possible(ssim: Array, saved: Array) -> Array:
    """Say 1 for each variant that no other is seen to dominate, 0 for the others and where SSIM is NaN."""
    count, samples = ssim.shape
    possible = np.empty(count)
    half_width = _verdicts.student(samples, max(count - 1, 1))
    for variant in range(count):
        mean, error = _verdicts.paired(ssim[variant], ssim)
        surely = mean - half_width * error
        dominated = ((saved >= saved[variant]) & (surely > 0)) | ((saved > saved[variant]) & (surely >= 0))
        possible[variant] = not dominated.any() and not np.isnan(ssim[variant]).any()
    return possible


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw SSIM over where edits start, mean and two standard deviations, what is kept shaded (002 Figs 8 to 10)."""
    ax = _edits.draw(result, "ssim", 2, ax)
    ax.axhspan(result.attrs["threshold"], 1, color="0.93", zorder=0)
    return ax
