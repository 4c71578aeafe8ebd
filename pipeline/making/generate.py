"""Generate full reverse trajectories and keep every x_t and every pred_x0."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from traj import stores
from traj.pipeline import models
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, peak_memory
from traj.pipeline.making.hostcopy import SLOTS, HostCopy
from traj.pipeline.making.loop import make_blocks, of_events
from traj.pipeline.making.shortcut import shortcut
from traj.pipeline.parsing import check_count
from traj.pipeline.process import plans, sampler
from traj.pipeline.process.denoiser import Conditions, Denoiser, dims_of, network_of
from traj.pipeline.process.device import call_seconds, choose_device, draw_seconds
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.noise import NoiseAhead, NoiseSource, Purpose
from traj.pipeline.process.plan import Plan, Step
from traj.stores import InputError, Layout, checked_event, writer_bytes

# Raised by hand when the numbers of a run change for equal inputs; a test against goldens says when.
NUMERICS = 1


@dataclass(frozen=True)
class Generation:
    """A run to be made: a denoiser, a plan, and what of it to keep. Building it touches no file of the run."""

    denoiser: Denoiser
    plan: Plan
    device: torch.device
    samples: int
    block: int
    seed: int
    conditions: Conditions
    every: int
    dtype: Literal["float32", "float16"]
    round_bits: int | None
    autocast: bool
    guidance: float = 1.0
    tf32: bool = False

    @property
    def kept(self) -> list[int]:
        """Positions along the plan whose states are stored: every k-th, and the last."""
        steps = len(self.plan.steps)
        return sorted({*range(0, steps, self.every), steps - 1})

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {
            "numerics": NUMERICS,
            "model": self.denoiser.identity,
            "schedule": self.denoiser.schedule.identity,
            "plan": self.plan.to_json(),
            "seed": self.seed,
            "condition": dict(self.conditions.asked),
            "every": self.every,
            "autocast": self.autocast,
            **({} if self.guidance == 1 else {"guidance": self.guidance}),
            **({"tf32": True} if self.tf32 else {}),
        }

    @property
    def layout(self) -> Layout:
        """How the run will lie on disk."""
        return Layout.of(
            samples=self.samples,
            block=self.block,
            timesteps=len(self.kept),
            shape=self.denoiser.shape,
            dtype=self.dtype,
            states=3 if self.learned else 2,
        )

    @property
    def learned(self) -> bool:
        """Whether the plan's variance comes from the network."""
        return any(step.variance == "learned" for step in self.plan.steps)

    @property
    def makes_pictures(self) -> bool:
        """Whether its events are grey or colour images, which entropy takes."""
        shape, dims = checked_event(self.denoiser.shape, dims_of(self.denoiser))
        return dims == stores.IMAGE_DIMS and shape[0] in (1, 3)

    @property
    def noisy(self) -> list[int]:
        """Timesteps of the steps that add noise."""
        timesteps = enumerate(self.plan.timesteps)
        return [timestep for k, timestep in timesteps if sampler.adds_noise(self.denoiser.schedule, self.plan, k)]

    @cached_property
    def call_seconds(self) -> float:
        """How long a network call with a whole block takes."""
        x_t = torch.zeros((self.block, *self.denoiser.shape), device=self.device)
        condition = self.conditions.of(range(self.block), self.device)
        return call_seconds(self.denoiser, x_t, self.plan.steps[0].timestep, condition, self.tf32)

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.TrajectoryWriter:
        """Create, resume or extend the run's store."""
        timesteps = [self.plan.timesteps[k] for k in self.kept]
        told = self.conditions.visible(range(self.layout.samples))  # a layout refuses what no machine can hold
        return stores.create(
            out,
            **of_events(self.denoiser, self.plan, timesteps, told, self.device),
            step=self.kept,
            noise_sd=sampler.noise_sd(self.denoiser.schedule, self.plan)[self.kept],
            samples=self.samples,
            block=self.block,
            dtype=self.dtype,
            keepbits=self.round_bits,
            log_variance=self.learned,
            config=self.config,
            stale=stale,
            blocks=blocks,
        )

    def cost(self, out: Path, blocks: int | None = None) -> Cost:
        """Estimate what a number of blocks will take (all of the run by default), after a few trials."""
        blocks = self.layout.blocks if blocks is None else blocks
        seconds = self.call_seconds
        drawing = draw_seconds(NoiseSource(self.seed, self.denoiser.shape), range(self.block))
        variables = 3 if self.learned else 2
        images = blocks * self.block * (variables * len(self.kept) * np.dtype(self.dtype).itemsize + 4)
        in_flight = 2 * SLOTS * variables * self.block * 4 * int(np.prod(self.denoiser.shape))
        return Cost(
            evaluations=blocks * self.plan.evaluations,
            seconds=blocks * (self.plan.evaluations * seconds + (1 + len(self.noisy)) * drawing),
            disk=images * int(np.prod(self.denoiser.shape)),
            disk_free=disk_free(out),
            memory=peak_memory() + writer_bytes(self.layout, variables) + in_flight + MARGIN_BYTES,
        )

    def run(self, store: stores.TrajectoryWriter, *, bar: bool = True) -> None:
        """Generate the store's pending blocks.

        Raises StoreError when writing fails, FloatingPointError when the network's numbers are not finite. Finished
        blocks stay whatever happens.
        """
        steps = len(self.plan.steps)
        make_blocks(
            store, self._block, self.device, tf32=self.tf32, steps=steps, images=self.block, of="samples", bar=bar
        )

    def _block(self, block: int, host: HostCopy, pool: ThreadPoolExecutor, progress: tqdm) -> torch.Tensor:
        ids = range(block * self.block, (block + 1) * self.block)
        source = NoiseSource(self.seed, self.denoiser.shape)
        start_sd = self.denoiser.schedule.start_sd(self.plan.timesteps[0])
        x_T = start_sd * torch.from_numpy(source(Purpose.START, ids, 0)).to(self.device)
        ahead = NoiseAhead(
            source, ids, [(timestep, 0) for timestep in self.noisy], pool
        )  # from here on the source is that thread's alone
        position = {k: i for i, k in enumerate(self.kept)}

        def noise(_: int, step: Step) -> torch.Tensor:
            return torch.from_numpy(ahead(step.timestep)).to(self.device, non_blocking=True)

        def keep(_: int, k: int, *states: torch.Tensor | None) -> None:
            if k in position:
                host.put(block, position[k], [state for state in states if state is not None])
            progress.update()

        def condition(times: int) -> Any:
            return self.conditions.of([*ids] * times, self.device)

        (x_0,) = sampler.reverse(self.denoiser, [self.plan], condition, start=lambda _: x_T, noise=noise, keep=keep)
        return x_0


def prepare(
    *,
    model: str,
    schedule: str | None = None,
    guidance: float = 1.0,
    sampler_name: str = "ddpm",
    plan_name: Literal["baseline", "shortcut"] = "baseline",
    steps: int | None = None,
    timesteps: Sequence[int] = (),
    eta: float | None = None,
    variance: str | None = None,
    clip: bool | None = None,
    eps: str | None = None,
    spacing: str | None = None,
    samples: int = 64,
    block: int = 32,
    seed: int = 0,
    labels: str = "none",
    every: int = 1,
    dtype: Literal["float32", "float16"] = "float32",
    round_bits: int | None = None,
    device: str = "auto",
    autocast: bool = False,
    tf32: bool = False,
) -> Generation:
    """Load the model and lay out the run, by the sampler's own plan or by the shortcut of 002 through it.

    ``schedule`` is that of an exact denoiser, by name. Where the schedule is a grid, ``steps`` is its size, and
    ``timesteps`` choose some of it.

    Raises InputError or MissingFile for what cannot be.
    """
    for name, count in (("samples", samples), ("block", block), ("every", every)):
        check_count(name, count)
    if round_bits is not None and (dtype != "float32" or not 1 <= round_bits <= 22):
        raise InputError(f"--round-bits {round_bits} was given with --dtype {dtype}; expected 1 to 22, with float32")
    where = choose_device(device)
    denoiser = models.load(model, str(where), autocast, schedule=schedule, steps=steps)
    denoiser = guided(denoiser, guidance)
    conditions = denoiser.conditions({"labels": labels})
    if timesteps and steps is not None and not denoiser.schedule.is_grid:
        raise InputError(f"steps {steps} and timesteps by hand were given, expected one of them")
    chosen = plans.choose(denoiser, sampler_name, timesteps or steps, eta, variance, clip, eps, spacing)
    if plan_name == "shortcut":
        chosen = shortcut(chosen, network_of(denoiser))
    return Generation(
        denoiser=denoiser,
        plan=chosen,
        device=where,
        samples=samples,
        block=block,
        seed=seed,
        conditions=conditions,
        every=every,
        dtype=dtype,
        round_bits=round_bits,
        autocast=autocast,
        guidance=guidance,
        tf32=tf32 and where.type == "cuda",
    )
