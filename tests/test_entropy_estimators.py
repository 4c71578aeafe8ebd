"""Estimators of pooled entropies, how they converge, and the curves of single classes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import special

from tests.analysis_data import dataset, trajectories
from tests.test_entropy import BOTH_WAYS, codes, joint
from traj.analysis._kernels import histograms
from traj.analysis._statistics.spread import dealt
from traj.analysis.entropy import entropy


def grassbergers_g(n):
    """The definition of 2003, by scipy's digamma."""
    digamma = special.digamma
    return digamma(n) + np.where(n % 2, -0.5, 0.5) * (digamma((n + 1) / 2) - digamma(n / 2))


def by_grassberger(counts):
    n = counts[counts > 0].astype(float)
    return (np.log(n.sum()) - np.sum(n * grassbergers_g(n)) / n.sum()) / np.log(2)


def test_grassbergers_g_is_its_definition_by_digamma_functions():
    n = np.r_[1:300, 1000, 4095:4099, 10**6, 10**9]
    np.testing.assert_allclose([histograms._g(int(c)) for c in n], grassbergers_g(n.astype(float)), rtol=1e-12)
    assert histograms._g(1) == -np.euler_gamma - np.log(2)
    np.testing.assert_allclose(histograms._g(2), 2 - np.euler_gamma - np.log(2), rtol=1e-15)


@BOTH_WAYS
def test_grassbergers_estimate_is_his_formula_for_both_histograms(bins, samples):
    ds = trajectories(samples, 3)
    result = entropy(ds.chunk({"sample": 3}), bins=bins, on=("pred_x0",)).compute()["stepwise_entropy_grassberger"][0]
    x_0, state = codes(ds["x_0"], bins), codes(ds["pred_x0"], bins)
    for t in range(3):
        counts = joint(x_0, state[:, t], bins)
        expected = by_grassberger(counts) - by_grassberger(counts.sum(0))
        np.testing.assert_allclose(result[t], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_grassbergers_estimate_is_less_biased_than_the_plug_in(shared):
    # x_0 uniform over 16 codes, the state a copy with this chance and independent otherwise: H(x_0 | state) is known.
    rng = np.random.default_rng(3)
    same = shared + (1 - shared) / 16
    expected = -same * np.log2(same) - 15 * (1 - shared) / 16 * np.log2((1 - shared) / 16)
    values = (np.arange(16) + 0.5) / 8 - 1
    x_0, other = rng.integers(16, size=(6, 8, 1, 1, 4, 4)), rng.integers(16, size=(6, 8, 10, 1, 4, 4))
    state = np.where(rng.uniform(size=other.shape) < shared, x_0, other)  # ten of each x_0
    bias = {"stepwise_entropy": 0.0, "stepwise_entropy_grassberger": 0.0}
    for run in range(6):
        ds = dataset(values[state[run]], values[state[run]], values[x_0[run, :, 0]])
        result = entropy(ds, on=("x_t",), bins=16).compute(scheduler="synchronous")
        for name in bias:
            bias[name] += (result[name].mean().item() - expected) / 6
    assert bias["stepwise_entropy"] < -0.3
    assert abs(bias["stepwise_entropy_grassberger"]) < 0.5 * abs(bias["stepwise_entropy"])


@BOTH_WAYS
def test_convergence_is_the_pooled_value_of_the_first_groups(bins, samples):
    ds = trajectories(samples, 4)
    result = entropy(ds.chunk({"sample": 7, "timestep": 3}), bins=bins, at=(30, 0)).compute()
    group_of = dealt(samples)
    used = [np.count_nonzero(group_of <= g) for g in range(8)]
    assert result["samples_used"].to_numpy().tolist() == used
    suffixes = {"plug_in": "", "miller_madow": "_miller_madow", "grassberger": "_grassberger"}
    for g in range(8):
        first = entropy(ds.isel(sample=group_of <= g), bins=bins).compute() if g < 7 else result
        for estimator, suffix in suffixes.items():
            got = result["convergence"].isel(samples_used=g).sel(estimator=estimator)
            expected = first[f"stepwise_entropy{suffix}"].sel(timestep=[30, 0])
            if g < 7:
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
            else:
                np.testing.assert_array_equal(got, expected)


def test_convergence_has_no_value_before_there_is_a_sample():
    counts = np.zeros((3, 16), np.uint32)
    counts[1, :2] = counts[2, 2:5] = 3
    converging = histograms.converging_bits(counts, 4)
    assert np.isnan(converging[0]).all()
    assert np.isfinite(converging[1:]).all()


@BOTH_WAYS
def test_a_classs_curve_is_exactly_that_of_its_samples(bins, samples):
    ds = trajectories(samples, 5)
    ds["label"][:] = np.random.default_rng(0).permutation(np.arange(samples) % 4) - 1
    result = entropy(ds.chunk({"sample": 3, "timestep": 2}), bins=bins).compute()
    assert result["class"].to_numpy().tolist() == [0, 1, 2]
    for label in range(3):
        own = entropy(ds.isel(sample=ds["label"].to_numpy() == label), bins=bins).compute()
        for suffix in ("", "_miller_madow"):
            got = result[f"stepwise_entropy_by_class{suffix}"].sel({"class": label})
            np.testing.assert_array_equal(got, own[f"stepwise_entropy{suffix}"])
        assert result["class_pixel_pairs"].sel({"class": label}) == own["pixel_pairs"]


def test_one_class_alone_or_none_asked_for_has_no_curves_by_class():
    ds = trajectories(6, 2)
    assert "class" not in entropy(ds).dims
    ds["label"][1:] = 3
    assert "class" not in entropy(ds).dims
    ds["label"][2:] = 4
    assert entropy(ds).sizes["class"] == 2
    assert "class" not in entropy(ds, by_class=False).dims


@pytest.mark.parametrize("bins", [4, 256])
def test_curves_by_class_have_the_same_bits_for_any_blocks(bins):
    # From 44 samples on, four codes are pooled by counts, which are then smaller; 256 codes always by words.
    def of(chunks=None):
        ds = trajectories(60, 4, side=4, chunks=chunks)
        ds["label"] = "sample", np.arange(60) % 3
        return entropy(ds, bins=bins).compute(num_workers=4)

    whole = of()
    for chunks in ((1, 4), (7, 1), ((30, 1, 29), (3, 1))):
        xr.testing.assert_identical(of(chunks), whole)


def test_working_memory_grows_with_samples_until_counts_are_smaller_then_with_classes():
    def needed(samples, **options):
        ds = trajectories(samples, 6, side=4, chunks=(8, 3))
        ds["label"] = "sample", np.arange(samples) % 5
        return entropy.memory(ds, on=("x_t",), bins=4, at=(), **options)

    assert needed(20, by_class=True) == 20 * 16 * 3
    assert needed(100, by_class=False) == needed(1000, by_class=False) == 8 * 16 * 4 * 3
    assert needed(1000, by_class=True) == (8 + 5) * 16 * 4 * 3
