"""The windows that structural similarity is averaged over."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.stores import IMAGE_DIMS, InputError, event_dims

GAUSSIAN_WIDTH, GAUSSIAN_SD = 11, 1.5


def half_gaussian() -> NDArray[Any]:
    """Give the first six weights of a Gaussian window of eleven."""
    distance = np.arange(GAUSSIAN_WIDTH // 2 + 1) - GAUSSIAN_WIDTH // 2
    half = np.exp(-0.5 * (distance / GAUSSIAN_SD) ** 2)
    weights: NDArray[Any] = half / (2 * half.sum() - half[-1])
    return weights


SMALLEST_WINDOW = 3


def window_if_any(preset: str, x_0: xr.DataArray) -> tuple[str, int]:
    """Do what `window_of` does for x_0, or give none of width 0 where `auto` finds no window that fits.

    Raises InputError where another preset was given and x_0 holds no images.
    """
    images = event_dims(x_0.dims) == IMAGE_DIMS
    side = min(x_0.sizes["y"], x_0.sizes["x"]) if images else 0
    if preset == "auto" and side < SMALLEST_WINDOW:
        return "none", 0
    if not images:
        raise InputError(
            f"preset {preset} was given for SSIM, which is of images; these events have dims "
            f"{', '.join(event_dims(x_0.dims))}: leave it at auto, and SSIM is NaN"
        )
    return window_of(preset, side)


def window_of(preset: str, side: int) -> tuple[str, int]:
    """Turn a preset into its full name and window width, for images `side` pixels across."""
    if preset == "auto":
        preset = "wang2004" if side >= 32 else "window:5" if side >= 5 else "window:3"
    fixed = {"wang2004": GAUSSIAN_WIDTH, "skimage": 7}
    odd = re.fullmatch(r"window:([0-9]{0,8}[13579])", preset)
    if preset in fixed:
        window = fixed[preset]
    elif odd and int(odd[1]) >= 3:
        window = int(odd[1])
    else:
        raise InputError(
            f"unknown preset {preset!r}; expected auto, wang2004, skimage, or window:N with N odd, 3 or more"
        )
    if window > side:
        widest = side - 1 + side % 2
        fits = [name for name, width in fixed.items() if width <= side]
        fits += [f"window:N with N up to {widest}"] if widest >= 3 else []
        raise InputError(
            f"preset {preset} needs images of at least {window} pixels a side, these have {side}; "
            + (f"what fits: {', '.join(fits)}" if fits else "the least is 3 pixels a side; analyse them with psnr")
        )
    return preset, window
