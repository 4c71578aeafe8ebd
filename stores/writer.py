"""Takes states step by step, encodes them chunk by chunk, writes whole shards on a background thread, then flags."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from traj.stores.binding import Seal
from traj.stores.claim import Claim, ranges
from traj.stores.errors import StoreError
from traj.stores.layout import Layout, sync
from traj.stores.manifest import Manifest, finish_block, pending_blocks
from traj.stores.shards import Column, ShardFile, clipped, encode, keep_freed_memory, not_finite

ENCODERS = 2
COLUMNS_AT_LEAST = 3  # one being filled, one encoded, one written
BUFFER_BYTES = 64 << 20
"""Memory per variable for states on their way to disk: columns of one chunk each."""

Encoded = Future[tuple[bytes, bytes]]


def columns_at_most(layout: Layout) -> int:
    """Count the columns of a variable that may be on their way at once."""
    return max(COLUMNS_AT_LEAST, BUFFER_BYTES // _column_bytes(layout))


def writer_bytes(layout: Layout, variables: int) -> int:
    """Give the most memory a writer takes: its columns and final samples, both raw and encoded.

    variables counts those with a timestep dim.
    """
    final = int(np.prod(layout.images)) * np.dtype("float32").itemsize
    return 2 * (variables * columns_at_most(layout) * _column_bytes(layout) + COLUMNS_AT_LEAST * final)


def _column_bytes(layout: Layout) -> int:
    return int(np.prod(layout.images)) * layout.chunk_timesteps * np.dtype(layout.dtype).itemsize


class TrajectoryWriter:
    """Takes the states of a reverse process step by step and writes whole shards in the background.

    `pending` lists the blocks not yet finished, `set_aside` where a stale store went. Whatever goes wrong on the
    background thread is raised by the next call and by `close`. Leaving a block unfinished loses only that block.
    """

    def __init__(self, claim: Claim) -> None:
        self.path, self.layout, self.set_aside = claim.path, claim.store.layout, claim.set_aside
        self.bytes_written = 0
        self._store, self._locks = claim.store, claim.locks
        self._states, self._variables = claim.store.states, tuple(claim.store.variables)
        self.pending = pending_blocks(self.path, claim.store.fingerprint, self.layout, claim.wanted)
        for name in self._variables:
            for block in self.pending:
                for partial in (self.path / name).glob(f"c.{'0.' * len(self.layout.lead)}{block}.*.partial"):
                    partial.unlink(missing_ok=True)
        self._block: int | None = None
        self._next = 0
        self._saturated = 0
        self._filling: dict[str, Column] = {}
        # The column last given back is the next one taken: it may still be in a cache.
        self._free: dict[str, queue.LifoQueue[Column]] = {name: queue.LifoQueue() for name in self._variables}
        self._made = dict.fromkeys(self._variables, 0)
        self._writing: dict[str, ShardFile] = {}
        self._files: dict[str, Seal] = {}
        self._not_finite: dict[str, int] = {}
        self._error: BaseException | None = None
        keep_freed_memory()
        self._pool = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: list[Future[None]] = []
        # Ctrl-C in the midst of Queue.put may leave the reader waiting for good; SimpleQueue's cannot be interrupted.
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
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
        """Take one timestep of a block: arrays of (block, *event), copied before this returns.

        In a fork store, arrays of (variant, replica, block, *event). step is the position along the stored
        timesteps and must come in order. Waits while the disk is behind.
        """
        self._raise_error()
        if step == 0:
            self._begin(block)
        if block != self._block or step != self._next or not self._states:
            raise ValueError(
                f"block {block}, step {step} was put; expected block {self._block}, step {self._next}: steps come in "
                "order, one block at a time"
                if self._states
                else f"step {step} was put into {self.path}, which keeps final samples only; expected finish alone"
            )
        states = {"x_t": x_t, "pred_x0": pred_x0, "log_variance": log_variance}
        within = step % self.layout.chunk_timesteps
        for name in self._states:
            if name not in self._filling:
                self._filling[name] = self._take_column(name)
            self._copy(name, within, states[name])
        self._next += 1
        if within + 1 == self.layout.chunk_timesteps or self._next == self.layout.timesteps:
            for name in self._states:
                self._filling[name].blank_from(within + 1)
                self._hand_over(name, block, step // self.layout.chunk_timesteps)

    def finish(self, block: int, x_0: ArrayLike) -> None:
        """Take the final samples of a block and flag it as done once all its bytes are on disk."""
        self._raise_error()
        if not self._states:
            self._begin(block)
        elif block != self._block or self._next != self.layout.timesteps:
            raise ValueError(f"block {block} was finished after {self._next} of {self.layout.timesteps} timesteps")
        if "x_0" not in self._filling:
            self._filling["x_0"] = self._take_column("x_0")
        self._copy("x_0", 0, x_0)
        self._hand_over("x_0", block, 0)
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
            self._work.put(self._discard)
            self._work.put(None)
            self._thread.join()
            self._pool.shutdown()
            self._syncer.shutdown()
        self._locks.close()

    def _begin(self, block: int) -> None:
        if block not in self.pending:
            raise ValueError(f"block {block} was put; this writer's blocks are {ranges(self.pending) or 'none'}")
        if self._block is not None:
            self._work.put(self._discard)
        self._block, self._next, self._saturated = block, 0, 0
        for name, column in self._filling.items():
            self._free[name].put(column)
        self._filling = {}

    def _take_column(self, name: str) -> Column:
        state = name in self._states
        limit = columns_at_most(self.layout) if state else COLUMNS_AT_LEAST
        if self._free[name].empty() and self._made[name] < limit:
            self._made[name] += 1
            if state:
                return Column(self.layout, self.layout.chunk_timesteps, self.layout.dtype)
            return Column(self.layout, 1, "float32")
        column = self._free[name].get()
        self._raise_error()
        return column

    def _copy(self, name: str, within: int, values: ArrayLike | None) -> None:
        if values is None:
            raise ValueError(f"{name} is missing; this store was created with it")
        array = np.asarray(values)
        if array.shape != self.layout.images:
            raise ValueError(f"{name} has shape {array.shape}, expected {self.layout.images}: a whole block of events")
        kept = self.layout.samples_in(self._block or 0)
        if name != "x_0" and self.layout.dtype == "float16":
            array, beyond = clipped(array)
            inside = (slice(None),) * len(self.layout.lead) + (slice(kept),)
            self._saturated += int(np.count_nonzero(beyond[inside]))
        self._filling[name].put(within, array, kept)

    def _hand_over(self, name: str, block: int, column: int) -> None:
        """Have a full column encoded, and written once the columns before it are."""
        full = self._filling.pop(name)
        state = name in self._states
        keepbits = self._store.keepbits if state else None
        kept = self.layout.samples_in(block)
        encoded = {row: self._pool.submit(encode, chunk, keepbits) for row, chunk in full.inside(kept)}
        # forks have NaN for states that they did not visit
        blank = len(self.layout.shape) if state and self.layout.lead else None
        counts = [self._pool.submit(not_finite, values, blank) for values in full.given(kept)]
        columns = self.layout.shard_timesteps // self.layout.chunk_timesteps if state else 1
        shard, place = divmod(column, columns)
        last = place + 1 == columns or not state or self._next == self.layout.timesteps
        place_along = [shard] if state else []
        key = ".".join(
            map(str, ["c", *[0] * len(self.layout.lead), block, *place_along, *[0] * len(self.layout.shape)])
        )
        self._work.put(lambda: self._write(name, self.path / name / key, columns, place, last, full, encoded, counts))

    def _write(
        self,
        name: str,
        path: Path,
        columns: int,
        place: int,
        last: bool,
        full: Column,
        encoded: dict[int, Encoded],
        counts: list[Future[int]],
    ) -> None:
        try:
            if self._error is None:
                if name not in self._writing:
                    rows = self.layout.leads * self.layout.block // self.layout.chunk_samples
                    self._writing[name] = ShardFile(path, rows, columns)
                for row, chunk in encoded.items():
                    self._writing[name].append(row, place, chunk.result())
                self._not_finite[name] = self._not_finite.get(name, 0) + sum(count.result() for count in counts)
                if last:
                    seal = self._writing.pop(name).complete()
                    self._files[f"{name}/{path.name}"] = seal
                    self.bytes_written += seal[0]
                    # the disk takes this shard while the next one is encoded
                    self._syncing.append(self._syncer.submit(sync, path))
        except BaseException as error:
            self._error = error  # before the column is free: whoever waits for it must see the error
        finally:
            # a column must not be filled again while it is being encoded
            wait(encoded.values())
            wait(counts)
            self._free[name].put(full)

    def _discard(self) -> None:
        """Remove the shards of a block that was left unfinished."""
        for shard in self._writing.values():
            shard.discard()
        self._writing, self._files, self._not_finite = {}, {}, {}

    def _flag(self, block: int, saturated: int) -> None:
        if self._error is not None:
            return
        for task in self._syncing:
            task.result()
        self._syncing = []
        for name in self._variables:
            sync(self.path / name)
        finish_block(
            self.path,
            Manifest(
                fingerprint=self._store.fingerprint,
                block=block,
                samples=self.layout.samples_in(block),
                files=self._files,
                not_finite=self._not_finite,
                saturated=saturated,
                environment=self._store.environment,
            ),
        )
        self._files, self._not_finite = {}, {}

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
