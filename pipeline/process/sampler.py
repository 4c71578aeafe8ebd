"""The one loop that runs plans: posterior, ddim and heun steps of any process of signal and noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby, repeat
from typing import Any

import numpy as np
import torch

from traj.pipeline.process.cut import Cut
from traj.pipeline.process.denoiser import Denoiser, Prediction
from traj.pipeline.process.plan import Plan, Step
from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.variance import ddim_sd, ends, fixed_sd, large, refuse_overfull, small
from traj.stores import InputError

Start = Callable[[int], torch.Tensor]
Noise = Callable[[int, Step], torch.Tensor]
Keep = Callable[[int, int, torch.Tensor, torch.Tensor, torch.Tensor | None], None]
Seen = tuple[torch.Tensor, Prediction]
"""A state, and the prediction made from it."""


def reverse(
    denoiser: Denoiser,
    plans: Sequence[Plan],
    condition: Callable[[int], Any],
    *,
    start: Start,
    noise: Noise,
    keep: Keep,
    together: int = 1,
) -> list[torch.Tensor]:
    """Run branches of the same samples, one plan each, from their first timesteps down to x_0.

    ``condition`` gives the samples' condition, repeated so many times; the loop does not look into it. ``start`` gives
    the state of a branch, (sample, *event), when its first timestep is due. ``noise`` gives the standard normal noise
    of a branch's step, asked for only where some is added. ``keep`` gets the branch, its step's position, the state the
    network was given, its raw pred_x0 and, for learned variances, the log variance; it does not get the second
    evaluation of a heun step. Up to ``together`` branches at the same timestep, with the same parts of the network left
    out, share a network call. Returns each branch's x_0.

    Raises InputError for an eta that is too large for a step, and for a learned variance of a network without one.
    """
    for plan in plans:
        refuse_overfull(denoiser.schedule, plan.steps)
    condition_of = cache(condition)  # making a condition may run a text encoder, and a model checks each one only once
    states: dict[int, torch.Tensor] = {}

    def evaluate(branches: Sequence[int], timestep: int, cut: Cut) -> Iterator[Prediction]:
        x_t = torch.cat([states[i] for i in branches])
        return _split(denoiser(x_t, timestep, condition_of(len(branches)), cut), len(branches))

    schedule = denoiser.schedule
    for timestep, cut, due in visits(plans):
        states |= {i: start(i) for i, k in due if k == 0}
        for first in range(0, len(due), together):
            group = due[first : first + together]
            predictions = evaluate([i for i, _ in group], timestep, cut)
            seen: dict[tuple[int, int], Seen] = {}
            for (i, k), prediction in zip(group, predictions, strict=True):
                if plans[i].steps[k].evaluations == 2:
                    seen[i, k] = states[i], prediction
                log_variance = learned_log_variance(schedule, plans[i], k, prediction)
                keep(i, k, states[i], prediction.pred_x0, log_variance)
                states[i] = advance(schedule, plans[i], k, states[i], prediction, log_variance, partial(noise, i))
            for lands_on, trials in _trials(plans, group):
                again = evaluate([i for i, _ in trials], lands_on, cut)
                for (i, k), prediction in zip(trials, again, strict=True):
                    states[i] = heun_corrected(schedule, plans[i], k, seen[i, k], (states[i], prediction))
    return [states[i] for i in range(len(plans))]


def visits(plans: Sequence[Plan]) -> Iterator[tuple[int, Cut, list[tuple[int, int]]]]:
    """Go through the timesteps of several plans from high to low, cut by cut, with the (plan, step position) due."""
    due = defaultdict(list)
    for i, plan in enumerate(plans):
        for k, step in enumerate(plan.steps):
            due[step.timestep, step.cut].append((i, k))
    for timestep, cut in sorted(due, key=lambda visit: (-visit[0], visit[1].skips, visit[1].unet_blocks)):
        yield timestep, cut, due[timestep, cut]


def evaluations(plans: Sequence[Plan], together: int) -> int:
    """Count the network calls that `reverse` makes for several plans."""
    groups = (due[first : first + together] for _, _, due in visits(plans) for first in range(0, len(due), together))
    return sum(1 + len(list(_trials(plans, group))) for group in groups)


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
    if _ends_in_prediction(plan, k):
        return _clipped(plan, prediction)
    if step.rule == "posterior":
        mean = posterior_mean(schedule, step, _clipped(plan, prediction), x_t)
    else:
        mean = ddim_mean(schedule, step, *_used(schedule, plan, step.timestep, x_t, prediction))
    if not adds_noise(schedule, plan, k):
        return mean
    sd = fixed_sd(schedule, step) if log_variance is None else (0.5 * log_variance).exp()
    return mean + sd * noise(step)


def posterior_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Mean of the forward process's posterior given x_0 and x_t (DDPM eq. 7, for any signal and noise)."""
    (c_t, d_t), (c_s, d_s) = levels = ends(schedule, step)
    coef_x_0 = c_s * large(*levels) / d_t**2
    coef_x_t = c_t / c_s * d_s**2 / d_t**2
    return coef_x_0 * x_0 + coef_x_t * x_t


def eps_of(schedule: Schedule, timestep: int, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Noise that leads from x_0 to x_t."""
    c, d = schedule.at(timestep)
    return (x_t - c * x_0) / d


def ddim_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise-free part of a DDIM step (DDIM eq. 12); a radicand below 0 counts as 0.

    At eta 0 this is Euler's step on the probability-flow ODE: of EDM in sigma, of rectified flow in t.
    """
    _, (c_s, d_s) = ends(schedule, step)
    direction = math.sqrt(max(0.0, d_s**2 - ddim_sd(schedule, step) ** 2))
    return c_s * x_0 + direction * eps


def heun_corrected(schedule: Schedule, plan: Plan, k: int, first: Seen, second: Seen) -> torch.Tensor:
    """Correct the trial state of a heun step by the prediction made there (Karras et al. 2022, algorithm 1).

    ``first`` and ``second`` are the states at the step's two ends with the predictions made there. The step follows the
    mean of the slopes at its two ends: where variance is preserved, of x_t / signal over sigma; elsewhere of x_t
    itself, over sigma for EDM and over t for rectified flow.
    """
    step, trial = plan.steps[k], second[0]
    (c_t, d_t), (c_s, d_s) = ends(schedule, step)
    r_t, r_s = (c_t, c_s) if schedule.alpha_bar is not None and c_t > 0 else (1.0, 1.0)
    x_0, eps = _used(schedule, plan, step.timestep, *first)
    x_0_there, eps_there = _used(schedule, plan, step.lands_on, *second)
    by_x_0, by_eps = (c_s - r_s * c_t / r_t) / 2, (d_s - r_s * d_t / r_t) / 2
    return trial + by_x_0 * (x_0_there - x_0) + by_eps * (eps_there - eps)


def learned_log_variance(schedule: Schedule, plan: Plan, k: int, prediction: Prediction) -> torch.Tensor | None:
    """Log variance between those of "large" and "small" as the network says (IDDPM eq. 15).

    None unless the step's variance is learned. The step to x_0, whose "small" variance is 0, takes that of the
    step before it, as improved-diffusion does, whether or not the plan holds that step. Raises InputError when the
    network predicts no variance.
    """
    step = plan.steps[k]
    if step.variance != "learned":
        return None
    f = prediction.variance_fraction
    if f is None:
        raise InputError("the plan's variance is learned, but this model predicts none; use large or small")
    levels = ends(schedule, step)
    before = plan.steps[k - 1].timestep if k else plan.came_from
    if step.lands_on == -1 and before is not None:
        lower = small(schedule.at(before), levels[0])
    else:
        lower = small(*levels)
    return f * math.log(large(*levels)) + (1 - f) * math.log(lower)


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


def _used(
    schedule: Schedule, plan: Plan, timestep: int, x_t: torch.Tensor, prediction: Prediction
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the x_0 and the eps that a plan's update uses."""
    x_0 = _clipped(plan, prediction)
    return x_0, prediction.eps if plan.eps == "kept" else eps_of(schedule, timestep, x_0, x_t)


def _clipped(plan: Plan, prediction: Prediction) -> torch.Tensor:
    return prediction.pred_x0 if plan.clip is None else prediction.pred_x0.clamp(-plan.clip, plan.clip)


def _trials(plans: Sequence[Plan], group: Sequence[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """List the (plan, step position) of a group that need a second evaluation, by the timestep it is due at."""

    def lands_on(due: tuple[int, int]) -> int:
        return plans[due[0]].steps[due[1]].lands_on

    twice = sorted((due for due in group if plans[due[0]].steps[due[1]].evaluations == 2), key=lands_on)
    return ((timestep, list(trials)) for timestep, trials in groupby(twice, lands_on))


def _split(prediction: Prediction, branches: int) -> Iterator[Prediction]:
    """Cut the prediction of a network call into its branches'."""
    fields = (prediction.pred_x0, prediction.eps, prediction.variance_fraction)
    return map(Prediction, *(repeat(None, branches) if field is None else field.chunk(branches) for field in fields))
