"""Grids that a continuous process is sampled on: the noise levels of a number of steps, the least noise first."""

from __future__ import annotations

import numpy as np

from traj.stores import InputError

MOST_TIMESTEPS = 1_000_000


def checked_steps(steps: int | None, what: str) -> int:
    """Check the number of steps of a grid, which ``what`` names in errors.

    Raises
    ------
    InputError
        When it was not said, or is out of range.
    """
    if steps is None:
        raise InputError(f"{what} is a grid with a timestep for each step; say how many: --steps 40")
    if not 1 <= steps <= MOST_TIMESTEPS:
        raise InputError(f"{steps} steps; expected 1 to {MOST_TIMESTEPS}")
    return steps


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float, what: str) -> np.ndarray:
    """Give EDM's noise levels (Karras et al. 2022, eq. 5); shape (steps,).

    Raises
    ------
    InputError
        When the numbers do not fit; ``what`` names them.
    """
    if not (0 < sigma_min < sigma_max < np.inf and 0 < rho < np.inf):
        raise InputError(f"{what}; expected 0 < MIN < MAX and RHO above 0")
    try:
        most, least = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        raise InputError(f"{what}; expected a larger RHO, EDM's is 7") from None
    sigma: np.ndarray = (most + np.linspace(0, 1, steps) * (least - most))[::-1] ** rho
    return sigma


def shifted(t: np.ndarray, shift: float) -> np.ndarray:
    """Move times from 0 to 1 towards 1, the noise, by a shift above 1 (Esser et al. 2024); 1 stays 1 exactly."""
    return np.where(t == 1, 1.0, shift * t / (1 + (shift - 1) * t))
