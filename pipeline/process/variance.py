"""How much noise a step adds, and how much the state it lands on can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

if TYPE_CHECKING:  # plan imports this file
    from traj.pipeline.process.plan import Step

# a step to x_0 has variance 0, and its logarithm is needed (as in diffusers)
_MIN_VARIANCE = 1e-20

Level = tuple[float, float]
"""signal and noise_scale of a state."""


def ends(schedule: Schedule, step: Step) -> tuple[Level, Level]:
    """Return signal and noise_scale of the state a step starts from, x_t, and of the one it lands on, x_s."""
    if step.lands_on >= 0:
        return schedule.at(step.timestep), schedule.at(step.lands_on)
    return schedule.at(step.timestep), (1.0, 0.0) if step.rule == "posterior" else schedule.final


def large(at_t: Level, at_s: Level) -> float:
    """Variance of x_t given x_s: beta (DDPM eq. 2) where s is the timestep after t."""
    (c_t, d_t), (c_s, d_s) = at_t, at_s
    return max(d_t**2 - (c_t / c_s * d_s) ** 2, 0.0)


def small(at_t: Level, at_s: Level) -> float:
    """Variance beta tilde of x_s given x_t and x_0 (DDPM eq. 7)."""
    return max(large(at_t, at_s) * at_s[1] ** 2 / at_t[1] ** 2, _MIN_VARIANCE)


def fixed_sd(schedule: Schedule, step: Step) -> float:
    """Sd of the noise of a step whose variance does not depend on the network."""
    if step.rule != "posterior":
        return ddim_sd(schedule, step)
    return math.sqrt({"large": large, "small": small}[str(step.variance)](*ends(schedule, step)))


def ddim_sd(schedule: Schedule, step: Step) -> float:
    """Return sigma, the sd of a DDIM step (DDIM eq. 16); a jump has that of the step it was planned as (002 eq. 4)."""
    if step.planned is not None:
        return 0.0 if step.lands_on == -1 else ddim_sd(schedule, _as_planned(step))
    at_t, at_s = ends(schedule, step)
    return float(step.variance) * math.sqrt(large(at_t, at_s) * at_s[1] ** 2 / at_t[1] ** 2)


def refuse_overfull(schedule: Schedule, steps: Iterable[Step]) -> None:
    """Refuse an eta that adds more noise than the states it leads to have at their timesteps.

    sigma^2 may be at most noise_scale^2 of the state a ddim step lands on; no part of eps is left then. Any eta up to 1
    fits everywhere. A jump is judged as the step it was planned as; ``overfull`` tells whether its sigma fits where it
    lands. Posterior steps are used as published, although "large" exceeds the noise of the last states.

    Raises
    ------
    InputError
        When an eta is too large; the message names the step with the least room, and the largest eta that fits there.
    """
    planned = [_as_planned(step) for step in steps if step.rule == "ddim"]
    if full := [step for step in planned if _is_overfull(schedule, step)]:
        least = min(full, key=lambda step: _largest_eta(schedule, step))
        _, (_, d_s) = ends(schedule, least)
        raise InputError(
            f"eta {least.variance:g} adds noise of variance {ddim_sd(schedule, least) ** 2:.3g} at timestep "
            f"{least.timestep}, more than the {d_s**2:.3g} in the state at {least.lands_on}; expected an eta of at "
            f"most {math.floor(1e4 * _largest_eta(schedule, least)) / 1e4:g} there"
        )


def overfull(schedule: Schedule, steps: Iterable[Step]) -> list[Step]:
    """List the jumps that add more noise than the states they land on have (002 eq. 4, as published)."""
    return [step for step in steps if step.planned is not None and _is_overfull(schedule, step)]


def _as_planned(step: Step) -> Step:
    return step if step.planned is None else replace(step, lands_on=step.planned, planned=None)


def _is_overfull(schedule: Schedule, step: Step) -> bool:
    # at the largest eta the two are equal up to rounding
    return ddim_sd(schedule, step) ** 2 > ends(schedule, step)[1][1] ** 2 * (1 + 1e-9)


def _largest_eta(schedule: Schedule, step: Step) -> float:
    at_t, at_s = ends(schedule, step)
    return at_t[1] / math.sqrt(large(at_t, at_s))
