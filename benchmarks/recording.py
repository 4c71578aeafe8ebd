"""Calls of a pipeline that runs its own loop, with and without a recorder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

import traj
from benchmarks.generation import CIFAR10
from benchmarks.timing import Row, Target, interleave, per_round, seconds_text

TITLE = "Recording: calls of a pipeline with all states kept, against the same calls"


class Loop:
    """A pipeline whose network does nothing, and takes so many seconds for it."""

    def __init__(self, seconds: float) -> None:
        self.scheduler, self.seconds = DDIMScheduler(clip_sample=False), seconds

    def __call__(self, batch: int, steps: int) -> torch.Tensor:
        """Make latents of Stable Diffusion's shape."""
        self.scheduler.set_timesteps(steps)
        x_t = torch.randn(batch, 4, 64, 64, generator=torch.Generator().manual_seed(0))
        for timestep in self.scheduler.timesteps:
            time.sleep(self.seconds)
            x_t = self.scheduler.step(0.1 * x_t, timestep, x_t).prev_sample
        return x_t


def rows(tiny: bool) -> list[Row]:
    """Measure with a network that sleeps, and with one of CIFAR size on a GPU where there is one."""
    if tiny:
        return [_row("tiny", Loop(0.001), calls=1, rounds=1, batch=2, steps=3)]
    asleep = _row("network that sleeps 50 ms, 2 x 4 x 64 x 64", Loop(0.05), calls=4, rounds=3, batch=2, steps=50)
    return [asleep, *([on_gpu()] if torch.cuda.is_available() else [])]


def on_gpu() -> Row:
    """Measure a DDIMPipeline on a GPU."""
    torch.manual_seed(0)
    pipe = DDIMPipeline(UNet2DModel(**CIFAR10).eval().requires_grad_(False), DDIMScheduler()).to("cuda")
    pipe.set_progress_bar_config(disable=True)

    def call(batch: int, steps: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe(batch_size=batch, num_inference_steps=steps, generator=generator, output_type="np")

    name = f"ddpm-cifar10-32 network, float32, 64 images, {torch.cuda.get_device_name()}"
    return _row(name, pipe, calls=4, rounds=3, batch=64, steps=50, call=call)


def _row(
    name: str, pipe: Any, *, calls: int, rounds: int, batch: int, steps: int, call: Callable[..., Any] | None = None
) -> Row:
    def run() -> None:
        for _ in range(calls):
            (call or pipe)(batch, steps)

    def recorded(folder: Path) -> None:
        with traj.record(pipe, folder / "calls.zarr"):
            run()

    (call or pipe)(batch, min(steps, 3))  # warms up
    seconds = interleave({"recorded": recorded, "plain": lambda folder: run()}, rounds)
    return Row(
        f"{name}, {calls} calls of {steps} steps, to the last byte on disk",
        seconds_text(seconds["recorded"]),
        "not recorded",
        seconds_text(seconds["plain"]),
        per_round(seconds["recorded"], seconds["plain"]),
        Target("at most", 1.02),
    )
