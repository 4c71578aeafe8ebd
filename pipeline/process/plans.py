"""Plans by the name of a sampler: ddpm, ddim, iddpm and heun, with the timesteps they visit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from traj.pipeline.process.denoiser import Denoiser
from traj.pipeline.process.plan import Plan, Treatment, chain
from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.spacing import spaced_timesteps
from traj.pipeline.process.variance import refuse_overfull
from traj.stores import InputError


def choose(
    denoiser: Denoiser,
    name: str,
    steps: int | Sequence[int] | None,
    eta: float | None,
    variance: str | None,
    clip: bool | None,
    eps: str | None = None,
    spacing: str | None = None,
) -> Plan:
    """Build the plan of a sampler's name.

    steps is a number of steps, or a list of timesteps. By default ddpm and iddpm clip as the scheduler's config says,
    and ddim and heun do not; clip True clips at the model's valid range, False never clips, and eps says which eps is
    used after clipping. spacing None is the schedule's.

    Raises InputError for an unknown sampler, steps out of range, an option of another sampler, or a range to clip at
    that is not the same on both sides of 0.
    """
    schedule = denoiser.schedule
    if eta is not None and name != "ddim":
        raise InputError(f"eta {eta} was given with sampler {name}; only ddim has an eta")
    if variance is not None and name != "ddpm":
        raise InputError(f"variance {variance} was given with sampler {name}; expected it only with ddpm")
    if eps is not None and not (name in ("ddim", "heun") and clip):
        raise InputError(f"eps {eps} was given; expected it only with sampler ddim or heun, and with clip")
    if spacing is not None and isinstance(steps, Sequence):
        raise InputError(f"spacing {spacing} and timesteps by hand were given, expected one of them")
    ranges = {} if clip is None else {"clip": _clip_at(denoiser) if clip else None}
    match name:
        case "ddpm":
            usual = "large" if schedule.learned_range else schedule.variance
            return ddpm(schedule, steps, variance or usual, spacing=spacing, **ranges)
        case "ddim":
            return ddim(schedule, steps, eta or 0.0, spacing=spacing, eps=eps or "kept", **ranges)
        case "iddpm":
            return iddpm(schedule, steps, spacing=spacing, **ranges)
        case "heun":
            return heun(schedule, steps, spacing=spacing, eps=eps or "kept", **ranges)
    raise InputError(f"sampler {name!r} is unknown; expected ddpm, ddim, iddpm or heun")


def _clip_at(denoiser: Denoiser) -> float:
    clip = denoiser.schedule.clip_sample
    bounds = denoiser.valid_range or (None if clip is None else (-clip, clip))
    if bounds is None:
        raise InputError(
            "clip was asked for, but this model makes latents, which have no range to clip to, and its scheduler gives "
            "none: leave out --clip"
        )
    low, high = bounds
    if low != -high:
        raise InputError(
            f"clip was asked for, but this model's x_0 lies in {low:g} to {high:g}; expected a range from -c to c: "
            "leave out --clip"
        )
    return high


def ddpm(
    schedule: Schedule,
    steps: int | Sequence[int] | None = None,
    variance: str = "large",
    clip: float | Literal["schedule"] | None = "schedule",
    spacing: str | None = None,
) -> Plan:
    """Ancestral sampling (DDPM algorithm 2): posterior mean, variance beta ("large") or beta tilde ("small").

    "large" is used as published, although in the last steps it exceeds the noise of the states they land on. ``steps``
    is a number of steps or a list of timesteps; all timesteps by default. pred_x0 is clipped as the schedule says, or
    to ``clip``, None for no clipping. ``spacing`` as in ``spaced_timesteps``.

    Raises
    ------
    InputError
        When steps is 0 or above T, or variance is "learned" and the network has none.
    """
    if variance == "learned" and not schedule.learned_range:
        raise InputError(
            "learned variance needs a network that predicts it (variance_type: learned_range); expected large or small"
        )
    treatment = Treatment("posterior", variance)
    timesteps = spaced_timesteps(schedule, steps, spacing)
    return chain([(t, treatment) for t in timesteps], schedule.clip_sample if clip == "schedule" else clip)


def ddim(
    schedule: Schedule,
    steps: int | Sequence[int] | None,
    eta: float = 0.0,
    clip: float | None = None,
    spacing: str | None = None,
    eps: str = "kept",
) -> Plan:
    """DDIM (DDIM eq. 12 and 16): deterministic at eta 0, DDPM's "small" variance at eta 1.

    pred_x0 is not clipped unless ``clip`` is given, as in the official code. ``spacing`` as in ``spaced_timesteps``,
    ``eps`` as in ``Plan``. With a clip, eta 1 is DDPM's "small" only if eps is "rederived".

    Raises
    ------
    InputError
        When steps is 0 or above T, eps is rederived without a clip, or eta is negative or too large for a step.
    """
    treatment = Treatment("ddim", eta)
    plan = replace(chain([(t, treatment) for t in spaced_timesteps(schedule, steps, spacing)], clip), eps=eps)
    refuse_overfull(schedule, plan.steps)
    return plan


def iddpm(
    schedule: Schedule,
    steps: int | Sequence[int] | None = None,
    clip: float | Literal["schedule"] | None = "schedule",
    spacing: str | None = None,
) -> Plan:
    """Ancestral sampling with the network's own variance (IDDPM eq. 15).

    Raises
    ------
    InputError
        When steps is 0 or above T, or the network predicts no variance.
    """
    return ddpm(schedule, steps, "learned", clip, spacing)


def heun(
    schedule: Schedule,
    steps: int | Sequence[int] | None = None,
    clip: float | None = None,
    spacing: str | None = None,
    eps: str = "kept",
) -> Plan:
    """Heun's method on the probability-flow ODE: two evaluations a step, one in the last (Karras et al. 2022, alg. 1).

    pred_x0 is not clipped unless ``clip`` is given. ``spacing`` as in ``spaced_timesteps``, ``eps`` as in ``Plan``.

    Raises
    ------
    InputError
        When steps is 0 or above T, or eps is rederived without a clip.
    """
    treatment = Treatment("heun", 0.0)
    return replace(chain([(t, treatment) for t in spaced_timesteps(schedule, steps, spacing)], clip), eps=eps)
