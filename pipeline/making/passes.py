"""The passes of a readout over the events of a store: a block's shards become calls of a network, and rows again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from dask.array.core import slices_from_chunks
from numpy.typing import NDArray
from tqdm import tqdm

from traj import stores
from traj.pipeline.process.device import inference
from traj.pipeline.readouts import Events, Output, Pass, Readout, Source
from traj.stores import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Passes:
    """What a readout makes of the events of ``ds``: what is stored in ``source``, and what is derived of it.

    ``name`` is the readout's, and ``block`` how many samples are read together.
    """

    name: str
    readout: Readout
    source: Source
    ds: xr.Dataset
    block: int
    tf32: bool

    @property
    def condition(self) -> list[str]:
        """Names of the coordinates along the samples."""
        return [str(name) for name, coord in self.ds.coords.items() if coord.dims == ("sample",)]

    def shape(self, output: Output) -> tuple[int, ...]:
        """Lengths of a value's dims."""
        lengths = {dim: len(np.asarray(values)) for dim, values, _, _ in self.readout.coords.values()}
        lengths |= dict(zip(stores.IMAGE_DIMS, self.readout.images or (), strict=False))
        return tuple(lengths[dim] for dim in output.dims)

    def values(self, one: Pass, part: xr.Dataset, progress: tqdm) -> dict[str, Array]:
        """Read a block: each output (*lead, *dims), or (on, *lead, *dims)."""
        found = [self._pass(one, [part[name] for name in names], progress) for names in one.calls]
        return {
            output.name: np.stack(arrays) if one.on else arrays[0]
            for output, arrays in zip(one.outputs, zip(*found, strict=True), strict=True)
        }

    def evaluate(
        self,
        one: Pass,
        values: Mapping[str, Array],
        timestep: Array | None,
        condition: Mapping[str, Array],
        leads_to: tuple[Array, Array] | None = None,
    ) -> list[Array]:
        """Give events (event, *event dims) their outputs (event, *dims), in batches; all is given on the host.

        ``leads_to`` are the next states and their timesteps. What is made of events that were never made, NaN
        throughout, is NaN.

        Raises InputError where the pass's function gives values of another shape, NotFinite where uint8 is to stand for
        what is NaN.
        """
        count = len(next(iter(values.values())))
        made = [~np.isnan(array.reshape(count, -1)).all(axis=1) for array in values.values()]
        chosen = np.flatnonzero(np.all(made, axis=0))
        found = [_blank((count, *self.shape(output)), output) for output in one.outputs]
        if len(chosen) < count and any(output.dtype == "uint8" for output in one.outputs):
            raise stores.NotFinite(
                f"{self.source.path} has events of {', '.join(values)} that are NaN, which uint8 cannot say; choose "
                "another dtype"
            )
        with inference(self.tf32):
            for at in _batches(chosen, self.readout.batch, timestep if one.same_timestep else None):
                events = Events(
                    values={name: self._handed(array[at]) for name, array in values.items()},
                    timestep=None if timestep is None else self._handed(timestep[at]),
                    condition={name: array[at] for name, array in condition.items()},
                    next_x_t=None if leads_to is None else self._handed(leads_to[0][at]),
                    next_timestep=None if leads_to is None else self._handed(leads_to[1][at]),
                )
                for output, array, tensor in zip(one.outputs, found, one.function(events), strict=True):
                    if tensor.shape != (len(at), *array.shape[1:]):
                        raise InputError(
                            f"readout {self.name} gave values of shape {tuple(tensor.shape)} for {len(at)} events; "
                            f"expected {(len(at), *array.shape[1:])} for {output.name}"
                        )
                    array[at] = tensor.to(getattr(torch, held_as(output))).cpu().numpy()
        return found

    def _pass(self, one: Pass, arrays: Sequence[xr.DataArray], progress: tqdm) -> list[Array]:
        """Read the events of a block shard by shard: arrays (*lead, *event dims) to outputs (*lead, *dims)."""
        lead, coords = lead_of(arrays[0]), arrays[0].coords
        along = lead.index("sample")
        values = [_blank((*arrays[0].shape[: len(lead)], *self.shape(output)), output) for output in one.outputs]
        after = None
        # Backwards, as the last state of a shard leads to the first of the next one.
        for place in reversed(list(slices_from_chunks((arrays[0].chunks or ())[: len(lead)]))):
            # Padded to a whole block: the last bits of a network's answer depend on the shape of its batch, and those
            # of a sample must not depend on how many samples there are.
            events = {str(array.name): _padded(self._read(array[place]), self.block, along) for array in arrays}
            counts = next(iter(events.values())).shape[: len(lead)]
            timestep = leads_to = None
            if "timestep" in lead:
                axis = lead.index("timestep")
                timesteps, within = coords["timestep"].values, place[axis]
                timestep = _spread(timesteps[within], axis, counts)
                if one.next_state:
                    after = None if within.stop == len(timesteps) else after
                    next_x_t = _next(events["x_t"], after, axis)
                    after = events["x_t"].take([0], axis)
                    leads_to = _flat(next_x_t, lead), _spread(np.append(timesteps[1:], -1)[within], axis, counts)
            found = self.evaluate(
                one,
                {name: _flat(array, lead) for name, array in events.items()},
                timestep,
                {name: _spread(_padded(coords[name].values, self.block), along, counts) for name in self.condition},
                leads_to,
            )
            kept = (*[slice(None)] * along, slice(arrays[0].sizes["sample"]))
            for whole, array in zip(values, found, strict=True):
                whole[place] = array.reshape(*counts, *array.shape[1:])[kept]
            progress.update(math.prod(counts))
        return values

    def _handed(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.source.device)

    def _read(self, array: xr.DataArray) -> Array:
        with stores.reading(self.source.path):
            return np.asarray(array, np.float32)


def lead_of(array: xr.DataArray) -> tuple[str, ...]:
    """Dims that count the events of an array."""
    return tuple(map(str, array.dims[: array.ndim - len(stores.event_dims(array.dims))]))


def event_shape(array: xr.DataArray) -> tuple[int, ...]:
    """Lengths of an event's dims."""
    return tuple(array.shape[len(lead_of(array)) :])


def held_as(output: Output) -> str:
    """Name the type an output's values have until they are written: those of float16 are clipped and counted then."""
    return "float32" if output.dtype == "float16" else output.dtype


def _blank(shape: tuple[int, ...], output: Output) -> Array:
    """Make room for values: NaN, or 0 where there is no NaN."""
    return np.full(shape, 0 if output.dtype == "uint8" else np.nan, held_as(output))


def _padded(values: Array, block: int, axis: int = 0) -> Array:
    """Repeat the last sample until there is a whole block of them."""
    padded: Array = values.take(np.minimum(np.arange(block), values.shape[axis] - 1), axis=axis)
    return padded


def _spread(values: Array, axis: int, counts: tuple[int, ...]) -> Array:
    """Give every event its value of a coordinate that goes along one axis: (event,)."""
    others = [k for k in range(len(counts)) if k != axis]
    return np.broadcast_to(np.expand_dims(values, others), counts).ravel()


def _flat(array: Array, lead: tuple[str, ...]) -> Array:
    """Put events (*lead, *event dims) into one row: (event, *event dims)."""
    return array.reshape(-1, *array.shape[len(lead) :])


def _next(x_t: Array, after: Array | None, axis: int) -> Array:
    """Give every state of a shard the next one; ``after`` is the next shard's first, None where there is none."""
    if after is None:
        after = np.full_like(x_t.take([0], axis), np.nan)
    return np.concatenate([x_t.take(range(1, x_t.shape[axis]), axis), after], axis)


def _batches(events: Array, batch: int, timestep: Array | None) -> Iterator[Array]:
    """Cut the numbers of events into calls, timestep by timestep where it is given."""
    groups = [events] if timestep is None else [events[timestep[events] == t] for t in np.unique(timestep[events])]
    for group in groups:
        for start in range(0, len(group), batch):
            yield group[start : start + batch]
