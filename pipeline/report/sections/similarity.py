"""How close it is to the end: SSIM and PSNR (002 Figs 16, 17)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import Curve, on, over_time_and_log_snr, panels
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section, Series
from traj.pipeline.report.metrics import curve, over_timesteps, rounded, where_signal_equals_noise

SIMILAR = 0.8
"""SSIM from which 002 calls two images alike."""

WHAT = {
    "ssim": ("Fig. 17", "Structural similarity (1: the same image"),
    "psnr": ("Fig. 16", "Peak signal-to-noise ratio (higher: closer; infinite, and not drawn, for the same image"),
}


def html(material: Material) -> str:
    """Show both, over time and over log SNR."""
    drawn = []
    for quantity, (source, what) in WHAT.items():
        results = material.results(quantity)
        if not results:
            continue
        if quantity == "ssim":
            what += f", preset {markup.either(sorted({escape(str(r.attrs['preset'])) for r in results.values()}))}"
        caption = (
            f"{what}) of pred_x0, above, and of x_t, beneath, with the finished image of the same sample: over time at "
            f"the left, over log SNR at the right. Lines are means, bands two standard errors over samples; where a "
            f"line is hidden, it runs under another. {markup.fed(results)}Look for how early pred_x0 rises while x_t "
            f"is still noise, and for whether runs that differ over time agree over log SNR. "
            f"{markup.samples(results)} After 002 {source}."
        )
        figure = similarity(results, quantity, material.colours)
        drawn.append(markup.figure(figure, caption, f"{quantity} over the process"))
    return "".join(drawn)


def similarity(results: Mapping[str, xr.Dataset], quantity: str, colours: Mapping[str, Any]) -> Figure:
    """Draw SSIM or PSNR against x_0 over time and over log SNR, mean and two standard errors (002 Figs 16, 17)."""

    def curves(name: str, over: str) -> list[Curve]:
        return [
            Curve(run, result[over].to_numpy(), mean, error, cap=result.attrs.get("cap", np.inf))
            for run, result in results.items()
            if name in result["on"]
            for mean, error in [on(result, name, f"{quantity}_mean", f"{quantity}_se")]
        ]

    rows = [
        [
            (f"{name} against x_0, over {what}", curves(name, over))
            for over, what in (("model_time", "time"), ("log_snr", "log SNR"))
        ]
        for name in ("pred_x0", "x_t")
    ]
    figure, axes = panels(rows, colours, "", ["SSIM" if quantity == "ssim" else "PSNR (dB)"] * 2)
    over_time_and_log_snr(axes, results)
    if quantity == "ssim":
        for axis in axes[:, 0]:
            axis.set_ylim(min(0, axis.get_ylim()[0]), 1.02)
    return figure


def numbers(run: Run) -> Numbers:
    """Say from where on predictions are alike, and how alike they are where signal equals noise."""
    found: Numbers = {}
    if (ssim := curve(run, "ssim", "ssim_mean")) is not None:
        alike = np.flatnonzero(ssim.to_numpy() > SIMILAR)
        first = ssim.isel(timestep=alike[0]) if alike.size else None
        found |= {
            "ssim_08_timestep": None if first is None else int(first["timestep"]),
            "ssim_08_log_snr": None if first is None else rounded(first["log_snr"], 2),
            "ssim_at_log_snr_0": rounded(where_signal_equals_noise(ssim)),
        }
    if (psnr := curve(run, "psnr", "psnr_mean")) is not None:
        found["psnr_at_log_snr_0"] = rounded(where_signal_equals_noise(psnr), 2)
    if (psnr := curve(run, "psnr", "psnr_mean", on="x_t")) is not None:
        found["psnr_x_t_end"] = rounded(psnr[-1], 2)
    return found


def curves(run: Run) -> dict[str, list[Series]]:
    """Give the curves of both."""
    return {
        quantity: over_timesteps(run.results[quantity], f"{quantity}_mean", f"{quantity}_se")
        for quantity in WHAT
        if quantity in run.results
    }


SECTION = Section(
    "similarity",
    "How close it is to the end: SSIM and PSNR",
    html,
    quantities=tuple(WHAT),
    meanings={
        "ssim_08_timestep": f"timestep from which pred_x0 looks like x_0 (SSIM above {SIMILAR})",
        "ssim_08_log_snr": "… and its log SNR",
        "ssim_at_log_snr_0": "SSIM of pred_x0 where signal equals noise (log SNR 0)",
        "psnr_at_log_snr_0": "PSNR of pred_x0 there (dB)",
        "psnr_x_t_end": "PSNR of the last x_t (dB)",
    },
    numbers=numbers,
    curves=curves,
)
