"""Verdicts and the intervals behind them, by repetition and by the formulas of others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from traj.analysis._statistics import verdicts as _verdicts


@pytest.mark.parametrize("samples", [2, 4, 16])
def test_an_interval_of_a_mean_covers_it_for_few_samples_too(samples):
    rng, repetitions = np.random.default_rng(samples), 2000
    values = 0.7 + 0.1 * rng.standard_normal((repetitions, samples))
    verdicts = _verdicts.of_means(values, 0.7)
    missed = int((verdicts != _verdicts.CANNOT_TELL).sum())
    assert stats.binomtest(missed, repetitions, 0.05).pvalue > 0.01


@pytest.mark.parametrize(("count", "samples"), [(0, 8), (3, 8), (8, 8), (40, 80), (80, 80)])
def test_intervals_of_shares_are_wilsons(count, samples):
    expected = stats.binomtest(count, samples).proportion_ci(method="wilson")
    assert _verdicts.wilson(count / samples, samples) == pytest.approx(expected)


def test_one_sample_tells_nothing():
    assert _verdicts.of_means(np.array([[0.1], [0.9]]), 0.8).tolist() == [0, 0]
    assert np.isinf(_verdicts.largest_t(np.zeros((1, 3)) + np.arange(3)))


@pytest.mark.parametrize(("samples", "shift"), [(6, 0), (20, 0), (20, 100)])
def test_the_largest_t_of_flat_curves_is_exceeded_in_five_per_cent(samples, shift):
    rng, repetitions, exceeded = np.random.default_rng(samples), 300, 0
    first, second = np.triu_indices(6, 1)
    for _ in range(repetitions):
        values = shift + rng.standard_normal((samples, 6))
        mean, error = _verdicts.paired(values.T[first], values.T[second])
        exceeded += (abs(mean) > _verdicts.largest_t(values) * error).any()
    # of 32 choices of signs one is 3.1 per cent, and two are more than 5
    assert stats.binomtest(int(exceeded), repetitions, 1 / 32 if samples == 6 else 0.05).pvalue > 0.01


def test_majorities_and_several_verdicts_have_three_answers():
    assert [_verdicts.most(*case) for case in ((6, 0, 10), (5, 1, 10), (5, 0, 10), (4, 2, 10))] == [1, 0, -1, 0]
    assert [_verdicts.most_of_all(count, 40) for count in (40, 22, 5)] == [1, 0, -1]
    assert [_verdicts.together(v) for v in ((1, 1), (1, -1), (1, 0), (0, -1), (-1, -1))] == [
        "seen",
        "seen in some",
        "seen in some",
        "cannot tell",
        "not seen",
    ]


@pytest.mark.parametrize("samples", [12, 32])
def test_a_mean_is_compared_with_a_published_one_by_the_errors_of_both(samples):
    # both are of one distribution: single samples lie within the published deviation, means must within their error
    rng, repetitions, apart = np.random.default_rng(samples), 2000, 0
    for _ in range(repetitions):
        there, here = (0.8 + 0.055 * rng.standard_normal(count) for count in (100, samples))
        deviation = np.abs(there - there.mean()).mean()
        apart += _verdicts.beside_published(here, there.mean(), deviation, 100) != 0
    assert stats.binomtest(apart, repetitions, 0.05).pvalue > 0.01
    assert _verdicts.beside_published(0.83 + 0.05 * rng.standard_normal(100), 0.795, 0.044, 100) == 1
    assert _verdicts.beside_published(0.76 + 0.05 * rng.standard_normal(100), 0.795, 0.044, 100) == -1
