"""Read a store with a network: a second pass, block by block, whatever is read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
from traj.pipeline.process.device import Timed, by_trials, choose_device, environment, inference
from traj.pipeline.process.spacing import nearest, shown
from traj.pipeline.readouts import Events, Output, Pass, Readout, Source
from traj.stores import InputError, Layout, ReadVariable

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
    """A readout of one store. Building it touches no file of the readout.

    ``chosen`` says which of the stored timesteps are read, and ``thinned`` how many are stored for each of those.
    """

    name: str
    readout: Readout
    source: Source
    source_identity: dict[str, Any]
    chosen: dict[str, Any]
    thinned: int
    tf32: bool

    @cached_property
    def ds(self) -> xr.Dataset:
        """The store that is read, and what the readout derives of it."""
        return self.source.ds.assign(self.readout.derived)

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {
            "numerics": self.readout.numerics,
            "readout": self.name,
            "parent": {"fingerprint": self.source_identity["fingerprint"]},
            **self.readout.identity,
            "batch": self.readout.batch,
            **self.chosen,
            **({"tf32": True} if self.tf32 else {}),
        }

    @cached_property
    def block(self) -> int:
        """Samples in one block of the readout."""
        return self.readout.block or int(json.loads(self.ds.attrs["config"])["store"]["block"])

    @property
    def layout(self) -> Layout:
        """How the source's final samples are cut into blocks of the readout."""
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
        coords = {
            str(name): (str(c.dims[0]), c.values, c.attrs.get("units", "1"), c.attrs.get("long_name", str(name)))
            for name, c in self.ds.coords.items()
        }
        store: dict[str, Any] = {
            "of": stores.stands_for(self.ds.attrs),
            "samples": self.ds.sizes["sample"],
            "block": self.block,
            "config": self.config,
            "environment": {**self.readout.environment, **environment(self.source.device)},
            "stale": stale,
            "blocks": blocks,
        }
        if self.readout.images:
            outputs = [output for one in self.readout.passes for output in one.outputs]
            return stores.create_decoded(
                out,
                variables=[output.name for output in outputs],
                shape=self.readout.images,
                dtype="float16" if outputs[0].dtype == "float16" else "uint8",
                coords=coords,
                **store,
            )
        variables = {}
        for one in self.readout.passes:
            lead = (*(("on",) if one.on else ()), *_lead(self.ds[one.reads[0]]))
            for output in one.outputs:
                variables[output.name] = ReadVariable(
                    (*lead, *output.dims), output.long_name, output.units, output.dtype, output.attributes
                )
            if one.on:
                coords["on"] = ("on", np.array(one.reads), "1", "variable that was read")
        return stores.create_readout(out, variables=variables, coords={**coords, **self.readout.coords}, **store)

    def cost(self, out: Path, blocks: int | None = None) -> EventCost:
        """Estimate what a number of blocks will take (all by default), after a few trial batches."""
        blocks = self.layout.blocks if blocks is None else blocks
        passes = self.readout.passes
        calls = sum(blocks * self._events(one) / self._call(one) for one in passes)
        counts = [
            (self._events(one) * math.prod(self._shape(output)), output) for one in passes for output in one.outputs
        ]
        block_bytes, held = (
            sum(count * np.dtype(dtype(output)).itemsize for count, output in counts)
            for dtype in (lambda output: output.dtype, _held)
        )
        shard = max(
            sum(math.prod(max(sizes) for sizes in self.ds[name].chunks or ()) * 4 for name in names)
            for one in passes
            for names in one.calls
        )
        return EventCost(
            events=blocks * self._events(),
            evaluations=math.ceil(calls),
            seconds=calls * self.call_seconds.seconds,
            disk=blocks * block_bytes,
            disk_free=disk_free(out),
            memory=peak_memory() + (2 + self.thinned) * shard + 2 * held + MARGIN_BYTES,
            note=self.call_seconds.note,
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
                arrays: dict[str, Array] = {}
                for one in self.readout.passes:
                    arrays |= self._values(one, part, progress)
                self._require_unchanged()  # before the block is flagged as done
                store.write(block, arrays)

    @cached_property
    def call_seconds(self) -> Timed:
        """How long a call with a whole batch takes, of the pass that takes most calls."""
        one = max(self.readout.passes, key=lambda one: self._events(one) / self._call(one))
        first = self.ds.isel(sample=0)

        def timed(count: int) -> float:
            timestep = np.full(count, first.timestep[0]) if "timestep" in self.ds[one.reads[0]].dims else None
            condition = {name: np.full(count, first[name].values) for name in self._condition}
            values = {name: np.zeros((count, *_event_shape(self.ds[name])), np.float32) for name in one.calls[0]}
            leads_to = (values["x_t"], np.full(count, -1)) if one.next_state else None  # on x_0, as any timestep may
            begun = time.perf_counter()
            self.evaluate(one, values, timestep, condition, leads_to)
            return time.perf_counter() - begun

        return by_trials(timed, self._call(one), "events")

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
        found = [_blank((count, *self._shape(output)), output) for output in one.outputs]
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
                    array[at] = tensor.to(getattr(torch, _held(output))).cpu().numpy()
        return found

    def _handed(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.source.device)

    def _values(self, one: Pass, part: xr.Dataset, progress: tqdm) -> dict[str, Array]:
        """Read a block: each output (*lead, *dims), or (on, *lead, *dims)."""
        found = [self._pass(one, [part[name] for name in names], progress) for names in one.calls]
        return {
            output.name: np.stack(arrays) if one.on else arrays[0]
            for output, arrays in zip(one.outputs, zip(*found, strict=True), strict=True)
        }

    def _pass(self, one: Pass, arrays: Sequence[xr.DataArray], progress: tqdm) -> list[Array]:
        """Read the events of a block shard by shard: arrays (*lead, *event dims) to outputs (*lead, *dims)."""
        lead, coords = _lead(arrays[0]), arrays[0].coords
        along = lead.index("sample")
        values = [_blank((*arrays[0].shape[: len(lead)], *self._shape(output)), output) for output in one.outputs]
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
                {name: _spread(_padded(coords[name].values, self.block), along, counts) for name in self._condition},
                leads_to,
            )
            kept = (*[slice(None)] * along, slice(arrays[0].sizes["sample"]))
            for whole, array in zip(values, found, strict=True):
                whole[place] = array.reshape(*counts, *array.shape[1:])[kept]
            progress.update(math.prod(counts))
        return values

    def _read(self, array: xr.DataArray) -> Array:
        with stores.reading(self.source.path):
            return np.asarray(array, np.float32)

    def _require_unchanged(self) -> None:
        if stores.identity(self.source.path) != self.source_identity:
            raise stores.StaleStore(f"{self.source.path} was changed while it was read; run the same command again")

    @property
    def _condition(self) -> list[str]:
        """Names of the coordinates along the samples."""
        return [str(name) for name, coord in self.ds.coords.items() if coord.dims == ("sample",)]

    def _events(self, one: Pass | None = None) -> int:
        """Count the events of a whole block that a pass reads, all passes by default."""
        if one is None:
            return sum(map(self._events, self.readout.passes))
        lead = _lead(self.ds[one.reads[0]])
        each = math.prod(self.block if dim == "sample" else self.ds.sizes[dim] for dim in lead)
        return len(one.calls) * each

    def _call(self, one: Pass) -> int:
        """Count the events of a pass's calls; those at the end of a shard or a block may have fewer."""
        events = self._events(one) // self.ds.sizes["timestep"] if one.same_timestep else self._events()
        return min(self.readout.batch, events)

    def _shape(self, output: Output) -> tuple[int, ...]:
        """Lengths of a value's dims."""
        lengths = {dim: len(np.asarray(values)) for dim, values, _, _ in self.readout.coords.values()}
        lengths |= dict(zip(stores.IMAGE_DIMS, self.readout.images or (), strict=False))
        return tuple(lengths[dim] for dim in output.dims)


def prepare(
    name: str,
    *,
    store: Path,
    every: int = 1,
    timesteps: Sequence[int] = (),
    device: str = "auto",
    tf32: bool = False,
    **options: Any,
) -> Reading:
    """Open the store to be read, and make a readout of it: its name, and options of its own.

    Of the stored timesteps, every k-th and the last are read, or those in a list.

    Raises InputError, MissingFile or StoreError for what cannot be.
    """
    where = choose_device(device)
    whole = stores.open(store)
    if "x_0" not in stores.KINDS[whole.attrs["kind"]].variables:
        raise InputError(
            f"{store} holds a store of kind {whole.attrs['kind']}; expected trajectories, a dataset, forks or a sweep"
        )
    ds, chosen = _chosen(store, whole, every, timesteps)
    source = Source(store, ds, where)
    readout = readouts.load(name)(source, **options)
    check_count("batch", readout.batch)
    identity = {"fingerprint": ds.attrs["fingerprint"], "samples": ds.sizes["sample"]}
    thinned = math.ceil(whole.sizes.get("timestep", 1) / ds.sizes.get("timestep", 1))
    reading = Reading(name, readout, source, identity, chosen, thinned, tf32 and where.type == "cuda")
    if missing := [read for one in readout.passes for read in one.reads if read not in reading.ds]:
        raise InputError(f"{store} has no {' and no '.join(missing)}, which readout {name} reads")
    return reading


def _chosen(path: Path, ds: xr.Dataset, every: int, timesteps: Sequence[int]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Choose the timesteps to read, and say in JSON values which; nothing where they are all that are stored.

    Raises InputError for timesteps that are not stored or given twice, and where both ways to choose are used.
    """
    check_count("every", every)
    if every == 1 and not timesteps:
        return ds, {}
    said = f"timesteps {shown(timesteps)}" if timesteps else f"every {every}"
    if "timestep" not in ds.dims:
        raise InputError(f"{said} was given, but {path} has no timesteps; leave it out")
    if not timesteps:
        last = ds.sizes["timestep"] - 1
        return ds.isel(timestep=sorted({*range(0, last, every), last})), {"every": every}
    if every > 1:
        raise InputError(f"{said} and every {every} were given; expected one of them")
    stored = ds.timestep.values.tolist()
    if missing := [timestep for timestep in timesteps if timestep not in stored]:
        raise InputError(
            f"timestep {missing[0]} is not stored in {path}; the nearest are {nearest(stored, missing[0])}"
        )
    if len(set(timesteps)) < len(timesteps):
        raise InputError(f"{said} were given, some of them twice; expected each once")
    wanted = sorted(timesteps, reverse=True)
    return ds.isel(timestep=[stored.index(timestep) for timestep in wanted]), {"timesteps": wanted}


def _lead(array: xr.DataArray) -> tuple[str, ...]:
    """Dims that count the events of an array."""
    return tuple(map(str, array.dims[: array.ndim - len(stores.event_dims(array.dims))]))


def _event_shape(array: xr.DataArray) -> tuple[int, ...]:
    return tuple(array.shape[len(_lead(array)) :])


def _held(output: Output) -> str:
    """Name the type an output's values have until they are written: those of float16 are clipped and counted then."""
    return "float32" if output.dtype == "float16" else output.dtype


def _blank(shape: tuple[int, ...], output: Output) -> Array:
    """Make room for values: NaN, or 0 where there is no NaN."""
    return np.full(shape, 0 if output.dtype == "uint8" else np.nan, _held(output))


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
