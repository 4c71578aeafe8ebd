"""Probes of features, against the loop over noise levels and scikit-learn's LogisticRegression that one would write."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.timing import Arm, Row, Target, interleave, per_round, seconds_text
from traj import analysis
from traj.analysis._features import stored
from traj.pipeline.computing import engines

TITLE = "Probes of features: times faster than scikit-learn in a loop over noise levels"

FOLDS = 5
WIDTHS = {"a block of 64 channels": 64, "a block of 256 channels": 256}


def rows(tiny: bool) -> list[Row]:
    """Measure parts of a network of the size of the digits', both sides given the features that hooks have taken."""
    if tiny:
        return measure({"a block": 8}, samples=60, levels=3, rounds=2)
    return measure(WIDTHS, samples=1797, levels=8, rounds=3)


def measure(widths: dict[str, int], *, samples: int, levels: int, rounds: int) -> list[Row]:
    """Time all probes of a few parts on one core: ours, and loops that stop early, at our loss, or at our weights.

    One core each: threads of linear algebra that wait for one another on a busy machine would be measured instead.
    """
    ds = made(widths, samples, levels)
    names, positions = stored.classes(ds)
    split = PredefinedSplit(stored.deal(names, positions, FOLDS, 1))

    def loop(standard: bool, **options: float) -> Arm:
        def run(folder: Path) -> None:
            with warnings.catch_warnings(action="ignore"), threadpool_limits(1):
                for features in stored.parts(ds).values():
                    for level in range(levels):
                        regression = LogisticRegression(max_iter=5000, **options)
                        model = make_pipeline(StandardScaler(), regression) if standard else regression
                        cross_val_predict(model, features.to_numpy()[:, level], positions, cv=split)

        return run

    lazy = analysis.load("probe")(ds.chunk(), folds=FOLDS, directions=1)
    arms: dict[str, Arm] = {
        "ours": lambda folder: engines.threads(1).compute([lazy]),
        "plain": loop(standard=False),
        "standard": loop(standard=True),
        "same loss": loop(standard=True, tol=1e-6),
        "same weights": loop(standard=True, tol=1e-8),
    }
    seconds = interleave(arms, rounds)
    what = f"{FOLDS} folds, {levels} noise levels, {' and '.join(widths)}, {samples:,} samples: both probes"

    def row(name: str, words: str, target: Target | None = None) -> Row:
        ratios = per_round(seconds[name], seconds["ours"])
        return Row(what, seconds_text(seconds["ours"]), words, seconds_text(seconds[name]), ratios, target)

    return [
        row("plain", "LogisticRegression of features as they are, linear probe alone", Target("at least", 3)),
        row("standard", "the same after StandardScaler: stops with the loss up to a hundredth too large"),
        row("same loss", "the same until the loss is within 1e-5 of the least, tol 1e-6", Target("at least", 1)),
        row("same weights", "the same until weights are those of ours, tol 1e-8"),
    ]


def made(widths: dict[str, int], samples: int, levels: int) -> xr.Dataset:
    """Make up features of noised events of ten classes: random projections, rectified."""
    random = np.random.default_rng(0)
    label = np.arange(samples) % 10
    x_0 = random.standard_normal((10, 64))[label] + 0.7 * random.standard_normal((samples, 64))
    sigma = np.geomspace(10, 0.05, levels)
    x_t = x_0[:, None] + sigma[:, None] * random.standard_normal((samples, levels, 64))
    variables = {}
    for k, (part, width) in enumerate(widths.items()):
        features = np.maximum(x_t @ random.standard_normal((64, width)) / 8 + 0.3, 0).astype(np.float32)
        variables[f"features_{k}"] = (("sample", "timestep", f"feature_{k}"), features, {"part": part})
    return xr.Dataset(
        variables,
        {
            "label": ("sample", label),
            "timestep": np.arange(levels)[::-1],
            "log_snr": ("timestep", -2 * np.log(sigma)),
        },
    )
