"""What it looks like: states and predictions of a few samples on their way."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import CELL, STYLE, WIDTH, beside, displayed, of_images, signed, tiled
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Section

COLUMNS, SAMPLES = 10, 4

CAPTION = (
    "Each line is one sample, the same lines in both blocks of a run; each column one timestep, evenly spread over "
    "the process from its first to its last, with t and, under it, log SNR. Above, the states x_t; beneath, what "
    "the network predicts from them; at the first steps a small error of the network is a large one of the "
    "prediction. Values outside the images’ range are shown as its ends. Look for the column "
    "in which the prediction first shows what the finished image will show, and for that in which x_t does. "
    "Runs of one seed start from the same noise. After 000 Fig. 1."
)


def html(material: Material) -> str:
    """Show a montage of every run."""
    drawn = [
        f"<h3>{markup.named(run.name, material.colours)}</h3>"
        + markup.figure(montage(run.store), "", f"Montage of {run.name}: x_t above, pred_x0 beneath")
        for run in material.runs
        if of_images(run.store)
    ]
    return f"<p>{CAPTION}</p>" + "".join(drawn) if drawn else ""


def montage(ds: xr.Dataset) -> Figure:
    """Draw what a few samples look like along the way: x_t above, pred_x0 beneath, x_0 last (000 Fig. 1)."""
    steps = np.unique(np.linspace(0, ds.sizes["timestep"] - 1, COLUMNS).round().astype(int))
    few = ds[["x_t", "pred_x0", "x_0"]].isel(sample=slice(SAMPLES), timestep=steps).compute()
    limits = ds["x_0"].attrs.get("valid_range", [-1, 1])
    x_0 = few["x_0"].to_numpy()[:, None]
    blocks = []
    for name in ("x_t", "pred_x0"):
        columns = tiled(displayed(np.concatenate([few[name].to_numpy(), x_0], axis=1), *limits))
        blocks.append(beside(columns[:-1], columns[-1:]))
    gap = np.ones((CELL // 4, *blocks[0].shape[1:]))
    canvas = np.concatenate([blocks[0], gap, blocks[1]])
    height, width = canvas.shape[:2]
    cell = width / (len(steps) + 1 + 0.25)
    centres = (np.arange(len(steps)) + 0.5) * cell
    full = cell * (COLUMNS + 1.25)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, WIDTH * 0.9 * height / full + 0.45), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(canvas, interpolation="none", aspect="equal", vmin=0, vmax=1)
        labels = [
            f"t = {timestep}\nlog SNR {signed(log_snr)}"
            for timestep, log_snr in zip(few["timestep"].to_numpy(), few["log_snr"].to_numpy(), strict=True)
        ]
        axes.set_xticks([*centres, width - cell / 2], [*labels, "final $x_0$\n"], fontsize=8)
        middle = blocks[0].shape[0] / 2
        axes.set_yticks([middle, height - middle], ["$x_t$", "pred_x0"], rotation=90, va="center", fontsize=10)
        axes.set_xlim(0, full)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


SECTION = Section("montages", "What it looks like", html)
