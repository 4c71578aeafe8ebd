"""Generate full reverse trajectories and keep every x_t and every pred_x0."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from traj import stores
from traj.pipeline import models
from traj.pipeline.estimate import Cost
from traj.pipeline.making.hostcopy import HostCopy
from traj.pipeline.making.loop import cost_of, make_blocks, of_events
from traj.pipeline.making.shortcut import shortcut
from traj.pipeline.models import starts
from traj.pipeline.models.labels import NONE, SOURCE
from traj.pipeline.models.starts import Source
from traj.pipeline.parsing import check_count
from traj.pipeline.process import forward, plans, sampler
from traj.pipeline.process.denoiser import Conditions, Denoiser, dims_of, network_of
from traj.pipeline.process.device import Timed, call_seconds, choose_device, draw_seconds
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.noise import NoiseAhead, NoiseSource, Purpose
from traj.pipeline.process.plan import Plan, Step
from traj.stores import InputError, Layout, checked_event

# Raised by hand when the numbers of a run change for equal inputs; a test against goldens says when.
NUMERICS = 1
SAMPLES = 64
"""Of a run that is not told how many; all that it can start from where those are fewer."""
NUMERICS_NOISED = 2
"""Of x_0 that is noised to all timesteps."""


@dataclass(frozen=True)
class Generation:
    """A run to be made: a denoiser, a plan, and what of it to keep. Building it touches no file of the run.

    It starts from noise, or from the x_0 of a ``source``, noised to the plan's first timestep. ``noised`` says that no
    plan is run: each x_0 is noised to all timesteps of the plan, and stays the end; with ``inversion`` it is led there
    by the model instead, backwards through the plan. ``skipped`` are the steps that a late start leaves out. A person
    is told of ``cautions`` before it begins.
    """

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
    source: Source | None = None
    noised: bool = False
    inversion: bool = False
    skipped: tuple[Step, ...] = ()
    size: tuple[int, int] | None = None
    variant: str | None = None
    cautions: tuple[str, ...] = ()

    @property
    def kept(self) -> list[int]:
        """Positions along the plan whose states are stored: every k-th, and the last."""
        steps = len(self.plan.steps)
        return sorted({*range(0, steps, self.every), steps - 1})

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {
            "numerics": NUMERICS_NOISED if self.noised and not self.inversion else NUMERICS,
            "model": self.denoiser.identity,
            "schedule": self.denoiser.schedule.identity,
            "plan": self.plan.to_json(),
            "seed": self.seed,
            "condition": dict(self.conditions.asked),
            "every": self.every,
            "autocast": self.autocast,
            **({} if self.guidance == 1 else {"guidance": self.guidance}),
            **({"tf32": True} if self.tf32 else {}),
            **({} if self.source is None else {"noised" if self.noised else "start": _origin(self.source)}),
            **({"inversion": True} if self.inversion else {}),
            **({} if self.size is None else {"size": list(self.size)}),
            **({} if self.variant is None else {"variant": self.variant}),
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
            states=self.states,
        )

    @property
    def states(self) -> int:
        """Number of variables along timestep: x_t, pred_x0 and, where it is learned, the variance."""
        return 3 if self.learned else 2

    @property
    def learned(self) -> bool:
        """Whether the plan's variance comes from the network."""
        return any(step.variance == "learned" for step in self.plan.steps)

    def following(self, out: Path) -> str:
        """Give the command to go on with: latents are decoded first, and entropy takes grey and colour images only."""
        if self.denoiser.valid_range is None:
            return stores.how_to_decode(out, "trajectories")
        shape, dims = checked_event(self.denoiser.shape, dims_of(self.denoiser))
        quantity = "entropy" if dims == stores.IMAGE_DIMS and shape[0] in (1, 3) else "psnr"
        return f"traj analyze {quantity} {out}"

    @property
    def walked(self) -> Plan:
        """The plan by which states follow one another: the bridge to x_0 where that is known."""
        return forward.bridge(self.plan) if self.noised and not self.inversion else self.plan

    @property
    def addresses(self) -> list[tuple[int, int]]:
        """The noise of the steps that add some, (timestep, replica): of a bridge by the timestep it lands on."""
        schedule, walked = self.denoiser.schedule, self.walked
        noisy = [step for k, step in enumerate(walked.steps) if sampler.adds_noise(schedule, walked, k)]
        return [(step.lands_on if self.noised else step.timestep, 0) for step in noisy]

    @property
    def evaluations(self) -> int:
        """Network evaluations of a sample."""
        return len(self.kept) if self.noised and not self.inversion else self.plan.evaluations

    def trial(self, samples: int | None = None) -> tuple[torch.Tensor, Any]:
        """Make states and the condition of so many samples, by default a whole block, for trial evaluations."""
        count = self.block if samples is None else samples
        x_t = torch.zeros((count, *self.denoiser.shape), device=self.device)
        return x_t, self.conditions.of(range(count), self.device)

    @cached_property
    def call_seconds(self) -> Timed:
        """How long a network call with a whole block takes."""
        return call_seconds(self.denoiser, self.trial, self.block, self.plan.steps[0].timestep, self.tf32)

    @cached_property
    def start_seconds(self) -> float:
        """How long the source takes for the x_0 of a block, the median of a few; 0 for a run from noise."""
        if self.source is None:
            return 0.0
        self.source.x_0(range(self.block))  # warms up

        def timed(source: Source) -> float:
            begun = time.perf_counter()
            source.x_0(range(self.block))
            return time.perf_counter() - begun

        return median(timed(self.source) for _ in range(3))

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.TrajectoryWriter:
        """Create, resume or extend the run's store."""
        timesteps = [self.plan.timesteps[k] for k in self.kept]
        told = dict(self.conditions.visible(range(self.layout.samples)))  # a layout refuses what no machine can hold
        if self.noised and self.source:  # the data's, whatever the model is told
            told["label"] = np.array((self.source.labels or [NONE] * self.samples)[: self.samples])
        described = of_events(self.denoiser, self.plan, timesteps, told, self.device)
        if self.source is not None:
            described["environment"] |= {"source": self.source.name}
        return stores.create(
            out,
            **described,
            step=self.kept,
            noise_sd=sampler.noise_sd(self.denoiser.schedule, self.walked)[self.kept],
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
        drawing = draw_seconds(NoiseSource(self.seed, self.denoiser.shape), range(self.block))
        return cost_of(
            self.layout,
            out,
            self.layout.blocks if blocks is None else blocks,
            states=self.states,
            evaluations=self.evaluations,
            seconds=self.evaluations * self.call_seconds.seconds
            + (1 + len(self.addresses)) * drawing
            + self.start_seconds,
            held=2 * len(self.kept) * math.prod(self.layout.images) if self.inversion else 0,
            note=self.call_seconds.note,
        )

    def run(self, store: stores.TrajectoryWriter, *, bar: bool = True) -> None:
        """Generate the store's pending blocks.

        Raises StoreError when writing fails, FloatingPointError when the network's numbers are not finite. Finished
        blocks stay whatever happens.
        """
        steps = len(self.kept if self.noised else self.plan.steps)
        make_blocks(
            store, self._block, self.device, tf32=self.tf32, steps=steps, images=self.block, of="samples", bar=bar
        )

    def _block(self, block: int, host: HostCopy, pool: ThreadPoolExecutor, progress: tqdm) -> torch.Tensor:
        ids = range(block * self.block, (block + 1) * self.block)
        noise_source = NoiseSource(self.seed, self.denoiser.shape)
        known, start = self._start(ids, noise_source)
        purpose = Purpose.BRIDGE if self.noised else Purpose.STEP
        # from here on the source of noise is that thread's alone
        ahead = NoiseAhead(noise_source, ids, self.addresses, pool, purpose)
        position = {k: i for i, k in enumerate(self.kept)}

        def noise(step: Step) -> torch.Tensor:
            timestep = step.lands_on if self.noised else step.timestep
            return torch.from_numpy(ahead(timestep)).to(self.device, non_blocking=True)

        def keep(k: int, *states: torch.Tensor | None) -> None:
            if k in position:
                host.put(block, position[k], [state for state in states if state is not None])
            progress.update()

        def condition(times: int) -> Any:
            return self.conditions.of([*ids] * times, self.device)

        if self.noised and known is not None:
            asked = self.denoiser, self.plan, condition(1), known
            if self.inversion:
                forward.inverted(*asked, keep=keep, kept=position)
            else:
                forward.noised(*asked, start, noise=noise, keep=keep, kept=position)
            return known
        (x_0,) = sampler.reverse(
            self.denoiser,
            [self.plan],
            condition,
            start=lambda _: start,
            noise=lambda _, step: noise(step),
            keep=lambda _, *kept: keep(*kept),
        )
        return x_0

    def _start(self, ids: range, noise: NoiseSource) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Make a block's x_0, where it is known, and its first states."""
        schedule, first = self.denoiser.schedule, self.plan.timesteps[0]
        if self.source is None:
            return None, schedule.start_sd(first) * torch.from_numpy(noise(Purpose.START, ids, 0)).to(self.device)
        x_0 = torch.from_numpy(self.source.x_0(ids)).to(self.device)
        self.source.require_unchanged()
        purpose = Purpose.NOISED if self.noised else Purpose.RENOISE
        eps = torch.from_numpy(noise(purpose, ids, first)).to(self.device)
        return x_0, forward.noise_to(schedule, first, x_0, eps)


def prepare(
    *,
    model: str,
    schedule: str | None = None,
    size: tuple[int, int] | None = None,
    variant: str | None = None,
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
    samples: int | None = None,
    block: int = 32,
    seed: int = 0,
    labels: str = "none",
    prompts: Sequence[str] = (),
    negative_prompt: str | None = None,
    every: int = 1,
    dtype: Literal["float32", "float16"] = "float32",
    round_bits: int | None = None,
    device: str = "auto",
    autocast: bool = False,
    tf32: bool = False,
    start: str | None = None,
    start_step: int | None = None,
    noised: bool = False,
    inversion: bool = False,
) -> Generation:
    """Load the model and lay out the run, by the sampler's own plan or by the shortcut of 002 through it.

    ``schedule`` is that of an exact denoiser, by name, ``size`` the height and width of images, and ``variant``
    that of the weights of a pipeline. Sample k is made under the k-th of ``prompts``, or of those from the first on
    again. Where the schedule is a grid, ``steps`` is its size, and ``timesteps`` choose some of it. ``start`` names
    a source of x_0, from which the plan is run from timestep ``start_step`` on, which it must visit (METHODS 2.4);
    with ``noised`` its x_0 are noised to all timesteps instead, or led there by ``inversion``.

    Raises InputError or MissingFile for what cannot be.
    """
    for name, count in (("samples", SAMPLES if samples is None else samples), ("block", block), ("every", every)):
        check_count(name, count)
    if round_bits is not None and (dtype != "float32" or not 1 <= round_bits <= 22):
        raise InputError(f"--round-bits {round_bits} was given with --dtype {dtype}; expected 1 to 22, with float32")
    if (start is None) != (start_step is None) and not noised:
        raise InputError("expected both --start and --start-step, or neither: x_0 is noised to that timestep")
    where = choose_device(device)
    source = None if start is None else starts.load(start, seed)
    denoiser = models.load(model, str(where), autocast, schedule=schedule, steps=steps, size=size, variant=variant)
    cautions: tuple[str, ...] = getattr(denoiser, "cautions", ())
    denoiser = guided(denoiser, guidance)
    if source is not None:
        source = starts.fitted(source, denoiser, model, variant, str(where))
        if samples is not None and source.samples is not None and samples > source.samples:
            raise InputError(f"samples {samples} was given, but {start} has {source.samples}; ask for at most those")
        if seed in source.seeds and not noised:
            raise InputError(
                f"{start}, or what it was made from, was made with seed {seed} too, so that its samples would meet the "
                "noise that made them; give another --seed"
            )
    if samples is None:
        samples = SAMPLES if source is None or source.samples is None else min(SAMPLES, source.samples)
    told = {"prompts": list(prompts) or None, "negative_prompt": negative_prompt}
    given = {key: value for key, value in told.items() if value is not None}
    conditions = denoiser.conditions({"labels": _labels(labels, source), **given})
    if timesteps and steps is not None and not denoiser.schedule.is_grid:
        raise InputError(f"steps {steps} and timesteps by hand were given, expected one of them")
    chosen = plans.choose(denoiser, sampler_name, timesteps or steps, eta, variance, clip, eps, spacing)
    if plan_name == "shortcut":
        chosen = shortcut(chosen, network_of(denoiser))
    whole = chosen
    if start_step is not None:
        chosen = whole.after(start_step)
    if inversion:
        forward.require_invertible(chosen)
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
        source=source,
        noised=noised,
        inversion=inversion,
        skipped=whole.steps[: len(whole.steps) - len(chosen.steps)],
        size=size,
        variant=variant,
        cautions=(*cautions, *getattr(conditions, "cautions", ())),
    )


def _origin(source: Source) -> dict[str, Any]:
    """Give what a store says of the source of its x_0: the seeds too, so that no later run takes one again."""
    return {**source.identity, **({"seeds": sorted(source.seeds)} if source.seeds else {})}


def _labels(labels: str, source: Source | None) -> str | list[int]:
    """Give what the model is asked for: the labels of the source themselves where they are meant."""
    if labels != SOURCE:
        return labels
    if source is None or source.labels is None:
        lack = "nothing to start from was given" if source is None else f"{source.name} has none"
        raise InputError(
            f"labels {SOURCE} are those of what samples start from, but {lack}; use none, cycle or a class"
        )
    return source.labels
