"""Make a dataset: a store of what is to be learnt or compared with, once, from data in whatever format they lie."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from traj import stores
from traj.pipeline import sources
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, duration, peak_memory, size
from traj.pipeline.parsing import check_count
from traj.pipeline.sources.events import Events, classes_of, events_of
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
class Seen:
    """What a first pass over the data found: the hash of their values, their bounds, a checksum of each block."""

    digest: str
    low: float
    high: float
    checksums: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Collection:
    """A dataset to be made of the first events of a source. Building it touches no file of the dataset."""

    events: Events
    layout: Layout
    label: NDArray[np.int64]
    valid_range: tuple[float, float]
    seen: Seen

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        seeds = sorted(self.events.source.seeds)
        return {"numerics": NUMERICS, "data": self.seen.digest, **({"seeds": seeds} if seeds else {})}

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
            label=self.label,
            valid_range=self.valid_range,
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
            seconds=self.seen.seconds * samples / self.layout.samples + samples * event / WRITTEN_PER_SECOND,
            disk=samples * event,
            disk_free=disk_free(out),
            memory=peak_memory() + 3 * self.layout.block * event + MARGIN_BYTES,
            samples=samples,
        )

    def run(self, store: stores.BlockWriter, *, bar: bool = True) -> None:
        """Write the store's pending blocks.

        Raises StaleStore where the data are not those seen before. Finished blocks stay whatever happens.
        """
        with _progress(sum(map(self.layout.samples_in, store.pending)), bar) as progress:
            for block in list(store.pending):
                x_0 = _block(self.events, self.layout, block)
                if zlib.crc32(x_0.data) != self.seen.checksums[block]:
                    raise stores.StaleStore(f"{self.events.name} was changed while it was read; run the same again")
                store.write(block, {"x_0": x_0})
                progress.update(len(x_0))


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
    events = events_of(source, sources.load(source, labels, samples=samples, seed=seed), axes)
    if samples is not None and not 1 <= samples <= events.samples:
        raise InputError(f"samples {samples} was given; {source} has {events.samples:,}, expected 1 to that many")
    label = classes_of(source, events.source.label, events.samples)
    samples = events.samples if samples is None else samples
    block = usual_block(samples, events.shape) if block is None else block
    check_count("block", block)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=events.shape, dtype="float32")
    label = label[:samples]
    seen = look(events, layout, label)
    return Collection(events, layout, label, _bounds(events, seen, valid_range), seen)


def usual_block(samples: int, shape: Sequence[int]) -> int:
    """Choose how many events make a block, and a chunk: a power of two of about 4 MiB, or all where they are fewer."""
    fitting = max(1, BLOCK_BYTES // (4 * math.prod(shape)))
    return min(samples, 1 << (fitting.bit_length() - 1))


def look(events: Events, layout: Layout, label: NDArray[np.int64]) -> Seen:
    """Go through the data once: their hash is that of x_0, then the labels, in little-endian bytes."""
    begun, digest = time.perf_counter(), hashlib.sha256()
    low, high, checksums = math.inf, -math.inf, []
    with _progress(layout.samples, bar=True) as progress:
        for block in range(layout.blocks):
            x_0 = _block(events, layout, block)
            digest.update(x_0.data)
            checksums.append(zlib.crc32(x_0.data))
            low, high = min(low, float(x_0.min())), max(high, float(x_0.max()))
            progress.update(len(x_0))
    digest.update(label.data)
    return Seen(f"sha256:{digest.hexdigest()}", low, high, tuple(checksums), time.perf_counter() - begun)


def _block(events: Events, layout: Layout, block: int) -> NDArray[np.float32]:
    return events.read(block * layout.block, block * layout.block + layout.samples_in(block))


def _bounds(events: Events, seen: Seen, asked: tuple[float, float] | None) -> tuple[float, float]:
    """Choose the valid range; samples of a model may leave the one it was made with, other data may not."""
    if asked is None and events.source.valid_range is not None:
        return events.source.valid_range
    low, high = asked or (-1.0, 1.0)
    if low <= seen.low and seen.high <= high:
        return low, high
    given = f"--range {low:g},{high:g} was given" if asked else "expected -1 to 1"
    raise InputError(
        f"{events.name} has values from {seen.low:g} to {seen.high:g}; {given}: say which range all values lie in "
        "with --range LOW,HIGH, or scale the data"
    )


def _progress(samples: int, bar: bool) -> tqdm:
    # disable=None: no bar where stderr is no terminal
    return tqdm(total=samples, unit="sample", unit_scale=True, disable=None if bar else True)
