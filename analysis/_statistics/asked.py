"""How many samples a classifier gives the labels that they were asked for."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._kernels import labels as _labels
from traj.analysis._quantity import Results, Table
from traj.analysis._statistics import verdicts

Array = NDArray[np.float64]

TITLE = "share of samples with a label that a classifier gives this label"
MOST = 16
"""Most classes that a table has columns for."""


def as_asked(logits: xr.DataArray, labels: Array) -> dict[str, xr.DataArray]:
    """Compare the largest of a classifier's logits (sample, class) with labels (sample,), below 0 where none was asked.

    Gives `as_asked` (sample), 1 or 0, NaN without a label; its mean over samples with one, and over those of each class
    that was asked for, `class_as_asked` (asked_class), both with Wilson's interval. Nothing where no label was asked.

    Raises InputError for a label that is no class of the classifier.
    """
    asked = labels >= 0
    if not asked.any():
        return {}
    places = np.full(len(labels), -1)
    places[asked] = _labels.positions(labels[asked], logits["class"].to_numpy(), "it was made as asked")
    hits = chunking.per_cell(_hits, logits, xr.DataArray(places, dims="sample"), within=[["class"], []], width=1)
    hit = hits.isel(column=0).assign_attrs(long_name="1 where a classifier gives the label asked for", units="1")
    classes = np.unique(labels[asked])
    groups = np.stack([asked, *(labels == one for one in classes)])
    shares = xr.apply_ufunc(
        _shares,
        hit.chunk(sample=-1),
        kwargs={"groups": groups},
        input_core_dims=[["sample"]],
        output_core_dims=[["group"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"group": len(groups)}},
    )
    counts = groups.sum(axis=1)
    every, each = shares.isel(group=0), shares.isel(group=slice(1, None)).rename(group="asked_class")
    attrs = {"long_name": "label asked for", "units": "1"}
    return {
        "as_asked": hit,
        "as_asked_mean": every.assign_attrs(long_name=TITLE, units="1"),
        **verdicts.interval("as_asked", TITLE, counts[0], every),
        "class_as_asked": each.assign_attrs(long_name=TITLE, units="1"),
        **verdicts.interval("class_as_asked", TITLE, counts[1:], each),
        "asked_class": xr.DataArray(classes, dims="asked_class", attrs=attrs),
    }


def _shares(hits: Array, groups: Array) -> Array:
    """Take the means of hits (sample,) over groups (group, sample) of them."""
    return np.array([hits[group].mean() for group in groups])


def _hits(logits: Array, places: Array) -> Array:
    """Say of logits (sample, class) whether the largest is at places (sample,): (sample, 1), NaN at places below 0."""
    return np.where(places < 0, np.nan, _labels.is_at(logits, places))[:, None]


def tables(results: Results) -> list[Table]:
    """List the shares of the classes that were asked for, a row for each run."""
    asked = {run: result for run, result in results.items() if "class_as_asked" in result}
    classes = sorted({int(one) for result in asked.values() for one in result["asked_class"].to_numpy()})
    if not asked or len(classes) > MOST:
        return []
    rows = [[run, *(_share(result, one) for one in classes)] for run, result in asked.items()]
    note = "Of samples with each label, the share that a classifier gives this label; in brackets, Wilson's intervals."
    head = ["run", *map(str, classes)]
    return [Table("Samples that are labelled as asked, by the label", head, rows, note, range(1, len(head)))]


def _share(result: xr.Dataset, label: int) -> str:
    if label not in result["asked_class"]:
        return ""
    names = ("class_as_asked", "class_as_asked_low", "class_as_asked_high")
    share, low, high = (float(result[name].sel(asked_class=label)) for name in names)
    return f"{share:.2f} ({low:.2f} to {high:.2f})"
