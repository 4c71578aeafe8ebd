"""Block buffers, written as whole shards on a background thread, then done flags; resume, extension, locks."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stores.claim import claim, ranges
from stores.errors import StoreError
from stores.layout import (
    FORMAT,
    STATE_DIMS,
    Layout,
    build_trajectories,
    canonical_json,
    fingerprint,
    one_flag,
    replace_file,
    sync,
    trajectory_variables,
)
from stores.locks import BlockLocks
from stores.shards import ShardBuffer, keep_freed_memory, write_shard

FLOAT16_MAX = 65504.0
ENCODERS = 2
UNITS = {"log_snr": "nat"}
BUFFERS = 2  # one being filled, one being written


def memory_bytes(layout: Layout, variables: int) -> int:
    """Bound the memory of a writer: its buffers, and one encoded shard on its way to disk.

    variables counts those with a timestep dim.
    """
    return layout.shard_bytes * (BUFFERS * variables + 1)


def create(
    path: str | os.PathLike[str],
    *,
    timestep: ArrayLike,
    alpha_bar: ArrayLike,
    shape: tuple[int, int, int],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    step: ArrayLike | None = None,
    model_time: ArrayLike | None = None,
    noise_sd: ArrayLike | None = None,
    label: ArrayLike | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    keepbits: int | None = None,
    log_variance: bool = False,
    valid_range: tuple[float, float] = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Literal["refuse", "set-aside"] = "refuse",
    blocks: Iterable[int] | None = None,
) -> TrajectoryWriter:
    """Open a trajectory store for writing: make it, resume it, or extend it.

    timestep is the descending list of stored timesteps; alpha_bar, step, model_time and noise_sd go along it, label
    along the samples (-1 for none). shape is (channel, y, x). config names every input the numbers depend on: a store
    with another config is refused, or set aside. keepbits rounds float32 mantissas to that many bits. blocks limits
    this writer to some blocks, so that several processes can share a run.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, ValueError.
    """
    if samples < 1 or block < 1:
        raise ValueError(f"samples={samples} and block={block} were given, both must be at least 1")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype {dtype!r} was given, expected float32 or float16")
    if keepbits is not None and (dtype != "float32" or not 1 <= keepbits <= 22):
        raise ValueError(f"keepbits={keepbits} with {dtype} was given; it needs float32 and 1 to 22 bits")
    along_timestep = _along_timestep(timestep, alpha_bar, step, model_time, noise_sd)
    numbers = np.arange(samples, dtype="int64")
    labels = _like(numbers, label, np.full(samples, -1), "label")
    layout = Layout.of(
        samples=samples, block=block, timesteps=len(along_timestep["timestep"]), shape=shape, dtype=dtype
    )
    store = {
        "block": block,
        "shape": list(shape),
        "dtype": dtype,
        "keepbits": keepbits,
        "log_variance": log_variance,
        "valid_range": list(valid_range),
        # To 12 digits: the last bits of a cosine or a logarithm differ between machines.
        "coordinates": fingerprint({n: [f"{v:.12g}" for v in values] for n, values in along_timestep.items()}),
    }
    full_config = {**config, "store": store}
    coords = {name: ("timestep", values, UNITS.get(name, "1")) for name, values in along_timestep.items()}
    coords |= {"sample": ("sample", numbers, "1"), "label": ("sample", labels, "1")}
    target = Path(path)
    wanted = list(range(layout.blocks)) if blocks is None else sorted(set(blocks))
    if not wanted or wanted[0] < 0 or wanted[-1] >= layout.blocks:
        raise ValueError(
            f"blocks {wanted} were asked for, {samples} samples in blocks of {block} have 0 to {layout.blocks - 1}"
        )
    attrs = {
        "kind": "trajectories",
        "format": FORMAT,
        "config": canonical_json(full_config),
        "fingerprint": fingerprint(full_config),
        "environment": canonical_json(dict(environment or {})),
    }
    variables = trajectory_variables(log_variance)

    def build(at: Path) -> None:
        build_trajectories(at, layout, variables=variables, coords=coords, attrs=attrs, valid_range=valid_range)

    locks = BlockLocks(target)
    try:
        set_aside, stored = claim(target, layout, full_config, labels, stale, wanted, locks, build)
        layout = Layout.of(samples=stored, block=block, timesteps=layout.timesteps, shape=shape, dtype=dtype)
        return TrajectoryWriter(target, layout, variables, keepbits, wanted, locks, set_aside)
    except BaseException:
        locks.close()
        raise


def _along_timestep(
    timestep: ArrayLike,
    alpha_bar: ArrayLike,
    step: ArrayLike | None,
    model_time: ArrayLike | None,
    noise_sd: ArrayLike | None,
) -> dict[str, NDArray[Any]]:
    """Check the coordinates along timestep and derive the noise levels."""
    times = np.asarray(timestep, np.int64)
    if times.ndim != 1 or not len(times) or np.any(np.diff(times) >= 0):
        raise ValueError("timestep must be a list of unique integers in descending order (high noise first)")
    floats = times.astype(np.float64)
    signal = _like(floats, alpha_bar, None, "alpha_bar")
    with np.errstate(divide="ignore"):
        sigma = np.sqrt((1 - signal) / signal)
        log_snr = np.log(signal) - np.log1p(-signal)
    return {
        "timestep": times,
        "step": _like(times, step, np.arange(len(times)), "step"),
        "model_time": _like(floats, model_time, times, "model_time"),
        "alpha_bar": signal,
        "sigma": sigma,
        "log_snr": log_snr,
        "noise_sd": _like(floats, noise_sd, np.full(len(times), np.nan), "noise_sd"),
    }


def _like(pattern: NDArray[Any], values: ArrayLike | None, default: ArrayLike | None, name: str) -> NDArray[Any]:
    """Read values, or a default, as an array of a pattern's type and shape."""
    array = np.asarray(default if values is None else values, pattern.dtype)
    if array.shape != pattern.shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {pattern.shape}")
    return array


class TrajectoryWriter:
    """Takes the states of a reverse process step by step and writes them a whole shard at a time.

    `pending` lists the blocks not yet finished, `set_aside` where a stale store went. Whatever goes wrong on the
    background thread is raised by the next call and by `close`. Leaving a block unfinished loses only that block.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        variables: Mapping[str, tuple[str, ...]],
        keepbits: int | None,
        wanted: Sequence[int],
        locks: BlockLocks,
        set_aside: Path | None,
    ) -> None:
        self.path, self.layout, self.set_aside = path, layout, set_aside
        self.bytes_written = 0
        self._variables = variables
        self._keepbits = keepbits
        self._locks = locks
        self.pending = [block for block in wanted if not self._is_done(block)]
        for name in variables:
            for block in self.pending:
                for partial in (path / name).glob(f"c.{block}.*.partial"):
                    partial.unlink(missing_ok=True)
        self._block: int | None = None
        self._next = 0
        self._saturated = 0
        self._filling: dict[str, ShardBuffer] = {}
        self._free: dict[str, queue.Queue[ShardBuffer]] = {name: queue.Queue() for name in variables}
        self._made = dict.fromkeys(variables, 0)
        self._error: BaseException | None = None
        keep_freed_memory()
        self._pool = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: list[Future[None]] = []
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._drain, name="store-writer", daemon=True)
        self._thread.start()

    def put(
        self,
        block: int,
        step: int,
        x_t: ArrayLike,
        pred_x0: ArrayLike,
        log_variance: ArrayLike | None = None,
    ) -> None:
        """Take one timestep of a block: arrays of (block, channel, y, x), copied before this returns.

        step is the position along the stored timesteps and must come in order. Waits while the disk is behind.
        """
        self._raise_error()
        if step == 0:
            self._begin(block)
        if block != self._block or step != self._next:
            raise ValueError(
                f"block {block}, step {step} was put; expected block {self._block}, step {self._next}: steps come in "
                "order, one block at a time"
            )
        states = {"x_t": x_t, "pred_x0": pred_x0, "log_variance": log_variance}
        within = step % self.layout.shard_timesteps
        for name, dims in self._variables.items():
            if dims == STATE_DIMS:
                if within == 0 and name not in self._filling:
                    self._filling[name] = self._take_buffer(name)
                self._copy(name, self._filling[name].at(within), states[name])
        self._next += 1
        if within + 1 == self.layout.shard_timesteps or self._next == self.layout.timesteps:
            self._hand_over(block, step // self.layout.shard_timesteps)

    def finish(self, block: int, x_0: ArrayLike) -> None:
        """Take the final samples of a block and flag it as done once all its bytes are on disk."""
        self._raise_error()
        if block != self._block or self._next != self.layout.timesteps:
            raise ValueError(f"block {block} was finished after {self._next} of {self.layout.timesteps} timesteps")
        if "x_0" not in self._filling:
            self._filling["x_0"] = self._take_buffer("x_0")
        self._copy("x_0", self._filling["x_0"].at(0), x_0)
        self._hand_over(block, None)
        saturated = self._saturated
        self._work.put(lambda: self._flag(block, saturated))
        self._block = None
        self.pending = [other for other in self.pending if other != block]

    def close(self) -> None:
        """Wait until everything handed over is on disk, then give the locks back.

        Raises what went wrong on the background thread.
        """
        self._shut()
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._shut()

    def _shut(self) -> None:
        if self._thread.is_alive():
            self._work.put(None)
            self._thread.join()
            self._pool.shutdown()
            self._syncer.shutdown()
        self._locks.close()

    def _is_done(self, block: int) -> bool:
        flag = self.path / "done" / "c" / str(block)
        return flag.is_file() and flag.read_bytes() == one_flag(1)

    def _begin(self, block: int) -> None:
        if block not in self.pending:
            raise ValueError(f"block {block} was put; this writer's blocks are {ranges(self.pending) or 'none'}")
        self._block, self._next, self._saturated = block, 0, 0
        for name, buffer in self._filling.items():
            self._free[name].put(buffer)
        self._filling = {}

    def _take_buffer(self, name: str) -> ShardBuffer:
        if self._free[name].empty() and self._made[name] < BUFFERS:
            self._made[name] += 1
            states = self._variables[name] == STATE_DIMS
            return ShardBuffer(
                self.layout.block,
                self.layout.shard_timesteps if states else 1,
                (self.layout.chunk_samples, self.layout.chunk_timesteps if states else 1),
                self.layout.shape,
                self.layout.dtype if states else "float32",
            )
        buffer = self._free[name].get()
        self._raise_error()
        buffer.clear()
        return buffer

    def _copy(self, name: str, place: NDArray[Any], values: ArrayLike | None) -> None:
        expected = (self.layout.block, *self.layout.shape)
        if values is None:
            raise ValueError(f"{name} is missing; this store was created with it")
        array = np.asarray(values)
        kept = self.layout.samples_in(self._block or 0)
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}: a whole block of images")
        if place.dtype == np.float16:
            beyond = np.abs(array[:kept]) > FLOAT16_MAX
            self._saturated += int(np.count_nonzero(beyond))
            array = np.clip(array, -FLOAT16_MAX, FLOAT16_MAX)
        place[...] = array.reshape(place.shape)
        if kept < self.layout.block:
            # place is a strided view, so the padding is blanked chunk by chunk
            samples = place.shape[1]
            for row in range(place.shape[0]):
                place[row, max(0, kept - row * samples) :] = np.nan

    def _hand_over(self, block: int, shard: int | None) -> None:
        names = ["x_0"] if shard is None else [n for n, d in self._variables.items() if d == STATE_DIMS]
        for name in names:
            key = f"c.{block}.0.0.0" if shard is None else f"c.{block}.{shard}.0.0.0"
            buffer = self._filling.pop(name)
            self._work.put(
                lambda name=name, key=key, buffer=buffer: self._write(name, key, buffer, block)  # type: ignore[misc]
            )

    def _write(self, name: str, key: str, buffer: ShardBuffer, block: int) -> None:
        path = self.path / name / key
        keepbits = self._keepbits if self._variables[name] == STATE_DIMS else None
        try:
            if self._error is None:
                write_shard(path, buffer, self.layout.samples_in(block), keepbits, self._pool)
                self.bytes_written += path.stat().st_size
                # the disk takes this shard while the next one is encoded
                self._syncing.append(self._syncer.submit(sync, path))
        except BaseException as error:
            self._error = error  # before the buffer is free: whoever waits for it must see the error
        finally:
            self._free[name].put(buffer)

    def _flag(self, block: int, saturated: int) -> None:
        if self._error is not None:
            return
        for task in self._syncing:
            task.result()
        self._syncing = []
        for name in self._variables:
            sync(self.path / name)
        if self.layout.dtype == "float16":
            replace_file(self.path / "saturated" / "c" / str(block), one_flag(saturated, "int64"))
        replace_file(self.path / "done" / "c" / str(block), one_flag(1))
        sync(self.path / "done" / "c")

    def _drain(self) -> None:
        while (task := self._work.get()) is not None:
            try:
                task()
            except BaseException as error:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise StoreError(
                f"writing {self.path} failed: {self._error}. Finished blocks are safe; mend the cause and run the same "
                "command again"
            ) from self._error
