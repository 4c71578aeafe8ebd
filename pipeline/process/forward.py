"""The forward process from known data: what the network makes of states that the data was noised to."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch

from traj.pipeline.process import sampler
from traj.pipeline.process.denoiser import Denoiser, Prediction
from traj.pipeline.process.plan import Plan, Step, Treatment, chain
from traj.pipeline.process.schedule import Schedule


def bridge(plan: Plan) -> Plan:
    """Visit a plan's timesteps by the forward process's posterior, which is exact where x_0 is known (DDPM eq. 7)."""
    return chain([(timestep, Treatment("posterior", "small")) for timestep in plan.timesteps], clip=None)


def noise_to(schedule: Schedule, timestep: int, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise x_0 to a timestep: x_t = signal x_0 + noise_scale eps."""
    signal, noise_scale = schedule.at(timestep)
    return signal * x_0 + noise_scale * eps


def noised(
    denoiser: Denoiser,
    plan: Plan,
    condition: Any,
    x_0: torch.Tensor,
    x_t: torch.Tensor,
    *,
    noise: Callable[[Step], torch.Tensor],
    keep: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor | None], None],
    kept: Container[int],
) -> None:
    """Go through the states that x_0 is noised to, from the noisiest, x_t at the plan's first timestep, down.

    Each x_s is drawn from q(x_s | x_t, x_0). So the states together are those of the Markov chain from x_0 up,
    x_t = a x_s + sqrt(noise_scale_t^2 - a^2 noise_scale_s^2) z with a = signal_t / signal_s, but come in the order in
    which a store takes them, and none has to wait in memory. ``noise`` gives the standard normal noise of the state
    that a step of the ``bridge`` lands on. Only at the positions ``kept`` is the network evaluated, and ``keep`` given
    the position, x_t, the raw pred_x0 and, for learned variances, the log variance.
    """
    schedule, down = denoiser.schedule, bridge(plan)
    for k, step in enumerate(plan.steps):
        if k in kept:
            prediction = denoiser(x_t, step.timestep, condition, step.cut)
            keep(k, x_t, prediction.pred_x0, sampler.learned_log_variance(schedule, plan, k, prediction))
        known = Prediction(x_0, sampler.eps_of(schedule, step.timestep, x_0, x_t))
        x_t = sampler.advance(schedule, down, k, x_t, known, None, noise)
