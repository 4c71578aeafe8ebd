"""Landmarks and their intervals, where the truth is known."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from traj.analysis._drawing import axis as _axis
from traj.analysis._drawing import panels
from traj.analysis._quantity import Series
from traj.analysis._statistics import landmarks, verdicts

TIMESTEP, LOG_SNR = np.arange(60)[::-1] * 10, np.linspace(-6, 6, 60)
BARE = "name", "meaning"


def curve(values, low=None, high=None):
    values = np.asarray(values, float)
    along = np.arange(len(values))[::-1], np.arange(len(values), dtype=float)
    low, high = (values if end is None else np.asarray(end, float) for end in (low, high))
    return Series("pred_x0", *along, values, low, high)


def of_samples(values):
    """The mean over samples (sample, timestep) with its band."""
    mean, error = verdicts.means(values.T)
    return Series("pred_x0", TIMESTEP, LOG_SNR, mean, *verdicts.band(mean, error, len(values)))


def test_a_level_that_is_passed_and_lost_again_is_reached_where_it_is_kept():
    mark = landmarks.kept_above(curve([0, 9, 0, 9, 9]), 5, *BARE)
    assert (mark.timestep, mark.log_snr, mark.of) == (1, 3, "pred_x0")
    mark = landmarks.kept_below(curve([9, 0, 9, 0, 0]), 5, *BARE)
    assert (mark.timestep, mark.log_snr) == (1, 3)


def test_a_level_that_is_never_kept_is_not_there():
    for values in ([0, 9, 0], [5, 5, 5], [np.nan] * 3):
        mark = landmarks.kept_above(curve(values), 5, *BARE)
        assert np.isnan([mark.timestep, mark.log_snr, mark.low, mark.high]).all()


def test_the_interval_is_where_the_band_crosses():
    mark = landmarks.kept_above(curve([0, 4, 6, 8, 9], [0, 2, 4, 6, 7], [2, 6, 8, 9, 9]), 5, *BARE)
    assert (mark.low, mark.log_snr, mark.high) == (0, 2, 3)
    mark = landmarks.kept_below(curve([9, 6, 4, 2, 1], [7, 4, 2, 1, 1], [9, 8, 6, 4, 3]), 5, *BARE)
    assert (mark.low, mark.log_snr, mark.high) == (0, 2, 3)


def test_a_band_that_reaches_the_level_to_the_last_step_ends_at_x_0():
    mark = landmarks.kept_above(curve([0, 6, 6], [0, 4, 4], [0, 9, 9]), 5, *BARE)
    assert (mark.low, mark.log_snr, mark.high) == (0, 1, np.inf)


def test_a_level_that_is_reached_at_the_first_step_may_have_been_before_it():
    for low, end in (([7, 7], 0), ([4, 7], 1), ([4, 4], np.inf)):
        mark = landmarks.kept_above(curve([8, 8], low, [9, 9]), 5, *BARE)
        assert (mark.low, mark.log_snr, mark.high) == (-np.inf, 0, end)


def test_a_band_without_ends_gives_no_interval():
    mark = landmarks.kept_above(curve([0, 6], [np.nan] * 2, [np.nan] * 2), 5, *BARE)
    assert mark.log_snr == 1
    assert np.isnan([mark.low, mark.high]).all()


@pytest.mark.parametrize("samples", [6, 40])
def test_intervals_of_a_crossing_hold_the_true_place_in_95_of_100_cases(samples):
    truth, held, width = 0.7, 0, []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        # each sample has a course of its own, and noise from step to step
        values = LOG_SNR - truth + rng.normal(0, 1, (samples, 1)) + rng.normal(0, 0.3, (samples, 60))
        mark = landmarks.kept_above(of_samples(values), 0, *BARE)
        held += mark.low <= truth <= mark.high
        width.append(mark.high - mark.low)
    assert 0.93 <= held / 400
    # a mean of samples that each cross elsewhere, by Student, a step at each end, and the noise from step to step
    least = 2 * verdicts.student(samples) / np.sqrt(samples)
    assert least < np.mean(width) < 1.5 * least + 0.4


def test_intervals_of_a_peak_hold_the_true_place_in_95_of_100_cases():
    truth, samples, held, width = -1.2, 30, 0, []
    for seed in range(400):
        peaks = np.random.default_rng(seed).normal(truth, 1.5, (samples, 1))
        values = -((LOG_SNR - peaks) ** 2)
        mark = landmarks.highest(of_samples(values), values, *BARE)
        held += mark.low <= truth <= mark.high
        width.append(mark.high - mark.low)
    assert 0.92 <= held / 400 <= 0.995
    steps = 2 * (LOG_SNR[1] - LOG_SNR[0])
    assert np.mean(width) == pytest.approx(2 * 1.96 * 1.5 / np.sqrt(samples) + steps, rel=0.1)


def test_a_peak_between_two_steps_lies_in_its_interval():
    # so far from one another that all draws have the same highest step, which is never where the peak is
    coarse = np.array([-9.0, -3.0, 3.0, 9.0])
    for truth, low, high in ((0.5, -3, 9), (5.5, -3, 9), (8.5, 3, 9), (-8.5, -9, -3)):
        values = -((coarse - truth) ** 2) + 0.01 * np.random.default_rng(0).standard_normal((30, 4))
        mark = landmarks.highest(of_samples(values)._replace(log_snr=coarse), values, *BARE)
        assert (mark.low, mark.high) == (low, high)
    open_ended = landmarks.highest_of(
        of_samples(values)._replace(log_snr=coarse), values, *BARE, beyond=(-np.inf, np.inf)
    )
    assert (open_ended.low, open_ended.high) == (-np.inf, -3)


def test_a_peak_of_few_samples_or_of_none_has_no_interval():
    values = -((LOG_SNR - np.zeros((7, 1))) ** 2)
    for by_sample in (values, None):
        mark = landmarks.highest(of_samples(values), by_sample, *BARE)
        assert abs(mark.log_snr) < 0.11
        assert np.isnan([mark.low, mark.high]).all()


def test_the_interval_of_a_median_is_that_of_the_tables():
    # of 10, the second to the ninth cover the median with 97.9 %, of 20 the sixth to the 15th with 95.9 %
    for samples, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15)):
        places = np.random.default_rng(0).permutation(np.arange(1.0, samples + 1))
        mark = landmarks.median(100 - places, places, *BARE, "pred_x0")
        assert (mark.low, mark.high) == (low, high)
        assert mark.log_snr == (samples + 1) / 2
        assert mark.timestep == 100 - (samples + 1) / 2
        assert 1 - 2 * stats.binom.cdf(low - 1, samples, 0.5) >= 0.95
    mark = landmarks.median(np.arange(5), np.arange(5.0), *BARE, "pred_x0")
    assert mark.log_snr == 2
    assert np.isnan([mark.low, mark.high]).all()


def test_samples_that_settle_at_x_0_only_count_in_a_median():
    mark = landmarks.median(
        np.array([30, 20, 10, 5, -1, -1, -1]), np.array([1.0, 2, 3, 4, *[np.inf] * 3]), *BARE, "x_t"
    )
    assert (mark.timestep, mark.log_snr, mark.low, mark.high) == (5, 4, 1, np.inf)
    never = landmarks.median(np.array([30, 20, -1, -1]), np.array([1.0, 2, np.inf, np.inf]), *BARE, "x_t")
    assert np.isnan([never.timestep, never.log_snr, never.low, never.high]).all()


def test_what_happens_to_most_samples_before_any_signal_is_there_from_the_start():
    log_snr = np.array([*[-np.inf] * 6, 1.0, 2.0])
    mark = landmarks.median(np.array([*[90] * 6, 80, 70]), log_snr, *BARE, "x_t")
    assert (mark.timestep, mark.log_snr, mark.low, mark.high) == (90, -np.inf, -np.inf, 2)
    series = Series("x_t", np.array([90, 80, 70]), np.array([-np.inf, 1.0, 2.0]), *[np.full(3, 0.5)] * 3)
    axis = Figure().subplots()
    panels.mark(axis, series, [mark], "black", _axis.TIMESTEP.places(series.timestep, series.log_snr))
    assert axis.lines[-1].get_xdata().tolist() == [-90]


def test_samples_without_a_label_count_in_no_median():
    mark = landmarks.median(np.array([30, np.nan, 10]), np.array([1.0, np.nan, 3]), *BARE, "x_t")
    assert (mark.timestep, mark.log_snr) == (20, 2)


def test_a_curve_is_read_where_signal_equals_noise():
    series = Series(
        "pred_x0", np.arange(3)[::-1], np.array([-np.inf, -1.0, 3.0]), *np.array([[0.0, 2, 6], [0, 1, 5], [0, 3, 7]])
    )
    assert landmarks.at_log_snr_0(series) == (3, 2, 4)
    beyond = series._replace(log_snr=np.array([1.0, 2.0, 3.0]))
    assert np.isnan(landmarks.at_log_snr_0(beyond)).all()
