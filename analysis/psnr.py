"""Peak signal-to-noise ratio (002 Figs 4 to 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from traj.analysis._drawing import schedule
from traj.analysis._kernels import images
from traj.analysis._quantity import Look, Number, Results, quantity
from traj.analysis._similarity import compared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAP = 100.0
"""Identical images have an infinite ratio; anything above this many dB is given as this."""


@quantity(
    reads="trajectories",
    numerics=4,
    title="How close it is to the end: peak signal-to-noise ratio",
    source="002 Figs 4 to 16",
)
def psnr(
    ds: xr.Dataset,
    *,
    on: tuple[str, ...] = ("x_t", "pred_x0"),
    against: xr.Dataset | None = None,
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
        Another run: compare x_0 with its x_0, sample by sample, in place of `on`.

    Raises
    ------
    InputError
        A missing variable, or a run of other samples.
    """
    return compared.compare(
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
    decibels: NDArray[Any] = images.psnr_images(*flat, low, scale, CAP)
    return decibels


psnr.curve("psnr", title="PSNR with x_0", y_label="PSNR (dB)")(compared.series)


@psnr.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    """Say how close pred_x0 is at log SNR 0, and the last x_t."""
    found = compared.at_log_snr_0(result, "PSNR of pred_x0 (dB)")
    for series in compared.series(result):
        if series.on == "x_t":
            found.append(Number("psnr_x_t_end", "PSNR of the last x_t (dB)", *(float(end[-1]) for end in series[3:])))
    return found


def _caption(results: Results) -> str:
    return (
        f"Peak signal-to-noise ratio, higher is closer; infinite, and not drawn, for the same image. "
        f"{compared.caption(results)} After 002 Fig. 16."
    )


@psnr.figure("psnr", title="Peak signal-to-noise ratio to the finished image", caption=_caption)
def _draw(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    states = compared.over_process(results)
    return panels.over_process(states, look, compared.series, "PSNR (dB)")[0] if states else None


@psnr.figure("psnr_of_runs", title="Peak signal-to-noise ratio of two runs", caption=compared.caption_of_runs)
def _draw_of_runs(results: Results, look: Look) -> Figure | None:
    return compared.draw_of_runs(results, look, "PSNR (dB)")


psnr.figure("schedule", title="The noise schedule of the steps", caption=schedule.caption)(schedule.draw)
