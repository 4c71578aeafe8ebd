"""The loop over a store's blocks that generating and forking share."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from tqdm import tqdm

from traj.pipeline.making.hostcopy import HostCopy
from traj.pipeline.process.device import inference
from traj.stores import NotFinite, TrajectoryWriter

Make = Callable[[int, HostCopy, ThreadPoolExecutor, tqdm], torch.Tensor]


def make_blocks(
    store: TrajectoryWriter,
    make: Make,
    device: torch.device,
    *,
    tf32: bool,
    steps: int,
    images: int,
    of: str,
    bar: bool,
) -> None:
    """Make a store's pending blocks, one after the other; finished ones stay whatever happens.

    ``make`` gives a block's final samples from its number, a host copy for its states, a thread to draw noise on and
    the bar to move at each step. ``steps`` and ``images``, final samples ``of`` some kind, are those of one block.

    Raises NotFinite when final samples are not finite, and whatever ``make`` and the store raise.
    """
    pending = list(store.pending)
    # disable=None: no bar where stderr is no terminal
    with (
        tqdm(total=len(pending) * steps, unit="step", disable=None if bar else True) as progress,
        HostCopy(store, device) as host,
        ThreadPoolExecutor(1, thread_name_prefix="noise") as pool,
        inference(tf32),
    ):
        begun = time.perf_counter()
        for count, block in enumerate(pending, 1):
            x_0 = make(block, host, pool, progress).cpu()
            if not torch.isfinite(x_0).all():
                raise NotFinite(
                    f"block {block} ended in values that are not finite; check the model, or make the run without "
                    "--autocast"
                )
            host.flush()
            store.finish(block, x_0.numpy())
            seconds = time.perf_counter() - begun
            rate, written = count * images / seconds, store.bytes_written / seconds / 1e6
            progress.set_postfix_str(f"{rate:.1f} {of}/s, {written:.1f} MB/s")
