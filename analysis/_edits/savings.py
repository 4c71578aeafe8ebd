"""What edits save, in multiply-adds and time, against the likeness they cost (METHODS 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._edits import families
from traj.analysis._edits.shortcut import percent
from traj.analysis._quantity import Look, Table
from traj.stores import FAMILY, SAVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

ROWS = 14
"""Most of a table."""

SHARES = {"multiply_adds_removed": "multiply-adds", "time_removed": "network time"}


def front(saved: Array, ssim: Array) -> Array:
    """Say of edits (variant,) whether no other saves as much at as high a mean SSIM, and more of one of the two."""
    at_least = (saved[:, None] >= saved) & (ssim[:, None] >= ssim)
    more = (saved[:, None] > saved) | (ssim[:, None] > ssim)
    on_front: Array = ~(at_least & more).any(axis=0) & ~np.isnan(saved + ssim)
    return on_front


def pooled(results: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Put what several sweeps of one run tried one after the other, by the names of the sweeps.

    Sweeps are put together where their SSIM compares: of the same run, window and samples. Those that save nothing but
    by the shortcut are left out.
    """
    groups: dict[tuple[Any, ...], dict[str, xr.Dataset]] = {}
    for name, result in results.items():
        alike = tuple(result.attrs.get(key) for key in ("baseline", "preset", "samples"))
        groups.setdefault(alike, {})[name] = result
    found = {}
    for sweeps in groups.values():
        if any(
            (result["multiply_adds_removed"] > 0)[~families.is_shortcut(result)].any() for result in sweeps.values()
        ):
            found[", ".join(sweeps)] = xr.concat(map(_part, sweeps.values()), "variant")
    return found


def _part(result: xr.Dataset) -> xr.Dataset:
    """Keep what savings need, with the time that edits save, NaN where it was not measured."""
    unknown = xr.DataArray(np.full(result.sizes["variant"], np.nan), dims="variant")
    names = (*FAMILY, "unet_blocks", "at", *SAVED)
    coords = {name: result[name].variable for name in names}
    coords["time_removed"] = result.coords.get("time_removed", unknown).variable
    return xr.Dataset({name: result[name].variable for name in ("ssim_mean", "pareto_possible")}, coords)


def best(tried: xr.Dataset, share: str = "multiply_adds_removed") -> Array:
    """Find the variants on the front that save some of a share, by what they save; of equal edits the first."""
    saved, ssim = tried[share].to_numpy(), tried["ssim_mean"].to_numpy()
    edits = zip(
        *(tried[name].to_numpy().tolist() for name in ("edit", "ns", "unet_blocks", "n", "r", "at")), strict=True
    )
    on_front = front(saved, ssim)
    kept: dict[tuple[Any, ...], int] = {}
    for variant, edit in enumerate(edits):
        if on_front[variant] and saved[variant] > 0:
            kept.setdefault(edit, variant)
    found = np.array(list(kept.values()), int)
    return found[np.argsort(saved[found], kind="stable")]


def draw(results: Mapping[str, xr.Dataset], look: Look) -> Figure | None:
    """Draw what every edit leaves out against the SSIM it costs, a row for each run; rings are on the front."""
    from traj.analysis._drawing import style

    groups = pooled(results)
    if not groups:
        return None
    shares = [share for share in SHARES if any(np.isfinite(tried[share]).any() for tried in groups.values())]
    figure, axes = style.rows_of(list(groups), len(shares), 4, look, named=False)
    for row, (name, tried) in zip(axes, groups.items(), strict=True):
        row[0].set_title(style.legible(name) if len(groups) > 1 else "", loc="left")
        for axis, share in zip(row, shares, strict=True):
            _panel(axis, tried, share)
        style.legend_beside(row[-1])
        row[0].set_ylabel("mean SSIM lost")
    return figure


def _panel(axis: Axes, tried: xr.Dataset, share: str) -> None:
    from traj.analysis._drawing import style

    saved, lost, kept = 100 * tried[share].to_numpy(), 1 - tried["ssim_mean"].to_numpy(), best(tried, share)
    axis.plot(saved[kept], lost[kept], color="#b5b5b5", lw=1, zorder=1)
    labels, of = families.groups(tried, FAMILY)
    for number, (label, colour) in enumerate(style.colours(labels).items()):
        members = np.flatnonzero(of == number)
        axis.scatter(saved[members], lost[members], s=16, color=colour, alpha=0.8, lw=0, zorder=2, label=label)
        rings = np.intersect1d(members, kept)
        axis.scatter(saved[rings], lost[rings], s=70, facecolors="none", edgecolors=colour, linewidths=1.3, zorder=3)
    if (lost > 0).any():
        axis.set_yscale("symlog", linthresh=float(f"{max(lost[lost > 0].min(), 1e-5):.0e}"))
    axis.set_xlabel(f"{SHARES[share]} left out, % of the whole run")


def caption(results: Mapping[str, xr.Dataset]) -> str:
    """Say what the figure shows, and how many edits may be on the front as well."""
    counts = []
    for name, tried in pooled(results).items():
        saves = tried["multiply_adds_removed"].to_numpy() > 0
        possible = int((tried["pareto_possible"].to_numpy() & saves).sum())
        counts.append(f"{name}: {possible} of {int(saves.sum())}")
    return (
        "What an edit saves, in per cent of the whole run from noise: the multiply-adds of the network that it does "
        "not do, which depend on the network alone, and, where it was measured, the time of the network that it does "
        "not take, on the machine that made the sweep. What it costs is the mean SSIM that is lost with the image of "
        "the unedited run. A dot for every edit: the more it leaves out the further to the right, the closer the image "
        "the lower; above the lowest mark the scale is logarithmic. Rings and the line mark the front, by the means: "
        "no other edit of the run saves as much at less loss, or more at no more. Of the edits that save something, so "
        "many are not seen to be beaten by another of their sweep (differences of the same samples, by intervals of "
        f"95 % that hold together): {'; '.join(counts)}. {families.samples_of(results)} Not in the source, which gives "
        "time only for its shortcut."
    )


def tables(results: Mapping[str, xr.Dataset]) -> list[Table]:
    """List the front of every run, thinned evenly where it is long, from what saves least to what saves most."""
    head = (
        "on the front",
        "from t",
        "evaluations not made",
        "made with a part",
        "multiply-adds removed",
        "time removed",
        "mean SSIM",
        "SSIM lost",
    )
    found = []
    for name, tried in pooled(results).items():
        kept = best(tried)
        shown = kept[np.unique(np.linspace(0, len(kept) - 1, ROWS).round().astype(int))] if len(kept) else kept
        labels, of = families.groups(tried, FAMILY)
        rows = []
        for variant in shown:
            edit = tried.isel(variant=variant)
            counts = [f"{int(edit[column])}" for column in ("at", *SAVED[:2])]
            shares = [percent(float(edit[share])) for share in SHARES]
            ssim = float(edit["ssim_mean"])
            rows.append([labels[of[variant]], *counts, *shares, f"{ssim:.4f}", f"{1 - ssim:.2g}"])
        notes = [f"{len(shown)} of the {len(kept)} edits on the front."] if len(shown) < len(kept) else []
        if np.isnan(tried["time_removed"].to_numpy()[shown]).any():
            notes.append("–: time was not measured.")
        found.append(
            Table(f"What is saved at the least loss: {name}", head, rows, " ".join(notes), range(1, len(head)))
        )
    return found
