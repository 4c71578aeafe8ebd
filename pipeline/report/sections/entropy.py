"""How much is still open: stepwise entropy (000 Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pipeline.report import markup
from pipeline.report.contents import Material, Numbers, Run, Section, Series
from pipeline.report.drawing import LOG_SNR_LABEL, Curve, on, panels, without_outset
from pipeline.report.metrics import curve, over_timesteps, rounded

POOLED = ("stepwise_entropy_miller_madow", "stepwise_entropy_se")
ALONE = ("stepwise_entropy_per_sample_mean", "stepwise_entropy_per_sample_se")


def html(material: Material) -> str:
    """Show the curves over the process and over log SNR."""
    results = material.results("entropy")
    if not results:
        return ""
    bins = markup.either(sorted({int(result.attrs["bins"]) for result in results.values()}))
    pixels = markup.either(sorted({int(r["pixel_pairs"]) // int(r.attrs["samples"]) for r in results.values()}))
    unreliable = [run for run, result in results.items() if not bool(result["reliable"])]
    caption = (
        f"Stepwise entropy H(x_0 | state): how many bits of a pixel of x_0 remain open to one who knows the state’s "
        f"pixel at the same place, counted on {bins} grey levels. Above, one histogram over all samples (Miller-Madow "
        f"corrected; band: two standard errors by the jackknife over eight groups of samples). The dotted lines are "
        f"H(x_0), all that is open to someone who knows nothing; where a curve leaves its first level and falls, "
        f"pixels settle. Beneath, each image’s own histogram (mean; band: two standard errors over samples), as in the "
        f"source. One image has only {pixels} pixels, too few to fill a histogram, so its values lie below those above "
        f"and are to be compared with one another only. How they begin depends on the network: a flat first prediction "
        f"gives low values, so that features appearing show as a rise before the fall, a noisy one high values. "
        f"{markup.samples(results)} After 000 Fig. 2, eq. 11."
    )
    if unreliable:
        caption += (
            f" Dashed: fewer than 20 pixel pairs per cell of the histogram ({', '.join(map(escape, unreliable))}), so "
            "that the pooled value leans on the correction more than on the data; take its course, not its height, or "
            "use more samples or fewer bins."
        )
    over_log_snr = (
        "The same over log SNR, on which runs of different schedules and lengths can be compared. At most a hundredth "
        "of a run’s steps, the first ones, lie beyond the left edge; runs of few steps have a dot for each."
    )
    return markup.figure(
        stepwise_entropy(results, material.colours, "progress"), caption, "Stepwise entropy over the process"
    ) + markup.figure(
        stepwise_entropy(results, material.colours, "log_snr"), over_log_snr, "Stepwise entropy over log SNR"
    )


def stepwise_entropy(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], over: str) -> Figure:
    """Draw stepwise entropy over the process in percent or over log SNR (000 Fig. 2).

    The upper panels have the pooled, Miller-Madow corrected value, dashed where it is not reliable, the lower ones
    the mean of each image's own; on x_t at the left, on pred_x0 at the right. Bands are two standard errors.
    """

    def curves(name: str, variables: tuple[str, str]) -> list[Curve]:
        return [
            Curve(
                run,
                _along(result, over),
                *on(result, name, *variables),
                line="-" if variables != POOLED or bool(result["reliable"]) else "--",
            )
            for run, result in results.items()
            if name in result["on"]
        ]

    rows = [
        [(title.format(name), curves(name, variables)) for name in ("x_t", "pred_x0")]
        for variables, title in ((POOLED, "pooled over samples, given {}"), (ALONE, "of each image alone, given {}"))
    ]
    label = "denoising process (%)" if over == "progress" else LOG_SNR_LABEL
    figure, axes = panels(rows, colours, label, ["stepwise entropy (bit per pixel)"] * 2)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        if over == "log_snr":
            without_outset(axis, results)
    for run, result in results.items():
        for axis in axes[0]:
            nothing_known = float(result["x_0_entropy"][0, 0])
            axis.axhline(nothing_known, color=colours[run], lw=0.9, ls=":")
    return figure


def _along(result: xr.Dataset, over: str) -> np.ndarray:
    return np.linspace(0, 100, result.sizes["timestep"]) if over == "progress" else result[over].to_numpy()


def numbers(run: Run) -> Numbers:
    """Say where each image's own entropy begins and where it is highest."""
    of_image = curve(run, "entropy", ALONE[0])
    if of_image is None:
        return {}
    peak = of_image.isel(timestep=int(of_image.argmax("timestep")))
    return {
        "entropy_start": rounded(of_image[0]),
        "entropy_peak": rounded(peak),
        "entropy_peak_timestep": int(peak["timestep"]),
        "entropy_peak_log_snr": rounded(peak["log_snr"], 2),
    }


def curves(run: Run) -> dict[str, list[Series]]:
    """Give the pooled curves and those of images."""
    files = {"stepwise_entropy": POOLED, "stepwise_entropy_per_image": ALONE}
    result = run.results.get("entropy")
    return {} if result is None else {name: over_timesteps(result, *variables) for name, variables in files.items()}


SECTION = Section(
    "entropy",
    "How much is still open: stepwise entropy",
    html,
    quantities=("entropy",),
    meanings={
        "entropy_start": "stepwise entropy of an image alone, given the first pred_x0 (bit)",
        "entropy_peak": "… where it is highest (bit)",
        "entropy_peak_timestep": "… which is at timestep",
        "entropy_peak_log_snr": "… and log SNR",
    },
    numbers=numbers,
    curves=curves,
)
