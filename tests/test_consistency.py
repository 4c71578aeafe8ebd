"""Consistency of replicas says what NumPy, scikit-image and the closed forms say."""

from __future__ import annotations

from itertools import combinations

import dask
import numpy as np
import pytest
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks import kernels
from tests.analysis_data import (
    ALPHA_BAR,
    MIXTURE,
    POINTS,
    exact_replicas,
    fork_dataset,
    fork_readout,
    fork_readout_dataset,
    forks,
    state_readout,
    trajectories,
)
from traj.analysis._statistics.spread import dealt
from traj.analysis.consistency import consistency

SIMILARITIES = ("pearson", "cosine", "one_minus_nmse", "ssim", "psnr")
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
UNIFORM = {"skimage": 7, "window:3": 3, "window:5": 5}


def over_pairs(ds, similarity):
    """Average a function of two images over all pairs of replicas, in plain loops: (variant, sample)."""
    x_0 = ds["x_0"].to_numpy().astype(np.float64)
    return np.array(
        [
            [np.mean([similarity(a, b) for a, b in combinations(images, 2)]) for images in variant.swapaxes(0, 1)]
            for variant in x_0
        ]
    )


def unit(image):
    return np.clip((image + 1) / 2, 0, 1)


def one_minus_nmse(a, b):
    return 1 - ((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum())


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 5)])
def test_products_are_numpys(channels, side):
    ds = forks(5, 3, channels, side)
    result = consistency(ds).compute()
    for name, similarity in (
        ("pearson", lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        ("cosine", lambda a, b: (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)),
        ("one_minus_nmse", one_minus_nmse),
    ):
        np.testing.assert_allclose(result[name], over_pairs(ds, similarity), rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("preset", "side"), [("wang2004", 12), ("skimage", 9), ("window:3", 3), ("window:5", 8)])
def test_ssim_and_psnr_are_scikit_images(preset, side, channels):
    # Ten samples: more than the kernel does side by side, and no multiple of it.
    ds = forks(10, 2, channels, side, replicas=3)
    options = GAUSSIAN if preset == "wang2004" else {"win_size": UNIFORM[preset]}

    def ssim(a, b):
        return structural_similarity(unit(a), unit(b), data_range=1.0, channel_axis=0, **options)

    def psnr(a, b):
        return peak_signal_noise_ratio(unit(a), unit(b), data_range=1.0)

    result = consistency(ds, preset=preset).compute()
    np.testing.assert_allclose(result["ssim"], over_pairs(ds, ssim), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result["psnr"], over_pairs(ds, psnr), rtol=0, atol=1e-9)


def test_the_loop_that_is_timed_against_computes_the_same_numbers():
    ds = forks(2, 2, 3, 12)
    result = consistency(ds, preset="wang2004").compute()
    expected = kernels.by_pairs(ds["x_0"].to_numpy())
    for column, name in enumerate(("pearson", "cosine", "one_minus_nmse", "psnr", "ssim")):
        np.testing.assert_allclose(result[name], expected[..., column], rtol=0, atol=1e-6, err_msg=name)


def test_spread_over_samples_is_numpys():
    result = consistency(forks(6, 3)).compute()
    for name in SIMILARITIES:
        values = result[name].to_numpy()
        np.testing.assert_allclose(result[f"{name}_mean"], values.mean(axis=1), rtol=1e-13)
        np.testing.assert_allclose(result[f"{name}_se"], values.std(axis=1, ddof=1) / np.sqrt(6), rtol=1e-10)


@pytest.mark.parametrize(("replicas", "preset", "side"), [(2, "wang2004", 16), (3, "skimage", 9), (8, "window:5", 8)])
def test_equal_replicas_are_exactly_alike(replicas, preset, side):
    one = forks(9, 3, 3, side, replicas=1)["x_0"].to_numpy()
    result = consistency(fork_dataset(np.repeat(one, replicas, axis=1)), preset=preset).compute()
    for name in ("pearson", "cosine", "one_minus_nmse", "ssim"):
        assert (result[f"{name}_mean"] == 1).all(), name
        assert (result[f"{name}_se"] == 0).all(), name
    assert (result["psnr"] == 100).all()
    assert (result["replica_correlation"] == 1).all()
    assert (result["replica_correlation_se"] == 0).all()


def test_opposite_and_orthogonal_images_have_their_closed_forms():
    a = np.array([[1.0, -1.0], [1.0, -1.0]])
    b = np.array([[1.0, 1.0], [-1.0, -1.0]]) / 2
    opposite, orthogonal = (np.stack(pair)[None, :, None, None] for pair in ((a, -a), (a, b)))
    for x_0, expected in ((opposite, -1), (orthogonal, 0)):
        result = consistency(fork_dataset(x_0)).compute()
        for name in ("pearson", "cosine", "one_minus_nmse"):
            assert result[name].item() == expected, name
    scaled = consistency(fork_dataset(np.stack([a, a / 2])[None, :, None, None])).compute()
    assert scaled["cosine"].item() == pytest.approx(1)
    assert scaled["one_minus_nmse"].item() == pytest.approx(1 - 0.25 / 1.25)


def test_a_constant_image_has_no_pearson_correlation():
    ds = forks(3, 2)
    ds["x_0"][0, 1, 2] = 0.3
    result = consistency(ds).compute()
    assert np.isnan(result["pearson"].to_numpy()).tolist() == [[False, False, True], [False] * 3]
    assert np.isfinite(result["cosine"]).all()


def test_values_beyond_the_valid_range_count_as_its_ends_for_ssim_and_psnr():
    wide = fork_dataset(1.5 * forks(4, 2)["x_0"].to_numpy())
    clipped = wide.assign(x_0=wide["x_0"].clip(-1, 1, keep_attrs=True))
    for name in ("ssim", "psnr"):
        np.testing.assert_array_equal(consistency(wide)[name], consistency(clipped)[name])


# --- correlation across samples ----------------------------------------------------------------------------------


def pooled(x_0):
    """Take the covariance and variance of replicas (replica, sample, pixel) out of unbiased variances; sum, divide."""
    within = x_0.var(axis=0, ddof=1).mean(axis=0).sum()
    shared = x_0.mean(axis=0).var(axis=0, ddof=1).sum() - within / len(x_0)
    return shared / (shared + within)


def test_one_pixel_has_a_correlation_and_no_other_likeness():
    ds = forks(11, 3, 1, 1)
    x_0 = ds["x_0"].to_numpy().astype(np.float64).reshape(3, 4, 11, 1)
    result = consistency(ds).compute()
    np.testing.assert_allclose(result["replica_correlation"], [pooled(v) for v in x_0], rtol=0, atol=1e-12)
    assert np.isnan(result["pearson"]).all()
    assert np.isnan(result["ssim"]).all()


def test_pixels_are_pooled_and_the_error_is_a_jackknifes():
    ds = forks(13, 3, 3, 4)
    x_0 = ds["x_0"].to_numpy().astype(np.float64).reshape(3, 4, 13, -1)
    without = [x_0[:, :, dealt(13) != group] for group in range(8)]
    leave_out = np.array([[pooled(v) for v in rest] for rest in without])
    result = consistency(ds).compute()
    np.testing.assert_allclose(result["replica_correlation"], [pooled(v) for v in x_0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        result["replica_correlation_se"], np.sqrt(7 / 8 * ((leave_out - leave_out.mean(axis=0)) ** 2).sum(axis=0))
    )


@pytest.mark.parametrize(("samples", "rho"), [(8, 0.5), (16, 0.5), (8, 0.05), (8, 0.95)])
def test_few_samples_have_no_bias_and_an_honest_error(samples, rho):
    # each variant is one repetition; sqrt(.05 .95 / repetitions) is the error of a share that should be .95
    repetitions, replicas = 400, 8
    rng = np.random.default_rng(samples)
    common = rng.standard_normal((repetitions, 1, samples, 1, 4, 16))
    own = rng.standard_normal((repetitions, replicas, samples, 1, 4, 16))
    x_0 = np.sqrt(rho) * common + np.sqrt(1 - rho) * own
    result = consistency(fork_dataset(x_0, valid_range=(-8, 8)), preset="window:3")
    value, error = dask.compute(result["replica_correlation"], result["replica_correlation_se"])
    assert abs(value.mean() - rho) < 3 * value.std() / np.sqrt(repetitions) + 0.002 * (1 - rho)
    covered = float((abs(value - rho) < stats.t(7).ppf(0.975) * error).mean())
    assert covered == pytest.approx(0.95, abs=3 * np.sqrt(0.05 * 0.95 / repetitions))


@pytest.mark.parametrize("samples", [8, 9, 80, 1000])
@pytest.mark.parametrize("classes", [2, 8, 10])
def test_groups_of_samples_are_alike_whatever_the_order_of_labels(samples, classes):
    groups = dealt(samples)
    assert np.ptp(np.bincount(groups, minlength=8)) <= 1
    if samples >= 80:
        for labels in (np.arange(samples) % classes, np.arange(samples) * classes // samples):
            shares = [np.bincount(labels[groups == group], minlength=classes).max() for group in range(8)]
            assert max(shares) < 0.8 * samples / 8 or classes == 2


@pytest.mark.parametrize(("samples", "value", "error"), [(1, True, True), (7, False, True), (8, False, False)])
def test_too_few_samples_leave_the_correlation_or_its_error_open(samples, value, error):
    result = consistency(forks(samples, 2)).compute()
    assert np.isnan(result["replica_correlation"]).all() == value
    assert np.isnan(result["replica_correlation_se"]).all() == error


def test_exact_completions_of_gaussian_data_have_the_closed_form():
    variances, samples, replicas = np.array([0.05, 0.5, 2.0, 4.0]), 1500, 3
    rng = np.random.default_rng(0)
    abar = ALPHA_BAR[[800, 500, 250, 80], None]
    rho = abar * variances / (abar * variances + 1 - abar)
    x_t = np.sqrt(abar * variances + 1 - abar)[:, None] * rng.standard_normal((4, samples, 4))
    mean = (np.sqrt(abar) * variances / (abar * variances + 1 - abar))[:, None] * x_t
    own = np.sqrt(variances * (1 - rho))[:, None, None] * rng.standard_normal((4, replicas, samples, 4))
    x_0 = (mean[:, None] + own)[..., None, None, :]
    pixels = [consistency(fork_dataset(x_0[..., [k]], valid_range=(-8, 8))).compute() for k in range(4)]
    for k, result in enumerate(pixels):
        error = abs(result["replica_correlation"] - rho[:, k])
        assert (error < 3 * result["replica_correlation_se"]).all(), k
    whole = consistency(fork_dataset(x_0, valid_range=(-8, 8))).compute()
    expected = rho @ variances / variances.sum()
    assert (abs(whole["replica_correlation"] - expected) < 3 * whole["replica_correlation_se"]).all()


def test_exact_completions_of_a_mixture_have_the_closed_form():
    x_0 = POINTS[exact_replicas(4, 4000)][..., None, None, None]
    result = consistency(fork_dataset(x_0, valid_range=(-8, 8))).compute()
    expected = np.array(list(MIXTURE.values()))[:, 2]
    error = abs(result["replica_correlation"] - expected)
    assert (error < 3 * result["replica_correlation_se"] + 6e-5).all()


def test_the_memory_of_the_sums_is_bounded():
    ds = forks(40, 3, 3, 8)
    assert consistency.memory(ds, preset="auto") == 2 * 3 * 8 * (3 * 8 * 8) * 8


# --- presets, readouts, other runs -------------------------------------------------------------------------------


def test_presets_are_those_of_ssim():
    ds = forks(2, 2, 1, 8)
    assert consistency(ds).identical(consistency(ds, preset="window:5"))
    with pytest.raises(ValueError, match="at least 11 pixels"):
        consistency(ds, preset="wang2004")
    with pytest.raises(ValueError, match="the least is 3 pixels"):
        consistency(forks(side=1), preset="window:3")


def test_one_replica_is_refused():
    with pytest.raises(ValueError, match="have 1; expected 2 or more"):
        consistency(forks(replicas=1))


@pytest.mark.parametrize("ds", [trajectories(), state_readout()], ids=["trajectories", "readout"])
def test_a_dataset_without_forks_is_refused(ds):
    with pytest.raises(ValueError, match=r"x_0 .*which `traj fork` makes"):
        consistency(ds)


def test_a_readout_adds_the_share_of_equal_labels():
    readout = fork_readout_dataset(fork_readout(5, 4)["x_0_logits"].to_numpy(), chunks=(2, 3))
    labels = readout["x_0_logits"].to_numpy().argmax(axis=-1)
    expected = np.mean([labels[:, a] == labels[:, b] for a, b in combinations(range(4), 2)], axis=0)
    result = consistency(forks(5, 4), readout=readout).compute()
    np.testing.assert_allclose(result["label_agreement"], expected, atol=1e-15)
    np.testing.assert_allclose(result["label_agreement_mean"], expected.mean(axis=1), atol=1e-15)


def test_a_readout_of_other_forks_is_refused():
    fewer = fork_readout(4, 4)
    other = fork_readout(5, 4).assign_attrs(config='{"parent":{"fingerprint":"another"}}')
    for readout in (fewer, other):
        with pytest.raises(ValueError, match="the readout is one of other forks"):
            consistency(forks(5, 4), readout=readout)
    with pytest.raises(ValueError, match="no x_0_logits of forks"):
        consistency(forks(5, 4), readout=state_readout())


def test_runs_of_the_same_samples_are_replicas_of_each_other():
    ours, longer = trajectories(9, 3), trajectories(9, 5, seed=1)
    longer["x_t"][:, 0] = ours["x_t"][:, 0].to_numpy()
    shuffled = longer.isel(sample=[*range(4, 9), *range(4)]).chunk({"sample": 4})
    elsewhere = trajectories(9, 4, seed=2)
    result = consistency(ours, against=(shuffled,)).compute()
    x_0 = np.stack([ours["x_0"], longer["x_0"]])[None]
    expected = consistency(fork_dataset(x_0)).compute()
    for name in (*SIMILARITIES, "replica_correlation", "replica_correlation_se"):
        np.testing.assert_array_equal(result[name], expected[name])
    assert (result["start_difference"] == 0).all()
    assert result["label"].dims == ("sample",)

    apart = consistency(ours, against=(shuffled, elsewhere)).compute()
    first = abs(ours["x_t"][:, 0].to_numpy() - elsewhere["x_t"][:, 0].to_numpy()).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(apart["start_difference"], first)
    assert apart.attrs["replicas"] == 3
    assert consistency.plot(apart, "fork_consistency") is None
    drawn = consistency.plot(apart)
    assert [axis.get_xlabel() for axis in drawn.axes] == ["Pearson's correlation", "SSIM", "1 - NMSE"]


def test_runs_that_cannot_be_compared_are_refused():
    fewer = trajectories(4, 3)
    with pytest.raises(ValueError, match="samples differ: 1 are in only one"):
        consistency(trajectories(5, 3), against=(fewer,))
    with pytest.raises(ValueError, match="x_t in this dataset of kind fork"):
        consistency(forks(), against=(fewer,))
    with pytest.raises(ValueError, match="leave one of the two out"):
        consistency(trajectories(), against=(fewer,), readout=fork_readout())
