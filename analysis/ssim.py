"""Structural similarity (002 Figs 4 to 17; Wang et al. 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _chunks, _gaussian, _kernels, _similarity
from traj.analysis._windows import half_gaussian, window_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    InputError
        A preset that is unknown or does not fit the images; a missing variable; a store of other samples; events
        that are no images.
    """
    _chunks.require_images(ds, "SSIM")
    side = min(ds.sizes.get("y", 0), ds.sizes.get("x", 0))
    preset, window = window_of(preset, side)

    def kernel(states: NDArray[Any], x_0: NDArray[Any], low: float, scale: float) -> NDArray[Any]:
        similarity: NDArray[Any]
        if preset == "wang2004":
            similarity = _gaussian.ssim_gaussian(states, x_0, low, scale, half_gaussian())
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


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw SSIM over timesteps, mean and two standard deviations (002 Fig. 17)."""
    return _similarity.draw(result, "ssim", ax)
