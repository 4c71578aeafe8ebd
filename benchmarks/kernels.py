"""The compiled loops in memory, against the loops a user would write with scikit-image and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from skimage.metrics import structural_similarity

import analysis
from benchmarks.made_up import Trajectories
from benchmarks.timing import Arm, Row, Target, interleave, per_round, rate_text

TITLE = "Kernels in memory, 3x32x32 images, one core: times faster than the loop a user would write"

BINS = 256
GROUPS = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def rows(tiny: bool) -> list[Row]:
    """Measure SSIM with both windows, and the joint histogram's entropies of each image and of all pooled."""
    block, timesteps, few, rounds = (2, 8, 2, 2) if tiny else (32, 512, 16, 5)
    made = Trajectories(block, (3, 32, 32), timesteps)
    states = np.stack([made.state(step)[0] for step in range(timesteps)], axis=1)
    ds = dataset(states, made)
    part = states[:, :: timesteps // few]
    unit, unit_x_0 = (np.clip((values + 1) / 2, 0, 1) for values in (part, made.x_0))
    cases: list[tuple[str, Arm, str, Arm]] = [
        (
            "ssim, Gaussian window of 11",
            quantity(ds, "ssim", "ssim", preset="wang2004"),
            "structural_similarity, gaussian_weights",
            lambda folder: by_scikit_image(unit, unit_x_0, **GAUSSIAN),
        ),
        (
            "ssim, uniform window of 7",
            quantity(ds, "ssim", "ssim", preset="skimage"),
            "structural_similarity",
            lambda folder: by_scikit_image(unit, unit_x_0),
        ),
        (
            "stepwise entropy of each image, 256 bins",
            quantity(ds, "entropy", "stepwise_entropy_per_sample", bins=BINS),
            "np.histogram2d per image",
            lambda folder: by_numpy(part, made.x_0),
        ),
        (
            "stepwise entropy, pooled, with jackknife, 256 bins",
            quantity(ds, "entropy", "stepwise_entropy_se", bins=BINS),
            "np.histogram2d per timestep and group",
            lambda folder: by_numpy_pooled(part, made.x_0),
        ),
    ]
    images, fewer = states.shape[0] * states.shape[1], part.shape[0] * part.shape[1]
    measured = []
    for what, ours, against, theirs in cases:
        ours(Path())  # compiles
        seconds = interleave({"ours": ours, "theirs": theirs}, rounds)
        measured.append(
            Row(
                what,
                rate_text(images, seconds["ours"], "images"),
                against,
                rate_text(fewer, seconds["theirs"], "images"),
                per_round(seconds["theirs"], seconds["ours"], images / fewer),
                Target("at least", 25),
            )
        )
    return measured


def dataset(states: np.ndarray, made: Trajectories) -> xr.Dataset:
    """Label states (sample, timestep, channel, y, x) and their final samples."""
    images = ("channel", "y", "x")
    return xr.Dataset(
        {"x_t": (("sample", "timestep", *images), states), "x_0": (("sample", *images), made.x_0)},
        {"timestep": made.timestep},
    )


def quantity(ds: xr.Dataset, name: str, variable: str, **options: Any) -> Callable[[Path], object]:
    """Make an arm that computes one variable of a quantity, without threads."""
    compute = analysis.load(name)
    return lambda folder: compute(ds, on=("x_t",), **options)[variable].compute(scheduler="synchronous")


def by_scikit_image(states: np.ndarray, x_0: np.ndarray, **options: Any) -> np.ndarray:
    """Loop over images on [0, 1]: (sample, timestep)."""
    return np.array(
        [
            [structural_similarity(state, image, data_range=1.0, channel_axis=0, **options) for state in run]
            for run, image in zip(states, x_0, strict=True)
        ]
    )


def by_numpy(states: np.ndarray, x_0: np.ndarray) -> np.ndarray:
    """Take H(x_0 | x_t) image by image: (sample, timestep) in bits."""
    final = grey(x_0)
    return np.array(
        [
            [conditional_entropy(histogram(image, state)) for state in run]
            for run, image in zip(grey(states), final, strict=True)
        ]
    )


def by_numpy_pooled(states: np.ndarray, x_0: np.ndarray) -> np.ndarray:
    """Take H(x_0 | x_t) of all samples together and its jackknife error: (timestep, 2) in bits."""
    final, codes = grey(x_0), grey(states)
    bounds = np.arange(GROUPS + 1) * len(final) // GROUPS
    values = []
    for step in range(codes.shape[1]):
        counts = [histogram(final[low:high], codes[low:high, step]) for low, high in pairwise(bounds)]
        whole = np.sum(counts, axis=0)
        without = [conditional_entropy(whole - group) for group in counts]
        values.append((conditional_entropy(whole), np.sqrt((GROUPS - 1) * np.var(without))))
    return np.array(values)


def grey(images: np.ndarray) -> np.ndarray:
    """Turn (..., channel, y, x) in [-1, 1] into grey levels 0..255."""
    levels = np.clip(np.rint((images + 1) * 127.5), 0, 255)
    return np.rint(np.einsum("...cyx,c->...yx", levels, LUMA))


def histogram(x_0: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Count pairs of grey levels."""
    return np.histogram2d(x_0.ravel(), state.ravel(), bins=BINS, range=[[-0.5, 255.5]] * 2)[0]


def conditional_entropy(counts: np.ndarray) -> float:
    """H(x_0, state) - H(state) in bits."""
    return bits(counts) - bits(counts.sum(axis=0))


def bits(counts: np.ndarray) -> float:
    """Take the entropy of a histogram."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
