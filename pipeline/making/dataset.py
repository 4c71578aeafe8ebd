"""Make a dataset: a store of what is to be learnt or compared with, once, from data in whatever format they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from traj import stores
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, duration, peak_memory, size
from traj.pipeline.models.samples import load
from traj.pipeline.parsing import check_count
from traj.pipeline.sources.events import Events, events_of
from traj.pipeline.sources.surveyed import Surveyed, progress, survey
from traj.stores import InputError, Layout

# Raised by hand when the numbers of a dataset change for equal data.
NUMERICS = 1
BLOCK_BYTES = 4 << 20
"""Of a block by default, which is one chunk: within the 1 to 8 MiB of the contract."""
WRITTEN_PER_SECOND = 200 << 20
"""Bytes before compression that a slow core encodes and a disk takes."""


@dataclass(frozen=True)
class DatasetCost(Cost):
    """What a dataset will take; ``samples`` are still to be written."""

    samples: int

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.samples:,} samples, about {duration(self.seconds)}; disk at most {size(self.disk)} of "
            f"{size(self.disk_free)} free; memory {size(self.memory)}"
        )


@dataclass(frozen=True)
class Collection:
    """A dataset to be made of the first events of a source. Building it touches no file of the dataset."""

    found: Surveyed
    layout: Layout

    @property
    def events(self) -> Events:
        """What is stored."""
        return self.found.events

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {"numerics": NUMERICS, **self.found.identity}

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.BlockWriter:
        """Create the dataset's store, or resume it."""
        return stores.create_dataset(
            out,
            shape=self.events.shape,
            dims=self.events.dims,
            samples=self.layout.samples,
            block=self.layout.block,
            label=self.found.label,
            valid_range=self.found.valid_range,
            config=self.config,
            environment={"source": self.events.name},
            stale=stale,
            blocks=blocks,
        )

    def cost(self, out: Path, blocks: int | None = None) -> DatasetCost:
        """Estimate what a number of blocks will take (all by default): as long as reading took before, and writing."""
        blocks = self.layout.blocks if blocks is None else blocks
        samples = min(blocks * self.layout.block, self.layout.samples)
        event = 4 * math.prod(self.events.shape)
        return DatasetCost(
            evaluations=0,
            seconds=self.found.seconds * samples / self.layout.samples + samples * event / WRITTEN_PER_SECOND,
            disk=samples * event,
            disk_free=disk_free(out),
            memory=peak_memory() + 3 * self.layout.block * event + MARGIN_BYTES,
            samples=samples,
        )

    def run(self, store: stores.BlockWriter, *, bar: bool = True) -> None:
        """Write the store's pending blocks.

        Raises StaleStore where the data are not those seen before. Finished blocks stay whatever happens.
        """
        with progress(sum(map(self.layout.samples_in, store.pending)), bar) as done:
            for block in list(store.pending):
                first = block * self.layout.block
                x_0 = self.found.read(first, first + self.layout.samples_in(block))
                store.write(block, {"x_0": x_0})
                done.update(len(x_0))


def prepare(
    source: str,
    *,
    samples: int | None = None,
    seed: int | None = None,
    block: int | None = None,
    valid_range: tuple[float, float] | None = None,
    labels: str | None = None,
    axes: Sequence[str] | None = None,
) -> Collection:
    """Find the data, go through them once, and lay out their store.

    ``samples`` takes the first so many, all by default. ``seed`` is for data that are drawn, as many as ``samples``
    says. ``valid_range`` is the range that all values lie in, by default what the source says, or [-1, 1]. ``labels``
    is a file with the classes, or a name within the source; ``axes`` name the axes of one sample as they lie there.

    Raises InputError or MissingFile for what cannot be.
    """
    events = events_of(source, load(source, labels, samples=samples, seed=seed), axes)
    if samples is not None and not 1 <= samples <= events.samples:
        raise InputError(f"samples {samples} was given; {source} has {events.samples:,}, expected 1 to that many")
    samples = events.samples if samples is None else samples
    block = usual_block(samples, events.shape) if block is None else block
    check_count("block", block)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=events.shape, dtype="float32")
    return Collection(survey(events, samples, valid_range), layout)


def usual_block(samples: int, shape: Sequence[int]) -> int:
    """Choose how many events make a block, and a chunk: a power of two of about 4 MiB, or all where they are fewer."""
    fitting = max(1, BLOCK_BYTES // (4 * math.prod(shape)))
    return min(samples, 1 << (fitting.bit_length() - 1))
