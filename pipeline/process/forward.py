"""The forward process from known data: what the network makes of states that the data was noised to."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch

from traj.pipeline.process import sampler
from traj.pipeline.process.denoiser import Denoiser, Prediction
from traj.pipeline.process.plan import Plan, Step, Treatment, chain
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

Keep = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor | None], None]


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
    keep: Keep,
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


def inverted(
    denoiser: Denoiser, plan: Plan, condition: Any, x_0: torch.Tensor, *, keep: Keep, kept: Container[int]
) -> None:
    """Go backwards through a deterministic ddim plan, from x_0 up to its first timestep (METHODS 10.2).

    x_0 counts as the state at the lowest timestep. From each state the next one up has the same pred_x0 and eps, as
    they are predicted there: x_t = signal_t pred_x0 + noise_scale_t eps, Euler's step on the probability-flow ODE. The
    states ``kept`` wait in the host's memory, since a store takes the noisiest first; ``keep`` gets what it does from
    ``noised``.
    """
    found: dict[int, list[torch.Tensor]] = {}
    x_t = x_0
    for k in reversed(range(len(plan.steps))):
        prediction = denoiser(x_t, plan.timesteps[k], condition, plan.steps[k].cut)
        if k in kept:
            found[k] = [x_t.cpu(), prediction.pred_x0.cpu()]
        if k > 0:
            x_t = noise_to(denoiser.schedule, plan.timesteps[k - 1], prediction.pred_x0, prediction.eps)
    for k in sorted(found):
        x_t, pred_x0 = (state.to(x_0.device) for state in found.pop(k))
        keep(k, x_t, pred_x0, None)


def require_invertible(plan: Plan) -> None:
    """Raise InputError for a plan that does not go down as ``inverted`` goes up."""
    if plan.clip is not None or any(step.rule != "ddim" or step.variance != 0 for step in plan.steps):
        raise InputError("inversion goes backwards through ddim without noise and clipping; use --sampler ddim alone")
