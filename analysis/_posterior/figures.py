"""How a posterior over a dataset is drawn: the nearest images along a run, and regimes as bands."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing import panels, style
from traj.analysis._drawing.axis import table
from traj.analysis._quantity import Landmark, Look, Results, Series
from traj.stores import IMAGE_DIMS

RANKS, SAMPLES, RUNS = 3, 2, 4
"""How many of the nearest images are drawn, of how many samples where there is one run, and of how many runs."""

SHADES = {"statistics": "#9ecae1", "feature": "#fdd0a2", "denoising": "#a1d99b"}


def with_images(results: Results) -> dict[str, xr.Dataset]:
    """Pick the results that keep images to be drawn."""
    return {
        run: result
        for run, result in results.items()
        if "shown_mean" in result and result["shown_mean"].dims[2:] == IMAGE_DIMS
    }


def nearest(results: Results, look: Look) -> Figure | None:
    """Draw states, predictions, posterior means and nearest images with their weights, along log SNR."""
    shown = dict(list(with_images(results).items())[:RUNS])
    if not shown:
        return None
    samples = SAMPLES if len(shown) == 1 else 1
    drawn = [
        (run, result.isel(shown_sample=sample))
        for run, result in shown.items()
        for sample in range(min(samples, result.sizes["shown_sample"]))
    ]
    rows = 3 + max(min(RANKS, result.sizes["rank"]) for _, result in drawn)
    columns = max(result.sizes["shown_timestep"] for _, result in drawn)
    height = rows * style.WIDTH / (columns + 2) + 0.6
    with mpl.rc_context(style.STYLE):
        figure = Figure(figsize=(style.WIDTH, height * len(drawn)), layout="constrained")
        for axis, (run, result) in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
            _along(axis, result)
            sample = f"sample {int(result['shown_sample'])}"
            name = f"{style.legible(run)}, {sample}" if len(results) > 1 else sample
            axis.set_title(name, loc="left", color=look.colours[run])
    return figure


def _along(axis: Axes, result: xr.Dataset) -> None:
    """Draw one sample: a column for each state, a row for each kind of image."""
    there = result.sel(timestep=result["shown_timestep"].to_numpy())
    size = np.hypot(there["signal"].to_numpy(), there["noise_scale"].to_numpy())
    ranks = min(RANKS, result.sizes["rank"])
    rows = {
        "x_t": result["shown_x_t"].to_numpy() / size[:, None, None, None],
        "pred_x0": result["shown_pred_x0"].to_numpy(),
        "posterior mean": result["shown_mean"].to_numpy(),
    }
    near = result["shown_nearest"].transpose("rank", "shown_timestep", *IMAGE_DIMS).to_numpy()[:ranks]
    names = [*rows, *("likeliest image", "second", "third")[:ranks]]
    pictures = style.displayed(np.stack([*rows.values(), *near]), *style.limits(result))
    cells = style.tiled(pictures)
    axis.imshow(np.concatenate(cells, axis=1), interpolation="nearest", aspect="equal")
    tall, wide = cells[0].shape[0] / len(names), cells[0].shape[1]
    weight = there["weight"].sel(sample=int(result["shown_sample"])).to_numpy()
    for column in range(len(cells)):
        for rank in range(ranks):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
            text = _weight(weight[column, rank])
            place = ((column + 0.5) * wide, (3 + rank + 0.97) * tall)
            axis.text(*place, text, ha="center", va="bottom", fontsize=6.5, bbox=box)
    axis.set_xticks((np.arange(len(cells)) + 0.5) * wide, [style.signed(x) for x in there["log_snr"].to_numpy()])
    axis.set_yticks((np.arange(len(names)) + 0.5) * tall, names)
    axis.set_xlabel(style.LOG_SNR_LABEL)
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _weight(weight: float) -> str:
    """Write a weight in few letters."""
    if weight >= 0.001:
        return f"{weight:.3f}"
    return "< 0.001" if weight >= 0 else ""


def entropies(axis: Axes, result: xr.Dataset, entropy: Series, places: list[Landmark], look: Look, run: str) -> None:
    """Add what Gaussian data would leave, and mark when classes and images part."""
    colour, to = look.colours[run], look.axis.places(entropy.timestep, entropy.log_snr)
    letters = {"speciation": "S", "collapse_gaussian": "G", "collapse": "C"}
    curves = {"x_t": entropy}
    if "gaussian_entropy" in result:
        left = result["gaussian_entropy"].to_numpy()
        curves["gaussian"] = entropy._replace(value=left)
        axis.plot(to(entropy.log_snr), left, "--", color=colour, lw=1)
    for place in places:
        if place.name in letters:
            panels.mark(axis, curves[place.of], [place], colour, to)
            y = np.interp(place.log_snr, entropy.log_snr, curves[place.of].value)
            aside = (7, 4) if place.of == "x_t" else (-13, -4)
            axis.annotate(
                letters[place.name], (float(to(place.log_snr)), y), aside, textcoords="offset points", color=colour
            )


def regimes(results: Results, look: Look, places: dict[str, list[Landmark]]) -> Figure:
    """Draw the shares of samples in each regime as bands over the axis, a row for each run."""
    with mpl.rc_context(style.STYLE):
        figure = Figure(figsize=(style.WIDTH, 1.9 * len(results) + 0.7), layout="constrained")
        axes = figure.subplots(len(results), squeeze=False, sharex=True)[:, 0]
        for axis, (run, result) in zip(axes, results.items(), strict=True):
            log_snr, to = result["log_snr"].to_numpy(), look.axis.places(*table(result))
            shares = [result[f"{regime}_share"].to_numpy() for regime in SHADES]
            axis.stackplot(to(log_snr), *shares, colors=list(SHADES.values()), step="post")
            known = log_snr[np.isfinite(log_snr)]
            for place in places[run]:
                middle, *ends = to(np.clip([place.log_snr, place.low, place.high], known.min(), known.max()))
                axis.axvline(middle, color="black", lw=1)
                axis.axvspan(*ends, color="black", alpha=0.15, lw=0)
            axis.set(ylim=(0, 1), ylabel="share of samples")
            axis.set_title(style.legible(run) if len(results) > 1 else "", loc="left", color=look.colours[run])
        panels.lie_over(axes[-1], results, look)
        axes[-1].set_xlabel(look.axis.label())
        patches = [mpl.patches.Patch(color=shade, label=name) for name, shade in SHADES.items()]
        figure.legend(handles=patches, loc="outside upper center", ncols=len(patches))
    return figure
