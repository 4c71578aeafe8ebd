"""Structural similarity (002 Figs 4 to 17; Wang et al. 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis import _gaussian, _kernels, _similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAUSSIAN_WIDTH, GAUSSIAN_SD = 11, 1.5


def ssim(
    ds: xr.Dataset,
    *,
    on: tuple[str, ...] = ("x_t", "pred_x0"),
    preset: str = "auto",
    against: str | None = None,
) -> xr.Dataset:
    """Compare images by structural similarity (SSIM).

    Values are mapped from x_0's valid_range onto [0, 1] and clipped; K1 = 0.01, K2 = 0.03, data range 1. Only
    windows that lie wholly inside the image count; the index is averaged over windows and channels in float64.
    Gives `ssim` (on, sample, timestep) and its mean, sd and standard error over samples, without units.

    Parameters
    ----------
    on
        Variables compared with the run's own x_0.
    preset
        wang2004 (Gaussian window of 11), skimage (uniform of 7), window:N (uniform, odd N), or auto.
    against
        Another store: compare x_0 with its x_0, sample by sample, in place of `on`.

    Notes
    -----
    `wang2004` weighs an 11x11 window by a Gaussian of sd 1.5 and uses population covariances. `skimage` and
    `window:N` weigh uniformly and use sample covariances. `auto` is wang2004 from 32 pixels a side, else
    window:5, or window:3 below 5 pixels.

    Raises
    ------
    ValueError
        A preset that is unknown or does not fit the images; a missing variable; a store of other samples.
    """
    side = min(ds.sizes.get("y", 0), ds.sizes.get("x", 0))
    preset, window = _window(preset, side)
    if preset == "wang2004":
        distance = np.arange(GAUSSIAN_WIDTH // 2 + 1) - GAUSSIAN_WIDTH // 2
        half = np.exp(-0.5 * (distance / GAUSSIAN_SD) ** 2)
        half /= 2 * half.sum() - half[-1]

    def kernel(states: NDArray[Any], x_0: NDArray[Any], low: float, scale: float) -> NDArray[Any]:
        similarity: NDArray[Any]
        if preset == "wang2004":
            similarity = _gaussian.ssim_gaussian(states, x_0, low, scale, half)
        else:
            unbias = window**2 / (window**2 - 1)
            similarity = _kernels.ssim_uniform(states, x_0, low, scale, window, unbias)
        return similarity

    return _similarity.compare(
        ds,
        on,
        against,
        kernel,
        name="ssim",
        title="structural similarity to x_0" if against is None else "structural similarity to the other run's x_0",
        units="1",
        options={"preset": preset, "window": window},
    )


def _window(preset: str, side: int) -> tuple[str, int]:
    """Turn a preset into its full name and window width, for images `side` pixels across."""
    if preset == "auto":
        preset = "wang2004" if side >= 32 else "window:5" if side >= 5 else "window:3"
    fixed = {"wang2004": GAUSSIAN_WIDTH, "skimage": 7}
    number = preset.removeprefix("window:")
    if preset in fixed:
        window = fixed[preset]
    elif preset.startswith("window:") and number.isdecimal() and int(number) % 2 == 1 and int(number) >= 3:
        window = int(number)
    else:
        raise ValueError(
            f"unknown preset {preset!r}; expected auto, wang2004, skimage, or window:N with N odd, 3 or more"
        )
    if window > side:
        widest = side - 1 + side % 2
        fits = [name for name, width in fixed.items() if width <= side]
        fits += [f"window:N with N up to {widest}"] if widest >= 3 else []
        raise ValueError(
            f"preset {preset} needs images of at least {window} pixels a side, these have {side}; "
            + (f"what fits: {', '.join(fits)}" if fits else "no window fits images this small, use psnr")
        )
    return preset, window


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw SSIM over timesteps, mean and two standard deviations (002 Fig. 17)."""
    return _similarity.draw(result, "ssim", ax)
