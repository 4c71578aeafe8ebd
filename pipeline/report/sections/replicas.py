"""One state, several endings: montages of the replicas of a few samples."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, beside, displayed, of_images, signed, tiled
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Run, Section

SAMPLES, STARTS, REPLICAS = 3, 6, 8
"""Most that is shown of each."""

CAPTION = (
    "Replicas share one stored state and go on from it with noise of their own. Each block is one sample, each line "
    f"one timestep at which its run was forked (at most {STARTS} of them), the noisiest above: at the left the state "
    "x_t that all images of the line start from, then where the replicas end, and at the right where the run itself "
    "ended. Look for the line from which on all endings show the same thing: what they share was settled in x_t, and "
    "what they do not share is still open there. After 000’s section on sample consistency, which has no figure."
)


def html(material: Material) -> str:
    """Show a montage of every fork store."""
    drawn = [
        f"<h3>{markup.named(fork.name, material.colours)}</h3>"
        + markup.figure(montage(fork), "", f"Endings of {fork.name}: the same x_t, different noise")
        for fork in material.forks
        if of_images(fork.store)
    ]
    return f"<p>{CAPTION}</p>" + "".join(drawn) if drawn else ""


def montage(fork: Run) -> Figure:
    """Draw where replicas of a few samples end, beside the state they start from and where their run ended."""
    assert fork.store is not None
    order = np.argsort(-fork.store["at"].to_numpy(), kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, STARTS).round().astype(int))]
    few = fork.store.isel(variant=shown, replica=slice(REPLICAS), sample=slice(SAMPLES))
    limits = few["x_0"].attrs.get("valid_range", [-1, 1])
    groups = [few["x_0"].transpose("sample", "variant", "replica", ...).to_numpy()]
    titles = [f"replica {number}" for number in few["replica"].to_numpy()]
    if (run := _of_run(fork, few)) is not None:
        starts = run["x_t"].transpose("sample", "variant", ...).to_numpy()[:, :, None]
        ends = np.broadcast_to(run["x_0"].to_numpy()[:, None, None], starts.shape)
        groups = [starts, *groups, ends]
        titles = ["start $x_t$", *titles, "the run’s $x_0$"]
    blocks = [
        beside(*(tiled(displayed(group[sample], *limits)) for group in groups)) for sample in range(few.sizes["sample"])
    ]
    return _framed(blocks, few, titles, [group.shape[2] for group in groups])


def _of_run(fork: Run, few: xr.Dataset) -> xr.Dataset | None:
    """Read the states that forks start from, and where their run ended; None where they are not at hand."""
    run = None if fork.parent is None else fork.parent.store
    if run is None or run["x_0"].shape[1:] != few["x_0"].shape[3:]:
        return None
    if not np.isin(few["at"], run["timestep"]).all() or not np.isin(few["sample"], run["sample"]).all():
        return None
    return run[["x_t", "x_0"]].sel(timestep=few["at"], sample=few["sample"]).compute()


def _framed(blocks: list[np.ndarray], few: xr.Dataset, titles: list[str], widths: list[int]) -> Figure:
    """Set blocks of one sample each beneath one another, and name their lines and columns."""
    lines = few.sizes["variant"]
    height, width = blocks[0].shape[:2]
    cell, line = width / (sum(widths) + 0.25 * (len(widths) - 1)), height / lines
    gap = np.ones((round(line / 3), width, 3))
    canvas = np.concatenate([part for block in blocks for part in (gap, block)][1:])
    group = np.repeat(np.arange(len(widths)), widths)
    columns = (np.arange(sum(widths)) + 0.5 + 0.25 * group) * cell
    rows = [k * (height + len(gap)) + (i + 0.5) * line for k in range(len(blocks)) for i in range(lines)]
    log_snr = few["log_snr"].reindex(timestep=few["at"].to_numpy()).to_numpy()
    starts = [f"t = {at}, log SNR {signed(x)}" for at, x in zip(few["at"].to_numpy(), log_snr, strict=True)]
    full = cell * (REPLICAS + 2.5) / 0.9
    # Laid out by hand, since matplotlib's own layout does not foresee how wide images of equal sides get.
    left, top = 1.45, 0.35
    high = (WIDTH - left) * canvas.shape[0] / full
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, high + top))
        axes = figure.add_axes((left / WIDTH, 0, 1 - left / WIDTH, high / (high + top)))
        axes.imshow(canvas, interpolation="none", aspect="equal", vmin=0, vmax=1)
        axes.set_xticks(columns, titles, fontsize=8)
        axes.set_yticks(rows, starts * len(blocks), fontsize=8)
        axes.set_xlim(0, full)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


SECTION = Section("replicas", "One state, several endings: forks", html, kind="fork")
