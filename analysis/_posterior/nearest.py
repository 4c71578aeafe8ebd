"""The nearest images of a dataset: how far samples are from them, and the images from one another."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from traj.analysis._blocks.datasets import Images
from traj.analysis._posterior import one_pass

Array = NDArray[Any]

COLUMNS = ("distance", "second", "index")
"""What is told of a sample: its distance to the nearest image and to the second, and which the nearest is."""

COPY = 1 / 3
"""Distance to the nearest image over that to the second, below which a sample is a copy (Yoon et al. 2023)."""

HELD = 1 << 22
"""Most values of the events that go through a dataset together."""


def of_events(events: Array, images: Images) -> Array:
    """Find the two nearest images of events (sample, *event): COLUMNS of each, NaN for events that are no numbers."""
    flat = events.reshape(len(events), -1).astype(np.float64)
    known = np.isfinite(flat).all(axis=1)
    found = np.full((len(flat), len(COLUMNS)), np.nan)
    rows, together = np.flatnonzero(known), max(1, HELD // images.values)
    for first in range(0, len(rows), together):
        some = rows[first : first + together]
        distance, index = two_nearest(flat[some], images)
        found[some] = np.column_stack([distance, index[:, 0]])
    return found


def two_nearest(rows: Array, images: Images) -> tuple[Array, Array]:
    """Give the distances of rows (row, value) to their two nearest images, and which these are: (row, 2) each.

    They are the two of the largest posterior at unit signal and noise, in one product of matrices; their distances are
    taken anew, so that of an equal image it is exactly 0.
    """
    one = np.ones(len(rows))
    index = one_pass.of_states(rows, one, one, images, 2).image
    apart = rows[:, None] - images.pick(index)
    return np.sqrt(np.einsum("ijk,ijk->ij", apart, apart)), index


def of_one_another(images: Images, chosen: Array) -> Array:
    """Give the distances of chosen images to the nearest other one: (image,)."""
    rows = images.pick(chosen[:, None])[:, 0].astype(np.float64)
    apart: Array = two_nearest(rows, images)[0].max(axis=1)
    return apart


def picked(images: Images, index: Array) -> Array:
    """Read images at positions (row,): (row, *event), NaN for those below 0."""
    found = images.pick(index[:, None])[:, 0].reshape(-1, *images.shape)
    found[index < 0] = np.nan
    return found


def whole(array: da.Array) -> Delayed:
    """Take an array in one piece; not optimised on its own, which would read its shards once more."""
    piece: Delayed = array.rechunk(-1).to_delayed(optimize_graph=False).item()
    return piece
