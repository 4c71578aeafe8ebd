"""The compiled loops in memory, against the loops a user would write with scikit-image and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import pearsonr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.made_up import Trajectories
from benchmarks.timing import Arm, Row, Target, interleave, per_round, rate_text
from traj import analysis

TITLE = "Kernels in memory, 3x32x32 images, one core: times faster than the loop a user would write"

BINS = 256
GROUPS = 8
REPLICAS = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

RANGE = {"valid_range": [-1.0, 1.0]}


def rows(tiny: bool) -> list[Row]:
    """Measure SSIM with both windows, the entropies of each image and of all pooled, and pairs of replicas."""
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
    measured = [
        measure(what, ours, against, theirs, images, fewer, "images", 25 if what.startswith("ssim") else 50, rounds)
        for what, ours, against, theirs in cases
    ]
    return [*measured, consistency(tiny, rounds)]


def consistency(tiny: bool, rounds: int) -> Row:
    """Measure the similarities of all pairs of eight replicas."""
    variants, samples, few = (1, 8, 1) if tiny else (8, 64, 2)
    made = [
        [Trajectories(samples, (3, 32, 32), 1, seed=8 * v + r).x_0 for r in range(REPLICAS)] for v in range(variants)
    ]
    ds = forks(np.array(made))
    part = ds["x_0"].to_numpy()[:1, :, :few]
    compute = analysis.load("consistency")
    pairs = REPLICAS * (REPLICAS - 1) // 2
    return measure(
        "consistency, 8 replicas: Pearson, cosine, NMSE, PSNR, Gaussian SSIM",
        lambda folder: compute(ds, preset="wang2004").compute(scheduler="synchronous"),
        "pearsonr, NumPy, scikit-image per pair",
        lambda folder: by_pairs(part),
        pairs * variants * samples,
        pairs * few,
        "pairs",
        50,
        rounds,
    )


def measure(
    what: str, ours: Arm, against: str, theirs: Arm, many: int, few: int, unit: str, target: float, rounds: int
) -> Row:
    """Time two arms in turn, ours on `many` things and the other on `few` of them."""
    ours(Path())  # compiles
    seconds = interleave({"ours": ours, "theirs": theirs}, rounds)
    return Row(
        what,
        rate_text(many, seconds["ours"], unit),
        against,
        rate_text(few, seconds["theirs"], unit),
        per_round(seconds["theirs"], seconds["ours"], many / few),
        Target("at least", target),
    )


def dataset(states: np.ndarray, made: Trajectories) -> xr.Dataset:
    """Label states (sample, timestep, channel, y, x) and their final samples."""
    images = ("channel", "y", "x")
    return xr.Dataset(
        {"x_t": (("sample", "timestep", *images), states), "x_0": (("sample", *images), made.x_0, RANGE)},
        {"timestep": made.timestep},
    )


def forks(x_0: np.ndarray) -> xr.Dataset:
    """Label final samples (variant, replica, sample, channel, y, x)."""
    variants, _, samples = x_0.shape[:3]
    return xr.Dataset(
        {"x_0": (("variant", "replica", "sample", "channel", "y", "x"), x_0, RANGE)},
        {"at": ("variant", np.arange(variants)), "sample": np.arange(samples)},
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


def by_pairs(x_0: np.ndarray) -> np.ndarray:
    """Compare all pairs of replicas one by one and average: (variant, sample, similarity)."""
    return np.array(
        [
            [
                np.mean([similarities(a, b) for a, b in combinations(images, 2)], axis=0)
                for images in np.swapaxes(v, 0, 1)
            ]
            for v in x_0
        ]
    )


def similarities(a: np.ndarray, b: np.ndarray) -> tuple[float, ...]:
    """Compare two images in [-1, 1] in five ways, with the libraries' own functions."""
    first, second = a.ravel().astype(float), b.ravel().astype(float)
    powers = first @ first, second @ second
    unit, other = ((image + 1) / 2 for image in (a, b))
    return (
        pearsonr(first, second).statistic,
        first @ second / np.sqrt(powers[0] * powers[1]),
        1 - ((first - second) ** 2).sum() / sum(powers),
        peak_signal_noise_ratio(unit, other, data_range=1.0),
        structural_similarity(unit, other, data_range=1.0, channel_axis=0, **GAUSSIAN),
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
