"""Features of named parts of a network, as a readout has them: which there are, their labels, and their folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.stores import InputError, event_dims, stands_for

Array = NDArray[Any]

COMMAND = "make one with `traj readout features RUN OUT`"


def parts(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Find the features of every part: variables (sample, timestep, feature) by the name of the part.

    Those of trajectories are pred_x0 itself, every value a feature.

    Raises InputError where there are none.
    """
    found = {str(one.attrs["part"]): one for one in ds.data_vars.values() if "part" in one.attrs}
    if stands_for(ds.attrs) == "trajectories" and "pred_x0" in ds:
        pred_x0 = ds["pred_x0"].drop_vars(list(ds["pred_x0"].coords))
        found = {"pred_x0": pred_x0.stack(value=event_dims(pred_x0.dims), create_index=False)}
    if not found:
        here = ", ".join(map(str, ds.data_vars)) or "nothing"
        raise InputError(
            f"this dataset of kind {ds.attrs.get('kind', '?')} has no features of parts, but {here}; {COMMAND}"
        )
    for part, features in found.items():
        if features.dims[:2] != ("sample", "timestep") or features.ndim != 3:
            dims = ", ".join(map(str, features.dims))
            raise InputError(f"features of {part} have dims {dims}; expected sample, timestep and one of features")
    return found


def classes(ds: xr.Dataset) -> tuple[Array, Array]:
    """Read labels: the classes (class,) there are, in order, and of each sample its position among them.

    Raises InputError for samples without a label, and for fewer than two classes.
    """
    labels = ds["label"].to_numpy() if "label" in ds.coords else np.full(ds.sizes["sample"], -1)
    missing = int((labels == -1).sum())
    if missing:
        raise InputError(
            f"{missing} of {len(labels)} samples have no label; expected features of a labelled dataset, as "
            "`traj dataset` and `traj noise` make it, or of a run that was generated with labels"
        )
    names, positions = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"all {len(labels)} samples are of class {names[0]}; expected two classes or more, to tell apart"
        )
    return names, positions


def deal(names: Array, positions: Array, folds: int, directions: int) -> Array:
    """Deal samples out to folds, the samples of each class evenly: the fold of each sample, the same at every state.

    They are dealt as if from a shuffled pack, always the same one.

    Raises InputError for fewer than two folds, a class with fewer samples than folds, and one whose samples outside a
    fold span no more than the principal directions that are asked for.
    """
    if folds < 2:
        raise InputError(
            f"{folds} folds were asked for; expected 2 or more, to test on samples that were not trained on"
        )
    for name, count in zip(names, np.bincount(positions), strict=True):
        if count < folds:
            raise InputError(
                f"class {name} has {count} samples, fewer than {folds} folds; take fewer folds, or more samples"
            )
        if count - -(-count // folds) < directions:
            raise InputError(
                f"class {name} has {count - -(-count // folds)} samples outside a fold of {folds}, fewer than "
                f"{directions} directions; take fewer directions, or more samples"
            )
    shuffled = np.argsort(np.random.Philox(key=0).random_raw(len(positions)), kind="stable")
    by_class = shuffled[np.argsort(positions[shuffled], kind="stable")]
    dealt = np.empty(len(positions), np.int64)
    dealt[by_class] = np.arange(len(positions)) % folds
    return dealt


def error_factor(folds: int) -> float:
    """Say how much larger the error of an accuracy is than that of as many samples tested by given classifiers.

    Other samples would have trained other classifiers. Those of folds share most of theirs, so that the spread over
    folds does not show it. Nadeau and Bengio (2003) add to the variance, in shares of that of one fold, how many
    samples are tested for each one trained on.
    """
    return float(np.sqrt(1 + folds / (folds - 1)))


def require_room(variables: Mapping[str, xr.DataArray], directions: int) -> None:
    """Refuse as many directions as a part has features, beside which nothing is left, or more, and fewer than one.

    Raises InputError naming the part.
    """
    if directions < 1:
        raise InputError(f"{directions} directions were asked for; expected 1 or more")
    for part, features in variables.items():
        if features.shape[-1] <= directions:
            raise InputError(
                f"{part} has {features.shape[-1]} features, and {directions} directions were asked for; expected fewer "
                "directions than features"
            )


def of_level(function: Callable[..., Array], features: xr.DataArray, columns: int, **options: Any) -> da.Array:
    """Apply a function (sample, feature) -> (column, sample) to each timestep alone: (column, sample, timestep).

    The function gets float64, and all samples at once.
    """
    array = features.data if features.chunks is not None else chunking.in_memory(features.data)
    # all samples first, so that each block is cut once into timesteps
    levels = array.rechunk({0: -1, 2: -1}).rechunk({1: 1})
    values: da.Array = da.map_blocks(
        _level,
        levels,
        function=function,
        name=chunking.name_of(function, columns, levels, options),
        drop_axis=2,
        new_axis=0,
        chunks=((columns,), (len(features),), levels.chunks[1]),
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
        options=options,
    )
    return values


def _level(block: Array, *, function: Callable[..., Array], options: Mapping[str, Any]) -> Array:
    rows = block[:, 0].astype(np.float64)
    if not np.isfinite(rows).all():
        raise InputError(
            "features that are not a number cannot be compared; leave out the samples that have some, or are not there "
            "yet"
        )
    return function(rows, **options)[:, :, None]
