"""How much a state has settled: labels and likeness of its replicas (000, label variance and sample consistency)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traj.analysis._drawing import LOG_SNR_LABEL, Curve, Panel, panels
from traj.analysis._replicas import curve
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Numbers, Run, Section, Series, errors_of
from traj.pipeline.report.metrics import rounded

SIMILAR, AGREED = 0.8, 0.5

LABELS = {
    "total": "label_variance",
    "within": "label_variance_within",
    "between": "label_variance_between",
}
ENTROPY = {"label_entropy_corrected": "corrected", "label_entropy": "as it is"}
ALIKE = {
    "pearson": "Pearson correlation",
    "ssim": "SSIM",
    "replica_correlation": "correlation over samples",
    "cosine": "cosine",
    "one_minus_nmse": "1 − NMSE",
    "psnr": "PSNR (dB)",
}
"""Measures of likeness, in words."""


def html(material: Material) -> str:
    """Show what the replicas are taken for, and how alike they are."""
    labels, alike = material.results("label_variance", "fork"), material.results("consistency", "fork")
    shown = ""
    if labels:
        caption = (
            "What a classifier takes the endings for. Above, the label variance 1 − Σ p̄², with p̄ the mean over "
            "replicas of the probability given to each class (solid), and the part of it that lies between replicas "
            "(dashed): what is left, between the two lines, is the classifier’s own doubt about single images. From R "
            "replicas the part between them comes out, on average, at 1 − 1/R of what very many would show. At the "
            f"dotted line ({markup.either([f'{1 - 1 / k:g}' for k in _classes(labels)])}) replicas fall into all "
            "classes alike, at 0 all surely into one. Beneath, the share of pairs of replicas with equal labels; "
            f"dotted ({markup.either([f'{1 / k:g}' for k in _classes(labels)])}) what equally frequent classes would "
            "give by chance. At the bottom, the entropy of the replicas’ labels: solid, corrected for how few they are "
            "(of probabilities by the jackknife, of hard labels by Grassberger’s estimate); dashed, of their mean as "
            "it is, which from few replicas is far too low where they part: R sure ones show at most log₂ R bits, here"
            f" {_at_most(labels)}. {_shared(labels)} Of the share the bands are Wilson’s intervals of 95 %, "
            "which have a width at 0 and 1, too. After 000’s section on label variance, which has no figure."
        )
        shown += markup.figure(
            labels_of_replicas(labels, material.colours, material.markers), caption, "Labels of replicas"
        )
    if alike:
        caption = (
            "How alike two endings of one state are, pixel by pixel (Pearson’s correlation, above) and in their "
            f"structure (SSIM, beneath, preset {_presets(alike)}): means over all pairs of replicas; 1 means that the "
            f"rest of the noise makes no difference. {_shared(alike)} After 000’s section on sample consistency, which "
            "has no figure."
        )
        more = (
            "The same in four more measures, over log SNR. The correlation over samples compares a pixel in one "
            "replica with the same pixel in another across all samples, so that what all images have in common does "
            "not count: it estimates the share of the variance of x_0 that x_t has settled, 1 − E Var(x_0 | x_t) / "
            "Var(x_0); its band is an interval of 95 %, by the jackknife over eight groups of samples. The cosine of "
            "two images and 1 − |a − b|² / (|a|² + |b|²) take images as they are, with their brightness; PSNR is in "
            "decibels, higher is closer, and pairs of equal images count as 100 (starts from which all endings are "
            "equal are not drawn)."
        )
        drawn = similarity(alike, material.colours, material.markers)
        shown += markup.figure(drawn, caption, "Likeness of replicas")
        shown += markup.figure(
            more_measures(alike, material.colours, material.markers), more, "Likeness of replicas in other measures"
        )
    return shown


def _shared(results: Mapping[str, xr.Dataset]) -> str:
    """Say what holds for both figures."""
    replicas = {run: int(result.attrs["replicas"]) for run, result in results.items()}
    many = ", ".join(f"{escape(run)} {count}" for run, count in replicas.items())
    if len(set(replicas.values())) == 1:
        many = str(next(iter(replicas.values())))
    return (
        "At the left over the timestep at which the run was forked, at the right over its log SNR, on which runs of "
        f"different schedules compare. Bands are two standard errors over samples. Replicas: {many}. "
        f"{markup.samples(results)}"
    )


def _at_most(results: Mapping[str, xr.Dataset]) -> str:
    return markup.either([f"{np.log2(r):.3g}" for r in sorted({int(x.attrs["replicas"]) for x in results.values()})])


def _classes(results: Mapping[str, xr.Dataset]) -> list[int]:
    return sorted({int(result.attrs["classes"]) for result in results.values()})


def _presets(results: Mapping[str, xr.Dataset]) -> str:
    return markup.either(sorted({escape(str(result.attrs["preset"])) for result in results.values()}))


def labels_of_replicas(
    results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]
) -> Figure:
    """Draw label variance, total and between replicas, label agreement, and entropy, over where forks start."""
    rows = [
        ("label variance", {"label_variance": "-", "label_variance_between": "--"}),
        ("share of pairs with equal labels", {"label_agreement": "-"}),
        ("entropy of labels (bit)", {"label_entropy_corrected": "-", "label_entropy": "--"}),
    ]
    figure, axes = _over_starts(results, rows, colours, markers)
    levels: Sequence[Callable[[int], float]] = (lambda k: 1 - 1 / k, lambda k: 1 / k, np.log2)
    for number, level in enumerate(levels):
        for axis in axes[number]:
            axis.set_ylim(-0.02, 1.02 if number < 2 else None)
            for classes in _classes(results):
                axis.axhline(level(classes), color="#777777", lw=0.9, ls=":")
    for axis, parts in (
        (axes[0, 0], ("in all", "between replicas")),
        (axes[2, 0], ("corrected", "as it is, too low")),
    ):
        handles = [Line2D([], [], color="#555555", ls=line, label=part) for part, line in zip(parts, "-:", strict=True)]
        handles[1].set_linestyle("--")
        axis.legend(handles=handles, loc="lower left")
    return figure


def similarity(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]) -> Figure:
    """Draw correlation and SSIM of replicas over where forks start."""
    rows = [(f"{ALIKE[name]} of replicas", {name: "-"}) for name in ("pearson", "ssim")]
    figure, axes = _over_starts(results, rows, colours, markers)
    for axis in axes.flat:
        axis.set_ylim(min(0, axis.get_ylim()[0]), 1.02)
    return figure


def _over_starts(
    results: Mapping[str, xr.Dataset],
    rows: list[tuple[str, dict[str, str]]],
    colours: Mapping[str, Any],
    markers: Mapping[str, str],
) -> tuple[Figure, np.ndarray]:
    """Draw variables, each with its line, over the timestep and the log SNR of starts; one row for each label."""
    drawn = [
        [
            (f"over the {what} of the start", _curves(results, over, lines, markers))
            for over, what in (("at", "timestep"), ("at_log_snr", "log SNR"))
        ]
        for _, lines in rows
    ]
    figure, axes = panels(drawn, colours, "", [label for label, _ in rows])
    for axis in axes[:, 0]:
        axis.invert_xaxis()
    axes[-1, 0].set_xlabel("timestep of the start   (denoising →)")
    axes[-1, 1].set_xlabel(LOG_SNR_LABEL)
    return figure, axes


def more_measures(results: Mapping[str, xr.Dataset], colours: Mapping[str, Any], markers: Mapping[str, str]) -> Figure:
    """Draw the other measures of likeness over the log SNR of starts."""

    def panel(name: str) -> Panel:
        return ALIKE[name], _curves(results, "at_log_snr", {name: "-"}, markers)

    rows = [[panel("replica_correlation"), panel("cosine")], [panel("one_minus_nmse"), panel("psnr")]]
    return panels(rows, colours, LOG_SNR_LABEL, ["", ""], sharey=False)[0]


def _curves(
    results: Mapping[str, xr.Dataset], over: str, lines: Mapping[str, str], markers: Mapping[str, str]
) -> list[Curve]:
    curves = []
    for run, result in results.items():
        starts = result.sortby("at", ascending=False)
        for name, line in lines.items():
            series = _series(starts, name, name)
            curves.append(
                Curve(run, starts[over].to_numpy(), series.value, series.error, line, markers[run], *series[5:])
            )
    return curves


def _series(starts: xr.Dataset, name: str, on: str) -> Series:
    """Take a variable over where forks start, with the band it has."""
    at, log_snr = (starts[variable].to_numpy() for variable in ("at", "at_log_snr"))
    value, low, high = curve(starts, name)
    return Series(on, at, log_snr, value, errors_of(low, high), starts.attrs["cap"] if name == "psnr" else np.inf)


def numbers(run: Run) -> Numbers:
    """Say from which start on replicas mostly get one label, and are alike."""
    found: Numbers = {}
    for quantity, name, threshold, key in (
        ("label_variance", "label_agreement", AGREED, "agreement_05"),
        ("consistency", "ssim", SIMILAR, "replica_ssim_08"),
    ):
        if quantity in run.results:
            starts = run.results[quantity].sortby("at", ascending=False)
            above = np.flatnonzero(starts[f"{name}_mean"].to_numpy() > threshold)
            first = starts.isel(variant=above[0]) if above.size else None
            found[f"{key}_at"] = None if first is None else int(first["at"])
            found[f"{key}_log_snr"] = None if first is None else rounded(first["at_log_snr"], 2)
            _, low, high = curve(starts, name)
            for by, ends in (("sure", low), ("possible", high)):
                there = np.flatnonzero(ends > threshold)
                found[f"{key}_at_{by}"] = int(starts["at"][there[0]]) if there.size else None
    return found


def curves(run: Run) -> dict[str, list[Series]]:
    """Give the parts of label variance, and all that is 1 for equal replicas."""
    found = {}
    if (labels := run.results.get("label_variance")) is not None:
        starts = labels.sortby("at", ascending=False)
        found["fork_label_variance"] = [_series(starts, name, part) for part, name in LABELS.items()]
        found["fork_label_entropy"] = [_series(starts, name, said) for name, said in ENTROPY.items()]
        found["fork_label_agreement"] = [_series(starts, "label_agreement", "x_0 of replicas")]
    if (alike := run.results.get("consistency")) is not None:
        starts = alike.sortby("at", ascending=False)
        found["fork_consistency"] = [_series(starts, name, said) for name, said in ALIKE.items() if name != "psnr"]
    return found


SECTION = Section(
    "forks",
    "How much a state has settled: replicas",
    html,
    kind="fork",
    quantities=("consistency", "label_variance"),
    meanings={
        "agreement_05_at": f"first start whose replicas mostly agree in label (above {AGREED} of pairs): timestep",
        "agreement_05_log_snr": "… and its log SNR",
        "agreement_05_at_sure": "… by the low ends of the bands: timestep",
        "agreement_05_at_possible": "… by the high ends of the bands: timestep",
        "replica_ssim_08_at": f"first start whose replicas look alike (SSIM above {SIMILAR}): timestep",
        "replica_ssim_08_log_snr": "… and its log SNR",
        "replica_ssim_08_at_sure": "… by the low ends of the bands: timestep",
        "replica_ssim_08_at_possible": "… by the high ends of the bands: timestep",
    },
    numbers=numbers,
    curves=curves,
)
