"""Structural similarity (002 Figs 4 to 17; Wang et al. 2004)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import captions
from traj.analysis._quantity import Landmark, Look, Number, Results, quantity
from traj.analysis._similarity import compared
from traj.analysis._similarity.windows import window_of
from traj.analysis._statistics import landmarks, order
from traj.analysis._statistics.verdicts import SIMILAR

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@quantity(
    reads="trajectories",
    numerics=4,
    title="How close it is to the end: structural similarity",
    source="002 Figs 4 to 17; Wang et al. 2004",
)
def ssim(
    ds: xr.Dataset,
    *,
    on: tuple[str, ...] = ("x_t", "pred_x0"),
    preset: str = "auto",
    against: xr.Dataset | None = None,
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
        Another run: compare x_0 with its x_0, sample by sample, in place of `on`.

    Notes
    -----
    `wang2004` weighs an 11x11 window by a Gaussian of sd 1.5 and uses population covariances. `skimage` and
    `window:N` weigh uniformly and use sample covariances. `auto` is wang2004 from 32 pixels a side, else
    window:5, or window:3 below 5 pixels.

    Raises
    ------
    InputError
        A preset that is unknown or does not fit the images; a missing variable; a run of other samples; events
        that are no images.
    """
    chunking.require_images(ds, "SSIM")
    side = min(ds.sizes.get("y", 0), ds.sizes.get("x", 0))
    preset, window = window_of(preset, side)

    def kernel(states: NDArray[Any], x_0: NDArray[Any], low: float, scale: float) -> NDArray[Any]:
        return compared.structural(states, x_0, low, scale, preset, window)

    return compared.compare(
        ds,
        on,
        against,
        kernel,
        name="ssim",
        title="structural similarity to x_0" if against is None else "structural similarity to the other run's x_0",
        units="1",
        options={"preset": preset, "window": window},
    )


ssim.curve("ssim", title="SSIM with x_0", y_label="SSIM")(compared.series)


@ssim.gives_landmarks
def _alike(result: xr.Dataset) -> list[Landmark]:
    """Say from where on pred_x0 looks like x_0: the first step from which on its mean SSIM stays above 0.8 (002).

    The interval is where the 95 % band of the mean crosses 0.8.
    """
    meaning = f"pred_x0 looks like x_0: SSIM above {SIMILAR} from here on"
    curves = [series for series in compared.series(result) if series.on == "pred_x0"]
    return [
        landmarks.kept_above(series, SIMILAR, "ssim_08", meaning).called(
            f"SSIM {SIMILAR} with x₀", partial(order.kept_above, result["ssim"].sel(on=series.on), SIMILAR)
        )
        for series in curves
    ]


@ssim.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    return compared.at_log_snr_0(result, "SSIM of pred_x0")


def _caption(results: Results) -> str:
    presets = captions.either(str(result.attrs["preset"]) for result in results.values())
    return (
        f"Structural similarity, preset {presets}; 1 is the same image. {compared.caption(results)} The dotted line "
        f"is {SIMILAR}, from which the source takes images for alike. "
        f"{captions.PLACE.format('where pred_x0 gets above it to stay')} After 002 Fig. 17."
    )


@ssim.figure("ssim", title="Structural similarity to the finished image", caption=_caption)
def _draw(results: Results, look: Look) -> Figure | None:
    from traj.analysis._drawing import panels

    states = compared.over_process(results)
    if not states:
        return None
    figure, axes = panels.over_process(states, look, compared.series, "SSIM", places=_alike)
    for axis in axes.flat:
        axis.set_ylim(min(0, axis.get_ylim()[0]), 1.02)
        axis.axhline(SIMILAR, color="#777777", lw=0.9, ls=":")
    return figure


@ssim.figure("ssim_of_runs", title="Structural similarity of two runs", caption=compared.caption_of_runs)
def _draw_of_runs(results: Results, look: Look) -> Figure | None:
    return compared.draw_of_runs(results, look, "SSIM")
