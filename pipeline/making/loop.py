"""What generating and forking share: what they say of their events, what they cost, the loop over a store's blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, peak_memory
from traj.pipeline.making.hostcopy import SLOTS, HostCopy
from traj.pipeline.process.denoiser import Denoiser, dims_of
from traj.pipeline.process.device import environment, inference
from traj.pipeline.process.plan import Plan
from traj.stores import Layout, NotFinite, TrajectoryWriter, writer_bytes

Make = Callable[[int, HostCopy, ThreadPoolExecutor, tqdm], torch.Tensor]


def of_events(
    denoiser: Denoiser, plan: Plan, timesteps: Sequence[int], told: Mapping[str, np.ndarray], device: torch.device
) -> dict[str, Any]:
    """Say of a store what its events are, at which noise they are kept, what they are told, and where they are made."""
    timestep, schedule = np.array(timesteps), denoiser.schedule
    return {
        "timestep": timestep,
        "signal": schedule.signal[timestep],
        "noise_scale": schedule.noise_scale[timestep],
        "model_time": schedule.model_time[timestep],
        **told,
        "shape": denoiser.shape,
        "dims": dims_of(denoiser),
        "valid_range": plan.valid_range(denoiser.valid_range),
        "environment": {"model": denoiser.name, **environment(device)},
    }


def cost_of(
    layout: Layout,
    out: Path,
    blocks: int,
    *,
    states: int,
    evaluations: int,
    seconds: float,
    held: int = 0,
    note: str = "",
) -> Cost:
    """Estimate what a number of blocks will take, of which each has so many evaluations and takes so many seconds.

    ``states`` counts the variables along timestep, ``held`` the values (float32) that a block holds in memory beside
    those on their way to the store.
    """
    values = math.prod(layout.images)
    on_their_way = 2 * SLOTS * states * values
    return Cost(
        evaluations=blocks * evaluations,
        seconds=blocks * seconds,
        disk=blocks * values * (states * layout.timesteps * np.dtype(layout.dtype).itemsize + 4),
        disk_free=disk_free(out),
        memory=peak_memory() + writer_bytes(layout, states) + 4 * (on_their_way + held) + MARGIN_BYTES,
        note=note,
    )


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
