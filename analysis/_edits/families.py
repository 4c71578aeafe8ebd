"""What quantities of sweeps share: the run that was edited, families of edits, and curves over where they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._drawing import captions
from traj.analysis._kernels.compiling import compiled
from traj.stores import FAMILY, ONCE, SHORTCUT, InputError, stands_for

Array = NDArray[Any]

UNUSED = {"ns": 0, "nb": 0, "r": ONCE}
"""Values that say nothing of an edit."""

FEWEST = 3
"""Starts, lengths or pauses that make a line."""

START = "timestep at which the edit starts   (denoising →)"

LENGTHS = {"n": "steps n that are edited", "r": "steps r between the two cuts"}

HOW = (
    "An edited process is the run itself down to a stored x_t. There the edit begins; after it the process goes on as "
    "before, with the noise of the run. A jump goes n steps further at once, so that n − 1 evaluations of the network "
    "are not made. Cut skips: the ns topmost skip connections of the U-Net are zero for n steps. Cut blocks: its nb "
    "lowest output blocks are left out for n steps; nb counts them on the source’s network, which has 16. With r, the "
    "same cut is made again r steps later."
)
"""What the edits are, for one who sees their figures."""


class Line(NamedTuple):
    """Edits that differ in one coordinate only: what they have in common, and the variants in order."""

    name: str
    variants: Array


def require_sweep(ds: xr.Dataset, names: Sequence[str] = FAMILY) -> None:
    """Refuse a dataset that is not a sweep of edits, one replica each, with these coordinates.

    Raises InputError saying what is there.
    """
    if (kind := stands_for(ds.attrs)) != "sweep":
        raise InputError(
            f"a dataset of kind {kind or 'unknown'} was given; expected a sweep of edits, which `traj fork` makes"
        )
    if missing := [name for name in names if name not in ds.coords]:
        raise InputError(f"this sweep has no coordinate {', '.join(missing)}; expected a sweep that `traj fork` made")
    if ds.sizes["replica"] != 1:
        raise InputError(f"this sweep has {ds.sizes['replica']} replicas; an edit is compared with one run, expected 1")


def require_threshold(threshold: float) -> None:
    """Raise InputError for an SSIM no image can have."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} was given; expected a mean SSIM between 0 and 1")


def groups(ds: xr.Dataset, names: Sequence[str]) -> tuple[list[str], Array]:
    """Group variants by coordinates, "edit" first: a label for each group, in order of appearance, and each's group."""
    columns = [ds[name].to_numpy().tolist() for name in names]
    labels = []
    for edit, *numbers in zip(*columns, strict=True):
        said = () if edit == SHORTCUT else zip(names[1:], numbers, strict=True)
        labels.append(" ".join([edit, *(f"{name}={number}" for name, number in said if number != UNUSED.get(name))]))
    distinct = list(dict.fromkeys(labels))
    return distinct, np.array([distinct.index(label) for label in labels])


def is_shortcut(ds: xr.Dataset) -> Array:
    """Say which variants are the shortcut, a whole schedule of cuts, rather than single edits."""
    chosen: Array = ds["edit"].to_numpy() == SHORTCUT
    return chosen


def lines(ds: xr.Dataset, along: str) -> list[Line]:
    """Group the edits of a sweep, or of a result of one, that differ in `along` only: at, n or r.

    They are in the order of falling at, or of rising n or r. Lengths n are those of edits made once, pauses r those of
    cuts made twice. What was tried with fewer than FEWEST values is no line.
    """
    r, tried = ds["r"].to_numpy(), ds[along].to_numpy()
    chosen = np.flatnonzero({"at": r == r, "n": r == ONCE, "r": r != ONCE}[along] & ~is_shortcut(ds))
    labels, of = groups(ds.isel(variant=chosen), [name for name in (*FAMILY, "at") if name != along])
    members = [chosen[of == number] for number in range(len(labels))]
    order = -tried if along == "at" else tried
    return [
        Line(label, member[np.argsort(order[member], kind="stable")])
        for label, member in zip(labels, members, strict=True)
        if np.unique(tried[member]).size >= FEWEST
    ]


def scaled(ds: xr.Dataset) -> str:
    """Say how many blocks of this network the source's nb come to, nothing where no blocks are cut."""
    cuts = ds["edit"].to_numpy() == "blocks"
    if not cuts.any():
        return ""
    pairs = sorted(set(zip(*(ds[name].to_numpy()[cuts].tolist() for name in ("nb", "unet_blocks")), strict=True)))
    here = ", ".join(f"nb = {nb} is {blocks}" for nb, blocks in pairs)
    return (
        "The source counts nb of its 16 output blocks; on a network with B of them it is taken as nb · B / 16, "
        f"rounded. Here {here}; what comes to as many blocks is the same cut."
    )


def log_snr_of(result: xr.Dataset, timestep: float) -> float:
    """Look up the log SNR of a timestep that edits start at, NaN for none."""
    there = np.flatnonzero(result["at"].to_numpy() == timestep)
    return float(result["at_log_snr"][there[0]]) if there.size else float("nan")


def samples_of(results: Mapping[str, xr.Dataset]) -> str:
    """Say how many samples results are of."""
    return f"{captions.either(sorted(int(result.attrs['samples']) for result in results.values()))} samples."


def over_variants(function: Callable[..., Array], *curves: xr.DataArray, sizes: dict[str, int], **options: Any) -> Any:
    """Apply a function to all of some curves (variant[, sample]) at once, lazily; `sizes` are the dims it returns."""
    return xr.apply_ufunc(
        function,
        *(curve.drop_vars(list(curve.coords)).chunk(dict.fromkeys(curve.dims, -1)) for curve in curves),
        kwargs=options,
        input_core_dims=[list(curve.dims) for curve in curves],
        output_core_dims=[list(sizes)],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {name: size for name, size in sizes.items() if name != "variant"}},
    )


@compiled
def absolute_deviation(states: Array, x_0: Array, low: float, scale: float) -> Array:
    """Average |state - x_0| over all pixels and channels: (sample, state).

    `states` is (sample, state, value), `x_0` (sample, value); values v count as clip((v - low) scale, 0, 1).
    """
    samples, count, values = states.shape
    deviation = np.zeros((samples, count))
    y = np.empty(values)
    for k in range(samples):
        for i in range(values):
            y[i] = min(max((np.float64(x_0[k, i]) - low) * scale, 0.0), 1.0)
        for t in range(count):
            for i in range(values):
                deviation[k, t] += abs(min(max((np.float64(states[k, t, i]) - low) * scale, 0.0), 1.0) - y[i])
            deviation[k, t] /= values
    return deviation
