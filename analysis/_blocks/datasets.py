"""A finite dataset as analyses read it: block by block, always the same blocks, however it is chunked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from dask.base import normalize_token
from dask.local import get_sync
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.stores import InputError, event_dims

Array = NDArray[Any]

ROWS, VALUES = 512, 1 << 22
"""Most images of a block, and most values read at once; two images at least."""

TOGETHER = 16
"""Images are padded to a multiple of this, so that BLAS sums every product in one order."""


class Images:
    """The images of a dataset, read when asked for and never kept.

    labels (image,) are the positions of their classes in `classes`, and None where not every image has a label.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        variable = dataset["x_0"]
        self.event = event_dims(variable.dims)
        self.shape = tuple(variable.sizes[dim] for dim in self.event)
        self.count, self.values = variable.sizes["sample"], int(np.prod(self.shape))
        most = max(2, min(ROWS, VALUES // self.values))
        even = -(-self.count // max(1, -(-self.count // most)))
        self.rows = min(most, -(-even // TOGETHER) * TOGETHER)
        self.lazy = chunking.images(variable).rechunk({0: self.rows * max(1, VALUES // (self.rows * self.values))})
        self.labels, self.classes = _classes(dataset)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Read blocks one after another: the number of their first image, and float64 (image, value).

        Raises InputError for values that are no numbers.
        """
        first = 0
        for part in range(self.lazy.numblocks[0]):
            read = self.lazy.blocks[part].compute(scheduler=get_sync)
            for start in range(0, len(read), self.rows):
                images = read[start : start + self.rows].reshape(-1, self.values).astype(np.float64)
                wrong = ~np.isfinite(images).all(axis=1)
                if wrong.any():
                    raise InputError(
                        f"image {first + int(wrong.argmax())} of the dataset holds a value that is not a number; "
                        "expected finite values, leave such images out"
                    )
                yield first, images
                first += len(images)

    def pick(self, index: Array) -> Array:
        """Read the images at positions (row, rank): float32 (row, rank, value)."""
        picked = np.empty((*index.shape, self.values), np.float32)
        for first, images in self.blocks():
            here = (index >= first) & (index < first + len(images))
            picked[here] = images[index[here] - first]
        return picked

    def __dask_tokenize__(self) -> Any:
        """Tell the dataset apart, for Dask's names of tasks."""
        return normalize_token((type(self).__name__, self.lazy.name, self.labels))


def opened(ds: xr.Dataset, dataset: xr.Dataset | None, quantity: str) -> Images:
    """Take the dataset given to a quantity of a run.

    Raises InputError for none, an empty one, and images of another shape than the run's.
    """
    if dataset is None:
        raise InputError(f"{quantity} needs a dataset, one that `traj dataset` makes; none was given")
    if "x_0" not in dataset:
        kind = dataset.attrs.get("kind", "?")
        raise InputError(f"a store of kind {kind} was given as the dataset; {quantity} needs one of `traj dataset`")
    if dataset["x_0"].dims[:1] != ("sample",) or dataset["x_0"].dims[1:] != event_dims(dataset["x_0"].dims):
        raise InputError(
            f"x_0 of the dataset has dims {', '.join(map(str, dataset['x_0'].dims))}; expected sample, then an event's"
        )
    there, here = _shape(dataset["x_0"]), _shape(ds["x_t" if "x_t" in ds else "x_0"])
    if there != here:
        raise InputError(
            f"images of the dataset have {_words(there)}, events of this store {_words(here)}; "
            "take the dataset that its model was made for"
        )
    if not dataset.sizes["sample"]:
        raise InputError("the dataset is empty; expected one image at least")
    return Images(dataset)


def _shape(variable: xr.DataArray) -> dict[str, int]:
    return {dim: variable.sizes[dim] for dim in event_dims(variable.dims)}


def _words(shape: dict[str, int]) -> str:
    return " x ".join(f"{dim} {length}" for dim, length in shape.items())


def _classes(dataset: xr.Dataset) -> tuple[Array | None, Array]:
    """Give the position of every image's class and the classes, None and none where an image has no label."""
    label = dataset["label"].to_numpy() if "label" in dataset.coords else np.empty(0, np.int64)
    if not label.size or label.min() < 0:
        return None, np.empty(0, np.int64)
    classes, positions = np.unique(label, return_inverse=True)
    return positions, classes
