"""How much more plain processes decode side by side than one alone: what a machine gives at best.

Each process imports this file anew, and with it no more than it needs.
"""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter

import numpy as np
from numcodecs import blosc

from traj import stores
from traj.stores.layout import read_root
from traj.stores.reader import arrays_of
from traj.stores.shards import MISSING, read_index


def decode_scaling(path: Path, workers: int, decoded: int) -> float:
    """Measure how much more some plain processes decode side by side than one alone."""
    slowest = {processes: max(_decode_side_by_side(path, processes, decoded)) for processes in {1, workers}}
    return workers * slowest[1] / slowest[workers]


def _decode_side_by_side(path: Path, processes: int, decoded: int) -> list[float]:
    context = get_context("spawn")
    barrier, seconds = context.Barrier(processes), context.Queue()
    started = [context.Process(target=_decode, args=(path, decoded, barrier, seconds)) for _ in range(processes)]
    for process in started:
        process.start()
    measured = [seconds.get() for _ in started]
    for process in started:
        process.join()
    return measured


def _decode(path: Path, decoded: int, barrier: Barrier, seconds: Queue[float]) -> None:
    """Time decoding the chunks of one shard over and over, from memory into memory of a shard's size."""
    inner = arrays_of(read_root(path))["x_t"]["codecs"][0]["configuration"]["chunk_shape"]
    content = (path / "x_t" / "c.0.0.0.0.0").read_bytes()
    shape = stores.open(path)["x_t"].data.chunksize
    chunks = int(np.prod([-(-length // part) for length, part in zip(shape, inner, strict=True)]))
    entries = [entry for entry in read_index(content, chunks).tolist() if entry[0] != MISSING]
    bytes_each = int(np.prod(inner)) * 4
    room = np.empty((len(entries), bytes_each), np.uint8)
    repeats = max(1, decoded // room.nbytes)
    for counted in (False, True):
        if counted:
            barrier.wait()
        begun = perf_counter()
        for _ in range(repeats if counted else 1):
            for (offset, length), out in zip(entries, room, strict=True):
                blosc.decompress(content[offset : offset + length - 4], out)
    seconds.put(perf_counter() - begun)
