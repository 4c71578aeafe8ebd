"""Small trajectory datasets in memory, in the shape of the store contract."""

from __future__ import annotations

import atexit
import json
import tempfile
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests import runs
from traj import stores

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
            "signal": ("timestep", np.sqrt(alpha_bar)),
            "noise_scale": ("timestep", np.sqrt(1 - alpha_bar)),
            "alpha_bar": ("timestep", alpha_bar),
            "log_snr": ("timestep", np.log(alpha_bar / (1 - alpha_bar)), {"units": "nat"}),
        },
        {"kind": "trajectories", "fingerprint": "test"},
    )
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "timestep": chunks[1]})


def cut(ds: xr.Dataset, chunks: dict[str, Any]) -> xr.Dataset:
    """Make a dataset lazy as an opened store is: not its coordinates."""
    lazy = {
        name: array.chunk({d: n for d, n in chunks.items() if d in array.dims}) for name, array in ds.data_vars.items()
    }
    return xr.Dataset(lazy, ds.coords, ds.attrs)


def images(count: int = 12, channels: int = 1, side: int = 8, *, classes: int = 3, seed: int = 2) -> xr.Dataset:
    """Make a dataset of images, with labels that go round."""
    x_0 = np.random.default_rng(seed).uniform(-1, 1, (count, channels, side, side)).astype("float32")
    return xr.Dataset(
        {"x_0": (("sample", "channel", "y", "x"), x_0, {"units": "1", "valid_range": [-1.0, 1.0]})},
        {"sample": np.arange(count), "label": ("sample", np.arange(count) % classes)},
        {"kind": "dataset", "fingerprint": "images"},
    )


def forks(
    samples: int = 5,
    variants: int = 4,
    channels: int = 1,
    side: int = 8,
    *,
    replicas: int = 4,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Replicas that grow more alike from variant to variant; `chunks` along sample and variant make it lazy."""
    rng = np.random.default_rng(seed)
    shape = (samples, channels, side, side)
    common = rng.uniform(-1, 1, (variants, 1, *shape))
    own = rng.uniform(-1, 1, (variants, replicas, *shape))
    share = np.linspace(0.1, 0.9, variants).reshape(-1, 1, 1, 1, 1, 1)
    return fork_dataset(share * common + (1 - share) * own, dtype=dtype, chunks=chunks)


def fork_dataset(
    x_0: NDArray[Any],
    *,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
    valid_range: tuple[float, float] = (-1.0, 1.0),
) -> xr.Dataset:
    variants, replicas, samples = x_0.shape[:3]
    attrs = {"units": "1", "valid_range": list(valid_range)}
    ds = xr.Dataset(
        {"x_0": (("variant", "replica", "sample", "channel", "y", "x"), x_0.astype(dtype), attrs)},
        _fork_coords(variants, replicas, samples),
        {"kind": "fork", "fingerprint": "forks", "config": '{"parent":{"fingerprint":"test"}}'},
    )
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "variant": chunks[1]})


def parent(ds: xr.Dataset) -> xr.Dataset:
    """Give the run that forks and sweeps are of."""
    samples, channels, side = ds["x_0"].shape[2:5]
    return baseline(channels, side) if ds.attrs["kind"] == "sweep" else trajectories(samples, 2, channels, side)


def sweeps(
    samples: int = 5,
    variants: int = 4,
    channels: int = 1,
    side: int = 8,
    *,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Jumps of 5 and cuts of 6 blocks in turn, over falling timesteps, that change the baseline ever less."""
    count = variants - variants // 2
    table = [(10 * (count - 1 - k // 2), *(JUMP, CUT)[k % 2]) for k in range(variants)]
    share = np.linspace(0.9, 0.1, variants)
    return sweep_dataset(table, share, samples, channels, side, seed=seed, dtype=dtype, chunks=chunks)


JUMP, CUT, SHORTCUT = ("jump", 5, 0, 0, -1), ("blocks", 5, 0, 6, -1), ("shortcut", 0, 0, 0, -1)
"""edit, n, ns, nb, r."""


def saved(at: int, edit: str, n: int, ns: int, nb: int, r: int) -> tuple[int, int, float]:
    """Say of an edit of the baseline which evaluations are saved and cut, and what share of its multiply-adds removed.

    A block of 16 takes a share of a sixteenth.
    """
    left = at // 10 + 1
    jumped = min(n, left) - 1 if edit == "jump" and n else 0
    again = 0 if r == -1 else min(n, max(0, left - n - r))
    shortened = 0 if edit == "jump" else min(n, left) + again
    if edit == "shortcut":
        jumped, shortened, nb = 3, 4, 8
    return jumped, shortened, (jumped + shortened * nb / 16) / BASELINE_STEPS


def sweep_dataset(
    table: list[tuple[int, str, int, int, int, int]],
    share: NDArray[Any],
    samples: int = 5,
    channels: int = 1,
    side: int = 8,
    *,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Variants (at, edit, n, ns, nb, r) of the baseline's samples, each mixed with its share of other images."""
    at, edit, n, ns, nb, r = (list(column) for column in zip(*table, strict=True))
    run = baseline(channels, side)
    shape = (len(table), 1, samples, channels, side, side)
    other = np.random.default_rng(seed).uniform(-1, 1, shape)
    weight = np.asarray(share).reshape(-1, 1, 1, 1, 1, 1)
    x_0 = (1 - weight) * baseline_images(samples, channels, side) + weight * other
    ds = fork_dataset(x_0, dtype=dtype)
    timesteps = np.unique(at)[::-1]
    edits = {"edit": edit, "n": n, "ns": ns, "nb": nb, "unet_blocks": nb, "r": r}
    names = ("evaluations_saved", "evaluations_cut", "multiply_adds_removed")
    edits |= dict(zip(names, zip(*(saved(*row) for row in table), strict=True), strict=True))
    ds = ds.drop_dims("timestep").assign_coords(
        at=("variant", at),
        noise=("variant", ["shared"] * len(table)),
        timestep=timesteps,
        log_snr=("timestep", -0.1 * timesteps),
        **{name: ("variant", list(values)) for name, values in edits.items()},
    )
    parent = {"fingerprint": run.attrs["fingerprint"]}
    ds = ds.assign_attrs(config=json.dumps({"parent": parent}), kind="sweep")
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "variant": chunks[1]})


BASELINE_SAMPLES, BASELINE_STEPS = 96, 20


@cache
def baseline(channels: int = 1, side: int = 8) -> xr.Dataset:
    """Write the run that sweeps are of, with the timesteps 190, 180, ... 0, and open it."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    timesteps = np.arange(BASELINE_STEPS)[::-1] * 10
    shape = (channels, side, side)
    return stores.open(
        runs.make(f"{folder.name}/run.zarr", BASELINE_SAMPLES, block=16, shape=shape, timesteps=timesteps)
    )


def baseline_images(samples: int, channels: int, side: int) -> NDArray[Any]:
    """Give x_0 of the baseline, float32 (sample, channel, y, x)."""
    images = [runs.states(block, 99, 16, (channels, side, side))[1] for block in range(BASELINE_SAMPLES // 16)]
    return np.concatenate(images)[:samples]


def fork_readout(
    samples: int = 5,
    variants: int = 4,
    *,
    replicas: int = 4,
    classes: int = 5,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Logits of the final samples of forks."""
    logits = 2 * np.random.default_rng(seed).standard_normal((variants, replicas, samples, classes))
    return fork_readout_dataset(logits, dtype=dtype, chunks=chunks)


def fork_readout_dataset(
    logits: NDArray[Any], *, dtype: str = "float32", chunks: tuple[Any, Any] | None = None
) -> xr.Dataset:
    variants, replicas, samples, classes = logits.shape
    ds = xr.Dataset(
        {"x_0_logits": (("variant", "replica", "sample", "class"), logits.astype(dtype), {"units": "1"})},
        {**_fork_coords(variants, replicas, samples), **_class_coords(classes)},
        {"kind": "readout", "fingerprint": "readout", "config": '{"parent":{"fingerprint":"forks"}}'},
    )
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "variant": chunks[1]})


def state_readout(
    samples: int = 5,
    steps: int = 6,
    *,
    classes: int = 5,
    seed: int = 0,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    """Logits of states that go from undecided to those of the final samples."""
    rng = np.random.default_rng(seed)
    final = 4 * rng.standard_normal((samples, classes))
    signal = np.linspace(0, 0.95, steps)[:, None]
    noise = rng.standard_normal((2, samples, steps, classes))
    return state_readout_dataset(signal * final[:, None] + (1 - signal) * noise, final, dtype=dtype, chunks=chunks)


def state_readout_dataset(
    logits: NDArray[Any],
    x_0_logits: NDArray[Any],
    *,
    dtype: str = "float32",
    chunks: tuple[Any, Any] | None = None,
) -> xr.Dataset:
    _, samples, steps, classes = logits.shape
    ds = xr.Dataset(
        {
            "logits": (("on", "sample", "timestep", "class"), logits.astype(dtype), {"units": "1"}),
            "x_0_logits": (("sample", "class"), x_0_logits.astype("float32"), {"units": "1"}),
        },
        {
            "on": ["x_t", "pred_x0"],
            "sample": np.arange(samples),
            "label": ("sample", np.full(samples, -1)),
            **_timestep_coords(steps),
            **_class_coords(classes),
        },
        {"kind": "readout", "fingerprint": "readout"},
    )
    return ds if chunks is None else cut(ds, {"sample": chunks[0], "timestep": chunks[1]})


def _fork_coords(variants: int, replicas: int, samples: int) -> dict[str, Any]:
    return {
        "variant": np.arange(variants),
        "at": ("variant", np.arange(variants)[::-1] * 10),
        "noise": ("variant", ["independent"] * variants),
        "replica": np.arange(1, replicas + 1),
        "sample": np.arange(samples),
        "label": ("sample", np.full(samples, -1)),
        **_timestep_coords(variants),
    }


def _timestep_coords(steps: int) -> dict[str, Any]:
    alpha_bar = np.linspace(0.01, 0.99, steps)
    return {
        "timestep": np.arange(steps)[::-1] * 10,
        "step": ("timestep", np.arange(steps)),
        "alpha_bar": ("timestep", alpha_bar),
        "log_snr": ("timestep", np.log(alpha_bar / (1 - alpha_bar))),
    }


def _class_coords(classes: int) -> dict[str, Any]:
    return {"class": np.arange(classes), "class_name": ("class", [f"class {k}" for k in range(classes)])}


POINTS = np.array([-8.0, -4.0, 6.0, 8.0])
"""The mixture of METHODS 7.4, on the linear schedule of 1000 timesteps."""

MIXTURE = {
    1000: (0.2505, 0.7495, 0.0018),
    800: (0.2662, 0.7338, 0.0644),
    600: (0.4117, 0.5883, 0.5888),
    400: (0.6798, 0.3202, 0.9644),
    200: (0.9376, 0.0624, 0.9969),
    100: (0.9988, 0.0012, 0.9999),
}
"""Times 1..1000: expected label agreement, label variance and correlation of replicas."""

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def posteriors(samples: int, *, seed: int = 0) -> NDArray[Any]:
    """Log probabilities (time, sample, point) of the points, given x_t of the forward process."""
    rng = np.random.default_rng(seed)
    signal = ALPHA_BAR[np.array(list(MIXTURE)) - 1][:, None]
    x_t = np.sqrt(signal) * rng.choice(POINTS, samples) + np.sqrt(1 - signal) * rng.standard_normal(samples)
    return -((x_t[..., None] - np.sqrt(signal)[..., None] * POINTS) ** 2) / (2 * (1 - signal[..., None]))


def exact_replicas(replicas: int, samples: int, *, seed: int = 0) -> NDArray[Any]:
    """Draw the number of a point (time, replica, sample) from each sample's posterior, independently."""
    log_p = posteriors(samples, seed=seed)[:, None]
    noise = np.random.default_rng([seed, 1]).gumbel(size=(len(MIXTURE), replicas, samples, POINTS.size))
    return (log_p + noise).argmax(axis=-1)
