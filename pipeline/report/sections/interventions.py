"""What the process can do without: jumps and cuts against the unedited run (002 Figs 3 to 8, 15, 19)."""

from __future__ import annotations

from html import escape
from itertools import product

import numpy as np
import xarray as xr

from traj.analysis._drawing import of_images
from traj.pipeline.report import edits, findings, markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section, Series
from traj.pipeline.report.edits import Family, families, is_shortcut, over_starts
from traj.pipeline.report.metrics import rounded

SURE = {"": "keeps", "_sure": "surely keeps", "_possible": "may keep"}
"""By the mean, and by the ends of its interval."""

EDITS = {"jump": "jump", "skips": "cut of skips", "blocks": "cut of blocks"}

HOW = (
    "<p>An edited process is the run’s own down to a stored x_t; there an edit begins, and after it the process goes "
    "on as before, with the noise of the run. A <b>jump</b> goes n steps further at once, so that n − 1 evaluations of "
    "the network are not made. A cut of <b>skips</b> sets the ns top-most skip connections of the U-Net to zero for n "
    "steps, a cut of <b>blocks</b> leaves its lowest output blocks out for n steps. nb counts them on the source’s "
    "network, which has 16; “(2 here)” says to how many of this one’s that was scaled. What an edit did is the "
    "difference between the finished image and the one of the unedited run.</p>"
)


def html(material: Material) -> str:
    """Show every sweep, and the schedules of their runs."""
    shown = "".join(
        f"<h3>{markup.named(sweep.name, material.colours)}</h3>{body}"
        for sweep in material.sweeps
        if (body := _of_sweep(sweep))
    )
    if not shown:
        return ""
    runs = {
        sweep.parent.name: sweep.parent.store
        for sweep in material.sweeps
        if sweep.parent is not None and sweep.parent.store is not None
    }
    noise = findings.noise(material.results("intervention", "sweep"))
    return HOW + shown + noise + (_schedules(runs, material) if runs else "")


def _of_sweep(sweep: Run) -> str:
    """Show what there is of one sweep's edits that were begun at several starts."""
    shown = ""
    compared, phases, redundancy = (sweep.results.get(name) for name in SECTION.quantities)
    if compared is not None and over_starts(compared):
        shown += _comparison(sweep, compared, phases)
    if of_images(sweep.store) and over_starts(sweep.store):
        caption = (
            "Finished images of edited processes, the first samples one beneath another: at the left of each block the "
            "x_0 of the unedited run, then the endings of one family of edits, over the timestep at which the edit "
            "starts, from high to low. Look for starts from which on the ending shows what x_0 shows. After 002 Figs 3 "
            "(jumps), 5 (skips), 6 and 19 (blocks)."
        )
        shown += markup.figure(edits.montage(sweep), caption, f"Endings of edited processes: {sweep.name}")
    if compared is not None and over_starts(compared):
        shown += findings.table(compared, phases)
    if redundancy is not None and over_starts(redundancy):
        shown += _redundancy(sweep, redundancy)
    return shown + _mapping(sweep) if shown else ""


def _mapping(sweep: Run) -> str:
    """Print how many blocks of this network the source's nb come to."""
    ds = next(
        (ds for ds in (*sweep.results.values(), sweep.store) if ds is not None and "unet_blocks" in ds.coords), None
    )
    if ds is None or not (pairs := edits.scaled(ds)):
        return ""
    told = ", ".join(f"nb = {nb} is {blocks}" for nb, blocks in pairs)
    return (
        "<p>The source counts nb of its 16 output blocks; on a network with B of them it is taken as nb · B / 16, "
        f"rounded. Here {told}; what comes to as many blocks is the same cut.</p>"
    )


def _comparison(sweep: Run, compared: xr.Dataset, phases: xr.Dataset | None) -> str:
    caption = (
        "Likeness of the edited x_0 to that of the unedited run over the timestep at which the edit starts: structural "
        f"similarity (preset {escape(str(compared.attrs['preset']))}; 1: the same image; mind the scale) and peak "
        "signal-to-noise ratio (higher: closer; infinite, and not drawn, for the same image). Lines are means, bands "
        f"one standard deviation of samples to either side. {markup.samples({sweep.name: compared})} "
    )
    if phases is not None:
        caption += (
            "The bars beneath are the phases that are seen in each family: 1, until mean SSIM first reaches "
            f"{phases.attrs['threshold']:g}; 2, from there to the lowest mean PSNR; 3, after it. A phase is drawn only "
            "where the samples leave no doubt that SSIM begins below, that PSNR falls, and that it rises again. "
        )
    figure = edits.similarity(compared, phases)
    return markup.figure(figure, caption + "After 002 Figs 4, 7 and 8.", f"SSIM and PSNR of edits: {sweep.name}")


def _redundancy(sweep: Run, redundancy: xr.Dataset) -> str:
    """Tell from where on what can be left out."""
    threshold = f"{redundancy.attrs['threshold']:g}"
    rows = []
    curves = {family.name for family in over_starts(redundancy)}
    edges = (redundancy[f"safe_from{by}"].to_numpy() for by in ("", "_sure", "_possible"))
    for family, safe, sure, possible in zip(families(redundancy), *edges, strict=True):
        if family.name not in curves:
            continue
        members = redundancy.isel(variant=family.variants)
        rows.append(
            [
                f'<span class="run">{escape(family.name)}</span>',
                _edge(safe),
                _edge(sure)
                if sure == possible or np.isnan([sure, possible]).all()
                else f"{_edge(sure)} to {_edge(possible)}",
                _steps_left(sweep, safe),
                f"{family.variants.size}",
                f"{float(members['ssim_mean'].min()):.3f}",
                *(f"{int(members[f'evaluations_{what}'].max())}" for what in ("saved", "cut")),
            ]
        )
    head = (
        "edit",
        f"SSIM ≥ {threshold} from t",
        "surely, to possibly",
        "steps left",
        "starts",
        "lowest SSIM",
        "evaluations saved",
        "evaluations cut",
    )
    return (
        f"<p>From where on down to the end of the process an edit can be made at any start that was tried, mean SSIM "
        f"staying at {threshold} or above: by the means; and from where on it surely does, to where on it is not "
        "ruled out, by intervals of 95 % over samples. 002 counts time by the steps left of its 100 and finds 70 for "
        "nb = 2, 60 for nb = 8 (Figs 8, 9).</p>" + markup.table(head, rows, numbers=range(1, 8))
    )


def _edge(at: float) -> str:
    return f"{at:g}" if np.isfinite(at) else "never"


def _steps_left(sweep: Run, at: float) -> str:
    """Say how many steps of how many are left at a start, a dash where that is not at hand."""
    if sweep.store is None or not np.isfinite(at):
        return "–"
    step = sweep.store["step"]
    steps = int(step[-1]) + 1
    return f"{steps - int(step.sel(timestep=int(at)))} of {steps}"


def _schedules(runs: dict[str, xr.Dataset], material: Material) -> str:
    told = []
    for name, run in runs.items():
        beta = edits.betas(run)
        among = [beta[0], beta[round(0.15 * (len(beta) - 1))], beta[-1]]
        told.append(f"{markup.named(name, material.colours)}: {', '.join(f'{value:.2g}' for value in among)}")
    caption = (
        "How much noise a step has to take away: β = 1 − ᾱ<sub>t</sub> / ᾱ of the next stored timestep, larger where a "
        "run has fewer steps. In the source β is steep above 85 of its 100 steps. Here, at the first step, after 15 % "
        "of them, and at the last: "
        f"{'; '.join(told)}. After 002 Fig. 15."
    )
    return "<h3>Noise schedules</h3>" + markup.figure(
        edits.schedules(runs, dict(material.colours)), caption, "Beta of every step"
    )


def numbers(run: Run) -> Numbers:
    """Say from where on edits do no harm, and how much the worst does."""
    found: Numbers = {}
    if (redundancy := run.results.get("redundancy")) is not None:
        for edit, by in product(EDITS, SURE):
            starts = [
                float(safe)
                for family, safe in zip(families(redundancy), redundancy[f"safe_from{by}"], strict=True)
                if family.edit == edit
            ]
            if starts:
                found[f"{edit}_safe_from{by}"] = int(min(starts)) if np.isfinite(starts).all() else None
    if (compared := run.results.get("intervention")) is not None and not is_shortcut(compared).all():
        compared = compared.isel(variant=~is_shortcut(compared))
        found["edits_lowest_ssim"] = rounded(compared["ssim_mean"].min())
        found["edits_lowest_psnr"] = rounded(compared["psnr_mean"].min(), 2)
        late = [difference.ravel() for _, _, starts, difference in findings.late_pairs(compared) if len(starts)]
        if late:
            found["blocks_above_skips_psnr"] = rounded(np.concatenate(late).mean(), 2)
    return found


def curves(run: Run) -> dict[str, list[Series]]:
    """Give SSIM and PSNR of every family over where the edit starts."""
    compared = run.results.get("intervention")
    if compared is None:
        return {}
    return {
        f"intervention_{name}": [_series(compared, family, name) for family in over_starts(compared)]
        for name in ("ssim", "psnr")
    }


def _series(compared: xr.Dataset, family: Family, name: str) -> Series:
    """Take SSIM or PSNR of a family over where the edit starts."""
    at, log_snr, mean, error = (
        compared[variable].to_numpy()[family.variants]
        for variable in ("at", "at_log_snr", f"{name}_mean", f"{name}_se")
    )
    return Series(family.name, at, log_snr, mean, error, compared.attrs["cap"] if name == "psnr" else np.inf)


SECTION = Section(
    "interventions",
    "What the process can do without: jumps and cuts",
    html,
    kind="sweep",
    quantities=("intervention", "phases", "redundancy"),
    meanings={
        **{
            f"{edit}_safe_from{by}": f"timestep from which on every {words} {keeps} mean SSIM (0.8 by default)"
            for edit, words in EDITS.items()
            for by, keeps in SURE.items()
        },
        "edits_lowest_ssim": "lowest mean SSIM of an edit with the run",
        "edits_lowest_psnr": "lowest mean PSNR of an edit with the run (dB)",
        "blocks_above_skips_psnr": "PSNR with blocks cut less that with as many skips cut, after phase 1 (dB)",
    },
    numbers=numbers,
    curves=curves,
)
