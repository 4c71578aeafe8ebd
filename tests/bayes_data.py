"""Likelihood readouts of the mixture of METHODS 4.4 in closed form, in the shape of the store contract."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from tests import analysis_data

POINTS, ALPHA_BAR = analysis_data.POINTS, analysis_data.ALPHA_BAR
Array = NDArray[Any]


def log_weights(x_t: Array, signal: Array, noise_scale: Array, points: Array = POINTS) -> Array:
    """Log P(point | x_t) of equally likely points (class,): (..., class)."""
    far = x_t[..., None] - signal[..., None] * points
    return special.log_softmax(-(far**2) / (2 * noise_scale[..., None] ** 2), axis=-1)


def forward_paths(x_0: Array, signal: Array, noise_scale: Array, rng: np.random.Generator) -> Array:
    """Draw x_t (sample, timestep) of the forward process from x_0 (sample,), most noise first."""
    x_t = np.empty((len(x_0), len(signal)))
    state, c_s, d_s = x_0, 1.0, 0.0
    for k in range(len(signal))[::-1]:
        ratio = signal[k] / c_s
        added = noise_scale[k] ** 2 - (ratio * d_s) ** 2
        state = ratio * state + np.sqrt(added) * rng.standard_normal(len(x_0))
        x_t[:, k], c_s, d_s = state, signal[k], noise_scale[k]
    return x_t


def readout(
    x_t: Array, timestep: Array, label: Array, points: Array = POINTS, *, dtype: str = "float32", null: bool = True
) -> xr.Dataset:
    """What an exact denoiser of equally likely points (class,) says of states x_t (sample, timestep)."""
    c, d = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    p = np.exp(log_weights(x_t, c, d, points))
    x_0 = np.concatenate([np.broadcast_to(points, p.shape), (p @ points)[..., None]], axis=-1)
    eps = (x_t[..., None] - c[:, None] * x_0) / d[:, None]
    added = d[:-1] ** 2 - (c[:-1] / c[1:] * d[1:]) ** 2
    mean = (c[1:] * added / d[:-1] ** 2)[:, None] * x_0[:, :-1]
    mean += (c[:-1] / c[1:] * d[1:] ** 2 / d[:-1] ** 2 * x_t[:, :-1])[..., None]
    squared = np.full(x_0.shape, np.nan)
    squared[:, :-1] = (x_t[:, 1:, None] - mean) ** 2
    apart = eps[..., :-1] - eps[..., -1:]
    if not null:
        squared[..., -1] = np.nan
    log_snr = 2 * np.log(c / d)
    classes = np.arange(len(points))
    return xr.Dataset(
        {
            "squared_distance": (("sample", "timestep", "class"), squared[..., :-1], {"units": "1"}),
            "squared_distance_null": (("sample", "timestep"), squared[..., -1], {"units": "1"}),
            "eps_product": (
                ("sample", "timestep", "class", "other_class"),
                (apart[..., :, None] * apart[..., None, :]).astype(dtype),
                {"units": "1", "reference": "null"},
            ),
        },
        {
            "sample": np.arange(len(x_t)),
            "label": ("sample", np.broadcast_to(label, len(x_t))),
            "timestep": timestep,
            "step": ("timestep", np.arange(len(timestep))),
            "signal": ("timestep", c),
            "noise_scale": ("timestep", d),
            "alpha_bar": ("timestep", ALPHA_BAR[timestep]),
            "log_snr": ("timestep", log_snr, {"units": "nat"}),
            "class": classes,
            "other_class": classes,
        },
        {"kind": "readout", "fingerprint": "likelihood", "config": json.dumps({"schedule": {"T": 1000}})},
    )


def mixture(
    samples: int = 5,
    steps: int = 6,
    *,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
    labelled: bool = True,
) -> xr.Dataset:
    """A readout of draws from the mixture, `steps` timesteps from 999 down; `chunks` make it lazy."""
    rng = np.random.default_rng(seed)
    timestep = np.linspace(999, 0, steps, endpoint=False).astype(int)
    label = np.arange(samples) % len(POINTS)
    c, d = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    ds = readout(forward_paths(POINTS[label], c, d, rng), timestep, label if labelled else -1, dtype=dtype)
    return ds if chunks is None else analysis_data.cut(ds, {"sample": chunks[0], "timestep": chunks[1]})
