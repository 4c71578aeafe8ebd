"""Data that were gone through once: what they hold is known, and read again they are what they were."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from traj.pipeline.sources.events import Events, classes_of
from traj.pipeline.sources.source import Undecided
from traj.stores import StaleStore

READ_BYTES = 4 << 20
"""Of events that are read together."""


@dataclass(frozen=True)
class Surveyed:
    """The first events of a source, all of which were read once.

    ``label`` (sample,) are their classes, -1 for none, ``valid_range`` bounds their values, ``digest`` is the hash of
    both, ``checksums`` has a number for each event, and ``seconds`` is how long reading took.
    """

    events: Events
    label: NDArray[np.int64]
    valid_range: tuple[float, float]
    digest: str
    checksums: NDArray[np.uint32]
    seconds: float

    @property
    def samples(self) -> int:
        """How many events there are."""
        return len(self.label)

    @property
    def identity(self) -> dict[str, Any]:
        """What a fingerprint says of them: their hash, and the seeds of the runs that made them, if any."""
        seeds = sorted(self.events.source.seeds)
        return {"data": self.digest, **({"seeds": seeds} if seeds else {})}

    def read(self, first: int, end: int) -> NDArray[np.float32]:
        """Give some events. Raises StaleStore where they are not those that were read before."""
        x_0 = self.events.read(first, end)
        if not np.array_equal(_checksums(x_0), self.checksums[first:end]):
            raise StaleStore(f"{self.events.name} was changed while it was read; run the same again")
        return x_0


def survey(events: Events, samples: int | None = None, valid_range: tuple[float, float] | None = None) -> Surveyed:
    """Go through the first events once, all by default: their hash is that of x_0, then the labels, in little-endian.

    ``valid_range`` is the range that all values lie in, by default what the source says, or [-1, 1].

    Raises InputError for classes that are none, Undecided where values lie outside of the range.
    """
    count = events.samples if samples is None else samples
    label = classes_of(events.name, events.source.label, events.samples)[:count]
    at_once = max(1, READ_BYTES // (4 * math.prod(events.shape)))
    begun, digest, checksums = time.perf_counter(), hashlib.sha256(), []
    low, high = math.inf, -math.inf
    with progress(count) as bar:
        for first in range(0, count, at_once):
            x_0 = events.read(first, min(first + at_once, count))
            digest.update(x_0.data)
            checksums.append(_checksums(x_0))
            low, high = min(low, float(x_0.min())), max(high, float(x_0.max()))
            bar.update(len(x_0))
    digest.update(label.data)
    return Surveyed(
        events,
        label,
        _within(events, low, high, valid_range),
        f"sha256:{digest.hexdigest()}",
        np.concatenate(checksums),
        time.perf_counter() - begun,
    )


def progress(samples: int, bar: bool = True) -> tqdm:
    """Show how many samples are done."""
    # disable=None: no bar where stderr is no terminal
    return tqdm(total=samples, unit="sample", unit_scale=True, disable=None if bar else True)


def _checksums(x_0: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(event.data) for event in x_0], np.uint32)


def _within(events: Events, low: float, high: float, asked: tuple[float, float] | None) -> tuple[float, float]:
    """Choose the valid range; samples of a model may leave the one it was made with, other data may not."""
    if asked is None and events.source.valid_range is not None:
        return events.source.valid_range
    lowest, highest = asked or (-1.0, 1.0)
    if lowest <= low and high <= highest:
        return lowest, highest
    given = f"--range {lowest:g},{highest:g} was given" if asked else "expected -1 to 1"
    raise Undecided(
        f"{events.name} has values from {low:g} to {high:g}; {given}: say which range all values lie in with --range "
        "LOW,HIGH, or scale the data"
    )
