"""How grey levels settle: joint maps (000 Fig. 3)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, signed
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Section

CAPTION = (
    "How often a grey level of x_0 (horizontal) goes with a grey level of the state at the same pixel (vertical), "
    "over all samples, at five timesteps; white cells never occur. A column of the map is the state’s distribution "
    "where x_0 has that level: alike columns say that the state knows nothing yet, the diagonal (dotted) that the "
    "pixel is settled. r is Pearson’s correlation of the two. States beyond the images’ range count in the first "
    "and last level, which is why these rows of x_t are dark at first. A sampler without noise (DDIM) makes x_0 "
    "from the first x_t by a fixed rule, so that its first map already has some correlation. After 000 Fig. 3."
)


def html(material: Material) -> str:
    """Show the maps of every run."""
    drawn = []
    for run, result in material.results("entropy").items():
        drawn.append(f"<h3>{markup.named(run, material.colours)}</h3>")
        drawn.append(markup.figure(joint_maps(result), "", f"Joint maps of {run}"))
    return f"<p>{CAPTION}</p>" + "".join(drawn) if drawn else ""


def joint_maps(result: xr.Dataset) -> Figure:
    """Draw joint histograms, x_0 horizontal and the state vertical, on a logarithmic scale (000 Fig. 3)."""
    counts = result["joint_counts"]
    names, moments = result["on"].to_numpy(), result["at"].to_numpy()
    share = counts / counts.sum(("x_0_bin", "state_bin"))
    norm = LogNorm(vmin=float(1 / counts.sum(("x_0_bin", "state_bin")).max()), vmax=float(share.max()))
    side = (WIDTH - 1.8) / len(moments)
    height = side * len(names) + 0.95
    # Laid out by hand: matplotlib's own layout takes longer for so many panels than all else on the page.
    layout = {"left": 0.55 / WIDTH, "right": 1 - 1 / WIDTH, "bottom": 0.45 / height, "top": 1 - 0.4 / height}
    with mpl.rc_context({**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(WIDTH, height))
        spacing = {"wspace": 0.05, "hspace": 0.16}
        axes = figure.subplots(
            len(names), len(moments), squeeze=False, sharex=True, sharey=True, gridspec_kw={**layout, **spacing}
        )
        for row, name in zip(axes, names, strict=True):
            for axis, moment in zip(row, moments, strict=True):
                here = {"on": name, "at": moment}
                grid = share.sel(here).transpose("state_bin", "x_0_bin").to_numpy()
                last = len(grid) - 1
                image = axis.imshow(
                    np.where(grid > 0, grid, np.nan), origin="lower", cmap="viridis_r", norm=norm, interpolation="none"
                )
                axis.plot([0, last], [0, last], color="#888888", lw=0.5, ls=":")
                axis.set_facecolor("#f7f7f7")
                log_snr = float(result["log_snr"].sel(timestep=moment))
                first = f"t = {moment}, log SNR {signed(log_snr)}\n" if name == names[0] else ""
                r = float(result["joint_correlation"].sel(here))
                axis.set_title(first + (f"r = {r:.2f}" if np.isfinite(r) else "constant"), fontsize=8.5)
                axis.set(xticks=[0, last // 2, last], yticks=[0, last // 2, last])
            row[0].set_ylabel(f"grey level of {name}")
        for axis in axes[-1]:
            axis.set_xlabel("grey level of $x_0$")
        bar = figure.add_axes((1 - 0.85 / WIDTH, 0.25, 0.1 / WIDTH, 0.5))
        figure.colorbar(image, cax=bar, label="share of pixel pairs")
    return figure


SECTION = Section("maps", "How grey levels settle: joint maps", html, quantities=("entropy",))
