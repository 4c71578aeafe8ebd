"""What quantities of sweeps share: the run that was edited, families of edits, and curves over where they start."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _chunks
from traj.analysis._compiled import compiled
from traj.stores import FAMILY, IMAGE_DIMS, ONCE, SAVED, SHORTCUT, InputError, event_dims

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

UNUSED = {"ns": 0, "nb": 0, "r": ONCE}
"""Values that say nothing of an edit."""


def require_sweep(ds: xr.Dataset) -> None:
    """Refuse a dataset that is not a sweep of edits, one replica each.

    Raises InputError saying what is there.
    """
    event = event_dims(ds["x_0"].dims) if "x_0" in ds else ()
    dims = ("variant", "replica", "sample", *(event or IMAGE_DIMS))
    if "x_0" not in ds or ds["x_0"].dims != dims:
        here = ", ".join(map(str, ds["x_0"].dims)) if "x_0" in ds else "missing"
        raise InputError(
            f"x_0 has dims {here} in this dataset of kind {ds.attrs.get('kind', '?')}; expected {', '.join(dims)}, "
            "which `traj fork` makes of a table of edits"
        )
    if missing := [name for name in FAMILY if name not in ds.coords]:
        raise InputError(
            f"these forks are not a sweep of edits: they have no coordinate {', '.join(missing)}; expected "
            "what `traj fork` makes of a table of edits"
        )
    if ds.sizes["replica"] != 1:
        raise InputError(
            f"these forks have {ds.sizes['replica']} replicas; an edit is compared with one run, expected 1"
        )


def require_saved(ds: xr.Dataset) -> None:
    """Raise InputError for a sweep that does not say what its edits save, as those of earlier versions do not."""
    if missing := [name for name in SAVED if name not in ds.coords]:
        raise InputError(
            f"this sweep has no coordinate {', '.join(missing)}; expected what `traj fork` makes of a table of edits"
        )


def parent_of(ds: xr.Dataset, baseline: str | None) -> xr.Dataset:
    """Open the run these forks started from, at the forks' samples.

    Raises InputError where none is given, or the store is another's or has not all of the samples.
    """
    from traj.stores import open as open_store

    if baseline is None:
        raise InputError(
            "edits are compared with the run that was forked and none was given; expected the path of its store in "
            "`baseline`, for example data/trajectories/RUN.zarr"
        )
    run = open_store(baseline)
    recorded = json.loads(ds.attrs.get("config", "{}")).get("parent", {}).get("fingerprint")
    if run.attrs.get("fingerprint") != recorded:
        raise InputError(
            f"{baseline} is not the run these forks started from: its fingerprint is {run.attrs.get('fingerprint')}, "
            f"theirs {recorded}; give that run as baseline"
        )
    _chunks.require(run, ("x_0",))
    if (missing := np.setdiff1d(ds["sample"], run["sample"])).size:
        raise InputError(
            f"{baseline} lacks {missing.size} of the forks' samples, the first is {missing[0]}; extend it with the "
            "same `traj generate` and more samples"
        )
    return run if np.array_equal(ds["sample"], run["sample"]) else run.sel(sample=ds["sample"].to_numpy())


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


def draw(result: xr.Dataset, name: str, deviations: int, ax: Axes | None) -> Axes:
    """Draw the mean over samples against `at`, a line for each family of edits, with a band of standard deviations."""
    import matplotlib.pyplot as plt

    ax = plt.figure().add_subplot() if ax is None else ax
    labels, of = groups(result, FAMILY)
    for number, label in enumerate(labels):
        family = result.isel(variant=np.flatnonzero(of == number)).sortby("at", ascending=False)
        at, mean, sd = (family[part].to_numpy() for part in ("at", f"{name}_mean", f"{name}_sd"))
        (line,) = ax.plot(at, mean, marker=".", label=label)
        ax.fill_between(at, mean - deviations * sd, mean + deviations * sd, color=line.get_color(), alpha=0.2, lw=0)
    units = result[f"{name}_mean"].attrs["units"]
    ax.set(xlabel="timestep at which the edit starts", ylabel=name.upper() + ("" if units == "1" else f" ({units})"))
    ax.xaxis.set_inverted(True)
    ax.legend()
    return ax
