"""Read a store with a network: a second pass, block by block, whatever is read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from dask.array.core import slices_from_chunks
from numpy.typing import NDArray
from tqdm import tqdm

from traj import stores
from traj.pipeline import readouts
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, peak_memory
from traj.pipeline.parsing import check_count
from traj.pipeline.process.device import choose_device, environment, inference
from traj.pipeline.readouts import Output, Readout, Source
from traj.stores import InputError, Layout

Array = NDArray[Any]


@dataclass(frozen=True)
class EventCost(Cost):
    """What a readout will take; an evaluation is that of a whole batch."""

    events: int

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.events:,} events, {super().__str__()}"


@dataclass(frozen=True)
class Reading:
    """A readout of one store. Building it touches no file of the readout."""

    name: str
    readout: Readout
    source: Source
    source_identity: dict[str, Any]
    tf32: bool

    @property
    def ds(self) -> xr.Dataset:
        """The store that is read."""
        return self.source.ds

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {
            "numerics": self.readout.numerics,
            "readout": self.name,
            "parent": {"fingerprint": self.source_identity["fingerprint"]},
            **self.readout.identity,
            "batch": self.readout.batch,
            **({"tf32": True} if self.tf32 else {}),
        }

    @cached_property
    def block(self) -> int:
        """Samples in one block of the source, and of the readout."""
        return int(json.loads(self.ds.attrs["config"])["store"]["block"])

    @property
    def layout(self) -> Layout:
        """How the final samples are cut into blocks, in the source and in the readout."""
        shape = tuple(self.ds.sizes[dim] for dim in stores.event_dims(self.ds.x_0.dims))
        return Layout.of(samples=self.ds.sizes["sample"], block=self.block, timesteps=1, shape=shape, dtype="float32")

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.BlockWriter:
        """Create, resume or extend the readout's store."""
        variables, coords = (
            {},
            {
                str(name): (str(c.dims[0]), c.values, c.attrs.get("units", "1"), c.attrs.get("long_name", str(name)))
                for name, c in self.ds.coords.items()
            },
        )
        for output in self.readout.outputs:
            dims = (*_lead(self.ds[output.reads[0]]), *output.dims)
            variables[output.name] = (("on", *dims) if output.on else dims, output.long_name, output.units)
            if output.on:
                coords["on"] = ("on", np.array(output.reads), "1", "variable that was read")
        return stores.create_readout(
            out,
            of=self.ds.attrs["kind"],
            variables=variables,
            coords={**coords, **self.readout.coords},
            samples=self.ds.sizes["sample"],
            block=self.block,
            config=self.config,
            environment={**self.readout.environment, **environment(self.source.device)},
            stale=stale,
            blocks=blocks,
        )

    def cost(self, out: Path, blocks: int | None = None) -> EventCost:
        """Estimate what a number of blocks will take (all by default), after a few trial batches."""
        blocks = self.layout.blocks if blocks is None else blocks
        events = blocks * self._events()
        batch = min(self.readout.batch, self._events())
        block_bytes = sum(self._events(output) * math.prod(self._shape(output)) * 4 for output in self.readout.outputs)
        shard = max(
            sum(math.prod(max(sizes) for sizes in self.ds[name].chunks or ()) * 4 for name in names)
            for output in self.readout.outputs
            for names in output.calls
        )
        return EventCost(
            events=events,
            evaluations=-(-events // batch),
            seconds=events / batch * self.call_seconds,
            disk=blocks * block_bytes,
            disk_free=disk_free(out),
            memory=peak_memory() + 3 * shard + 2 * block_bytes + MARGIN_BYTES,
        )

    def run(self, store: stores.BlockWriter, *, bar: bool = True) -> None:
        """Read the store's pending blocks.

        Raises DamagedStore where the source's bytes are wrong, StaleStore where it was changed meanwhile. Finished
        blocks stay whatever happens.
        """
        pending = list(store.pending)
        # disable=None: no bar where stderr is no terminal
        with tqdm(
            total=len(pending) * self._events(), unit="event", unit_scale=True, disable=None if bar else True
        ) as progress:
            for block in pending:
                part = self.ds.isel(sample=slice(block * self.block, (block + 1) * self.block))
                arrays = {output.name: self._values(output, part, progress) for output in self.readout.outputs}
                self._require_unchanged()  # before the block is flagged as done
                store.write(block, arrays)

    @cached_property
    def call_seconds(self) -> float:
        """How long a call with a whole batch takes, of the output that takes most calls."""
        output = max(self.readout.outputs, key=self._events)
        count = min(self.readout.batch, self._events())
        first = self.ds.isel(sample=0)
        timestep = np.full(count, first.timestep[0]) if "timestep" in self.ds[output.reads[0]].dims else None
        condition = {name: np.full(count, first[name].values) for name in self._condition}
        events = {name: np.zeros((count, *_event_shape(self.ds[name])), np.float32) for name in output.calls[0]}

        def trial() -> float:
            begun = time.perf_counter()
            self.evaluate(output, events, timestep, condition)
            return time.perf_counter() - begun

        seconds = trial()
        # the first one also warms up
        return seconds if seconds >= 1 else median(trial() for _ in range(3))

    def evaluate(
        self, output: Output, events: Mapping[str, Array], timestep: Array | None, condition: Mapping[str, Array]
    ) -> Array:
        """Give events (event, *event dims) their values (event, *dims), in batches; all is given on the host.

        The values of events that were never made, NaN throughout, are NaN.

        Raises InputError where the readout's function gives values of another shape.
        """
        device, batch = self.source.device, self.readout.batch
        count, shape = len(next(iter(events.values()))), self._shape(output)
        made = [~np.isnan(array.reshape(count, -1)).all(axis=1) for array in events.values()]
        chosen = np.flatnonzero(np.all(made, axis=0))
        values = np.full((count, *shape), np.nan, np.float32)
        with inference(self.tf32):
            for start in range(0, len(chosen), batch):
                at = chosen[start : start + batch]
                found = self.readout.function(
                    {name: torch.from_numpy(array[at]).to(device) for name, array in events.items()},
                    None if timestep is None else torch.from_numpy(timestep[at]).to(device),
                    {name: array[at] for name, array in condition.items()},
                )
                if found.shape != (len(at), *shape):
                    raise InputError(
                        f"readout {self.name} gave values of shape {tuple(found.shape)} for {len(at)} events; expected "
                        f"{(len(at), *shape)}"
                    )
                values[at] = found.float().cpu().numpy()
        return values

    def _values(self, output: Output, part: xr.Dataset, progress: tqdm) -> Array:
        """Read a block of an output: (*lead, *dims), or (on, *lead, *dims)."""
        found = [self._pass(output, [part[name] for name in names], progress) for names in output.calls]
        return np.stack(found) if output.on else found[0]

    def _pass(self, output: Output, arrays: Sequence[xr.DataArray], progress: tqdm) -> Array:
        """Read the events of a block shard by shard: arrays (*lead, *event dims) to values (*lead, *dims)."""
        lead, coords = _lead(arrays[0]), arrays[0].coords
        along = lead.index("sample")
        values = np.empty((*arrays[0].shape[: len(lead)], *self._shape(output)), np.float32)
        for place in slices_from_chunks((arrays[0].chunks or ())[: len(lead)]):
            # Padded to a whole block: the last bits of a network's answer depend on the shape of its batch, and those
            # of a sample must not depend on how many samples there are.
            events = {str(array.name): _padded(self._read(array[place]), self.block, along) for array in arrays}
            counts = next(iter(events.values())).shape[: len(lead)]
            timestep = None
            if "timestep" in lead:
                axis = lead.index("timestep")
                timestep = _spread(coords["timestep"].values[place[axis]], axis, counts)
            found = self.evaluate(
                output,
                {name: array.reshape(-1, *array.shape[len(lead) :]) for name, array in events.items()},
                timestep,
                {name: _spread(_padded(coords[name].values, self.block), along, counts) for name in self._condition},
            )
            kept = range(arrays[0].sizes["sample"])
            values[place] = found.reshape(*counts, *self._shape(output)).take(kept, axis=along)
            progress.update(math.prod(counts))
        return values

    def _read(self, array: xr.DataArray) -> Array:
        try:
            return np.asarray(array, np.float32)
        except ValueError as error:
            path = self.source.path
            raise stores.DamagedStore(f"{path} is damaged: {error}; run `traj verify {path}`") from None

    def _require_unchanged(self) -> None:
        if stores.identity(self.source.path) != self.source_identity:
            raise stores.StaleStore(f"{self.source.path} was changed while it was read; run the same command again")

    @property
    def _condition(self) -> list[str]:
        """Names of the coordinates along the samples."""
        return [str(name) for name, coord in self.ds.coords.items() if coord.dims == ("sample",)]

    def _events(self, output: Output | None = None) -> int:
        """Count the events of a whole block that an output is read from, of all outputs by default."""
        if output is None:
            return sum(map(self._events, self.readout.outputs))
        lead = _lead(self.ds[output.reads[0]])
        each = math.prod(self.block if dim == "sample" else self.ds.sizes[dim] for dim in lead)
        return len(output.calls) * each

    def _shape(self, output: Output) -> tuple[int, ...]:
        """Lengths of a value's dims."""
        lengths = {dim: len(np.asarray(values)) for dim, values, _, _ in self.readout.coords.values()}
        return tuple(lengths[dim] for dim in output.dims)


def prepare(name: str, *, store: Path, device: str = "auto", tf32: bool = False, **options: Any) -> Reading:
    """Open the store to be read, and make a readout of it: its name, and options of its own.

    Raises InputError, MissingFile or StoreError for what cannot be.
    """
    where = choose_device(device)
    ds = stores.open(store)
    if "x_0" not in stores.KINDS[ds.attrs["kind"]].variables:
        raise InputError(f"{store} holds a store of kind {ds.attrs['kind']}; expected trajectories, forks or a sweep")
    source = Source(store, ds, where)
    readout = readouts.load(name)(source, **options)
    check_count("batch", readout.batch)
    if missing := [read for output in readout.outputs for read in output.reads if read not in ds]:
        raise InputError(f"{store} has no {' and no '.join(missing)}, which readout {name} reads")
    identity = {"fingerprint": ds.attrs["fingerprint"], "samples": ds.sizes["sample"]}
    return Reading(name, readout, source, identity, tf32 and where.type == "cuda")


def _lead(array: xr.DataArray) -> tuple[str, ...]:
    """Dims that count the events of an array."""
    return tuple(map(str, array.dims[: array.ndim - len(stores.event_dims(array.dims))]))


def _event_shape(array: xr.DataArray) -> tuple[int, ...]:
    return tuple(array.shape[len(_lead(array)) :])


def _padded(values: Array, block: int, axis: int = 0) -> Array:
    """Repeat the last sample until there is a whole block of them."""
    padded: Array = values.take(np.minimum(np.arange(block), values.shape[axis] - 1), axis=axis)
    return padded


def _spread(values: Array, axis: int, counts: tuple[int, ...]) -> Array:
    """Give every event its value of a coordinate that goes along one axis: (event,)."""
    others = [k for k in range(len(counts)) if k != axis]
    return np.broadcast_to(np.expand_dims(values, others), counts).ravel()
