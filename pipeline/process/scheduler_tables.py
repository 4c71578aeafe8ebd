"""The tables of diffusers' schedulers, from the keys of their configs: of betas, of EDM, of flows, of consistency."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from traj.pipeline.process import grids, preconditioning
from traj.stores import InputError

Found = Mapping[str, Any]
"""The values of a config's keys, or the defaults of its class."""

VARIANCES = {
    None: "small",
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
_MAX_BETA = 0.999
ALPHA_BAR_OF_TIME: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "squaredcos_cap_v2": lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2,  # IDDPM eq. 17
    "exp": lambda u: np.exp(-12 * u),
    "laplace": lambda u: 1 / np.sqrt(1 + (1 - 2 * abs(0.5 - u) + 1e-6) ** np.copysign(0.5, 0.5 - u)),
}
"""Schedules that are given as alpha_bar of a time from 0 to 1, whose betas are capped."""
CURVES: Mapping[str, Callable[[float, float, int], np.ndarray]] = {
    "linear": lambda start, end, T: np.linspace(start, end, T),
    "scaled_linear": lambda start, end, T: np.linspace(start ** (1 / 2), end ** (1 / 2), T) ** 2,
    "sigmoid": lambda start, end, T: start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, T))),
}
"""Schedules that are given as betas from a start to an end."""


def of_betas(what: str, found: Found, time_scale: float, steps: int | None) -> dict[str, Any]:
    """Make the table of a scheduler with betas, fed timestep * time_scale, or of one that follows a flow instead."""
    if found["use_flow_sigmas"]:
        return _of_flow_sigmas(what, found, time_scale, steps)
    if found["prediction_type"] == "flow_prediction":
        raise InputError(f"{what} has prediction_type: flow_prediction without use_flow_sigmas: true; expected both")
    formula, betas = _betas(found)
    alpha_bar, changes = np.cumprod(1 - betas), {}
    if (shift := found["snr_shift_scale"]) != 1:
        alpha_bar, changes = alpha_bar / (shift + (1 - shift) * alpha_bar), {"snr_shift_scale": shift}
    signal = np.sqrt(alpha_bar)
    if found["rescale_betas_zero_snr"]:
        signal = _without_terminal_signal(signal)
        changes["rescale_betas_zero_snr"] = True
        if least := found["terminal_alpha_bar"]:
            if signal[-2] ** 2 <= least:
                raise InputError(
                    f"{what} has rescale_betas_zero_snr: true, for which its class sets the last alpha_bar to "
                    f"{least:.2g}, above the one before it, {signal[-2] ** 2:.2g}; write DDIMScheduler as _class_name, "
                    "which sets 0"
                )
            signal[-1], changes["terminal_alpha_bar"] = math.sqrt(least), least
        alpha_bar = signal**2
    last = 1.0 if found["set_alpha_to_one"] and found["final_sigmas_type"] == "zero" else float(alpha_bar[0])
    return {
        "definition": {
            "T": len(betas),
            "beta_formula": formula,
            **changes,
            "time_scale": time_scale,
            "final_alpha_bar": last,
        },
        "signal": signal,
        "noise_scale": np.sqrt(1 - alpha_bar),
        "model_time": np.arange(len(betas)) * time_scale,
        "prediction_type": found["prediction_type"],
        "clip_sample": found["clip_sample_range"] if found["clip_sample"] else None,
        "variance": VARIANCES[found["variance_type"]],
        "spacing": found["timestep_spacing"],
        "steps_offset": found["steps_offset"],
        "final": (float(np.sqrt(last)), float(np.sqrt(1 - last))),
    }


def of_flow(what: str, found: Found, time_scale: float, steps: int | None) -> dict[str, Any]:
    """Make the grid of flow matching, fed t * num_train_timesteps * time_scale."""
    steps, N, shift = grids.checked_steps(steps, what), found["num_train_timesteps"], found["shift"]
    least = grids.shifted(np.array(1 / N), shift)  # theirs begins at the end of the shifted table, and shifts again
    t = grids.shifted(np.linspace(1, least, steps)[::-1], shift)
    t = _to_terminal(t, found["shift_terminal"])
    definition = {"grid": "flow_match", "T": steps, **_shifts(found, shift), "time_scale": time_scale}
    return _flow(definition, t, t * N * time_scale)


def of_edm(what: str, found: Found, time_scale: float, steps: int | None) -> dict[str, Any]:
    """Make EDM's grid with its preconditioned network, fed c_noise * time_scale."""
    steps, least, most = grids.checked_steps(steps, what), found["sigma_min"], found["sigma_max"]
    if found["sigma_schedule"] == "exponential":
        numbers = {"sigma_min": least, "sigma_max": most, "spacing": "exponential"}
        sigma = np.exp(np.linspace(math.log(least), math.log(most), steps))
    else:
        numbers = {"sigma_min": least, "sigma_max": most, "rho": found["rho"]}
        sigma = grids.karras(steps, least, most, found["rho"], f"{what} has {numbers}")
    scales = preconditioning.edm(sigma, found["sigma_data"])
    if found["prediction_type"] == "v_prediction":
        scales = scales._replace(c_out=-scales.c_out)
    final = 0.0 if found["final_sigmas_type"] == "zero" else least
    c_noise = np.log(sigma) / 4 if found["c_noise"] == "log(sigma)/4" else np.arctan(sigma) * 2 / np.pi
    told = {key: found[key] for key in ("sigma_data", "c_noise")}
    definition = {"grid": "edm", "T": steps, **numbers, **told, "predicts": found["prediction_type"]}
    return {
        "definition": {**definition, "time_scale": time_scale, "final_sigma": final},
        "signal": np.ones(steps),
        "noise_scale": sigma,
        "model_time": c_noise * time_scale,
        "prediction_type": "preconditioned",
        "preconditioning": scales,
        "final": (1.0, final),
    }


def of_consistency(what: str, found: Found, time_scale: float, steps: int | None) -> dict[str, Any]:
    """Make the table of a consistency model, fed 250 log sigma * time_scale."""
    T = found["num_train_timesteps"]
    numbers = {key: found[key] for key in ("sigma_min", "sigma_max", "rho")}
    sigma = grids.karras(T, **numbers, what=f"{what} has {numbers}")
    return {
        "definition": {"consistency": found["sigma_data"], "T": T, **numbers, "time_scale": time_scale},
        "signal": np.ones(T),
        "noise_scale": sigma,
        "model_time": 250 * np.log(sigma) * time_scale,
        "prediction_type": "preconditioned",
        "preconditioning": preconditioning.consistency(sigma, found["sigma_data"]),
        "clip_sample": 1.0 if found["clip_denoised"] else None,
        "spacing": "trailing",
    }


def _of_flow_sigmas(what: str, found: Found, time_scale: float, steps: int | None) -> dict[str, Any]:
    """Make the grid of a solver that is told to follow a flow, fed the whole part of t * num_train_timesteps."""
    for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
        if found.get(key):
            raise InputError(f"{what} has use_flow_sigmas: true and {key}: true; expected {key}: false")
    if found["final_sigmas_type"] != "zero":
        raise InputError(f"{what} has use_flow_sigmas: true; expected final_sigmas_type: zero")
    steps, N, shift = grids.checked_steps(steps, what), found["num_train_timesteps"], found["flow_shift"]
    downwards = np.linspace(1, 1 / N, steps + 1)
    if found["flow_from_1"]:
        t = _to_terminal(grids.shifted(downwards[-2::-1], shift), found["shift_terminal"])
        t[-1] -= 1e-6 if abs(t[-1] - 1) < 1e-6 else 0
    else:
        t = grids.shifted(1 - downwards[1:], shift)
    last = 0.0 if found["set_alpha_to_one"] else float(t[0])
    definition = {"grid": "flow_sigmas", "T": steps, "from_1": found["flow_from_1"], **_shifts(found, shift)}
    return {
        **_flow({**definition, "time_scale": time_scale, "final_t": last}, t, np.floor(t * N) * time_scale),
        "prediction_type": found["prediction_type"],
        "variance": VARIANCES[found["variance_type"]],
        "final": (1 - last, last),
    }


def _flow(definition: dict[str, Any], t: np.ndarray, model_time: np.ndarray) -> dict[str, Any]:
    columns = {"signal": 1 - t, "noise_scale": t, "model_time": model_time}
    return {"definition": definition, **columns, "prediction_type": "flow_prediction"}


def _shifts(found: Found, shift: float) -> dict[str, Any]:
    """Say what a flow's grid is made of."""
    terminal = {key: found[key] for key in ("shift_terminal",) if found[key]}
    return {"num_train_timesteps": found["num_train_timesteps"], "shift": shift, **terminal}


def _to_terminal(t: np.ndarray, terminal: float | None) -> np.ndarray:
    """Stretch the times of a flow to end at one, where one is given."""
    return t if terminal is None else 1 - (1 - t) * (1 - terminal) / (1 - t[0])


def _betas(found: Found) -> tuple[str, np.ndarray]:
    """Return the betas of a config, and a short text that defines them."""
    if found["trained_betas"] is not None:
        betas = np.array(found["trained_betas"])
        return f"trained sha256:{hashlib.sha256(betas.tobytes()).hexdigest()}", betas
    name, T = found["beta_schedule"], found["num_train_timesteps"]
    if name in ALPHA_BAR_OF_TIME:
        alpha_bar = ALPHA_BAR_OF_TIME[name](np.arange(T + 1) / T)
        return name, np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MAX_BETA)
    start, end = found["beta_start"], found["beta_end"]
    return f"{name} {start!r} {end!r}", CURVES[name](start, end, T)


def _without_terminal_signal(signal: np.ndarray) -> np.ndarray:
    """Shift and stretch the signal to end at 0, its first value kept (Lin et al. 2024, algorithm 1)."""
    if len(signal) < 2:
        raise InputError("rescale_betas_zero_snr with one timestep leaves no signal at all; expected more of them")
    stretched: np.ndarray = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    return stretched
