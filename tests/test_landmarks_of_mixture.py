"""Landmarks of the exact mixture: of 100 small runs, intervals hold the true place in as many as they say.

That of the label entropy's peak is in test_label_entropy.py, those of geometry in test_geometry.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from tests.analysis_data import fork_dataset, state_readout_dataset
from tests.bayes_data import ALPHA_BAR, POINTS, forward_paths, log_weights
from traj.analysis.consistency import consistency
from traj.analysis.label_variance import label_variance

RUNS = 100


def table(timestep):
    alpha_bar = ALPHA_BAR[timestep]
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), special.logit(alpha_bar)


def commits(samples, seed):
    """Where labels of pred_x0 commit: the result of exact paths, whose label is that of the nearest point."""
    timestep = np.linspace(999, 0, 100).astype(int)
    c, d, log_snr = table(timestep)
    rng = np.random.default_rng(seed)
    x_0 = rng.choice(POINTS, samples)
    x_t = forward_paths(x_0, c, d, rng)
    pred_x0 = np.exp(log_weights(x_t, c, d)) @ POINTS
    logits, x_0_logits = (-((one[..., None] - POINTS) ** 2) for one in (np.stack([x_t / c, pred_x0]), x_0))
    along = {"timestep": timestep, "log_snr": ("timestep", log_snr)}
    return label_variance(state_readout_dataset(logits, x_0_logits).assign_coords(along)).compute()


def test_intervals_of_the_commit_time_hold_that_of_the_whole_population():
    samples = 20
    (truth,) = label_variance.landmarks(commits(4000, 0))
    drawn = commits(RUNS * samples, 1)
    held, width = 0, 0.0
    for k in range(RUNS):
        (mark,) = label_variance.landmarks(drawn.isel(sample=slice(k * samples, (k + 1) * samples)))
        assert (mark.name, mark.of) == ("commit", "pred_x0")
        held += mark.low <= truth.log_snr <= mark.high
        width += (mark.high - mark.low) / RUNS
    assert 88 <= held <= 99
    assert 0 < width < 3


def settled_share(log_snr):
    """1 - E Var(x_0 | x_t) / Var(x_0) of the mixture, by quadrature."""
    alpha_bar = special.expit(log_snr)
    c, d = np.sqrt(alpha_bar)[:, None], np.sqrt(1 - alpha_bar)[:, None]
    x = np.linspace(-14, 14, 2001) * np.ones_like(c)
    p = np.exp(log_weights(x, c, d))
    density = np.exp(-((x[..., None] - c[..., None] * POINTS) ** 2) / (2 * d[..., None] ** 2)).sum(-1) / d
    variance = p @ POINTS**2 - (p @ POINTS) ** 2
    return 1 - (density * variance).sum(1) / density.sum(1) / POINTS.var()


def test_intervals_of_the_start_from_which_replicas_are_alike_hold_the_closed_form():
    samples, replicas, timestep = 24, 4, np.arange(860, 340, -60)
    c, d, log_snr = table(timestep)
    fine = np.linspace(log_snr[0], log_snr[-1], 600)
    truth = fine[np.argmax(settled_share(fine) > 0.5)]
    assert settled_share(table(np.array([599]))[2]) == pytest.approx(0.5888, abs=1e-4)  # METHODS 7.4
    rng = np.random.default_rng(0)
    x_t = forward_paths(rng.choice(POINTS, RUNS * samples), c, d, rng)
    gumbel = rng.gumbel(size=(replicas, *x_t.shape, len(POINTS)))
    endings = POINTS[(log_weights(x_t, c, d) + gumbel).argmax(-1)]  # exact draws, given x_t
    by_run = endings.reshape(replicas, RUNS, samples, len(timestep)).transpose(1, 3, 0, 2)
    forks = fork_dataset(by_run.reshape(-1, replicas, samples, 1, 1, 1), valid_range=(-8, 8))
    result = consistency(forks)[["replica_correlation", "replica_correlation_se"]].compute()
    held, width = 0, 0.0
    for k in range(RUNS):
        of_run = result.isel(variant=slice(k * len(timestep), (k + 1) * len(timestep)))
        of_run = of_run.assign_coords(at=("variant", timestep), at_log_snr=("variant", log_snr))
        (mark,) = consistency.landmarks(of_run)
        assert mark.name == "replica_correlation_05"
        held += mark.low <= truth <= mark.high
        width += min(mark.high, log_snr[-1]) - max(mark.low, log_snr[0])
    assert 88 <= held <= 99
    assert width / RUNS < 3
