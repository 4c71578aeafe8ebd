"""Pictures: states and predictions on their way, where forks of a state end, what edits make of an image."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traj.analysis._drawing.style import CELL, STYLE, WIDTH, beside, displayed, of_images, signed, tiled
from traj.stores import event_dims, valid_range

COLUMNS, SAMPLES = 10, 4
"""Most of a run's timesteps, and of its samples."""

STARTS, REPLICAS, FEW, FAMILIES = 6, 8, 3, 8
"""Most starts and replicas of a fork, samples of forks and sweeps, and families of edits."""

Labels = tuple[Sequence[float] | np.ndarray, Sequence[str]]
"""Places along an axis, and what stands there."""

NAMES = {"x_t": "$x_t$", "pred_x0": "pred_x0"}

DEFAULTS = {"n": 0, "ns": 0, "nb": 0, "r": -1}
"""Of the columns that say what an edit is: not worth a word."""

RUN = (
    "Each line is one sample, the same lines in both blocks; each column one timestep, evenly spread over the process "
    "from its first to its last, with t and, under it, log SNR. Above, the states x_t; beneath, what the network "
    "predicts from them. At the first steps a small error of the network is a large one of the prediction. Values "
    "outside the images’ range are shown as its ends. Look for the column in which the prediction first shows what the "
    "finished image will show, and for that in which x_t does. Runs of one seed start from the same noise."
)
FORK = (
    "Replicas share one stored state and go on from it with noise of their own. Each block is one sample, each line "
    f"one timestep at which its run was forked (at most {STARTS} of them), the noisiest above: at the left the state "
    "x_t that all images of the line start from, then where the replicas end, and at the right where the run itself "
    "ended. Look for the line from which on all endings show the same thing: what they share was settled in x_t, and "
    "what they do not share is still open there."
)
SWEEP = (
    "Each block is one edit of the process: a jump over n steps, the ns top-most skip connections set to zero for n "
    "steps, or the lowest output blocks left out for n steps (nb of the source’s 16). Each line is one sample: at the "
    "left the finished image x_0 of the run without the edit, then its endings with the edit, over the timestep at "
    "which the edit starts, from high to low. Look for starts from which on the ending shows what x_0 shows."
)


LATENTS = (
    " These are latents, not images: the first three channels are shown as red, green and blue, from three standard "
    "deviations under the mean of the final latents to three above it. Decode them to see the images."
)


DECODED = (
    " The model works on latents; these are images that its autoencoder makes of them. It was never trained on noisy "
    "ones, so that of x_t they are only a way to look."
)


def montage(ds: xr.Dataset | None, kind: str, run: xr.Dataset | None) -> tuple[str, Figure, str] | None:
    """Draw what a store of a kind looks like: a title, the figure and its caption; None where it has no images.

    run is the one that was forked, where it is at hand.
    """
    if not of_images(ds):
        return None
    note = LATENTS if valid_range(ds) is None else DECODED if ds.attrs.get("kind") == "decoded" else ""
    if kind == "trajectories":
        return ("What it looks like on the way", of_run(ds), RUN + note) if "pred_x0" in ds or "x_t" in ds else None
    if run is not None:
        same = run["x_0"].shape[1:] == ds["x_0"].shape[-3:] and np.isin(ds["sample"], run["sample"]).all()
        starts = kind == "sweep" or ("x_t" in run and np.isin(ds["at"], run["timestep"]).all())
        run = run if same and starts else None
    if kind == "sweep":
        return "What edits make of the image", of_sweep(ds, run), SWEEP + note
    return "One state, several endings", of_fork(ds, run), FORK + note


def of_run(ds: xr.Dataset) -> Figure:
    """Draw what a few samples look like along the way: x_t above, pred_x0 beneath, x_0 last (000 Fig. 1)."""
    shown = [name for name in ("x_t", "pred_x0") if name in ds]
    few = ds[[*shown, "x_0"]].isel(sample=slice(SAMPLES), timestep=_evenly(ds.sizes["timestep"], COLUMNS))
    few = few.compute()
    x_0 = few["x_0"].to_numpy()[:, None]
    blocks = []
    for name in shown:
        columns = tiled(displayed(np.concatenate([few[name].to_numpy(), x_0], axis=1), *_limits(ds)))
        blocks.append(beside(columns[:-1], columns[-1:]))
    gap = np.ones((CELL // 4, *blocks[0].shape[1:]))
    canvas = np.concatenate([part for block in blocks for part in (gap, block)][1:])
    height, width = canvas.shape[:2]
    cell = width / (few.sizes["timestep"] + 1.25)
    along = few["timestep"].to_numpy(), few["log_snr"].to_numpy()
    labels = [f"t = {t}\nlog SNR {signed(x)}" for t, x in zip(*along, strict=True)]
    middle = blocks[0].shape[0] / 2
    return _framed(
        canvas,
        ([*((np.arange(len(labels)) + 0.5) * cell), width - cell / 2], [*labels, "final $x_0$\n"]),
        ([middle, height - middle][: len(shown)], [NAMES[name] for name in shown]),
        full=cell * (COLUMNS + 1.25),
        left=0.8,
        top=0.5,
    )


def of_fork(ds: xr.Dataset, run: xr.Dataset | None) -> Figure:
    """Draw where replicas of a few samples end, beside the state they start from and where their run ended."""
    order = np.argsort(-ds["at"].to_numpy(), kind="stable")
    few = ds[["x_0"]].isel(variant=order[_evenly(len(order), STARTS)], replica=slice(REPLICAS), sample=slice(FEW))
    groups = [few["x_0"].transpose("sample", "variant", "replica", ...).to_numpy()]
    titles = [f"replica {number}" for number in few["replica"].to_numpy()]
    if run is not None:
        of_run = run[["x_t", "x_0"]].sel(timestep=few["at"], sample=few["sample"]).compute()
        starts = of_run["x_t"].transpose("sample", "variant", ...).to_numpy()[:, :, None]
        ends = np.broadcast_to(of_run["x_0"].to_numpy()[:, None, None], starts.shape)
        groups, titles = [starts, *groups, ends], ["start $x_t$", *titles, "the run’s $x_0$"]
    blocks = [
        beside(*(tiled(displayed(group[sample], *_limits(ds))) for group in groups))
        for sample in range(few.sizes["sample"])
    ]
    widths = [group.shape[2] for group in groups]
    lines, (height, width) = few.sizes["variant"], blocks[0].shape[:2]
    cell, line = width / (sum(widths) + 0.25 * (len(widths) - 1)), height / lines
    gap = np.ones((round(line / 3), width, 3))
    apart = 0.25 * np.repeat(np.arange(len(widths)), widths)
    log_snr = ds["log_snr"].reindex(timestep=few["at"].to_numpy()).to_numpy()
    names = [f"t = {at}, log SNR {signed(x)}" for at, x in zip(few["at"].to_numpy(), log_snr, strict=True)]
    rows = [k * (height + len(gap)) + (i + 0.5) * line for k in range(len(blocks)) for i in range(lines)]
    return _framed(
        np.concatenate([part for block in blocks for part in (gap, block)][1:]),
        ((np.arange(sum(widths)) + 0.5 + apart) * cell, titles),
        (rows, names * len(blocks)),
        full=cell * (REPLICAS + 2.5) / 0.9,
        left=1.45,
        top=0.35,
    )


def of_sweep(ds: xr.Dataset, run: xr.Dataset | None) -> Figure:
    """Draw where edited processes of a few samples end, and where their run ended (002 Figs 3, 5, 6)."""
    keys = list(zip(ds["edit"].to_numpy().tolist(), *(ds[name].to_numpy().tolist() for name in DEFAULTS), strict=True))
    families = {key: np.flatnonzero([other == key for other in keys]) for key in dict.fromkeys(keys)}
    longest = sorted(families, key=lambda key: -len(families[key]))[:FAMILIES]
    shown = [key for key in families if key in longest]
    few = ds[["x_0"]].isel(replica=0, sample=slice(FEW))
    unedited = None if run is None else run["x_0"].sel(sample=few["sample"].to_numpy()).to_numpy()[:, None]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        height = 0.45 + WIDTH / columns / (COLUMNS - 0.4) * few.sizes["sample"]
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, key in zip(axes.flat, shown, strict=False):
            order = families[key][np.argsort(-ds["at"].to_numpy()[families[key]], kind="stable")]
            variants = order[_evenly(len(order), COLUMNS - 2)]
            groups = [few["x_0"].isel(variant=variants).transpose("sample", "variant", ...).to_numpy()]
            titles = [str(at) for at in few["at"].to_numpy()[variants]]
            if unedited is not None:
                groups, titles = [unedited, *groups], ["$x_0$", *titles]
            canvas = beside(*(tiled(displayed(group, *_limits(ds))) for group in groups))
            cell = canvas.shape[0] / few.sizes["sample"]
            places = np.arange(len(titles)) + 0.5 + 0.25 * (np.arange(len(titles)) > 0) * (len(groups) - 1)
            axis.imshow(canvas, interpolation="none", vmin=0, vmax=1)
            axis.set_xlim(0, cell * (COLUMNS - 0.75))
            _name(axis, (places * cell, titles))
            axis.set_title(_words(key), loc="left")
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
    return figure


def strip(ds: xr.Dataset, name: str, positions: np.ndarray) -> np.ndarray:
    """Show x_t or pred_x0 of the first sample at some positions along timestep: colours (column, y, x, 3)."""
    few = ds[name].isel(sample=slice(1), timestep=positions)
    shown: np.ndarray = displayed(few.transpose("sample", "timestep", ...).to_numpy(), *_limits(ds))[0]
    return shown


def _words(key: tuple[object, ...]) -> str:
    """Name a family of edits by what tells it apart: skips, n = 5, ns = 2."""
    values = zip(DEFAULTS, key[1:], strict=True)
    return ", ".join([str(key[0]), *(f"{name} = {x}" for name, x in values if x != DEFAULTS[name])])


def _evenly(count: int, most: int) -> np.ndarray:
    """Choose at most so many of so many, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def _limits(ds: xr.Dataset) -> tuple[float, float]:
    """Give the range that images are drawn in; of latents three standard deviations about the mean of a few x_0."""
    if (bounds := valid_range(ds)) is not None:
        return bounds
    x_0 = ds["x_0"]
    few = x_0.isel({dim: slice(SAMPLES) for dim in x_0.dims if dim not in event_dims(x_0.dims)}).to_numpy()
    middle, reach = float(np.nanmean(few)), 3 * float(np.nanstd(few))
    return middle - reach, middle + reach


def _framed(canvas: np.ndarray, columns: Labels, rows: Labels, *, full: float, left: float, top: float) -> Figure:
    """Show tiled images with names of columns and rows; full is the width of the widest, left and top are inches.

    Laid out by hand, since matplotlib's own layout does not foresee how wide images of equal sides get.
    """
    high = (WIDTH - left) * canvas.shape[0] / full
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, high + top))
        axis = figure.add_axes((left / WIDTH, 0, 1 - left / WIDTH, high / (high + top)))
        axis.imshow(canvas, interpolation="none", aspect="equal", vmin=0, vmax=1)
        axis.set_xlim(0, full)
        _name(axis, columns, rows)
    return figure


def _name(axis: Axes, columns: Labels, rows: Labels = ((), ())) -> None:
    axis.set_xticks(*columns, fontsize=8)
    axis.set_yticks(*rows, fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
