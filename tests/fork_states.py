"""Logits of forks and of all their states, as a readout of forks made with --states has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.analysis_data import cut, fork_readout_dataset, state_readout_dataset


def fork_state_readout(
    samples: int = 5,
    steps: int = 6,
    *,
    variants: int = 3,
    replicas: int = 4,
    classes: int = 5,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Logits that grow surer; no state is missing."""
    rng = np.random.default_rng(0)
    final = 4 * rng.standard_normal((variants, replicas, samples, 1, classes))
    signal = np.linspace(0, 0.95, steps)[:, None]
    noise = rng.standard_normal((2, variants, replicas, samples, steps, classes))
    logits = signal * final + (1 - signal) * noise
    logits += 0.05 * (logits == logits.max(axis=-1, keepdims=True))  # so that float16 changes no label
    return fork_state_readout_dataset(logits, final[..., 0, :], dtype, chunks)


def fork_state_readout_dataset(
    logits: NDArray[Any],
    x_0_logits: NDArray[Any],
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Take logits (on, variant, replica, sample, timestep, class), and those of x_0; chunks of sample and timestep."""
    states = state_readout_dataset(logits[:, 0, 0], x_0_logits[0, 0])
    dims = ("on", "variant", "replica", "sample", "timestep", "class")
    ds = fork_readout_dataset(x_0_logits, dtype=dtype).drop_dims("timestep").assign_coords(states.coords)
    ds["logits"] = dims, logits.astype(dtype), {"units": "1"}
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "timestep": chunks[1]})
