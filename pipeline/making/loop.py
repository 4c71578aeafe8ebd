"""What generating and forking share: what they say of their events, and the loop over a store's blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from traj.pipeline.making.hostcopy import HostCopy
from traj.pipeline.process.denoiser import Denoiser, dims_of
from traj.pipeline.process.device import environment, inference
from traj.pipeline.process.plan import Plan
from traj.stores import NotFinite, TrajectoryWriter

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
