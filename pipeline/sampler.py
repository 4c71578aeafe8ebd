"""The one loop that runs plans: DDPM, DDIM and learned-range updates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import repeat

import numpy as np
import torch

from pipeline.cuts import Cut
from pipeline.denoiser import Denoiser, Prediction
from pipeline.plan import Plan, Step
from pipeline.schedule import Schedule
from pipeline.variance import alpha_bars, ddim_sd, fixed_sd, large, refuse_overfull, small

Start = Callable[[int], torch.Tensor]
Noise = Callable[[int, Step], torch.Tensor]
Keep = Callable[[int, int, torch.Tensor, torch.Tensor, torch.Tensor | None], None]


def reverse(
    denoiser: Denoiser,
    plans: Sequence[Plan],
    label: torch.Tensor,
    *,
    start: Start,
    noise: Noise,
    keep: Keep,
    together: int = 1,
) -> list[torch.Tensor]:
    """Run branches of the same samples, one plan each, from their first timesteps down to x_0.

    ``label`` is (sample,) integers with -1 for unconditional. ``start`` gives the state of a branch,
    (sample, channel, y, x), when its first timestep is due. ``noise`` gives the standard normal noise of a branch's
    step, asked for only where some is added. ``keep`` gets the branch, its step's position, the state the network was
    given, its raw pred_x0 and, for learned variances, the log variance. Up to ``together`` branches at the same
    timestep, with the same parts of the network left out, share a network call. Returns each branch's x_0.

    Raises ValueError for an eta that is too large for a step, and for a learned variance of a network without one.
    """
    for plan in plans:
        refuse_overfull(denoiser.schedule, plan.steps)
    label_of = cache(label.repeat)  # a label tensor is checked once, and that waits for the device
    states: dict[int, torch.Tensor] = {}
    for timestep, cut, due in visits(plans):
        states |= {i: start(i) for i, k in due if k == 0}
        for first in range(0, len(due), together):
            group = due[first : first + together]
            x_t = torch.cat([states[i] for i, _ in group])
            predictions = _split(denoiser(x_t, timestep, label_of(len(group)), cut), len(group))
            for (i, k), prediction in zip(group, predictions, strict=True):
                log_variance = learned_log_variance(denoiser.schedule, plans[i], k, prediction)
                keep(i, k, states[i], prediction.pred_x0, log_variance)
                states[i] = advance(
                    denoiser.schedule, plans[i], k, states[i], prediction, log_variance, partial(noise, i)
                )
    return [states[i] for i in range(len(plans))]


def visits(plans: Sequence[Plan]) -> Iterator[tuple[int, Cut, list[tuple[int, int]]]]:
    """Go through the timesteps of several plans from high to low, cut by cut, with the (plan, step position) due."""
    due = defaultdict(list)
    for i, plan in enumerate(plans):
        for k, step in enumerate(plan.steps):
            due[step.timestep, step.cut].append((i, k))
    for timestep, cut in sorted(due, key=lambda visit: (-visit[0], visit[1].skips, visit[1].blocks)):
        yield timestep, cut, due[timestep, cut]


def advance(
    schedule: Schedule,
    plan: Plan,
    k: int,
    x_t: torch.Tensor,
    prediction: Prediction,
    log_variance: torch.Tensor | None,
    noise: Callable[[Step], torch.Tensor],
) -> torch.Tensor:
    """Take the k-th step of a plan from x_t, given the prediction made there, to the state it lands on."""
    step = plan.steps[k]
    x_0 = prediction.pred_x0 if plan.clip is None else prediction.pred_x0.clamp(-plan.clip, plan.clip)
    if _ends_in_prediction(plan, k):
        return x_0
    if step.rule == "posterior":
        mean = posterior_mean(schedule, step, x_0, x_t)
    else:
        eps = prediction.eps if plan.eps == "kept" else eps_of(schedule, step, x_0, x_t)
        mean = ddim_mean(schedule, step, x_0, eps)
    if not adds_noise(schedule, plan, k):
        return mean
    sd = fixed_sd(schedule, step) if log_variance is None else (0.5 * log_variance).exp()
    return mean + sd * noise(step)


def posterior_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Mean of the forward process's posterior given x_0 and x_t (DDPM eq. 7)."""
    abar_t, abar_s = alpha_bars(schedule, step)
    alpha = abar_t / abar_s
    coef_x_0 = math.sqrt(abar_s) * (1 - alpha) / (1 - abar_t)
    coef_x_t = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
    return coef_x_0 * x_0 + coef_x_t * x_t


def eps_of(schedule: Schedule, step: Step, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Noise that leads from x_0 to x_t."""
    abar_t, _ = alpha_bars(schedule, step)
    return (x_t - math.sqrt(abar_t) * x_0) / math.sqrt(1 - abar_t)


def ddim_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise-free part of a DDIM step (DDIM eq. 12); the radicand is kept from going below 0."""
    _, abar_s = alpha_bars(schedule, step)
    direction = math.sqrt(max(0.0, 1 - abar_s - ddim_sd(schedule, step) ** 2))
    return math.sqrt(abar_s) * x_0 + direction * eps


def learned_log_variance(schedule: Schedule, plan: Plan, k: int, prediction: Prediction) -> torch.Tensor | None:
    """Log variance between those of "large" and "small" as the network says (IDDPM eq. 15).

    None unless the step's variance is learned. The step to x_0, whose "small" variance is 0, takes that of the
    step before it, as improved-diffusion does, whether or not the plan holds that step. Raises ValueError when the
    network predicts no variance.
    """
    step = plan.steps[k]
    if step.variance != "learned":
        return None
    f = prediction.variance_fraction
    if f is None:
        raise ValueError("the plan's variance is learned, but this model predicts none; use large or small")
    abar_t, abar_s = alpha_bars(schedule, step)
    before = plan.steps[k - 1].timestep if k else plan.came_from
    if step.lands_on == -1 and before is not None:
        lower = small(float(schedule.alpha_bar[before]), abar_t)
    else:
        lower = small(abar_t, abar_s)
    return f * math.log(large(abar_t, abar_s)) + (1 - f) * math.log(lower)


def adds_noise(schedule: Schedule, plan: Plan, k: int) -> bool:
    """Whether the k-th step of a plan adds noise: not when switched off, on the way to x_0, or deterministic."""
    step = plan.steps[k]
    if step.noise == "zero" or _ends_in_prediction(plan, k):
        return False
    return step.lands_on != -1 if step.rule == "posterior" else ddim_sd(schedule, step) > 0


def noise_sd(schedule: Schedule, plan: Plan) -> np.ndarray:
    """Sd of the noise each step adds; shape (step,), float64.

    0 where none is added, NaN where it depends on the network.
    """

    def sd(k: int, step: Step) -> float:
        if not adds_noise(schedule, plan, k):
            return 0.0
        return math.nan if step.variance == "learned" else fixed_sd(schedule, step)

    return np.array([sd(k, step) for k, step in enumerate(plan.steps)])


def _ends_in_prediction(plan: Plan, k: int) -> bool:
    return plan.end == "pred_x0" and plan.steps[k].lands_on == -1


def _split(prediction: Prediction, branches: int) -> Iterator[Prediction]:
    """Cut the prediction of a network call into its branches'."""
    fields = (prediction.pred_x0, prediction.eps, prediction.variance_fraction)
    return map(Prediction, *(repeat(None, branches) if field is None else field.chunk(branches) for field in fields))
