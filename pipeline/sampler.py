"""The one loop that runs plans: posterior, ddim and heun steps of any process of signal and noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby, repeat

import numpy as np
import torch

from pipeline.cuts import Cut
from pipeline.denoiser import Condition, Denoiser, Prediction
from pipeline.plan import Plan, Step
from pipeline.schedule import Schedule

# the variance a step to x_0 would have is 0; its logarithm is taken all the same (as in diffusers)
_MIN_VARIANCE = 1e-20

Start = Callable[[int], torch.Tensor]
Noise = Callable[[int, Step], torch.Tensor]
Keep = Callable[[int, int, torch.Tensor, torch.Tensor, torch.Tensor | None], None]
Level = tuple[float, float]
"""signal and noise_scale of a state."""


def reverse(
    denoiser: Denoiser,
    plans: Sequence[Plan],
    condition: Condition,
    *,
    start: Start,
    noise: Noise,
    keep: Keep,
    together: int = 1,
) -> list[torch.Tensor]:
    """Run branches of the same samples, one plan each, from their first timesteps down to x_0.

    ``condition`` is what the denoiser is to know of the samples, the same for every branch; the loop does not look
    into it. ``start`` gives the state of a branch, (sample, channel, y, x), when its first timestep is due. ``noise``
    gives the standard normal noise of a branch's step, asked for only where some is added. ``keep`` gets the branch,
    its step's position, the state the network was given, its raw pred_x0 and, for learned variances, the log variance;
    it does not get the second evaluation of a heun step. Up to ``together`` branches at the same timestep, with the
    same parts of the network left out, share a network call. Returns each branch's x_0.
    """
    condition_of = cache(condition.repeat)  # a condition is checked once, and that waits for the device
    states: dict[int, torch.Tensor] = {}

    def evaluate(branches: Sequence[int], timestep: int, cut: Cut) -> Iterator[Prediction]:
        x_t = torch.cat([states[i] for i in branches])
        return _split(denoiser(x_t, timestep, condition_of(len(branches)), cut), len(branches))

    schedule = denoiser.schedule
    for timestep, cut, due in visits(plans):
        states |= {i: start(i) for i, k in due if k == 0}
        for first in range(0, len(due), together):
            group = due[first : first + together]
            predictions = dict(zip(group, evaluate([i for i, _ in group], timestep, cut), strict=True))
            for (i, k), prediction in predictions.items():
                log_variance = learned_log_variance(schedule, plans[i], k, prediction)
                keep(i, k, states[i], prediction.pred_x0, log_variance)
                states[i] = advance(schedule, plans[i], k, states[i], prediction, log_variance, partial(noise, i))
            for lands_on, trials in _trials(plans, group):
                again = evaluate([i for i, _ in trials], lands_on, cut)
                for (i, k), prediction in zip(trials, again, strict=True):
                    states[i] = heun_corrected(schedule, plans[i], k, states[i], predictions[i, k], prediction)
    return [states[i] for i in range(len(plans))]


def visits(plans: Sequence[Plan]) -> Iterator[tuple[int, Cut, list[tuple[int, int]]]]:
    """Go through the timesteps of several plans from high to low, cut by cut, with the (plan, step position) due."""
    due = defaultdict(list)
    for i, plan in enumerate(plans):
        for k, step in enumerate(plan.steps):
            due[step.timestep, step.cut].append((i, k))
    for timestep, cut in sorted(due, key=lambda visit: (-visit[0], visit[1].skips, visit[1].blocks)):
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
    x_0 = _clipped(plan, prediction)
    if _ends_in_prediction(plan, k):
        return x_0
    if step.rule == "posterior":
        mean = posterior_mean(schedule, step, x_0, x_t)
    else:
        mean = ddim_mean(schedule, step, x_0, prediction.eps)
    if not adds_noise(schedule, plan, k):
        return mean
    sd = fixed_sd(schedule, step) if log_variance is None else (0.5 * log_variance).exp()
    return mean + sd * noise(step)


def posterior_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """Mean of the forward process's posterior given x_0 and x_t (DDPM eq. 7, for any signal and noise)."""
    (c_t, d_t), (c_s, d_s) = ends = _levels(schedule, step)
    coef_x_0 = c_s * _large(*ends) / d_t**2
    coef_x_t = c_t / c_s * d_s**2 / d_t**2
    return coef_x_0 * x_0 + coef_x_t * x_t


def ddim_mean(schedule: Schedule, step: Step, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise-free part of a DDIM step (DDIM eq. 12); the radicand is kept from going below 0.

    At eta 0 this is Euler's step on the probability-flow ODE: of EDM in sigma, of rectified flow in t.
    """
    _, (c_s, d_s) = _levels(schedule, step)
    direction = math.sqrt(max(0.0, d_s**2 - _ddim_sd(schedule, step) ** 2))
    return c_s * x_0 + direction * eps


def heun_corrected(
    schedule: Schedule, plan: Plan, k: int, x_s: torch.Tensor, first: Prediction, second: Prediction
) -> torch.Tensor:
    """Correct the trial state x_s of a heun step by a second prediction, made there (Karras et al. 2022, algorithm 1).

    The step goes by the mean of the slopes at its two ends: of x_t / signal over sigma where variance is preserved, of
    x_t itself elsewhere, which is over sigma for EDM and over t for rectified flow.
    """
    (c_t, d_t), (c_s, d_s) = _levels(schedule, plan.steps[k])
    r_t, r_s = (c_t, c_s) if schedule.alpha_bar is not None and c_t > 0 else (1.0, 1.0)
    change_x_0 = _clipped(plan, second) - _clipped(plan, first)
    change_eps = second.eps - first.eps
    return x_s + (c_s - r_s * c_t / r_t) / 2 * change_x_0 + (d_s - r_s * d_t / r_t) / 2 * change_eps


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
    ends = _levels(schedule, step)
    before = plan.steps[k - 1].timestep if k else plan.came_from
    if step.lands_on == -1 and before is not None:
        small = _small(schedule.at(before), ends[0])
    else:
        small = _small(*ends)
    return f * math.log(_large(*ends)) + (1 - f) * math.log(small)


def adds_noise(schedule: Schedule, plan: Plan, k: int) -> bool:
    """Whether the k-th step of a plan adds noise: not when switched off, on the way to x_0, or deterministic."""
    step = plan.steps[k]
    if step.noise == "zero" or _ends_in_prediction(plan, k):
        return False
    return step.lands_on != -1 if step.rule == "posterior" else _ddim_sd(schedule, step) > 0


def fixed_sd(schedule: Schedule, step: Step) -> float:
    """Sd of the noise of a step whose variance does not depend on the network."""
    if step.rule != "posterior":
        return _ddim_sd(schedule, step)
    return math.sqrt({"large": _large, "small": _small}[str(step.variance)](*_levels(schedule, step)))


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


def _clipped(plan: Plan, prediction: Prediction) -> torch.Tensor:
    return prediction.pred_x0 if plan.clip is None else prediction.pred_x0.clamp(-plan.clip, plan.clip)


def _trials(plans: Sequence[Plan], group: Sequence[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """List the (plan, step position) of a group that need a second evaluation, by the timestep it is due at."""

    def lands_on(due: tuple[int, int]) -> int:
        return plans[due[0]].steps[due[1]].lands_on

    twice = sorted((due for due in group if plans[due[0]].steps[due[1]].evaluations == 2), key=lands_on)
    return ((timestep, list(trials)) for timestep, trials in groupby(twice, lands_on))


def _levels(schedule: Schedule, step: Step) -> tuple[Level, Level]:
    """Return signal and noise_scale of the state a step starts from and of the one it lands on."""
    if step.lands_on >= 0:
        return schedule.at(step.timestep), schedule.at(step.lands_on)
    return schedule.at(step.timestep), (1.0, 0.0) if step.rule == "posterior" else schedule.final


def _large(at_t: Level, at_s: Level) -> float:
    """Variance of x_t given x_s, which has less noise: beta, where one is the timestep before the other."""
    (c_t, d_t), (c_s, d_s) = at_t, at_s
    return max(d_t**2 - (c_t / c_s * d_s) ** 2, 0.0)


def _small(at_t: Level, at_s: Level) -> float:
    """Variance of x_s given x_t and x_0: beta tilde (DDPM eq. 7)."""
    return max(_large(at_t, at_s) * at_s[1] ** 2 / at_t[1] ** 2, _MIN_VARIANCE)


def _ddim_sd(schedule: Schedule, step: Step) -> float:
    """Return the sd sigma of a DDIM step (DDIM eq. 16), of a jump that of the step as it was planned (002 eq. 4)."""
    if step.planned is not None:
        return 0.0 if step.lands_on == -1 else _ddim_sd(schedule, replace(step, lands_on=step.planned, planned=None))
    at_t, at_s = _levels(schedule, step)
    return float(step.variance) * math.sqrt(_large(at_t, at_s) * at_s[1] ** 2 / at_t[1] ** 2)


def _split(prediction: Prediction, branches: int) -> Iterator[Prediction]:
    """Cut the prediction of a network call into its branches'."""
    fields = (prediction.pred_x0, prediction.eps, prediction.variance_fraction)
    return map(Prediction, *(repeat(None, branches) if field is None else field.chunk(branches) for field in fields))
