"""Small trajectory datasets in memory, in the shape of the store contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

STATE = ("sample", "timestep", "channel", "y", "x")


def trajectories(
    samples: int = 5,
    steps: int = 6,
    channels: int = 1,
    side: int = 8,
    *,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """States that go from noise to x_0; `chunks` along sample and timestep make it lazy."""
    rng = np.random.default_rng(seed)
    x_0 = rng.uniform(-1, 1, (samples, channels, side, side))
    signal = np.linspace(0, 1, steps)[:, None, None, None]
    noise = rng.standard_normal((samples, steps, channels, side, side))
    x_t = np.sqrt(signal) * x_0[:, None] + np.sqrt(1 - signal) * noise
    pred_x0 = signal * x_0[:, None] + 0.2 * (1 - signal) * noise
    return dataset(x_t, pred_x0, x_0, dtype=dtype, chunks=chunks)


def dataset(
    x_t: NDArray[Any],
    pred_x0: NDArray[Any],
    x_0: NDArray[Any],
    *,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
    valid_range: tuple[float, float] = (-1.0, 1.0),
) -> xr.Dataset:
    samples, steps = x_t.shape[:2]
    attrs = {"units": "1", "valid_range": list(valid_range)}
    alpha_bar = np.linspace(0.01, 0.99, steps)
    ds = xr.Dataset(
        {
            "x_t": (STATE, x_t.astype(dtype), attrs),
            "pred_x0": (STATE, pred_x0.astype(dtype), attrs),
            "x_0": (("sample", "channel", "y", "x"), x_0.astype("float32"), attrs),
        },
        {
            "sample": np.arange(samples),
            "label": ("sample", np.full(samples, -1)),
            "timestep": np.arange(steps)[::-1] * 10,
            "step": ("timestep", np.arange(steps)),
            "alpha_bar": ("timestep", alpha_bar),
        },
        {"kind": "trajectories", "fingerprint": "test"},
    )
    return ds if chunks is None else ds.chunk({"sample": chunks[0], "timestep": chunks[1]})
