"""The posterior over a dataset, against a loop over states, and against the products of matrices that it is made of."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

from benchmarks.made_up import ALPHA_BAR
from benchmarks.timing import Arm, Row, Target, interleave, per_round, seconds_text
from traj import analysis
from traj.pipeline.computing import engines
from traj.pipeline.making import dataset, generate, readout

TITLE = "Posterior over a dataset: times faster than a loop over states"

DIGITS, CIFAR = (1797, (1, 8, 8)), (50_000, (3, 32, 32))


def rows(tiny: bool) -> list[Row]:
    """Measure datasets as large as the digits and as CIFAR-10, by threads and by one core."""
    if tiny:
        size = 40, (1, 4, 4)
        return [*measure("tiny", size, samples=2, steps=4, few=2, rounds=2), read_out("tiny", size, samples=2, steps=4)]
    digits = measure("1,797 images of 64 values", DIGITS, samples=128, steps=1000, few=256, rounds=3)
    cifar = measure("50,000 images of 3,072 values", CIFAR, samples=4, steps=128, few=4, rounds=2)
    return [*digits, *cifar, *(on_gpu() if torch.cuda.is_available() else [])]


def on_gpu() -> list[Row]:
    """Time the readout at both sizes."""
    return [
        read_out("1,797 images of 64 values", DIGITS, samples=128, steps=1000),
        read_out("50,000 images of 3,072 values", CIFAR, samples=32, steps=128),
    ]


def read_out(what: str, size: tuple[int, tuple[int, ...]], *, samples: int, steps: int) -> Row:
    """Time the readout of noised images on the GPU, where there is one, and on the CPU: from stores to a store."""
    count, shape = size
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder:
        place = Path(folder)
        np.save(place / "images.npy", np.random.default_rng(0).uniform(-1, 1, (count, *shape)).astype(np.float32))
        images, run = place / "images.zarr", place / "run.zarr"
        make(dataset.prepare(str(place / "images.npy"), axes=("channel", "y", "x")), images)
        model = f"gaussian:0,0.0625,{'x'.join(map(str, shape))}"  # of the range of the images; it is not run
        noised = {"start": str(images), "noised": True, "steps": steps, "samples": samples, "block": samples}
        make(generate.prepare(model=model, device="cpu", **noised), run)

        def reads(device: str) -> Arm:
            def arm(out: Path) -> None:
                make(readout.prepare("posterior", store=run, dataset=str(images), device=device), out / "readout.zarr")

            return arm

        arms = {"GPU": reads("auto"), "CPU": reads("cpu")}
        arms["GPU"](place)  # wakes it
        seconds = interleave(arms, 3)
    ours, theirs = (
        f"{seconds_text(seconds[name])}, {median(seconds[name]) / samples / steps / count * 1e9:.3g} ns a pair"
        for name in arms
    )
    ratios = per_round(seconds["CPU"], seconds["GPU"])
    return Row(f"{what}, {samples * steps:,} states: readout, GPU", ours, "the same by the CPU", theirs, ratios)


def make(making: Any, out: Path) -> None:
    """Fill a store."""
    with making.open(out) as store:
        making.run(store, bar=False)


def measure(
    what: str, size: tuple[int, tuple[int, ...]], *, samples: int, steps: int, few: int, rounds: int
) -> list[Row]:
    """Time all measures of all states, a loop over few of them, and the bare products of as many."""
    images, run = made(*size, samples, steps)
    points = images["x_0"].to_numpy().reshape(size[0], -1).astype(np.float64)
    states = run["x_t"].to_numpy().reshape(samples * steps, -1)
    signal, noise_scale = (np.tile(run[name].to_numpy(), samples) for name in ("signal", "noise_scale"))
    result = analysis.load("posterior")(run, dataset=images)[["entropy", "weight", "index", "distance_to_pred_x0"]]

    def ours(workers: int) -> Arm:
        return lambda folder: engines.threads(workers).compute([result])

    pick = np.linspace(0, len(states) - 1, few).round().astype(int)
    arms: dict[str, Arm] = {
        "threads": ours(os.cpu_count() or 1),
        "one core": ours(1),
        "loop": lambda folder: by_numpy(states[pick], points, signal[pick], noise_scale[pick]),
        "products": threadpool_limits.wrap(limits=1, user_api="blas")(lambda folder: products(states, points)),
    }
    arms["one core"](Path())  # compiles
    seconds = interleave(arms, rounds)
    counts = {name: (few if name == "loop" else len(states)) * len(points) for name in arms}

    def each(name: str) -> str:
        return f"{median(seconds[name]) / counts[name] * 1e9:.3g} ns a pair"

    def row(name: str, against: str, words: str, target: Target | None = None) -> Row:
        ratios = per_round(seconds[against], seconds[name], counts[name] / counts[against])
        return Row(f"{what}: weights, entropy, mean, {name}", each(name), words, each(against), ratios, target)

    return [
        row("threads", "loop", "differences, squares, softmax, state by state", Target("at least", 20)),
        row("one core", "loop", "the same"),
        row("one core", "products", "x_t . x_i alone: DGEMM on one core"),
    ]


def made(count: int, shape: tuple[int, ...], samples: int, steps: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Make up images, and a run of noised ones as a store of shards would have it."""
    random = np.random.default_rng(0)
    event = ("channel", "y", "x")
    points = random.uniform(-1, 1, (count, *shape)).astype(np.float32)
    timestep = np.linspace(999, 0, steps).round().astype(int)
    signal, noise_scale = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    noise = random.standard_normal((samples, steps, *shape), np.float32)
    levels = (level.astype(np.float32).reshape(-1, *[1] * len(shape)) for level in (signal, noise_scale))
    x_t = next(levels) * points[:samples, None] + next(levels) * noise
    lead = ("sample", "timestep", *event)
    run = xr.Dataset(
        {"x_t": (lead, x_t), "pred_x0": (lead, x_t), "x_0": (("sample", *event), points[:samples])},
        {
            "timestep": timestep,
            "signal": ("timestep", signal),
            "noise_scale": ("timestep", noise_scale),
            "log_snr": ("timestep", 2 * np.log(signal / noise_scale)),
        },
    )
    return xr.Dataset({"x_0": (("sample", *event), points)}), run.chunk(sample=-1, timestep=-(-steps // 8))


def by_numpy(states: np.ndarray, points: np.ndarray, signal: np.ndarray, noise_scale: np.ndarray) -> np.ndarray:
    """Take the weights of states one by one: (state, image)."""
    weights = []
    for state, c, d in zip(states, signal, noise_scale, strict=True):
        exponents = -((state - c * points) ** 2).sum(axis=1) / (2 * d**2)
        powers = np.exp(exponents - exponents.max())
        weights.append(powers / powers.sum())
    return np.array(weights)


def products(states: np.ndarray, points: np.ndarray) -> None:
    """Multiply all states by all images, in pieces that fit."""
    for first in range(0, len(states), 1024):
        for other in range(0, len(points), 2048):
            np.matmul(states[first : first + 1024].astype(np.float64), points[other : other + 2048].T)
