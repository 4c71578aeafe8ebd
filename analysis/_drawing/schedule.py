"""The noise schedule of the steps that runs visit (002 Fig. 15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._quantity import Look, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


def of_steps(result: xr.Dataset) -> dict[str, Array]:
    """Give signal, noise scale, and beta, the variance that each step takes away: (timestep,) each, by their titles.

    Beta is d_t^2 - (c_t / c_s)^2 d_s^2 for signal c and noise scale d, from t to s, the last s being x_0: DDPM's beta
    where c^2 + d^2 is 1. NaN where the state that a step lands on was not stored.
    """
    signal, noise_scale = (result[name].to_numpy() for name in ("signal", "noise_scale"))
    c_s, d_s = np.append(signal[1:], 1.0), np.append(noise_scale[1:], 0.0)
    follows = np.append(np.diff(result["step"].to_numpy()) == 1, True)
    beta = np.where(follows, noise_scale**2 - (signal / c_s * d_s) ** 2, np.nan)
    return {"signal": signal, "noise scale": noise_scale, "beta": beta}


def caption(results: Results) -> str:
    """Say what `draw` shows."""
    return (
        "The noise schedule of the steps that each run visits, from noise, at the left, to the image: x_t = signal x_0 "
        "+ noise scale eps. Beta is the variance of the noise between a state and the one that the step lands on, the "
        "last of which is x_0: where it is large, one step takes much noise away. It is left out where stored states "
        "do not follow each other. After 002 Fig. 15."
    )


def draw(results: Results, look: Look) -> Figure | None:
    """Draw signal, noise scale and beta over the process in percent."""
    from traj.analysis._drawing import panels

    lines: dict[str, list[panels.Line]] = {}
    for run, result in results.items():
        for title, values in of_steps(result).items() if "timestep" in result.dims else ():
            done, none = np.linspace(0, 100, len(values)), np.full(len(values), np.nan)
            line = panels.Line(run, look.colours[run], done, values, none, none, "-", look.markers[run])
            lines.setdefault(title, []).append(line)
    if not lines:
        return None
    figure, axes = panels.panels([list(lines.items())], [""], sharey=False)
    for axis in axes.flat:
        axis.set_xlabel("denoising process (%)")
        axis.set_ylim(bottom=0)
    return figure
