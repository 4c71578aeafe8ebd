"""Schedules by name: the tables of DDPM, of 004, of EDM and of rectified flow, and tables of your own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from traj.pipeline.parsing import number
from traj.pipeline.process import grids
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

NAMES = ("linear", "cosine", "ve", "edm[:MIN,MAX,RHO]", "flow[:SHIFT]")
_BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def named(name: str, steps: int | None = None) -> Schedule:
    """Build the schedule of a name: linear or cosine with 1,000 timesteps, ve with 500, or a grid of so many steps.

    "edm" may name its least and largest sigma and rho, ``edm:0.002,80,7``; "flow" its shift, ``flow:3``.

    Raises
    ------
    InputError
        When the name means nothing, or a grid is asked for without a number of steps.
    """
    kind, _, numbers = name.partition(":")
    if name in _BETAS:
        return Schedule.from_config({"clip_sample": False, "beta_schedule": _BETAS[name]})
    if name == "ve":
        return ve()
    try:
        values = [number(text) for text in numbers.split(",")] if numbers else []
    except InputError:
        values = None
    if kind not in ("edm", "flow") or values is None or len(values) not in ((0, 3) if kind == "edm" else (0, 1)):
        raise InputError(f"schedule {name!r}; expected one of {', '.join(NAMES)}")
    steps = grids.checked_steps(steps, f"schedule {name}")
    return edm(steps, *values) if kind == "edm" else flow(steps, *values)


def name_of(schedule: Mapping[str, Any]) -> str | None:
    """Give the name that builds the schedule of a config, None if no name does."""
    match schedule:
        case {"grid": "edm", "sigma_min": least, "sigma_max": most, "rho": rho}:
            return f"edm:{least!r},{most!r},{rho!r}"
        case {"grid": "flow", "shift": shift}:
            return f"flow:{shift!r}"
    known = (name for name in (*_BETAS, "ve") if named(name).identity.items() <= schedule.items())
    return next(known, None)


def ve() -> Schedule:
    """Build the table of 004: x_t = x_0 + sigma eps, with the sigma of DDPM's linear betas in 500 timesteps."""
    betas = Schedule.from_config({"num_train_timesteps": 500, "clip_sample": False})
    sigma = betas.sigma
    definition = {"ve": betas.definition["beta_formula"], "T": betas.T}
    return Schedule(definition, np.ones(betas.T), sigma, betas.model_time, prediction_type="sample")


def edm(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Build EDM's grid of noise levels (Karras et al. 2022, eq. 5): signal 1, noise_scale and model time sigma.

    Raises
    ------
    InputError
        When there is no step, or the numbers do not fit.
    """
    grids.checked_steps(steps, "edm")
    sigma = grids.karras(steps, sigma_min, sigma_max, rho, f"edm:{sigma_min:g},{sigma_max:g},{rho:g}")
    numbers = {"sigma_min": float(sigma_min), "sigma_max": float(sigma_max), "rho": float(rho)}
    return Schedule({"grid": "edm", "T": steps, **numbers}, np.ones(steps), sigma, sigma, prediction_type="sample")


def flow(steps: int, shift: float = 1.0) -> Schedule:
    """Build a grid of rectified flow: times t from 1 down in equal steps, signal 1 - t, noise_scale and model time t.

    A shift above 1 moves the steps towards the noise: t becomes shift t / (1 + (shift - 1) t) (Esser et al. 2024).

    Raises
    ------
    InputError
        When there is no step, or the shift is not above 0.
    """
    grids.checked_steps(steps, "flow")
    if not 0 < shift < np.inf:
        raise InputError(f"flow:{shift:g}; expected a shift above 0")
    t = grids.shifted(np.arange(1, steps + 1) / steps, shift)
    return Schedule({"grid": "flow", "T": steps, "shift": float(shift)}, 1 - t, t, t, prediction_type="flow_prediction")


def table(signal: ArrayLike, noise_scale: ArrayLike, model_time: ArrayLike) -> Schedule:
    """Take three columns as a schedule: signal, noise_scale and model time of each timestep, the least noise first.

    Raises
    ------
    InputError
        When they are no such columns.
    """
    columns = [np.asarray(column, np.float64) for column in (signal, noise_scale, model_time)]
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
    definition = {"table": f"sha256:{digest}", "T": int(np.size(columns[0]))}
    return Schedule(definition, columns[0], columns[1], columns[2], prediction_type="sample")
