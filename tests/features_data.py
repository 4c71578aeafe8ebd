"""Features of two parts of a network, in the shape of the store contract: of a mixture of subspaces, and of means."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from tests import analysis_data

Array = NDArray[Any]

CLASSES = 2


def readout(
    samples: int = 12,
    steps: int = 6,
    *,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Features that tell more of the class the less noise there is; float32 whatever is asked for, as readouts are."""
    rng = np.random.default_rng(seed)
    label = np.arange(samples) % CLASSES
    noise = np.geomspace(3, 0.1, steps)[:, None]
    means = rng.standard_normal((CLASSES, 8))
    parts = {
        "mid_block": means[label, None] + noise * rng.standard_normal((samples, steps, 8)),
        "up_blocks.1": means[label, None, :7] + 2 * noise * rng.standard_normal((samples, steps, 7)),
    }
    return dataset(parts, label, noise[:, 0], chunks=chunks)


def dataset(
    parts: dict[str, Array], label: Array, sigma: Array, *, chunks: tuple[Any, Any] | None = None
) -> xr.Dataset:
    """Take features (sample, timestep, feature) of parts by name; labels (sample,), and noise levels (timestep,)."""
    variables = {}
    for part, values in parts.items():
        suffix = part.replace(".", "_")
        attrs = {"units": "1", "long_name": f"features of {part}", "part": part, "pool": "mean", "input": "noisy"}
        variables[f"features_{suffix}"] = (("sample", "timestep", f"feature_{suffix}"), np.float32(values), attrs)
    alpha_bar = 1 / (1 + sigma**2)
    ds = xr.Dataset(
        variables,
        {
            "sample": np.arange(len(label)),
            "label": ("sample", label),
            "timestep": np.arange(len(sigma))[::-1] * 10,
            "step": ("timestep", np.arange(len(sigma))),
            "signal": ("timestep", np.sqrt(alpha_bar)),
            "noise_scale": ("timestep", np.sqrt(1 - alpha_bar)),
            "alpha_bar": ("timestep", alpha_bar),
            "sigma": ("timestep", sigma),
            "log_snr": ("timestep", -2 * np.log(sigma), {"units": "nat"}),
        },
        {"kind": "readout", "fingerprint": "features", "config": "{}"},
    )
    return ds if chunks is None else analysis_data.cut(ds, {"sample": chunks[0], "timestep": chunks[1]})


def molrg(
    samples: int, sigma: Array, *, classes: int = 3, dim: int = 5, delta: float = 0.2, seed: int = 0
) -> tuple[Array, Array]:
    """Optimal estimates of draws from a mixture of subspaces, and labels: (sample, timestep, feature), (sample,).

    Each class has `dim` coordinates of its own, and delta times noise in those of the others (METHODS 5.1, 5.2).
    """
    rng = np.random.default_rng(seed)
    label = np.arange(samples) % classes
    own = np.arange(classes * dim) // dim == label[:, None]
    x_0 = rng.standard_normal(own.shape) * np.where(own, 1, delta)
    s2 = sigma[:, None] ** 2
    x_t = x_0[:, None] + np.sqrt(s2) * rng.standard_normal((samples, len(sigma), classes * dim))
    power = (x_t**2).reshape(*x_t.shape[:2], classes, dim).sum(axis=-1)
    other = power.sum(axis=-1, keepdims=True) - power
    exponents = power / (2 * s2 * (1 + s2)) + delta**2 * other / (2 * s2 * (delta**2 + s2))
    weights = special.softmax(exponents, axis=-1)
    gain, other_gain = 1 / (1 + s2), delta**2 / (delta**2 + s2)
    return np.repeat(other_gain + (gain - other_gain) * weights, dim, axis=-1) * x_t, label
