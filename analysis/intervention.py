"""Interventions: how far edits of the reverse process change its images (002; METHODS 3.2, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._edits import families, findings
from traj.analysis._edits import shortcut as _shortcut
from traj.analysis._quantity import Look, Number, Results, Series, Table, quantity
from traj.analysis._replicas import forks
from traj.analysis._similarity import endings as _endings
from traj.analysis._similarity.windows import window_if_any
from traj.analysis._statistics.spread import Named
from traj.analysis._statistics.verdicts import SIMILAR
from traj.analysis.psnr import CAP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    Named("ssim", "structural similarity to x_0 of the run without the edit"),
    Named("psnr", "PSNR with x_0 of the run without the edit", "dB"),
    Named("mad", "mean absolute deviation on [0, 1] from x_0 of the run without the edit"),
)


@quantity(
    reads="sweep", numerics=4, title="What the process can do without: jumps and cuts", source="002 Figs 3 to 13, 18"
)
def intervention(ds: xr.Dataset, *, baseline: xr.Dataset | None = None, preset: str = "auto") -> xr.Dataset:
    """Compare the final samples of edited processes with those of the run that was edited.

    For a sweep of edits, of one replica each, which `traj fork` makes of a table. `ssim`, `psnr` (at most 100 dB) and
    `mad`, the mean absolute deviation, are of values mapped from x_0's valid_range onto [0, 1] and clipped: (variant,
    sample), each with mean, sd and standard error over samples. An edit that changes nothing gives exactly 1, 100 dB
    and 0.

    Parameters
    ----------
    baseline
        The run that was forked; needed.
    preset
        Window of SSIM: wang2004, skimage, window:N, or auto, as for the quantity ssim; auto leaves SSIM NaN for
        images below 3 pixels a side, and for events that are no images.

    Raises
    ------
    InputError
        Forks that are not a sweep, or have several replicas; a baseline that is missing, is another run or has fewer
        samples; a preset that is unknown or does not fit the images.
    """
    families.require_sweep(ds)
    preset, window = window_if_any(preset, ds["x_0"])
    run = forks.parent_of(ds, baseline)
    low, high = chunking.value_range(ds)
    options: dict[str, Any] = {"preset": preset, "window": window, "low": low, "scale": 1 / (high - low)}
    variables = _endings.compare(_similarities, *_endings.beside_run(ds["x_0"], run), COLUMNS, **options)
    attrs = {
        "quantity": "intervention",
        "preset": preset,
        "window": window,
        "cap": CAP,
        "samples": ds.sizes["sample"],
        "valid_range": [low, high],
        "baseline": run.attrs["fingerprint"],
    }
    return xr.Dataset(variables, forks.coordinates(ds), attrs)


def _similarities(
    images: NDArray[Any], x_0: NDArray[Any], low: float, scale: float, preset: str, window: int
) -> NDArray[Any]:
    """Give one chunk (variant, 1, sample, *event) and x_0 (sample, *event) its COLUMNS."""
    states = _endings.by_sample(images)
    ssim, psnr = _endings.likeness(states, x_0, low, scale, preset, window)
    mad = families.absolute_deviation(states.reshape(*states.shape[:2], -1), x_0.reshape(len(x_0), -1), low, scale)
    return np.stack([ssim.T, psnr.T, mad.T], axis=-1)


# --- what it shows ------------------------------------------------------------------------------------------------


def _over_starts_caption(results: Results) -> str:
    presets = captions.either(sorted(str(result.attrs["preset"]) for result in results.values()))
    return (
        f"{families.HOW} Drawn is how like the edited x_0 is to that of the unedited run, over the timestep at which "
        f"the edit starts: structural similarity (preset {presets}; 1: the same image; mind the scale) and "
        "peak signal-to-noise ratio (higher: closer; infinite, and not drawn, for the same image). Lines are means, "
        f"bands one standard deviation of samples to either side. {families.samples_of(results)} After 002 Figs 4, 7, "
        "8."
    )


@intervention.figure("edits_over_starts", title="What an edit does, over where it starts", caption=_over_starts_caption)
def _over_starts(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import style

    shown = {name: lines for name, result in results.items() if (lines := families.lines(result, "at"))}
    if not shown:
        return None
    figure, axes = style.rows_of(list(shown), 2, 2.9, look, named=len(results) > 1)
    for row, (run, lines) in zip(axes, shown.items(), strict=True):
        palette = style.colours([line.name for line in lines])
        for axis, name, label in zip(row, ("ssim", "psnr"), ("SSIM", "PSNR (dB)"), strict=True):
            for line in lines:
                at, mean, sd = _of_line(results[run], line, name, "sd")
                axis.fill_between(at, mean - sd, mean + sd, color=palette[line.name], alpha=0.15, lw=0)
                axis.plot(at, mean, ".-", color=palette[line.name], label=style.legible(line.name))
            axis.set(ylabel=label)
            axis.xaxis.set_inverted(True)
        row[0].set_ylim(top=min(row[0].get_ylim()[1], 1 + 0.02 * np.ptp(row[0].get_ylim())))
        style.legend_beside(row[1])
    for axis in axes[-1]:
        axis.set_xlabel(families.START)
    return figure


def _of_line(result: xr.Dataset, line: families.Line, name: str, spread: str) -> list[NDArray[Any]]:
    """Take where edits start, the mean of SSIM or PSNR, NaN where it is infinite, and its spread."""
    of_line = result.isel(variant=line.variants)
    at, mean, by = (of_line[part].to_numpy() for part in ("at", f"{name}_mean", f"{name}_{spread}"))
    return [at, np.where((name == "psnr") & (mean >= CAP), np.nan, mean), by]


LINES = 8
"""Most lines in a panel over lengths or pauses."""


def _over_lengths_caption(results: Results) -> str:
    return (
        "For how long can a part of the network be missed, and how long a pause does the image need to recover? SSIM "
        "with the unedited run over the number n of steps that are edited, and, where the same cut is made twice, over "
        "the number r of whole steps between the two: means, with two standard deviations of samples to either side; "
        f"dotted, if SSIM gets there, {SIMILAR}. Of more than {LINES} lines in a panel as many are drawn, evenly "
        f"chosen. {families.samples_of(results)} After 002 Figs 9 and 18 (n) and 10 (r)."
    )


@intervention.figure(
    "edits_over_lengths", title="For how long, and how often: lengths and pauses", caption=_over_lengths_caption
)
def _over_lengths(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import style

    found = {
        run: {along: families.lines(result, along) for along in families.LENGTHS} for run, result in results.items()
    }
    found = {run: lines for run, lines in found.items() if any(lines.values())}
    columns = [along for along in families.LENGTHS if any(lines[along] for lines in found.values())]
    if not columns:
        return None
    figure, axes = style.rows_of(list(found), len(columns), 3.4, look, named=len(results) > 1, sharey="row")
    for row, (run, lines) in zip(axes, found.items(), strict=True):
        for axis, along in zip(row, columns, strict=True):
            kept = np.unique(np.linspace(0, len(lines[along]) - 1, LINES).round().astype(int))
            few = [lines[along][k] for k in kept] if lines[along] else []
            for line, colour in zip(few, style.colours([line.name for line in few]).values(), strict=True):
                of_line = results[run].isel(variant=line.variants)
                x, mean, sd = (of_line[name].to_numpy() for name in (along, "ssim_mean", "ssim_sd"))
                axis.fill_between(x, mean - 2 * sd, np.minimum(mean + 2 * sd, 1), color=colour, alpha=0.12, lw=0)
                axis.plot(x, mean, ".-", color=colour, label=style.legible(line.name))
            axis.set_xlabel(families.LENGTHS[along])
            if few:
                axis.set_xticks(
                    np.unique(np.concatenate([results[run][along][line.variants] for line in lines[along]]))
                )
                style.legend_beside(axis)
            else:
                axis.set_visible(False)
        row[0].set_ylabel("SSIM")
        low = row[0].get_ylim()[0]
        for axis in row:
            axis.axhline(SIMILAR, color="#555555", lw=0.8, ls=":")
        row[0].set_ylim(bottom=low)  # the line has no part in the scale
    return figure


intervention.figure("shortcut", title="The shortcut: all of it at once", caption=_shortcut.caption)(_shortcut.draw)


def _series(result: xr.Dataset, name: str) -> list[Series]:
    found = []
    for line in families.lines(result, "at"):
        at, mean, error = _of_line(result, line, name, "se")
        drawn = np.isfinite(mean)
        along = at, result["at_log_snr"].to_numpy()[line.variants], mean, mean - 2 * error, mean + 2 * error
        found.append(Series(line.name, *(values[drawn] for values in along)))
    return found


@intervention.curve("intervention_ssim", title="SSIM of edited images with the run", y_label="SSIM")
def _ssim(result: xr.Dataset) -> list[Series]:
    return _series(result, "ssim")


@intervention.curve("intervention_psnr", title="PSNR of edited images with the run", y_label="PSNR (dB)")
def _psnr(result: xr.Dataset) -> list[Series]:
    return _series(result, "psnr")


@intervention.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    shortcut = _shortcut.of_result(result)
    numbers = [] if shortcut is None else _shortcut.numbers(shortcut)
    if not (edits := result.isel(variant=~families.is_shortcut(result))).sizes["variant"]:
        return numbers
    for name, unit in (("ssim", ""), ("psnr", " (dB)")):
        lowest = float(edits[f"{name}_mean"].min())
        numbers.append(
            Number(f"edits_lowest_{name}", f"lowest mean {name.upper()} of an edit with the run{unit}", lowest)
        )
    late = [difference.ravel() for *_, starts, difference in findings.late_pairs(edits) if len(starts)]
    if late:
        meaning = "PSNR with blocks cut less that with as many skips cut, after phase 1 (dB)"
        numbers.append(Number("blocks_above_skips_psnr", meaning, float(np.concatenate(late).mean())))
    return numbers


@intervention.gives_tables
def _tables(results: Results) -> list[Table]:
    tables = []
    for name, result in results.items():
        shortcut = _shortcut.of_result(result)
        rows = findings.rows(result) + ([] if shortcut is None else _shortcut.rows(shortcut))
        if rows:
            note = " ".join(filter(None, (findings.HOW, families.scaled(result))))
            tables.append(Table(f"What the source reports, and what is seen here: {name}", findings.HEAD, rows, note))
    return tables + findings.with_and_without_noise(results)
