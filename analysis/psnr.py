"""Peak signal-to-noise ratio (002 Figs 4 to 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from traj.analysis import _kernels, _similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAP = 100.0
"""Identical images have an infinite ratio; anything above this many dB is given as this."""


def psnr(
    ds: xr.Dataset,
    *,
    on: tuple[str, ...] = ("x_t", "pred_x0"),
    against: str | None = None,
) -> xr.Dataset:
    """Compare images, or events of any dims, by peak signal-to-noise ratio (PSNR).

    Values are mapped from x_0's valid_range onto [0, 1] and clipped; PSNR = -10 log10 of the mean squared error
    over all values of an event, at most 100 dB. Gives `psnr` (on, sample, timestep) in dB and its mean, sd and
    standard error over samples.

    Parameters
    ----------
    on
        Variables compared with the run's own x_0.
    against
        Another store: compare x_0 with its x_0, sample by sample, in place of `on`.

    Raises
    ------
    InputError
        A missing variable, or a store of other samples.
    """
    return _similarity.compare(
        ds,
        on,
        against,
        _decibels,
        name="psnr",
        title="PSNR with x_0" if against is None else "PSNR with the other run's x_0",
        units="dB",
        options={"cap": CAP},
    )


def _decibels(states: NDArray[Any], x_0: NDArray[Any], low: float, scale: float) -> NDArray[Any]:
    samples, steps = states.shape[:2]
    flat = states.reshape(samples, steps, -1), x_0.reshape(samples, -1)
    decibels: NDArray[Any] = _kernels.psnr_images(*flat, low, scale, CAP)
    return decibels


def plot(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw PSNR over timesteps, mean and two standard deviations (002 Fig. 16)."""
    return _similarity.draw(result, "psnr", ax)
