"""The index of timesteps: they descend, and a slice selects the same whichever end is named first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from xarray.indexes import PandasIndex


class TimestepIndex(pd.Index):  # type: ignore[misc]
    """An index in which slice(100, 600) and slice(600, 100) select the same: both ends, in the index's own order.

    To xarray it is an index like any other, so that it aligns with those of other datasets. (A subclass of xarray's
    own indexes would not: two types of index never align.)
    """

    @classmethod
    def of(cls, index: pd.Index) -> Self:
        """Take over the values of an index."""
        own = index.copy()
        own.__class__ = cls
        return own  # type: ignore[no-any-return]

    @property
    def _constructor(self) -> Callable[..., pd.Index]:
        return TimestepIndex

    def slice_indexer(self, start: Any = None, end: Any = None, step: int | None = None) -> Any:
        """Turn a slice of timesteps into one of positions."""
        forward = start is not None and end is not None and (step is None or step > 0)
        if forward and start < end and len(self) > 1 and self.is_monotonic_decreasing:
            start, end = end, start
        return super().slice_indexer(start, end, step)

    def append(self, other: Any) -> pd.Index:
        """Put other indexes after this one."""
        return TimestepIndex.of(super().append(other))

    def __reduce__(self) -> Any:
        """Keep the type in other processes."""
        return TimestepIndex.of, (pd.Index(self.to_numpy(), name=self.name),)


def with_timestep_index(ds: xr.Dataset) -> xr.Dataset:
    """Index a dataset's timesteps, where it has that dim, so that slices work from either end."""
    if "timestep" not in ds.indexes:
        return ds
    index = PandasIndex(TimestepIndex.of(ds.indexes["timestep"]), "timestep")
    attrs = ds["timestep"].attrs
    indexed = ds.drop_indexes("timestep").assign_coords(xr.Coordinates.from_xindex(index))
    indexed["timestep"].attrs.update(attrs)
    return indexed
