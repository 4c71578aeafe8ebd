"""Which timesteps a number of steps visits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat

import numpy as np

from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

SPACINGS = ("leading", "linspace", "trailing", "openai")


def spaced_timesteps(schedule: Schedule, steps: int | Sequence[int] | None, spacing: str | None = None) -> list[int]:
    """Timesteps of a number of steps, from high to low, or a list of them given by hand.

    A number of steps is spaced as the schedule says unless ``spacing`` does.

    "leading", "linspace" and "trailing" mean what they do in diffusers, "openai" in improved-diffusion and its kin:
    linspace with their rounding. None or T steps are all timesteps. Each step lands on the next timestep of this list.
    (DDIM of diffusers goes down by a fixed T // steps instead.)

    Raises
    ------
    InputError
        When steps is below 1 or above T, there is no such spacing, or the schedule's offset leads past T-1. When the
        list by hand is empty, or names a timestep twice or one that is not in the schedule.
    """
    T, spacing = schedule.T, schedule.spacing if spacing is None else spacing
    if spacing not in SPACINGS:
        raise InputError(f"spacing {spacing!r}; expected one of {SPACINGS}")
    if isinstance(steps, Sequence):
        if not steps or len(set(steps)) < len(steps) or not 0 <= min(steps) <= max(steps) < T:
            raise InputError(f"timesteps {shown(list(steps))}; expected numbers from {T - 1} to 0, each once")
        return sorted(steps, reverse=True)
    if steps is None or steps == T:
        return list(range(T - 1, -1, -1))
    if not 1 <= steps <= T:
        raise InputError(f"{steps} steps; expected 1 to {T}, the number of training timesteps")
    ascending: np.ndarray
    if spacing == "leading":
        ascending = np.arange(steps) * (T // steps) + schedule.steps_offset
    elif spacing == "linspace":
        ascending = np.linspace(0, T - 1, steps).round()
    elif spacing == "openai":
        ascending = np.array(spread(T, steps))
    else:
        # arange in floats may run one element too far
        ascending = np.arange(T, 0, -T / steps)[:steps][::-1].round() - 1
    if ascending[-1] >= T:
        raise InputError(
            f"{steps} steps with steps_offset {schedule.steps_offset} start at {int(ascending[-1])}, "
            f"beyond {T - 1}; ask for fewer steps"
        )
    return [int(t) for t in ascending[::-1]]


def spread(T: int, steps: int) -> list[int]:
    """Spread steps over T timesteps from the first to the last, rounded as improved-diffusion and its kin do."""
    # summed step by step, as theirs, since the sums' last bits decide what is rounded up
    strides = repeat((T - 1) / max(steps - 1, 1), steps - 1)
    return [round(place) for place in accumulate(strides, initial=0.0)]


def shown(timesteps: Sequence[int]) -> str:
    """Write timesteps; of many, the first three and the last."""
    if len(timesteps) <= 6:
        return ", ".join(map(str, timesteps))
    return f"{timesteps[0]}, {timesteps[1]}, {timesteps[2]}, ..., {timesteps[-1]}"


def nearest(timesteps: Sequence[int], timestep: int) -> str:
    """Write the two of some timesteps that are nearest to one."""
    return " and ".join(map(str, sorted(timesteps, key=lambda other: abs(other - timestep))[:2]))
