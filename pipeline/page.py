"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from pipeline import figures
from pipeline.estimate import size
from pipeline.metrics import SIMILAR, model_name

if TYPE_CHECKING:
    from pipeline.report import Run

CSS = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; color: #222; background: #fff;
  max-width: 1080px; margin: 0 auto; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.5rem; padding-top: 0.7rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.3rem; }
p, ul, dl { max-width: 47rem; }
nav a { margin-right: 1.2rem; white-space: nowrap; }
a { color: #0b5394; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.9em; }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1rem; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: bottom; }
th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 0.8rem 0 1.5rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: 0.9rem; color: #444; max-width: 56rem; margin-top: 0.4rem; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.5em; }
.run { white-space: nowrap; }
.remarks { border-left: 3px solid #e69f00; padding: 0.2rem 0 0.2rem 1rem; font-size: 0.9rem; }
code { font-size: 0.9em; }
"""

WORDS = {
    "timestep t": "how noisy a state is, as the place in the training schedule: the highest is pure noise, 0 almost "
    "clean. The process runs from high to low, in every figure from left to right.",
    "x_t": "the state the network is given at timestep t.",
    "pred_x0": "the finished image as the network predicts it from x_t alone, not clipped.",
    "x_0": "the finished image, at the end of the process.",
    "log SNR": "ln(ᾱ / (1 − ᾱ)): how much of x_t is image and how much noise; 0 where there is as much of one as of "
    "the other. It does not depend on how a schedule counts its timesteps, so schedules compare on it.",
}

SOURCES = {
    "000": "Stout, Lensen, Frean: Quantifying Feature Emergence in the Reverse Processes of Diffusion Probabilistic "
    "Models. Figs 1 to 3: montages, stepwise entropy, joint maps.",
    "002": "Prasad et al.: Unraveling the Temporal Dynamics of the Unet in Diffusion Models. Figs 16 and 17: PSNR and "
    "SSIM over the process.",
}

MEANINGS = {
    "ssim_08_timestep": f"timestep from which pred_x0 looks like x_0 (SSIM above {SIMILAR})",
    "ssim_08_log_snr": "… and its log SNR",
    "ssim_at_log_snr_0": "SSIM of pred_x0 where signal equals noise (log SNR 0)",
    "psnr_at_log_snr_0": "PSNR of pred_x0 there (dB)",
    "psnr_x_t_end": "PSNR of the last x_t (dB)",
    "entropy_start": "stepwise entropy of an image alone, given the first pred_x0 (bit)",
    "entropy_peak": "… where it is highest (bit)",
    "entropy_peak_timestep": "… which is at timestep",
    "entropy_peak_log_snr": "… and log SNR",
    "confidence": "confidence of a classifier of digits in x_0",
    "classes": "digits that occur, of 10",
    "label_agreement": "share classified as the digit asked for",
}
"""Metrics, in the order of the page's table, in words."""


def html(
    runs: Sequence[Run],
    numbers: Mapping[str, Mapping[str, float | None]],
    losses: Mapping[str, tuple[list[str], np.ndarray]],
) -> str:
    """Write the page: runs and their numbers first, then a section for each kind of figure."""
    palette = figures.colours([run.name for run in runs])
    sections = [
        ("runs", "What was run", _runs(runs, palette) + _remarks(runs)),
        ("numbers", "In numbers", _numbers(numbers, palette)),
        ("montages", "What it looks like", _montages(runs, palette)),
        ("entropy", "How much is still open: stepwise entropy", _entropy(runs, palette)),
        ("maps", "How grey levels settle: joint maps", _maps(runs, palette)),
        ("similarity", "How close it is to the end: SSIM and PSNR", _similarity(runs, palette)),
        ("training", "How the networks were trained", _training(losses)),
        ("others", "Other results", _others(runs, palette)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{title}</a> ' for anchor, title, _ in shown)
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items())
    sources = "".join(f"<dt>{number}</dt><dd>{escape(source)}</dd>" for number, source in SOURCES.items())
    bodies = "\n".join(f'<h2 id="{anchor}">{title}</h2>\n{body}' for anchor, title, body in shown)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reverse trajectories</title>
<style>{CSS}</style>
</head>
<body>
<h1>When do features emerge in a diffusion model’s reverse process?</h1>
<p>Every run below starts from noise and turns it into images step by step. The states on the way were stored, and
the figures ask of them: when is it settled what the finished image will show?</p>
<dl>{words}</dl>
<nav>{links}</nav>
{bodies}
<h2 id="sources">Sources</h2>
<dl>{sources}</dl>
</body>
</html>
"""


def _runs(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    head = ("run", "model", "sampler", "labels", "steps", "samples", "evaluations", "store", "fingerprint")
    rows = []
    for run in runs:
        config, shape = run.config, run.described.get("arrays", {}).get("x_t", {}).get("dims", {})
        steps, samples = plan_steps(config) or shape.get("timestep"), shape.get("sample")
        rows.append(
            [
                _named(run.name, palette),
                escape(model_name(config)) if config else "–",
                escape(sampler_name(config)),
                escape(str(config.get("labels", "–"))),
                _count(steps),
                _count(samples),
                _count(steps and samples and steps * samples),
                size(run.described["bytes"]) if run.described else "–",
                f"<code>{run.described['fingerprint'][:8]}</code>" if run.described.get("fingerprint") else "–",
            ]
        )
    note = (
        "<p>Labels are the classes asked for: none, all in turn (cycle), or one. Evaluations are those of the network, "
        "one per image and step. The fingerprint stands for all inputs of a run: equal ones, equal trajectories.</p>"
    )
    return _table(head, rows, numbers=range(4, 8)) + note


def sampler_name(config: Mapping[str, Any]) -> str:
    """Say in words by which rule a run's plan goes down."""
    parts = []
    for part in config.get("plan", {}).get("runs", []):
        if part["rule"] == "ddim":
            name = "DDIM" if part["variance"] == 0 else f"DDIM, eta {part['variance']:g}"
        else:
            name = "IDDPM, learned variance" if part["variance"] == "learned" else f"DDPM, {part['variance']} variance"
        parts.append(name if part["noise"] == "shared" else f"{name}, noise {part['noise']}")
    return "; ".join(dict.fromkeys(parts)) or "–"


def plan_steps(config: Mapping[str, Any]) -> int:
    """Count a plan's steps, 0 where a store has no plan."""
    runs = config.get("plan", {}).get("runs", [])
    return sum((part["first"] - part["last"]) // max(part["stride"], 1) + 1 for part in runs)


def _remarks(runs: Sequence[Run]) -> str:
    items = [f"<li><b>{escape(run.name)}</b>: {escape(remark)}</li>" for run in runs for remark in run.remarks]
    return f'<div class="remarks">Missing or out of step:<ul>{"".join(items)}</ul></div>' if items else ""


def _numbers(numbers: Mapping[str, Mapping[str, float | None]], palette: Mapping[str, Any]) -> str:
    known = {key for of_run in numbers.values() for key in of_run}
    if not known:
        return ""
    rows = [
        [escape(meaning), *(_number(of_run.get(key)) for of_run in numbers.values())]
        for key, meaning in MEANINGS.items()
        if key in known
    ]
    head = ["mean over samples", *(_named(run, palette) for run in numbers)]
    text = ""
    if "confidence" in known:
        text = (
            "<p>The classifier has seen real digits only; confidence is the probability it gives to the most probable "
            "class. Real digits it has not seen get 0.95, noise 0.4.</p>"
        )
    return _table(head, rows, numbers=range(1, len(head))) + text


def _montages(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    drawn = [
        f"<h3>{_named(run.name, palette)}</h3>"
        + _figure(figures.montage(run.store), "", f"Montage of {run.name}: x_t above, pred_x0 beneath")
        for run in runs
        if run.store is not None
    ]
    caption = (
        "Each line is one sample, the same lines in both blocks of a run; each column one timestep, evenly spread over "
        "the process from its first to its last, with t and, under it, log SNR. Above, the states x_t; beneath, what "
        "the network predicts from them; at the first steps a small error of the network is a large one of the "
        "prediction. Values outside the images’ range are shown as its ends. Look for the column "
        "in which the prediction first shows what the finished image will show: it comes well before x_t does, and "
        "what follows only refines. Runs of one seed start from the same noise. After 000 Fig. 1."
    )
    return f"<p>{caption}</p>" + "".join(drawn) if drawn else ""


def _entropy(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    results = {run.name: run.results["entropy"] for run in runs if "entropy" in run.results}
    if not results:
        return ""
    bins = _either(sorted({int(result.attrs["bins"]) for result in results.values()}))
    pixels = _either(sorted({int(r["pixel_pairs"]) // int(r.attrs["samples"]) for r in results.values()}))
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
        f"{_samples(results)} After 000 Fig. 2, eq. 11."
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
    return _figure(
        figures.stepwise_entropy(results, palette, "progress"), caption, "Stepwise entropy over the process"
    ) + _figure(figures.stepwise_entropy(results, palette, "log_snr"), over_log_snr, "Stepwise entropy over log SNR")


def _maps(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    drawn = []
    for run in runs:
        if "entropy" in run.results:
            result = run.results["entropy"]
            drawn.append(f"<h3>{_named(run.name, palette)}</h3>")
            drawn.append(_figure(figures.joint_maps(result), "", f"Joint maps of {run.name}"))
    caption = (
        "How often a grey level of x_0 (horizontal) goes with a grey level of the state at the same pixel (vertical), "
        "over all samples, at five timesteps; white cells never occur. A column of the map is the state’s distribution "
        "where x_0 has that level: alike columns say that the state knows nothing yet, the diagonal (dotted) that the "
        "pixel is settled. r is Pearson’s correlation of the two. States beyond the images’ range count in the first "
        "and last level, which is why these rows of x_t are dark at first. A sampler without noise (DDIM) makes x_0 "
        "from the first x_t by a fixed rule, so that its first map already has some correlation. After 000 Fig. 3."
    )
    return f"<p>{caption}</p>" + "".join(drawn) if drawn else ""


def _similarity(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    drawn = []
    for quantity, source, what in (
        ("ssim", "Fig. 17", "Structural similarity (1: the same image"),
        ("psnr", "Fig. 16", "Peak signal-to-noise ratio (higher: closer; infinite, and not drawn, for the same image"),
    ):
        results = {run.name: run.results[quantity] for run in runs if quantity in run.results}
        if not results:
            continue
        if quantity == "ssim":
            what += f", preset {_either(sorted({escape(str(r.attrs['preset'])) for r in results.values()}))}"
        caption = (
            f"{what}) of pred_x0, above, and of x_t, beneath, with the finished image of the same sample: over time at "
            f"the left, over log SNR at the right. Lines are means, bands two standard errors over samples; where a "
            f"line is hidden, it runs under another. {_fed(results)}Look for how early pred_x0 rises while x_t is "
            f"still noise, and for whether runs that differ over time agree over log SNR. {_samples(results)} After "
            f"002 {source}."
        )
        drawn.append(_figure(figures.similarity(results, quantity, palette), caption, f"{quantity} over the process"))
    return "".join(drawn)


def _fed(results: Mapping[str, Any]) -> str:
    """Explain the time axis where a network is fed something else than the timestep."""
    scaled = [
        f"{escape(run)}, whose {int(result['timestep'][0])} is drawn at {float(result['model_time'][0]):g}"
        for run, result in results.items()
        if not np.array_equal(result["model_time"], result["timestep"])
    ]
    return f"Time is the timestep as the network is fed it, which matters for {'; '.join(scaled)}. " if scaled else ""


def _training(losses: Mapping[str, tuple[list[str], np.ndarray]]) -> str:
    if not losses:
        return ""
    caption = (
        "Training losses, each point the mean over the steps since the one before. “simple” is the mean squared error "
        "of the predicted noise, “vlb” the variational bound (bits per pixel of a timestep) that trains a learned "
        "variance, “loss” what was minimised."
    )
    return _figure(figures.training_losses(losses), caption, "Training losses")


def _others(runs: Sequence[Run], palette: Mapping[str, Any]) -> str:
    drawn = []
    for run in runs:
        for quantity, result in run.others.items():
            figure = figures.own_plot(result, result.attrs.get("quantity", quantity))
            title = f"<h3>{_named(run.name, palette)}: {escape(quantity)}</h3>"
            body = "<p>Nothing here can draw this result.</p>"
            drawn.append(title + (_figure(figure, "", f"{quantity} of {run.name}") if figure else body))
    return "".join(drawn)


def _figure(figure: Figure, caption: str, alt: str) -> str:
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt)}" src="{figures.data_uri(figure)}">{said}</figure>\n'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if i in numbers else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _named(run: str, palette: Mapping[str, Any]) -> str:
    return f'<span class="run"><span class="swatch" style="background:{palette[run]}"></span>{escape(run)}</span>'


def _samples(results: Mapping[str, Any]) -> str:
    """Say over how many samples, once where all runs have as many."""
    counts = {run: int(result.attrs["samples"]) for run, result in results.items()}
    if len(set(counts.values())) == 1:
        return f"N = {next(iter(counts.values()))} samples."
    return "Samples: " + ", ".join(f"{escape(run)} {count}" for run, count in counts.items()) + "."


def _either(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))


def _count(number: int | None) -> str:
    return f"{number:,}" if number else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}".replace("-", "−")
