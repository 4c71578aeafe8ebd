"""Read a store with a network: a second pass, block by block, whatever is read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from traj import stores
from traj.pipeline import readouts
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, peak_memory
from traj.pipeline.making.passes import Array, Passes, event_shape, held_as, lead_of
from traj.pipeline.parsing import check_count
from traj.pipeline.process.device import Timed, by_trials, choose_device, environment
from traj.pipeline.process.spacing import nearest, shown
from traj.pipeline.readouts import Pass, Readout, Source
from traj.stores import InputError, Layout, ReadVariable


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

    @cached_property
    def passes(self) -> Passes:
        """What reads the events of a block."""
        return Passes(self.name, self.readout, self.source, self.ds, self.block, self.tf32)

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
            lead = (*(("on",) if one.on else ()), *lead_of(self.ds[one.reads[0]]))
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
        calls = sum(blocks * self._events(one) / self._call(one) for one in self.readout.passes)
        counts = [
            (self._events(one) * math.prod(self.passes.shape(output)), output)
            for one in self.readout.passes
            for output in one.outputs
        ]
        block_bytes, held = (
            sum(count * np.dtype(dtype(output)).itemsize for count, output in counts)
            for dtype in (lambda output: output.dtype, held_as)
        )
        shard = max(
            sum(math.prod(max(sizes) for sizes in self.ds[name].chunks or ()) * 4 for name in names)
            for one in self.readout.passes
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
                    arrays |= self.passes.values(one, part, progress)
                self._require_unchanged()  # before the block is flagged as done
                store.write(block, arrays)

    @cached_property
    def call_seconds(self) -> Timed:
        """How long a call with a whole batch takes, of the pass that takes most calls."""
        one = max(self.readout.passes, key=lambda one: self._events(one) / self._call(one))
        first = self.ds.isel(sample=0)

        def timed(count: int) -> float:
            timestep = np.full(count, first.timestep[0]) if "timestep" in self.ds[one.reads[0]].dims else None
            condition = {name: np.full(count, first[name].values) for name in self.passes.condition}
            values = {name: np.zeros((count, *event_shape(self.ds[name])), np.float32) for name in one.calls[0]}
            leads_to = (values["x_t"], np.full(count, -1)) if one.next_state else None  # on x_0, as any timestep may
            begun = time.perf_counter()
            self.passes.evaluate(one, values, timestep, condition, leads_to)
            return time.perf_counter() - begun

        return by_trials(timed, self._call(one), "events")

    def _require_unchanged(self) -> None:
        if stores.identity(self.source.path) != self.source_identity:
            raise stores.StaleStore(f"{self.source.path} was changed while it was read; run the same command again")

    def _events(self, one: Pass | None = None) -> int:
        """Count the events of a whole block that a pass reads, all passes by default."""
        if one is None:
            return sum(map(self._events, self.readout.passes))
        lead = lead_of(self.ds[one.reads[0]])
        each = math.prod(self.block if dim == "sample" else self.ds.sizes[dim] for dim in lead)
        return len(one.calls) * each

    def _call(self, one: Pass) -> int:
        """Count the events of a pass's calls; those at the end of a shard or a block may have fewer."""
        events = self._events(one) // self.ds.sizes["timestep"] if one.same_timestep else self._events()
        return min(self.readout.batch, events)


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
