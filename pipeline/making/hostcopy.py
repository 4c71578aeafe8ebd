"""From the device to the store without holding up the network."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import torch
from numpy.typing import NDArray

SLOTS = 4

Slot = list[torch.Tensor] | None
"""Pinned memory for the tensors of a step; None before its first use, and on a CPU, where none is needed."""


class Taker(Protocol):
    """What takes the tensors of each step, such as a store's writer."""

    def put(self, block: int, step: int, x_t: NDArray[Any], pred_x0: NDArray[Any], /) -> None:
        """Take a step; its arrays are overwritten afterwards."""
        ...


class Stored(NamedTuple):
    """A step on its way: where it belongs, its tensors, when their copy is there, and the slot it takes up."""

    block: int
    step: int
    tensors: list[torch.Tensor]
    ready: torch.cuda.Event | None
    slot: Slot


class HostCopy:
    """Takes the tensors of each step and puts them into a store on a thread of its own.

    On a GPU, each step is copied into a slot of pinned memory on a side stream; an event tells the thread when the
    copy is there. The network waits only when all slots are still on their way to disk. On a CPU, the tensors
    themselves wait in the queue: the sampler makes new ones each step and never writes into old ones.
    """

    def __init__(self, store: Taker, device: torch.device) -> None:
        self._store = store
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Ctrl-C in the midst of Queue.put may leave the reader waiting for good; SimpleQueue's cannot be interrupted.
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(None)
        self._steps: SimpleQueue[Stored | SimpleQueue[None] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, name="host-copy", daemon=True)
        self._thread.start()

    def put(self, block: int, step: int, tensors: list[torch.Tensor]) -> None:
        """Take one stored step; what went wrong with an earlier one is raised here."""
        self._raise_error()
        slot, ready = self._free.get(), None
        if self._stream is not None:
            slot = slot or [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                for host, tensor in zip(slot, tensors, strict=True):
                    host.copy_(tensor, non_blocking=True)
                    tensor.record_stream(self._stream)
                ready = torch.cuda.Event()
                ready.record(self._stream)
            tensors = slot
        self._steps.put(Stored(block, step, tensors, ready, slot))

    def flush(self) -> None:
        """Wait until the store has taken every step."""
        taken: SimpleQueue[None] = SimpleQueue()
        self._steps.put(taken)
        taken.get()
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

    def _drain(self) -> None:
        while (item := self._steps.get()) is not None:
            if isinstance(item, SimpleQueue):
                item.put(None)
                continue
            try:
                if self._error is None:
                    if item.ready is not None:
                        item.ready.synchronize()
                    self._store.put(item.block, item.step, *[tensor.numpy() for tensor in item.tensors])
            except BaseException as error:
                self._error = error
            finally:
                self._free.put(item.slot)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
