"""Redundancy: how much of the network's work can be left out, and when (002 Figs 8 to 10; METHODS 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._edits import families as _edits
from traj.analysis._edits import savings
from traj.analysis._quantity import Landmark, Look, Number, Results, Table, quantity
from traj.analysis._statistics import verdicts
from traj.analysis.intervention import intervention
from traj.stores import FAMILY, ONCE, SAVED, SHORTCUT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

TITLES = {
    "safe_from": "highest timestep from which on down the edit keeps SSIM",
    "longest_n": "most steps, with all fewer ones, for which the edit keeps SSIM",
    "shortest_r": "fewest steps between two cuts, with all more, for which they keep SSIM",
}

HOW_SURE = {"": "", "_sure": ", as is seen", "_possible": ", as is not ruled out"}
"""Edges by the mean, by what is seen to be kept, and by what is not seen to be lost: their suffixes and titles."""


@quantity(reads="sweep", numerics=4, title="What can be left out, and what that saves", source="002 Figs 8 to 10, 18")
def redundancy(
    ds: xr.Dataset,
    *,
    baseline: xr.Dataset | None = None,
    threshold: float = verdicts.SIMILAR,
    preset: str = "auto",
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
        The run that was forked; needed.
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
    _edits.require_sweep(ds, (*FAMILY, *SAVED))
    compared = intervention(ds, baseline=baseline, preset=preset)
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
                edge_of, ssim, sizes=sizes, threshold=threshold, by=by, **options
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
        "keeps": keeps.assign_attrs(verdicts.FLAGS, long_name="whether the edit keeps SSIM"),
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
    return verdicts.of_means(ssim, threshold).astype(np.float64)


def edge_of(
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
        kept = verdicts.means(ssim)[0] >= threshold
    elif by == "_sure":
        kept = verdicts.of_means(ssim, threshold) == verdicts.SEEN
    else:
        count = np.zeros(shape, int)
        np.add.at(count, cell, among)
        kept = verdicts.of_means(ssim, threshold, count[cell].clip(1)) != verdicts.NOT_SEEN
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
    return savings.front(saved, verdicts.means(ssim)[0]).astype(np.float64)


def _pareto_possible(ssim: Array, saved: Array) -> Array:
    """Say 1 for each variant that no other is seen to dominate, 0 for the others and where SSIM is NaN."""
    count, samples = ssim.shape
    possible = np.empty(count)
    half_width = verdicts.student(samples, max(count - 1, 1))
    for variant in range(count):
        mean, error = verdicts.paired(ssim[variant], ssim)
        surely = mean - half_width * error
        dominated = ((saved >= saved[variant]) & (surely > 0)) | ((saved > saved[variant]) & (surely >= 0))
        possible[variant] = not dominated.any() and not np.isnan(ssim[variant]).any()
    return possible


# --- what it shows ------------------------------------------------------------------------------------------------

redundancy.figure("savings", title="What edits save, and what that costs", caption=savings.caption)(savings.draw)

EDITS = {"jump": "jump", "skips": "cut of skips", "blocks": "cut of blocks"}


def _longest_caption(results: Results) -> str:
    return (
        "The largest n, of those tried, that keeps mean SSIM at the threshold together with all smaller ones, over the "
        "start of the edit (002 Figs 9 and 18); and, where cuts were made twice, the fewest steps r between them that "
        "keep it together with all longer pauses (002 Fig. 10). Dots are by the means; where there is no dot, none "
        "does. Bars go from what is sure to what is not ruled out, by intervals of 95 % over samples. "
        f"{_edits.samples_of(results)}"
    )


@redundancy.figure("longest_edits", title="Longest edits and shortest pauses", caption=_longest_caption)
def _longest(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import style

    drawn = {run: panels for run, result in results.items() if (panels := _edges_over_starts(result))}
    columns = max(map(len, drawn.values()), default=0)
    if not columns:
        return None
    figure, axes = style.rows_of(list(drawn), columns, 3, look, named=len(results) > 1)
    for row, panels in zip(axes, drawn.values(), strict=True):
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        for axis, (label, edges, tried, beyond) in zip(row, panels, strict=False):
            _draw_edges(axis, edges, beyond)
            axis.set(xlabel=_edits.START, ylabel=label, yticks=tried)
            axis.xaxis.set_inverted(True)
    return figure


def _edges_over_starts(result: xr.Dataset) -> list[tuple[str, list[xr.DataArray], Array, float]]:
    """Gather lengths and pauses that were tried at several starts: a label, edges, what was tried, and one beyond."""
    panels = []
    for along, name, dim in (("n", "longest_n", "part"), ("r", "shortest_r", "cut")):
        lines = _edits.lines(result, along)
        if len({int(result["at"][line.variants[0]]) for line in lines}) >= _edits.FEWEST:
            tried = np.unique(np.concatenate([result[along].to_numpy()[line.variants] for line in lines]))
            edges = [result[f"{name}{by}"].transpose(dim, "t_start") for by in HOW_SURE]
            beyond = tried[0] - 1 if along == "n" else tried[-1] + 1
            panels.append((f"{name.replace('_', ' ')} that keeps SSIM", edges, tried, beyond))
    return panels


def _draw_edges(axis: Axes, edges: list[xr.DataArray], beyond: float) -> None:
    """Draw edges by the mean, and bars from the sure to the possible ones; none lies `beyond` what was tried."""
    from traj.analysis._drawing import style

    labels, t_start = ([*edges[0][dim].to_numpy()] for dim in edges[0].dims)
    for part, colour, line, *ends in zip(
        labels, style.colours(labels).values(), *(edge.to_numpy() for edge in edges), strict=True
    ):
        if np.isfinite(ends[1]).any():
            sure, possible = (np.where(np.isnan(end), beyond, end) for end in ends)
            there = np.isfinite(line) | np.isfinite(ends[1])
            axis.vlines(np.array(t_start)[there], sure[there], possible[there], color=colour, alpha=0.35, lw=5)
            axis.plot(t_start, line, ".-", color=colour, label=style.legible(str(part)))
    if axis.lines:
        style.legend_beside(axis)


def _starts(result: xr.Dataset) -> dict[str, tuple[float, float, float]]:
    """Give of each family that makes a curve from where on it keeps SSIM: by the mean, surely, possibly."""
    families = {line.name: result.sel(family=line.name) for line in _edits.lines(result, "at")}
    edges = {name: [float(family[f"safe_from{by}"]) for by in HOW_SURE] for name, family in families.items()}
    return {name: (by_mean, sure, possible) for name, (by_mean, sure, possible) in edges.items()}


@redundancy.gives_landmarks
def _landmarks(result: xr.Dataset) -> list[Landmark]:
    """Give from where on down edits of each family keep SSIM, from the possible to the sure start."""
    found = []
    for name, (at, sure, possible) in _starts(result).items():
        log_snr, low, high = (_edits.log_snr_of(result, place) for place in (at, possible, sure))
        ends = (low, high) if np.isfinite([low, high]).all() else (np.nan, np.nan)
        meaning = f"from here on the edit keeps mean SSIM at {result.attrs['threshold']:g}"
        found.append(Landmark("safe_from", meaning, at, log_snr, *ends, of=name, short="edits are safe"))
    return found


@redundancy.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Give from where on every jump, cut of skips and cut of blocks keeps SSIM, NaN if one never does."""
    starts = _starts(result)
    found = []
    for edit, words in EDITS.items():
        if edges := [edge for name, edge in starts.items() if name.split()[0] == edit]:
            by_mean, sure, possible = np.min(edges, axis=0).tolist()  # NaN where one never does
            meaning = f"timestep from which on every {words} keeps mean SSIM at {result.attrs['threshold']:g}"
            found.append(Number(f"{edit}_safe_from", meaning, by_mean, sure, possible))
    return found


@redundancy.gives_tables
def _tables(results: Results) -> list[Table]:
    rows = []
    for run, result in results.items():
        starts = _starts(result)
        for line in _edits.lines(result, "at"):
            at, sure, possible = starts[line.name]
            edits = result.isel(variant=line.variants)
            same = sure == possible or np.isnan([sure, possible]).all()
            rows.append(
                [
                    run,
                    line.name,
                    _edge(at),
                    _edge(sure) if same else f"{_edge(sure)} to {_edge(possible)}",
                    f"{_edits.log_snr_of(result, at):.1f}".replace("-", "−") if np.isfinite(at) else "–",
                    f"{line.variants.size}",
                    f"{float(edits['ssim_mean'].min()):.3f}",
                    *(f"{int(edits[name].max())}" for name in SAVED[:2]),
                ]
            )
    return ([_safe_from(results, rows)] if rows else []) + savings.tables(results)


def _safe_from(results: Results, rows: list[list[str]]) -> Table:
    thresholds = " or ".join(
        f"{one:g}" for one in sorted({float(result.attrs["threshold"]) for result in results.values()})
    )
    head = (
        "sweep",
        "edit",
        f"SSIM ≥ {thresholds} from t",
        "surely, to possibly",
        "log SNR there",
        "starts",
        "lowest SSIM",
        "evaluations saved",
        "evaluations cut",
    )
    note = (
        "From where on down to the end of the process an edit can be made at any start that was tried, mean SSIM "
        f"staying at {thresholds} or above: by the means; and from where on it surely does, to where on it is not "
        "ruled out, by intervals of 95 % over samples. 002 counts time by the steps left of its 100 and finds 70 for "
        "nb = 2, 60 for nb = 8 (Figs 8, 9)."
    )
    return Table("From where on edits do no harm", head, rows, note, range(2, len(head)))


def _edge(at: float) -> str:
    return f"{at:g}" if np.isfinite(at) else "never"
