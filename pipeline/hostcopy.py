"""From the device to the store without holding up the network."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Self

import torch

from stores import TrajectoryWriter

SLOTS = 4


class HostCopy:
    """Takes the tensors of each step and puts them into a store on a thread of its own.

    On a GPU, each step is copied into a slot of pinned memory on a side stream; an event tells the thread when the
    copy is there. The network waits only when all slots are still on their way to disk. On a CPU, the tensors
    themselves wait in the queue: the sampler makes new ones each step and never writes into old ones.
    """

    def __init__(self, store: TrajectoryWriter, device: torch.device) -> None:
        self._store = store
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._free: queue.Queue[list[torch.Tensor]] = queue.Queue()
        self._slots = 0
        self._steps: queue.Queue[tuple[int, int, list[torch.Tensor], torch.cuda.Event | None] | None] = queue.Queue(
            SLOTS
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, name="host-copy", daemon=True)
        self._thread.start()

    def put(self, block: int, step: int, tensors: list[torch.Tensor]) -> None:
        """Take one stored step; what went wrong with an earlier one is raised here."""
        self._raise_error()
        ready = None
        if self._stream is not None:
            slot = self._take_slot(tensors)
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                for host, tensor in zip(slot, tensors, strict=True):
                    host.copy_(tensor, non_blocking=True)
                    tensor.record_stream(self._stream)
                ready = torch.cuda.Event()
                ready.record(self._stream)
            tensors = slot
        self._steps.put((block, step, tensors, ready))

    def flush(self) -> None:
        """Wait until the store has taken every step."""
        self._steps.join()
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.put(None)
        self._thread.join()
        if error is None:
            self._raise_error()

    def _take_slot(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._slots < SLOTS:
            self._slots += 1
            return [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        return self._free.get()

    def _drain(self) -> None:
        while (item := self._steps.get()) is not None:
            block, step, tensors, ready = item
            try:
                if self._error is None:
                    if ready is not None:
                        ready.synchronize()
                    self._store.put(block, step, *[tensor.numpy() for tensor in tensors])
            except BaseException as error:
                self._error = error
            finally:
                if ready is not None:
                    self._free.put(tensors)
                self._steps.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
