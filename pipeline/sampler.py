"""The one loop that runs a plan: DDPM, DDIM and learned-range updates."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from pipeline.denoiser import Denoiser, Prediction
from pipeline.plan import Plan, Step
from pipeline.schedule import Schedule

# the variance a step to x_0 would have is 0; its logarithm is taken all the same (as in diffusers)
_MIN_VARIANCE = 1e-20

Noise = Callable[[Step], torch.Tensor]
Keep = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor | None], None]


def reverse(
    denoiser: Denoiser, plan: Plan, x_t: torch.Tensor, label: torch.Tensor, noise: Noise, keep: Keep
) -> torch.Tensor:
    """Run a plan from the state x_t of its first timestep down to x_0.

    ``x_t`` is (sample, channel, y, x), ``label`` (sample,) integers with -1 for unconditional. ``noise`` gives
    the standard normal noise of a step, asked for only where some is added. ``keep`` gets the step's position,
    the state the network was given, its raw pred_x0 and, for learned variances, the log variance.
    """
    schedule = denoiser.schedule
    for k, step in enumerate(plan.steps):
        prediction = denoiser(x_t, step.timestep, label)
        log_variance = learned_log_variance(schedule, plan, k, prediction)
        keep(k, x_t, prediction.pred_x0, log_variance)
        x_0 = prediction.pred_x0 if plan.clip is None else prediction.pred_x0.clamp(-plan.clip, plan.clip)
        if step.rule == "posterior":
            mean = posterior_mean(schedule, step, x_0, x_t)
        else:
            mean = ddim_mean(schedule, step, x_0, prediction.eps)
        x_t = mean
        if adds_noise(schedule, step):
            sd = fixed_sd(schedule, step) if log_variance is None else (0.5 * log_variance).exp()
            x_t = mean + sd * noise(step)
    return x_t


def posterior_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Mean of the forward process's posterior given x_0 and x_t (DDPM eq. 7)."""
    abar_t, abar_s = _alpha_bars(schedule, step)
    alpha = abar_t / abar_s
    coef_x_0 = math.sqrt(abar_s) * (1 - alpha) / (1 - abar_t)
    coef_x_t = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
    return coef_x_0 * x_0 + coef_x_t * x_t


def ddim_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise-free part of a DDIM step (DDIM eq. 12); the radicand is kept from going below 0."""
    _, abar_s = _alpha_bars(schedule, step)
    direction = math.sqrt(max(0.0, 1 - abar_s - _ddim_sd(schedule, step) ** 2))
    return math.sqrt(abar_s) * x_0 + direction * eps


def learned_log_variance(schedule: Schedule, plan: Plan, k: int, prediction: Prediction) -> torch.Tensor | None:
    """Log variance between those of "large" and "small" as the network says (IDDPM eq. 15).

    None unless the step's variance is learned. The step to x_0, whose "small" variance is 0, takes that of the
    step before it, as improved-diffusion does. Raises ValueError when the network predicts no variance.
    """
    step = plan.steps[k]
    if step.variance != "learned":
        return None
    f = prediction.variance_fraction
    if f is None:
        raise ValueError("the plan's variance is learned, but this model predicts none; use large or small")
    small_step = plan.steps[k - 1] if step.lands_on == -1 and k > 0 else step
    return f * math.log(_large(schedule, step)) + (1 - f) * math.log(_small(schedule, small_step))


def adds_noise(schedule: Schedule, step: Step) -> bool:
    """Whether a step adds noise: not when switched off, on the way to x_0, or deterministic."""
    if step.noise == "zero":
        return False
    return step.lands_on != -1 if step.rule == "posterior" else _ddim_sd(schedule, step) > 0


def fixed_sd(schedule: Schedule, step: Step) -> float:
    """Sd of the noise of a step whose variance does not depend on the network."""
    if step.rule == "ddim":
        return _ddim_sd(schedule, step)
    return math.sqrt({"large": _large, "small": _small}[str(step.variance)](schedule, step))


def noise_sd(schedule: Schedule, plan: Plan) -> np.ndarray:
    """Sd of the noise each step adds; shape (step,), float64.

    0 where none is added, NaN where it depends on the network.
    """

    def sd(step: Step) -> float:
        if not adds_noise(schedule, step):
            return 0.0
        return math.nan if step.variance == "learned" else fixed_sd(schedule, step)

    return np.array([sd(step) for step in plan.steps])


def _alpha_bars(schedule: Schedule, step: Step) -> tuple[float, float]:
    """Return alpha_bar of the state a step starts from and of the one it lands on."""
    abar_t = float(schedule.alpha_bar[step.timestep])
    if step.lands_on >= 0:
        return abar_t, float(schedule.alpha_bar[step.lands_on])
    return abar_t, 1.0 if step.rule == "posterior" else schedule.final_alpha_bar


def _large(schedule: Schedule, step: Step) -> float:
    """Variance beta of the step."""
    abar_t, abar_s = _alpha_bars(schedule, step)
    return 1 - abar_t / abar_s


def _small(schedule: Schedule, step: Step) -> float:
    """Variance beta tilde of the posterior (DDPM eq. 7)."""
    abar_t, abar_s = _alpha_bars(schedule, step)
    return max((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s), _MIN_VARIANCE)


def _ddim_sd(schedule: Schedule, step: Step) -> float:
    """Return the sd sigma of a DDIM step (DDIM eq. 16)."""
    abar_t, abar_s = _alpha_bars(schedule, step)
    return float(step.variance) * math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
