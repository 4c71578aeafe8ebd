"""Which landmark comes first: paired within samples, paid for, and never said without being sure."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr

from traj.analysis._quantity import Times
from traj.analysis._statistics import order as _order
from traj.analysis._statistics.order import AFTER, AGREE, BEFORE, CANNOT_TELL, Order, compare

GRID = np.linspace(-6, 6, 61)


def on_grid(log_snr, grid=GRID, sample=None):
    """Times of a landmark that happens anywhere, as known from the states of a grid."""
    log_snr = np.asarray(log_snr, float)
    places = np.concatenate([[-np.inf], grid, [np.inf]])
    by = np.searchsorted(grid, log_snr) + 1
    return Times(np.arange(len(log_snr)) if sample is None else np.asarray(sample), places[by - 1], places[by])


def curves(values, log_snr, dims=("sample", "timestep"), along="log_snr"):
    return xr.DataArray(np.asarray(values, float), dims=dims, coords={along: (dims[1], log_snr), "sample": [3, 5, 8]})


def test_each_sample_keeps_a_level_from_a_state_of_its_own():
    rows = [[0, 9, 0, 9], [9, 9, 9, 9], [9, 9, 9, 0]]
    for dims, along in ((("sample", "timestep"), "log_snr"), (("sample", "variant"), "at_log_snr")):
        times = _order.kept_above(curves(rows, [0.0, 1, 2, 3], dims, along).T, 5)
        assert times.sample.tolist() == [3, 5, 8]
        assert times.after.tolist() == [2, -np.inf, 3]
        assert times.by.tolist() == [3, 0, np.inf]


def test_the_highest_of_each_sample_lies_between_its_neighbours():
    times = _order.highest(curves([[0, 9, 0, 1], [9, 1, 0, 0], [0, 0, 1, np.nan]], [0.0, 1, 2, 3]))
    np.testing.assert_equal(times.after, [0, -np.inf, np.nan])
    np.testing.assert_equal(times.by, [2, 1, np.nan])


def test_what_is_settled_at_a_state_was_not_at_the_one_before():
    by = xr.DataArray([1.0, -np.inf, np.inf, np.nan], dims="sample", coords={"sample": np.arange(4)})
    times = _order.settled(by, xr.DataArray([-np.inf, 1.0, 2.0], dims="timestep"))
    np.testing.assert_equal(times.after, [-np.inf, -np.inf, 2, np.nan])
    np.testing.assert_equal(times.by, by.to_numpy())


def test_order_of_the_same_samples_is_seen_where_their_means_differ_little():
    of_sample = np.random.default_rng(0).normal(0, 3, 12)
    order = compare(on_grid(of_sample), on_grid(of_sample + 1))
    assert order[:3] == (12, 12, 0)
    assert order.verdict == BEFORE
    assert order.low < 1 < order.high
    back = compare(on_grid(of_sample + 1), on_grid(of_sample))
    assert back == Order(12, 0, 12, -order.high, -order.low, AFTER)


def test_samples_are_matched_by_their_numbers():
    first = on_grid(np.arange(-4, 4.0), sample=np.arange(8))
    order = compare(first, on_grid(np.arange(-4, 4.0)[::-1] + 1, sample=np.arange(8)[::-1]))
    assert order[:3] == (8, 8, 0)
    assert compare(first, on_grid([0.0], sample=[99])) == Order(0, 0, 0, -np.inf, np.inf, CANNOT_TELL)


def test_between_the_same_states_nothing_comes_first():
    coarse = np.array([-3.0, 0.0, 3.0])
    order = compare(on_grid(np.full(20, 0.5), coarse), on_grid(np.full(20, 2.5), GRID))
    assert order[:3] == (20, 0, 0)
    assert order.verdict == CANNOT_TELL  # nor do they agree: the coarse one may be 2 before
    same = compare(on_grid(np.full(20, 0.5)), on_grid(np.full(20, 0.5)))
    assert (same.before, same.after, same.verdict) == (0, 0, AGREE)


def test_what_both_do_at_x_0_only_or_from_the_first_state_on_is_a_tie():
    never, always = on_grid(np.full(20, 7.0)), on_grid(np.full(20, -7.0))
    for times in (never, always):
        assert compare(times, times)[1:] == (0, 0, -np.inf, np.inf, CANNOT_TELL)
    assert compare(always, never).verdict == BEFORE


def test_samples_of_which_one_is_not_known_are_left_out():
    of_sample = np.linspace(-3, 3, 10)
    other = on_grid(of_sample + 1)
    other.after[:2] = other.by[:2] = np.nan
    assert compare(on_grid(of_sample), other)[:3] == (8, 8, 0)


def test_few_samples_claim_nothing():
    for samples in range(6):
        assert compare(on_grid(np.zeros(samples)), on_grid(np.zeros(samples) + 3)).verdict == CANNOT_TELL
    assert compare(on_grid(np.zeros(6)), on_grid(np.zeros(6) + 3)).verdict == BEFORE
    assert compare(on_grid(np.zeros(6)), on_grid(np.zeros(6) + 3), among=2).verdict == CANNOT_TELL


@pytest.mark.parametrize("samples", [8, 40])
def test_no_order_is_claimed_of_landmarks_that_come_in_any_in_95_of_100_families(samples):
    pairs, wrong = list(combinations(range(5), 2)), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        # heavy tails, and what all landmarks of a sample share
        at = [on_grid(rng.standard_t(2, samples) + shared) for shared in [rng.normal(0, 2, samples)] for _ in range(5)]
        wrong += any(compare(at[i], at[j], len(pairs)).verdict in (BEFORE, AFTER) for i, j in pairs)
    assert wrong / 400 <= 0.06


def test_no_agreement_is_claimed_of_landmarks_just_beyond_the_margin_in_95_of_100_cases():
    wrong = 0
    for seed in range(400):
        at, noise = np.random.default_rng(seed).normal(0, 0.3, (2, 40))
        wrong += compare(on_grid(at), on_grid(at + _order.MARGIN + 0.02 + noise)).verdict == AGREE
    assert wrong / 400 <= 0.05


def test_order_and_agreement_are_found_where_they_are_among_ten_comparisons():
    found = np.zeros(2)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        at, noise = rng.normal(0, 3, 32), rng.normal(0, 1, 32)
        later, alike = on_grid(at + 1 + noise), on_grid(at + 0.1 * noise)
        found += compare(on_grid(at), later, 10).verdict == BEFORE, compare(on_grid(at), alike, 10).verdict == AGREE
    assert (found / 200 > [0.85, 0.95]).all()


def test_groups_are_parted_only_where_all_before_come_before_all_after():
    surely = {("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")}
    assert _order.in_groups("abcd", lambda *pair: pair in surely) == [["a"], ["b", "c"], ["d"]]
    # b before c is sure, a before c is not: no place parts them
    assert _order.in_groups("abc", lambda *pair: pair in {("b", "c")}) == [["a", "b", "c"]]
    assert _order.in_groups("", lambda *pair: True) == []


def test_the_typical_time_is_the_median_of_those_known():
    assert _order.typical(Times(np.arange(4), np.zeros(4), np.array([np.nan, 1.0, 9.0, 2.0]))) == 2
    assert _order.typical(Times(np.arange(2), *np.full((2, 2), np.nan))) == np.inf
