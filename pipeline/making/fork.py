"""Start again from stored states, with other noise or an edited plan, as many times as asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from traj import stores
from traj.pipeline.estimate import Cost
from traj.pipeline.making import sweep
from traj.pipeline.making.generate import NUMERICS
from traj.pipeline.making.hostcopy import HostCopy
from traj.pipeline.making.loop import cost_of, make_blocks, of_events
from traj.pipeline.making.parent import Parent, conditions_of, load_model
from traj.pipeline.parsing import check_count, is_whole, number
from traj.pipeline.process import sampler
from traj.pipeline.process.denoiser import Conditions, Denoiser
from traj.pipeline.process.device import Timed, call_seconds, choose_device, draw_seconds
from traj.pipeline.process.noise import NoiseAhead, NoiseSource
from traj.pipeline.process.plan import Plan, Step
from traj.pipeline.process.variance import overfull, refuse_overfull
from traj.stores import InputError, Layout

PASSED_ON = ("model", "schedule", "autocast", "guidance")
"""What forks say of their parent beside its fingerprint."""


@dataclass(frozen=True)
class Fork:
    """Forks to be made: each of the ``variants`` is a plan, and is run with as many ``replicas``.

    ``plan`` is what is left of the parent's from the highest start on, with the edits that all variants share, and
    ``edits`` says along the variants what else was edited, and what that saves. ``batch`` images at most go through
    the network at once, but always a whole block. Building it touches no file of the fork.
    """

    parent: Parent
    denoiser: Denoiser
    conditions: Conditions
    plan: Plan
    variants: tuple[Plan, ...]
    edits: Mapping[str, Sequence[Any]]
    replicas: int
    device: torch.device
    samples: int
    block: int
    batch: int
    states: bool

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on, beside what the store itself adds: variants, replicas, block, states."""
        return {
            "numerics": NUMERICS,
            "parent": {"fingerprint": self.parent.fingerprint},
            "plan": self.plan.to_json(),
            "batch": self.batch,
            **{key: self.parent.config[key] for key in ("size", "variant") if key in self.parent.config},
        }

    @property
    def kind(self) -> Literal["fork", "sweep"]:
        """The kind of store that holds them."""
        return "sweep" if self.edits else "fork"

    @property
    def layout(self) -> Layout:
        """How the forks will lie on disk."""
        return Layout.of(
            samples=self.samples,
            block=self.block,
            timesteps=len(self.timesteps),
            shape=self.denoiser.shape,
            dtype="float32",
            lead=(len(self.variants), self.replicas),
            states=self._variables,
        )

    @property
    def _variables(self) -> int:
        """Number of variables along timestep."""
        return 2 if self.states else 0

    @property
    def tf32(self) -> bool:
        """Whether a GPU may use TF32: as the parent did."""
        return bool(self.parent.config.get("tf32", False))

    @property
    def at(self) -> list[int]:
        """The timestep each variant starts at."""
        return [plan.timesteps[0] for plan in self.variants]

    @property
    def timesteps(self) -> list[int]:
        """Timesteps that any variant visits, from high to low."""
        return sorted({timestep for plan in self.variants for timestep in plan.timesteps}, reverse=True)

    @property
    def plans(self) -> list[Plan]:
        """The plan of each branch; the variants of a replica follow one another, since they share its noise."""
        return [*self.variants] * self.replicas

    @property
    def together(self) -> int:
        """Branches per network call."""
        return max(1, self.batch // self.block)

    @property
    def largest(self) -> int:
        """Samples in the largest batch that goes through the network."""
        return min(self.together, len(self.plans)) * self.block

    def trial(self, samples: int | None = None) -> tuple[torch.Tensor, Any]:
        """Make states and the condition of so many samples, by default the largest batch, for trial evaluations."""
        count, rows = self.largest if samples is None else samples, self._rows(0).tolist()
        x_t = torch.zeros((count, *self.denoiser.shape), device=self.device)
        return x_t, self.conditions.of([rows[k % len(rows)] for k in range(count)], self.device)

    @cached_property
    def call_seconds(self) -> Timed:
        """How long a network call with the largest batch takes."""
        return call_seconds(self.denoiser, self.trial, self.largest, self.plan.steps[0].timestep, self.tf32)

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.TrajectoryWriter:
        """Create, resume or extend the store of the forks."""
        # of noised data the label is the data's, whatever the model is told
        label = self.parent.visible["label"][: self.samples]
        told = {**self.conditions.visible(range(self.samples)), "label": label}
        noise = [spelled(plan, lambda step: step.noise) for plan in self.variants]
        variant: dict[str, Any] = {"at": self.at, "noise": noise, **self.edits}
        if self.plan.steps[0].rule == "ddim":
            variant["eta"] = [spelled(plan, lambda step: f"{step.variance:g}") for plan in self.variants]
        events = of_events(self.denoiser, self.plan, self.timesteps, told, self.device)
        # the parent's fingerprint covers it; whoever reads the states needs it
        made_with = {key: self.parent.config[key] for key in PASSED_ON if key in self.parent.config}
        return stores.create_forks(
            out,
            variant=variant,
            kind=self.kind,
            replicas=self.replicas,
            **{**events, "environment": {**events["environment"], "parent": made_with}},
            step=[self.parent.plan.timesteps.index(visited) for visited in self.timesteps],
            samples=self.samples,
            block=self.block,
            states=self.states,
            config=self.config,
            stale=stale,
            blocks=blocks,
        )

    def cost(self, out: Path, blocks: int | None = None) -> Cost:
        """Estimate what a number of blocks will take (all of them by default), after a few trials."""
        drawing = draw_seconds(NoiseSource(self.parent.config["seed"], self.denoiser.shape), range(self.block))
        evaluations = sampler.evaluations(self.plans, self.together)
        return cost_of(
            self.layout,
            out,
            self.layout.blocks if blocks is None else blocks,
            states=self._variables,
            evaluations=evaluations,
            seconds=evaluations * self.call_seconds.seconds + sum(1 for _ in self._addresses()) * drawing,
            held=4 * math.prod(self.layout.images),  # each branch's state, x_0 twice, the states to start from
            note=self.call_seconds.note,
        )

    def cautions(self) -> list[str]:
        """Say what may surprise a person about these forks."""
        found = []
        if rounding := self.parent.rounding:
            found.append(
                f"{self.parent.path} keeps its states {rounding}: forks start from these, so that none equals the run "
                "bit for bit; edits that change nothing may read 77 to 100 dB (PSNR), not 100"
            )
        schedule = self.denoiser.schedule
        if jumps := [step.timestep for plan in self.variants for step in overfull(schedule, plan.steps)]:
            found.append(
                f"{len(jumps)} variants jump, from timesteps {', '.join(map(str, dict.fromkeys(jumps)))}, to a state "
                "that has less noise than their sigma: it ends noisier than its timestep says (002 eq. 4 as published)"
            )
        return found

    def saving(self) -> str:
        """Compare the images that go through the network with those of re-running every variant from noise."""
        whole_plan = self.parent.plan
        before = [sum(step.evaluations for step in whole_plan.steps if step.timestep > at) for at in self.at]
        images = self.layout.blocks * self.block * self.replicas
        made = images * sum(plan.evaluations for plan in self.variants)
        whole = made + images * sum(before)
        return (
            f"{len(self.variants)} variants: {made:,} images go through the network, {made / whole:.3f} of the "
            f"{whole:,} of re-running every variant from noise"
        )

    def run(self, store: stores.TrajectoryWriter, *, bar: bool = True) -> None:
        """Make the forks of the store's pending blocks.

        Raises StoreError when reading or writing fails or the parent is changed, FloatingPointError when the network's
        numbers are not finite. Finished blocks stay whatever happens.
        """
        steps, images = sum(len(plan.steps) for plan in self.plans), self.block * len(self.plans)
        make_blocks(store, self._block, self.device, tf32=self.tf32, steps=steps, images=images, of="forks", bar=bar)

    def _block(self, block: int, host: HostCopy, pool: ThreadPoolExecutor, progress: tqdm) -> torch.Tensor:
        """Run all branches of a block."""
        variants, plans = len(self.variants), self.plans
        at = sorted(set(self.at), reverse=True)
        starts: dict[int, torch.Tensor] = dict(
            zip(at, torch.from_numpy(self.parent.x_t(at, self._rows(block))), strict=True)
        )
        source = NoiseSource(self.parent.config["seed"], self.denoiser.shape)
        ids = range(block * self.block, (block + 1) * self.block)
        ahead = NoiseAhead(source, ids, self._addresses(), pool)
        position = {timestep: k for k, timestep in enumerate(self.timesteps)}
        last = {timestep: due[-1][0] for timestep, _, due in sampler.visits(plans)}
        gathered: dict[int, list[torch.Tensor]] = {}

        @lru_cache(maxsize=1)
        def drawn(timestep: int, replica: int) -> torch.Tensor:
            return torch.from_numpy(ahead(timestep, replica)).to(self.device, non_blocking=True)

        def start(i: int) -> torch.Tensor:
            return starts[plans[i].timesteps[0]].to(self.device)

        def noise(i: int, step: Step) -> torch.Tensor:
            return drawn(step.timestep, self._replica(i, step))

        def keep(i: int, k: int, x_t: torch.Tensor, pred_x0: torch.Tensor, _: torch.Tensor | None) -> None:
            progress.update()
            if not self.states:
                return
            timestep = plans[i].steps[k].timestep
            if timestep not in gathered:
                gathered[timestep] = [torch.full(self.layout.images, torch.nan, device=self.device) for _ in range(2)]
            for states, state in zip(gathered[timestep], (x_t, pred_x0), strict=True):
                states[i % variants, i // variants] = state
            if i == last[timestep]:
                host.put(block, position[timestep], gathered.pop(timestep))

        x_0 = sampler.reverse(
            self.denoiser,
            plans,
            self._condition(block),
            start=start,
            noise=noise,
            keep=keep,
            together=self.together,
        )
        self.parent.require_unchanged()
        ends: torch.Tensor = torch.stack(x_0).unflatten(0, (self.replicas, variants)).transpose(0, 1)
        return ends

    def _addresses(self) -> Iterator[tuple[int, int]]:
        """Name the noise of a block, (timestep, replica), in the order in which the branches ask for it."""
        plans, schedule = self.plans, self.denoiser.schedule
        asked = (
            (timestep, self._replica(i, plans[i].steps[k]))
            for timestep, _, due in sampler.visits(plans)
            for i, k in due
            if sampler.adds_noise(schedule, plans[i], k)
        )
        return (address for address, _ in groupby(asked))

    def _replica(self, i: int, step: Step) -> int:
        """Say whose noise a step of branch i takes; branch i is of replica i // variants + 1, variant i % variants."""
        return i // len(self.variants) + 1 if step.noise == "independent" else 0

    def _rows(self, block: int) -> np.ndarray:
        """Say which of the parent's samples a block has; the last one is repeated to fill a short block."""
        ids = np.arange(block * self.block, (block + 1) * self.block)
        return np.minimum(ids, self.parent.samples - 1)

    def _condition(self, block: int) -> Callable[[int], Any]:
        """Give what makes the condition of a block's samples, so many times in a row."""
        rows = self._rows(block).tolist()
        return lambda times: self.conditions.of(rows * times, self.device)


def prepare(
    *,
    store: Path,
    at: Sequence[int] = (),
    table: str | None = None,
    replicas: int | None = None,
    noise: Sequence[str] = (),
    eta: Sequence[str] = (),
    model: str | None = None,
    samples: int | None = None,
    block: int | None = None,
    batch: int = 512,
    states: bool = False,
    device: str = "auto",
) -> Fork:
    """Open the parent, load its model and lay out the forks: from the timesteps ``at``, or those of a sweep's table.

    With ``at``, ``noise`` and ``eta`` are edits of the plan, VALUE or VALUE:FIRST-LAST for the steps at those
    timesteps; later ones win, and noise that is not named is independent. There are 8 replicas unless asked otherwise.
    A sweep keeps the run's own noise, and has one.

    Raises InputError or MissingFile for what cannot be, StoreError for a parent that is no run.
    """
    parent = Parent.open(store)
    samples = parent.samples if samples is None else samples
    block = parent.config["store"]["block"] if block is None else block
    replicas = (8 if table is None else 1) if replicas is None else replicas
    for name, count in (("replicas", replicas), ("samples", samples), ("block", block), ("batch", batch)):
        check_count(name, count)
    if samples > parent.samples:
        raise InputError(f"samples {samples} was given, but {store} has {parent.samples}; generate more first")
    if (table is None) == (not at):
        raise InputError("expected either timesteps to start from (--at) or a table of edits (--sweep)")
    if table is not None and (replicas > 1 or noise or eta):
        raise InputError(
            "a sweep keeps the run's own noise, so that all variants share it and replicas would be equal; leave out "
            "--replicas, --noise and --eta"
        )
    if table is not None and parent.noised:
        raise InputError(f"{store} holds noised data, whose x_0 no edit could have led to; expected --at for it")
    if parent.noised and any(text.partition(":")[0] == "shared" for text in noise):
        raise InputError(
            f"{store} holds noised data, which no noise of steps led to that forks could share; expected --noise "
            "independent or zero"
        )
    where = choose_device(device)
    edits: Mapping[str, Sequence[Any]] = {}
    if table is None:
        starts = _starts(parent, at)
        denoiser = load_model(parent, model, where)
        plan = edited(parent.plan.after(starts[0]), noise, eta)
        variants = [plan.after(timestep) for timestep in starts]
    else:
        families = sweep.read(table, parent.timesteps)
        parent.require_stored(timestep for family in families for timestep in family.t_start)
        denoiser = load_model(parent, model, where)
        variants, edits = sweep.variants(families, parent.plan, denoiser)
        plan = parent.plan.after(max(variant.timesteps[0] for variant in variants))
    conditions = conditions_of(parent, denoiser)
    for variant in variants:
        refuse_overfull(denoiser.schedule, variant.steps)
    return Fork(
        parent=parent,
        denoiser=denoiser,
        conditions=conditions,
        plan=plan,
        variants=tuple(variants),
        edits=edits,
        replicas=replicas,
        device=where,
        samples=samples,
        block=block,
        batch=batch,
        states=states,
    )


def edited(plan: Plan, noise: Iterable[str], eta: Iterable[str]) -> Plan:
    """Change the noise and the eta of a plan's steps, in order, by edits as the command line spells them.

    Raises InputError for one that cannot be.
    """
    plan = plan.with_noise("independent", plan.timesteps[0], plan.timesteps[-1])
    for text in noise:
        kind, first, last = _edit(text, plan)
        plan = plan.with_noise(kind, first, last)
    for text in eta:
        value, first, last = _edit(text, plan)
        try:
            amount = number(value)
        except InputError:
            raise InputError(f"eta {text!r} was given, expected a number, or NUMBER:FIRST-LAST") from None
        plan = plan.with_eta(amount, first, last)
    return plan


def spelled(plan: Plan, value: Callable[[Step], str]) -> str:
    """Write what a plan's steps have as the edits of the command line do: VALUE, or VALUE:FIRST-LAST for each run."""
    runs = [(text, [step.timestep for step in steps]) for text, steps in groupby(plan.steps, value)]
    return runs[0][0] if len(runs) == 1 else " ".join(f"{text}:{steps[0]}-{steps[-1]}" for text, steps in runs)


def _edit(text: str, plan: Plan) -> tuple[str, int, int]:
    """Read VALUE or VALUE:FIRST-LAST."""
    value, colon, timesteps = text.partition(":")
    if not colon:
        return value, plan.timesteps[0], plan.timesteps[-1]
    first, dash, last = timesteps.partition("-")
    if not (dash and is_whole(first) and is_whole(last)):
        raise InputError(f"{text!r} was given, expected VALUE or VALUE:FIRST-LAST, for example zero:900-500")
    return value, int(first), int(last)


def _starts(parent: Parent, at: Sequence[int]) -> list[int]:
    """Order the timesteps to start from, high to low; each must be stored, and named once."""
    if len(set(at)) < len(at):
        raise InputError(f"at {', '.join(map(str, at))} was given, expected one or more timesteps, each once")
    parent.require_stored(at)
    return sorted(at, reverse=True)
