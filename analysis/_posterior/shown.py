"""A few states of a run, kept with their posterior means and nearest images as they are drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._blocks.datasets import Images
from traj.analysis._posterior import one_pass
from traj.analysis._posterior.columns import finite, log_snr

Array = NDArray[Any]

SAMPLES, TIMESTEPS, BYTES = 4, 10, 1 << 24
"""How many states are kept with their images, to be drawn: the bytes come first."""


def states(
    ds: xr.Dataset, x_t: da.Array, pred_x0: da.Array, levels: Array, images: Images, top: int
) -> dict[str, xr.DataArray]:
    """Keep a few states with what was predicted and the images that are nearest, if this is little."""
    at = _apart(levels)
    samples = min(SAMPLES, ds.sizes["sample"], BYTES // (4 * images.values * len(at) * (3 + top)))
    if not samples:
        return {}
    shown, predicted = (array[:samples][:, at].rechunk(-1) for array in (x_t, pred_x0))
    drawn = _to_be_drawn(shown, levels[at], images, top)
    lead = ("shown_sample", "shown_timestep")
    places = {"shown_sample": ds["sample"].to_numpy()[:samples], "shown_timestep": ds["timestep"].to_numpy()[at]}
    found = {
        "shown_x_t": ("state", shown, ()),
        "shown_pred_x0": ("pred_x0", predicted, ()),
        "shown_mean": ("posterior mean of x_0", drawn[:, :, 0], ()),
        "shown_nearest": ("images of the largest weights", drawn[:, :, 1:], ("rank",)),
    }
    units = ds["x_t"].attrs.get("units", "1")
    return {
        name: xr.DataArray(
            values, places, (*lead, *ranks, *images.event), attrs={"units": units, "long_name": f"{title}, to be drawn"}
        )
        for name, (title, values, ranks) in found.items()
    }


def _apart(levels: Array) -> Array:
    """Choose stored timesteps about as far from one another in log SNR: their positions."""
    places = log_snr(levels)
    known = np.flatnonzero(np.isfinite(places))
    if not known.size:
        return np.arange(min(1, len(levels)))
    aims = np.linspace(places[known[0]], places[known[-1]], TIMESTEPS)
    return np.unique(known[np.abs(places[known] - aims[:, None]).argmin(axis=1)])


def _to_be_drawn(x_t: da.Array, levels: Array, images: Images, top: int) -> da.Array:
    """Compute posterior means and nearest images of a few states: (sample, timestep, mean or rank, *event)."""
    event = chunking.EVENT_AXES[: x_t.ndim - 2]
    drawn: da.Array = da.blockwise(
        partial(_drawn, levels=levels, images=images, top=top),
        "stk" + event,
        *(x_t, "st" + event),
        new_axes={"k": 1 + top},
        token="posterior-drawn",
        dtype=np.float32,
        meta=np.empty((0,) * (x_t.ndim + 1), np.float32),
    )
    return drawn


def _drawn(x_t: Array, *, levels: Array, images: Images, top: int) -> Array:
    lead, states = x_t.shape[:2], x_t.reshape(-1, images.values)
    c, d = np.broadcast_to(levels, (*lead, 2)).reshape(-1, 2).T
    known = finite(states)
    found = one_pass.of_states(np.where(known[:, None], states, 0), c, d, images, top)
    drawn = np.concatenate([found.mean[:, None], images.pick(found.image)], axis=1).astype(np.float32)
    drawn[~known] = np.nan
    return drawn.reshape(*lead, 1 + top, *images.shape)
