"""How much is still open: stepwise entropy (000 Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import LOG_SNR_LABEL, Curve, on, panels, without_outset
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section, Series
from traj.pipeline.report.metrics import curve, over_timesteps, rounded

POOLED = ("stepwise_entropy_debiased", "stepwise_entropy_half_width")
ALONE = ("stepwise_entropy_per_sample_mean", "stepwise_entropy_per_sample_se")


def html(material: Material) -> str:
    """Show the curves over the process and over log SNR."""
    results = material.results("entropy")
    if not results:
        return ""
    bins = markup.either(sorted({int(result.attrs["bins"]) for result in results.values()}))
    pixels = markup.either(sorted({int(r["pixel_pairs"]) // int(r.attrs["samples"]) for r in results.values()}))
    unreliable = [run for run, result in results.items() if not result["reliable"].all()]
    caption = (
        f"Stepwise entropy H(x_0 | state): how many bits of a pixel of x_0 remain open to one who knows the state’s "
        f"pixel at the same place, counted on {bins} grey levels. Above, one histogram over all samples (corrected "
        f"by the jackknife over eight groups of samples; band: 95 % interval, with the bias that may be left). The "
        f"dotted lines are H(x_0), all that is open to someone who knows nothing; where a curve leaves its first "
        f"level and falls, pixels settle. Beneath, each image’s own histogram (mean; band: two standard errors over "
        f"samples), as in the source. One image has only {pixels} pixels, too few to fill a histogram, so its values"
        f" lie below those above and are to be compared with one another only. How they begin depends on the "
        f"network: a flat first prediction gives low values, so that features appearing show as a rise before the "
        f"fall, a noisy one high values. {markup.samples(results)} After 000 Fig. 2, eq. 11."
    )
    if unreliable:
        caption += (
            f" Dashed: too few pixels for so many grey levels ({', '.join(map(escape, unreliable))}): three ways to "
            "correct the value differ by more than its standard error, and the truth may lie outside the band; take "
            "the line’s course, not its height, or use more samples or fewer bins."
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

    The upper panels have the pooled value with its 95 % interval, dashed where it is not reliable, the lower ones
    the mean of each image's own with two standard errors; on x_t at the left, on pred_x0 at the right.
    """

    def of_images(name: str) -> list[Curve]:
        return [
            Curve(run, _along(result, over), mean, error)
            for run, result in results.items()
            if name in result["on"]
            for mean, error in [on(result, name, *ALONE)]
        ]

    def pooled(name: str) -> list[Curve]:
        curves = []
        for run, result in results.items():
            if name in result["on"]:
                value, half_width, reliable = on(result, name, *POOLED, "reliable")
                x = _along(result, over)
                curves.append(Curve(run, x, value, half_width, line="-" if reliable.all() else "--", in_band=1))
                if reliable.any() and not reliable.all():
                    curves.append(Curve(run, x, np.where(reliable, value, np.nan), 0 * half_width))
        return curves

    rows = [
        [(f"{title}, given {name}", curves(name)) for name in ("x_t", "pred_x0")]
        for curves, title in ((pooled, "pooled over samples"), (of_images, "of each image alone"))
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
    result = run.results.get("entropy")
    if result is None:
        return {}
    return {
        "stepwise_entropy": over_timesteps(result, *POOLED, in_band=1),
        "stepwise_entropy_per_image": over_timesteps(result, *ALONE),
    }


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
