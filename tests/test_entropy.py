"""Entropies are those of plainly counted histograms, and obey their identities and bounds."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy import stats

from tests.analysis_data import dataset, trajectories
from traj.analysis._blocks import pooled
from traj.analysis._kernels import histograms
from traj.analysis._statistics.spread import dealt
from traj.analysis.entropy import entropy


def codes(images, bins=256, low=-1.0, high=1.0):
    """Grey codes of (..., channel, y, x), flattened to (..., pixel), in plain NumPy."""
    scale = np.float32(255 / (high - low))
    grey = np.clip(np.rint((np.asarray(images, np.float32) - np.float32(low)) * scale), 0, 255).astype(int)
    if grey.shape[-3] == 3:
        red, green, blue = np.moveaxis(grey, -3, 0)
        grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    else:
        grey = grey[..., 0, :, :]
    return grey.reshape(*grey.shape[:-2], -1) // (256 // bins)


def joint(x_0, state, bins):
    return np.bincount((x_0 * bins + state).ravel(), minlength=bins**2).reshape(bins, bins)


def bits(counts):
    share = counts[counts > 0] / counts.sum()
    return -np.sum(share * np.log2(share))


def of_counts(counts):
    """The five entropies and the Miller-Madow value of a joint histogram (x_0 code, state code)."""
    h_joint, h_state, h_x_0 = bits(counts), bits(counts.sum(0)), bits(counts.sum(1))
    stepwise = h_joint - h_state
    excess = np.count_nonzero(counts) - np.count_nonzero(counts.sum(0))
    return {
        "stepwise_entropy": stepwise,
        "state_entropy": h_state,
        "x_0_entropy": h_x_0,
        "joint_entropy": h_joint,
        "mutual_information": h_x_0 - stepwise,
        "stepwise_entropy_miller_madow": stepwise + excess / (2 * counts.sum() * np.log(2)),
    }


# The two ways of pooling: few pixels against many bins are carried as codes, the others are added up as counts.
BOTH_WAYS = pytest.mark.parametrize(("bins", "samples"), [(256, 10), (16, 10), (16, 200), (2, 10)])


@BOTH_WAYS
@pytest.mark.parametrize("channels", [1, 3])
def test_pooled_values_are_those_of_a_plain_count(bins, samples, channels):
    ds = trajectories(samples, 5, channels)
    result = entropy(ds.chunk({"sample": 3, "timestep": 2}), bins=bins, at=(40, 20, 0)).compute()
    x_0 = codes(ds["x_0"], bins)
    for on in ("x_t", "pred_x0"):
        state, here = codes(ds[on], bins), result.sel(on=on)
        for t, timestep in enumerate(ds["timestep"].to_numpy()):
            counts = joint(x_0, state[:, t], bins)
            for name, value in of_counts(counts).items():
                np.testing.assert_allclose(here[name][t], value, rtol=0, atol=1e-12)
            if timestep in (40, 20, 0):
                np.testing.assert_array_equal(here["joint_counts"].sel(at=timestep), counts)
    assert result["joint_counts"].dtype == np.int64
    assert result["at"].to_numpy().tolist() == [40, 20, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_per_sample_values_are_those_of_a_plain_count_of_each_image(channels):
    ds = trajectories(3, 4, channels, 9)
    result = entropy(ds, bins=64).compute()
    x_0, state = codes(ds["x_0"], 64), codes(ds["x_t"], 64)
    for k in range(3):
        for t in range(4):
            expected = of_counts(joint(x_0[k], state[k, t], 64))
            expected.pop("stepwise_entropy_miller_madow")
            for name, value in expected.items():
                got = result[f"{name}_per_sample"].sel(on="x_t")[k, t]
                np.testing.assert_allclose(got, value, rtol=0, atol=1e-12)
    own = result["stepwise_entropy_per_sample"].to_numpy()
    np.testing.assert_allclose(result["stepwise_entropy_per_sample_mean"], own.mean(1), rtol=1e-13)
    np.testing.assert_allclose(result["stepwise_entropy_per_sample_sd"], own.std(1, ddof=1), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(
        result["stepwise_entropy_per_sample_se"], own.std(1, ddof=1) / np.sqrt(3), rtol=1e-10, atol=1e-15
    )


@BOTH_WAYS
def test_the_standard_error_is_the_grouped_jackknifes(bins, samples):
    ds = trajectories(samples, 2)
    result = entropy(ds.chunk({"sample": 3}), bins=bins).compute()
    x_0, state = codes(ds["x_0"], bins), codes(ds["x_t"], bins)
    group_of = dealt(samples)
    for t in range(2):
        without = []
        for group in range(8):
            kept = group_of != group
            without.append(of_counts(joint(x_0[kept], state[kept, t], bins))["stepwise_entropy"])
        expected = np.sqrt(7 / 8 * np.sum((without - np.mean(without)) ** 2))
        np.testing.assert_allclose(result["stepwise_entropy_se"].sel(on="x_t")[t], expected, rtol=0, atol=1e-12)


def test_the_jackknife_needs_eight_samples():
    assert np.isnan(entropy(trajectories(7, 2))["stepwise_entropy_se"]).all()
    assert np.isfinite(entropy(trajectories(8, 2))["stepwise_entropy_se"]).all()


def test_the_jackknife_error_is_the_scatter_of_repeated_runs():
    runs = [entropy(trajectories(64, 1, seed=seed), bins=4, on=("x_t",)).compute() for seed in range(24)]
    scatter = np.std([run["stepwise_entropy"].item() for run in runs], ddof=1)
    claimed = np.mean([run["stepwise_entropy_se"].item() for run in runs])
    assert 0.6 < claimed / scatter < 1.6


def test_grey_is_pils_luma_of_the_rounded_bytes():
    images = np.random.default_rng(0).uniform(-1.2, 1.2, (1, 1, 3, 40, 40)).astype(np.float32)
    grey = np.empty((1, 1, 1600), np.uint8)
    assert histograms.grey_codes(images.reshape(1, 1, 3, -1), np.float32(-1), np.float32(127.5), 0, grey)
    rgb = np.clip(np.rint((images[0, 0] + 1) * np.float32(127.5)), 0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(np.moveaxis(rgb, 0, -1)).convert("L"))
    np.testing.assert_array_equal(grey[0, 0].reshape(40, 40), expected)


def test_the_valid_range_spans_all_codes_and_what_lies_beyond_falls_into_the_end_bins():
    values = np.array([-9.0, -8.0, 0.1, 8.0, 9.0]).reshape(1, 1, 1, 1, 5)
    ds = dataset(values, values, values[:, 0], valid_range=(-8.0, 8.0))
    counts = entropy(ds, on=("x_t",))["joint_counts"].to_numpy()[0, 0]
    assert dict(zip(*np.unique(np.diag(counts), return_counts=True), strict=True)) == {0: 253, 1: 1, 2: 2}
    assert counts[0, 0] == 2
    assert counts[129, 129] == 1
    assert counts[255, 255] == 2


@BOTH_WAYS
def test_a_state_equal_to_x_0_leaves_exactly_nothing_open(bins, samples):
    result = entropy(trajectories(samples, 3), bins=bins, on=("x_t",)).isel(timestep=-1).compute()
    assert result["stepwise_entropy"] == 0
    assert result["stepwise_entropy_miller_madow"] == 0
    assert result["stepwise_entropy_grassberger"] == 0
    assert result["stepwise_entropy_se"] == 0
    assert (result["stepwise_entropy_per_sample"] == 0).all()
    assert result["mutual_information"] == result["x_0_entropy"]
    assert result["joint_near_diagonal"][0, -1] == 1
    assert result["joint_mean_distance"][0, -1] == 0
    np.testing.assert_allclose(result["joint_correlation"][0, -1], 1, rtol=1e-12)


@BOTH_WAYS
def test_a_constant_state_leaves_all_of_x_0_open(bins, samples):
    ds = trajectories(samples, 2)
    ds["x_t"][:] = 0.3
    result = entropy(ds, bins=bins, on=("x_t",)).compute()
    assert (result["state_entropy"] == 0).all()
    assert (result["state_entropy_per_sample"] == 0).all()
    assert (result["stepwise_entropy"] == result["x_0_entropy"]).all()
    assert (result["mutual_information"] == 0).all()
    assert np.isnan(result["joint_correlation"]).all()


def test_all_images_of_one_grey_have_no_entropy_at_all():
    flat = np.zeros((8, 2, 1, 4, 4))
    result = entropy(dataset(flat, flat, flat[:, 0])).compute()
    for name in ("stepwise_entropy", "state_entropy", "x_0_entropy", "joint_entropy", "mutual_information"):
        assert (result[name] == 0).all()
        assert (result[f"{name}_per_sample"] == 0).all()


def test_entropies_keep_their_bounds():
    result = entropy(trajectories(9, 12, side=6)).compute()
    for suffix, pairs in (("", 9 * 36), ("_per_sample", 36)):
        stepwise, state, x_0, both, shared = (
            result[name + suffix]
            for name in ("stepwise_entropy", "state_entropy", "x_0_entropy", "joint_entropy", "mutual_information")
        )
        assert (stepwise >= 0).all()
        assert (shared >= 0).all()
        assert (both <= np.log2(pairs) + 1e-12).all()
        assert (stepwise <= np.minimum(x_0, np.log2(pairs) - state) + 1e-12).all()


def test_undersampled_histograms_are_flagged_and_read_low():
    # METHODS 1.2: 64 independent uniform 8x8 images read 3.99 bits plug-in and 4.64 Miller-Madow of 8.
    rng = np.random.default_rng(0)
    x_t, x_0 = rng.uniform(-1, 1, (64, 4, 1, 8, 8)), rng.uniform(-1, 1, (64, 1, 8, 8))
    ds = dataset(x_t, x_t, x_0)
    fine, coarse = entropy(ds, on=("x_t",)), entropy(ds, on=("x_t",), bins=8)
    np.testing.assert_allclose(fine["stepwise_entropy"].mean(), 3.99, atol=0.02)
    np.testing.assert_allclose(fine["stepwise_entropy_miller_madow"].mean(), 4.64, atol=0.02)
    np.testing.assert_allclose(coarse["stepwise_entropy_miller_madow"].mean(), 3, atol=0.02)
    assert not fine["reliable"].any()
    assert coarse["reliable"].all()
    assert fine["pixel_pairs"] == 64 * 64


def test_independent_uniform_pixels_leave_eight_bits_open():
    rng = np.random.default_rng(1)
    x_t, x_0 = rng.uniform(-1, 1, (32, 1, 1, 256, 256)), rng.uniform(-1, 1, (32, 1, 256, 256))
    result = entropy(dataset(x_t, x_t, x_0), on=("x_t",)).compute()
    np.testing.assert_allclose(result["stepwise_entropy_miller_madow"], 8, atol=2e-3)
    exact = np.log2(255) + 1 / 255  # the two end bins are half as wide as the 254 others
    assert abs(result["stepwise_entropy_debiased"] - exact) < result["stepwise_entropy_half_width"]


def of_gaussian_pixels(alpha_bar, variance, bins):
    """METHODS 7.2: H(x_0 | x_t) by exact bin masses of the bivariate normal, the end bins of [-1, 1] clipped."""
    edges = np.r_[-8.0, (256 / bins * np.arange(1, bins) - 0.5) / 127.5 - 1, 8.0]
    covariance = np.sqrt(alpha_bar) * variance
    normal = stats.multivariate_normal(
        [0, 0], [[variance, covariance], [covariance, alpha_bar * variance + 1 - alpha_bar]]
    )
    below = normal.cdf(np.stack(np.meshgrid(edges, edges, indexing="ij"), axis=-1))
    mass = np.diff(np.diff(below, axis=0), axis=1)
    return bits(mass) - bits(mass.sum(0))


def gaussian_pixels(alpha_bar, variance, samples, side, seed):
    """A run of one timestep whose pixels are independent."""
    rng = np.random.default_rng(seed)
    x_0 = np.sqrt(variance) * rng.standard_normal((samples, 1, side, side))
    x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * rng.standard_normal(x_0.shape)
    return dataset(x_t[:, None], x_t[:, None], x_0)


def test_gaussian_pixels_have_the_entropy_of_their_binned_bivariate_normal():
    result = entropy(gaussian_pixels(0.7, 0.25, 40, 64, 2), on=("x_t",), bins=16).compute()
    expected = of_gaussian_pixels(0.7, 0.25, 16)
    error = result["stepwise_entropy_se"].item()
    assert 0 < error < 0.005
    np.testing.assert_allclose(result["stepwise_entropy_miller_madow"], expected, atol=4 * error)
    np.testing.assert_allclose(result["stepwise_entropy_debiased"], expected, atol=4 * error)


def test_default_maps_are_spread_evenly_over_the_stored_timesteps():
    assert entropy(trajectories(2, 9))["at"].to_numpy().tolist() == [80, 60, 40, 20, 0]
    assert entropy(trajectories(2, 2))["at"].to_numpy().tolist() == [10, 0]


def test_map_summaries_are_numpys():
    ds = trajectories(9, 3)
    result = entropy(ds, bins=32, on=("x_t",), at=(10,)).compute()
    x_0, state = codes(ds["x_0"], 32).ravel(), codes(ds["x_t"], 32)[:, 1].ravel()
    np.testing.assert_allclose(result["joint_correlation"], [[np.corrcoef(x_0, state)[0, 1]]], rtol=1e-10)
    np.testing.assert_allclose(result["joint_mean_distance"], [[np.abs(x_0 - state).mean()]], rtol=1e-13)
    np.testing.assert_allclose(result["joint_near_diagonal"], [[(np.abs(x_0 - state) <= 1).mean()]], rtol=1e-13)


def test_bad_options_are_refused_with_what_would_do():
    with pytest.raises(ValueError, match="timestep 33 is not stored; the nearest stored ones are 30 and 40"):
        entropy(trajectories(), at=(50, 33))
    with pytest.raises(ValueError, match="bins is 100; expected a power of two"):
        entropy(trajectories(), bins=100)
    with pytest.raises(ValueError, match="2 channels; grey codes are defined for 1"):
        entropy(trajectories(channels=2))
    with pytest.raises(ValueError, match="no variable x_T"):
        entropy(trajectories(), on=("x_T",))
    with pytest.raises(ValueError, match="one or more different variables"):
        entropy(trajectories(), on=("x_t", "x_t"))


@pytest.mark.parametrize("chunks", [(1, 4), (7, 1), (64, 3), ((100, 1, 99), (3, 1))])
def test_counts_added_up_block_by_block_give_the_same_bits_for_any_blocks(chunks):
    whole = entropy(trajectories(200, 4, side=4), bins=4).compute()
    cut = entropy(trajectories(200, 4, side=4, chunks=chunks), bins=4).compute(scheduler="threads", num_workers=4)
    xr.testing.assert_identical(cut, whole)


def test_pooling_many_samples_holds_counts_not_codes():
    # Ten times the samples: the largest thing a task hands on stays the size of one group's counts.
    def largest(samples):
        ds = trajectories(samples, 4, chunks=(16, 4))
        sizes = []
        original = pooled._add_chunks

        def watched(*blocks, **options):
            counts = original(*blocks, **options)
            sizes.append(counts.nbytes)
            return counts

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pooled, "_add_chunks", watched)
            entropy(ds, bins=16, on=("x_t",)).compute(scheduler="synchronous")
        return max(sizes)

    assert largest(160) == largest(1600) == 4 * 256 * 4


def test_counts_of_fewer_large_images_than_groups_can_be_pooled():
    ds = trajectories(3, 2, side=96)
    assert pooled.carries_counts(3 * 96**2, 16)
    result = entropy(ds, bins=16, on=("x_t",)).compute()
    expected = of_counts(joint(codes(ds["x_0"], 16), codes(ds["x_t"], 16)[:, 0], 16))["stepwise_entropy"]
    np.testing.assert_allclose(result["stepwise_entropy"][0, 0], expected, rtol=0, atol=1e-12)
    assert np.isnan(result["stepwise_entropy_se"]).all()
    assert result["convergence"].isel(samples_used=-1).notnull().all()
