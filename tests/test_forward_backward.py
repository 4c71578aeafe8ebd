"""Forward and backward again says what the closed forms, NumPy and the other quantities say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from tests.analysis_data import (
    MIXTURE,
    POINTS,
    exact_replicas,
    fork_dataset,
    fork_readout,
    fork_readout_dataset,
    forks,
    parent,
    trajectories,
)
from traj.analysis._replicas import changes
from traj.analysis._statistics import landmarks
from traj.analysis.forward_backward import forward_backward
from traj.analysis.psnr import psnr
from traj.analysis.ssim import ssim

SIDE, MEAN, SD = 6, 0.5, 0.05


def start_of(ds, x_0):
    """The run that forks started from, with these images."""
    run = trajectories(ds.sizes["sample"], 2)
    return run[["x_0"]].drop_vars("x_0").assign(x_0=(ds["x_0"].dims[2:], x_0.astype(np.float32), ds["x_0"].attrs))


def changing_by(fields, **options):
    """Forward and backward of endings that differ from their image by fields (variant, replica, sample, y, x)."""
    ds = fork_dataset(fields[:, :, :, None], valid_range=(0, 1))
    return forward_backward(ds, baseline=start_of(ds, np.zeros(ds["x_0"].shape[2:])), **options).compute()


def gaussian(covariance, variants, replicas, samples, *, shared=0.0, seed=0):
    """Fields whose pixels have this covariance, a share of it common to the replicas of a sample."""
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance)))
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((variants, 1, samples, len(root)))
    own = rng.standard_normal((variants, replicas, samples, len(root)))
    fields = (np.sqrt(shared) * common + np.sqrt(1 - shared) * own) @ root.T
    return (MEAN + SD * fields).reshape(variants, replicas, samples, SIDE, SIDE)


def apart(side=SIDE):
    """Distances of all pairs of pixels (pixel, pixel)."""
    places = np.array(list(product(range(side), repeat=2)))
    return np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))


def brute_force(fields):
    """Covariance (pixel, pixel) over samples and replicas of fields (replica, sample, y, x), without bias."""
    flat = fields.reshape(*fields.shape[:2], -1)
    means = flat.mean(axis=0)
    within = flat - means
    between = np.cov(means, rowvar=False, ddof=1)
    return between + np.einsum("rsi,rsj->ij", within, within) / flat.shape[0] / flat.shape[1]


# --- classes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    """Exact completions of the mixture, and the run whose points were noised."""
    samples = 4000
    drawn = exact_replicas(4, samples)
    points = np.random.default_rng(0).choice(POINTS, samples)
    ds = (
        fork_dataset(POINTS[drawn][..., None, None, None], valid_range=(-8, 8)).isel(y=0, x=0).rename(channel="feature")
    )
    ds["label"][:] = np.searchsorted(POINTS, points)
    readout = fork_readout_dataset(9.0 * np.eye(len(POINTS))[drawn])
    run = start_of(ds, points[:, None])
    return forward_backward(ds, baseline=run, readout=readout).compute(), points.var()


def test_exact_completions_of_a_mixture_keep_their_class_as_often_as_its_labels_agree(mixture):
    result, _ = mixture
    expected = np.array([agreement for agreement, _, _ in MIXTURE.values()])
    error = result["class_kept_se"].to_numpy()
    error[-1] = np.sqrt(expected[-1] * (1 - expected[-1]) / 4000)  # a loss in a thousand is too rare to tell its own
    assert (abs(result["class_kept_mean"] - expected) < 3 * error + 6e-5).all()
    assert (result["class_kept_low"] < result["class_kept_mean"]).all()
    assert (result["class_kept_mean"] < result["class_kept_high"]).all()


def test_exact_completions_of_a_mixture_come_back_as_far_away_as_replicas_lie(mixture):
    result, variance = mixture
    expected = np.array([2 * variance * (1 - rho) for _, _, rho in MIXTURE.values()])
    error = abs(result["squared_change_mean"] - expected)
    assert (error < 3 * result["squared_change_se"] + 0.01).all()


def test_what_never_changes_is_kept_and_alike_and_has_no_correlation():
    one = forks(9, 3, 1, 8, replicas=1)["x_0"].to_numpy()[:1]
    ds = fork_dataset(np.repeat(np.repeat(one, 3, axis=0), 4, axis=1))
    ds["label"][:] = 2
    readout = fork_readout_dataset(np.broadcast_to(np.eye(5)[2], (3, 4, 9, 5)))
    result = forward_backward(ds, baseline=start_of(ds, one[0, 0]), readout=readout).compute()
    for name, value in (("class_kept", 1), ("ssim", 1), ("psnr", 100), ("squared_change", 0), ("change", 0)):
        assert (result[name] == value).all(), name
    assert (result["class_kept_low"] < 0.75).all()
    for name in ("susceptibility", "change_variance", "change_map"):
        assert (result[name] == 0).all(), name
    for name in ("correlated_pixels", "correlation_length", "change_correlation"):
        assert np.isnan(result[name]).all(), name


def test_replicas_of_one_image_are_not_counted_as_independent():
    logits = np.eye(2)[np.arange(10) % 2]
    ds = fork_dataset(np.zeros((1, 50, 10, 1, 1, 1)))
    ds["label"][:] = 0
    readout = fork_readout_dataset(np.broadcast_to(logits, (1, 50, 10, 2)))
    result = forward_backward(ds, baseline=start_of(ds, np.zeros((10, 1, 1, 1))), readout=readout).compute()
    assert result["class_kept_mean"].item() == 0.5
    assert result["class_kept_high"].item() - result["class_kept_low"].item() > 0.5


def test_likeness_is_that_of_the_quantities_of_these_names():
    ds = forks(5, 3, 3, 12, replicas=2)
    run = parent(ds)
    result = forward_backward(ds, baseline=run, preset="wang2004").compute()
    for quantity, options in ((ssim, {"preset": "wang2004"}), (psnr, {})):
        each = [
            quantity(start_of(ds, ending), against=run, **options)[quantity.name].isel(on=0).to_numpy()
            for ending in ds["x_0"].to_numpy().reshape(-1, *ds["x_0"].shape[2:])
        ]
        expected = np.reshape(each, (3, 2, 5)).mean(axis=1)
        np.testing.assert_allclose(result[quantity.name], expected, rtol=1e-6)


# --- the field of changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "replicas", "shape"), [(5, 3, (4, 6)), (9, 1, (5, 5)), (2, 2, (1, 7))])
def test_correlations_are_those_of_all_pairs_of_pixels(samples, replicas, shape):
    fields = np.random.default_rng(0).uniform(0, 1, (2, replicas, samples, *shape))
    result = changing_by(fields)
    places = np.array(list(product(*map(range, shape))))
    distance = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    bins = np.rint(distance).astype(int)
    for variant, of_variant in enumerate(fields.astype(np.float32).astype(np.float64)):
        covariance = brute_force(of_variant)
        variance = np.trace(covariance) / len(places)
        far = [covariance[bins == k].mean() / variance for k in range(bins.max() + 1)]
        here = result.isel(variant=variant)
        np.testing.assert_allclose(here["change_correlation"], far, atol=1e-10)
        np.testing.assert_allclose(here["change_variance"], variance, rtol=1e-10)
        np.testing.assert_allclose(here["susceptibility"], covariance.sum() / len(places), atol=1e-12)
        np.testing.assert_allclose(here["correlated_pixels"], covariance.sum() / np.trace(covariance), rtol=1e-8)
        np.testing.assert_allclose(here["change_map"], of_variant.mean(axis=(0, 1)), rtol=1e-10)
    np.testing.assert_allclose(result["distance"], [distance[bins == k].mean() for k in range(bins.max() + 1)])


def test_errors_are_a_jackknifes():
    fields = np.random.default_rng(1).uniform(0, 1, (1, 2, 11, 4, 4))
    whole = changing_by(fields)
    groups = changes.dealt(11)
    without = [changing_by(fields[:, :, groups != group])["susceptibility"].item() for group in range(8)]
    assert whole["susceptibility_se"].item() == pytest.approx(np.sqrt(7 * np.var(without)))
    assert np.isnan(changing_by(fields[:, :, :7])["susceptibility_se"]).all()


@pytest.mark.parametrize("shared", [0.0, 0.6])
@pytest.mark.parametrize(("pixels", "covariance"), [(1, np.eye(36)), (36, np.ones((36, 36)))], ids=["alone", "as one"])
def test_few_samples_have_no_bias_and_an_honest_error(pixels, covariance, shared):
    repetitions = 250
    result = changing_by(gaussian(covariance, repetitions, 3, 10, shared=shared))
    for name, expected in (("change_variance", SD**2), ("susceptibility", pixels * SD**2)):
        value = result[name].to_numpy()
        assert abs(value.mean() - expected) < 3 * value.std() / np.sqrt(repetitions), name
    value, error = (result[name].to_numpy() for name in ("susceptibility", "susceptibility_se"))
    covered = np.mean(abs(value - pixels * SD**2) < stats.t(7).ppf(0.975) * error)
    assert covered > 0.85  # a variance of ten is skewed


def test_independent_pixels_have_no_length_and_equal_ones_one_without_end():
    alone = changing_by(gaussian(np.eye(36), 1, 4, 800))
    assert alone["correlation_length"].item() < 0.25
    assert alone["correlated_pixels"].item() == pytest.approx(1, abs=3 * alone["correlated_pixels_se"].item())
    together = changing_by(gaussian(np.ones((36, 36)), 1, 4, 50))
    assert np.isinf(together["correlation_length"])
    assert together["correlated_pixels"].item() == pytest.approx(36, rel=1e-4)
    np.testing.assert_allclose(together["change_correlation"], 1, rtol=1e-4)


def test_an_exponential_correlation_has_its_length():
    length = 1.7
    covariance = np.exp(-apart() / length)
    result = changing_by(gaussian(covariance, 1, 4, 1500)).isel(variant=0)
    bins = np.rint(apart()).astype(int)
    expected = [covariance[bins == k].mean() for k in range(bins.max() + 1)]
    assert (abs(result["change_correlation"] - expected) < 3.5 * result["change_correlation_se"] + 1e-9).all()
    found, error = (result[f"correlation_length{suffix}"].item() for suffix in ("", "_se"))
    assert abs(found - length) < 3 * error + 0.02 * length
    assert error < 0.1 * length
    chi, error = (result[f"susceptibility{suffix}"].item() for suffix in ("", "_se"))
    assert abs(chi - SD**2 * covariance.sum() / 36) < 3 * error


@pytest.mark.parametrize("length", [0.4, 1.0, 2.3, 5.0])
def test_the_length_of_an_exponential_is_exact_between_distances(length):
    distance = np.array([0, 1.2, 2.1, 3.4, 6.0])
    assert changes.correlation_length(distance, np.exp(-distance / length)) == pytest.approx(length)


def test_lengths_at_the_limits():
    distance = np.arange(4.0)
    assert changes.correlation_length(distance, np.array([1, 0, 0, 0.0])) == 0
    assert changes.correlation_length(distance, np.array([1, -0.1, 0, 0.9])) == 0
    assert changes.correlation_length(distance, np.ones(4)) == np.inf
    assert np.isnan(changes.correlation_length(distance, np.full(4, np.nan)))


def test_a_threshold_counts_pixels():
    fields = np.random.default_rng(2).uniform(0, 1, (2, 3, 8, 4, 4))
    result = changing_by(fields, threshold=0.25)
    changed = fields.astype(np.float32) > 0.25
    np.testing.assert_allclose(result["change_map"], changed.mean(axis=(1, 2)))
    np.testing.assert_allclose(result["change"], changed.mean(axis=(1, 3, 4)))
    np.testing.assert_allclose(result["change_within"], changed.mean(axis=(3, 4)).var(axis=1))


# --- landmarks, figures and events that are no images -------------------------------------------------------------


def test_the_bootstraps_sets_have_the_susceptibility_that_is_reported(monkeypatch):
    fields = (
        np.random.default_rng(3).uniform(0, 1, (4, 3, 12, 4, 4))
        * np.array([0.2, 0.5, 1, 0.4])[:, None, None, None, None]
    )
    result = changing_by(fields)
    seen = []
    highest_of = landmarks.highest_of
    monkeypatch.setattr(landmarks, "redrawn", lambda samples: np.ones((1, samples)))
    monkeypatch.setattr(
        landmarks, "highest_of", lambda series, drawn, *words: seen.append(drawn) or highest_of(series, drawn, *words)
    )
    (peak,) = (mark for mark in forward_backward.landmarks(result) if mark.name == "susceptibility_peak")
    np.testing.assert_allclose(16 * seen[0][0], result["susceptibility"], rtol=1e-6)
    assert peak.timestep == result["at"][2]
    assert (peak.low, peak.high) == tuple(result["at_log_snr"].to_numpy()[[1, 3]])


def test_the_interval_of_the_peak_holds_the_true_peak():
    samples, repetitions, variances = 24, 100, np.array([1, 2.2, 2.6, 2, 1.2])
    at = np.array([400, 300, 200, 100, 0])
    held = 0
    for repetition in range(repetitions):
        change = np.random.default_rng(repetition).standard_normal((samples, 5)) * np.sqrt(variances)
        result = xr.Dataset(
            {
                "change": (("sample", "variant"), change),
                "change_within": (("sample", "variant"), np.zeros_like(change)),
                "susceptibility": ("variant", change.var(axis=0, ddof=1)),
                "susceptibility_se": ("variant", np.zeros(5)),
            },
            {"at": ("variant", at), "at_log_snr": ("variant", -at / 100)},
            {"samples": samples},
        )
        (peak,) = forward_backward.landmarks(result)
        assert peak.timestep == at[change.var(axis=0).argmax()]
        held += peak.low <= -2 <= peak.high
    assert held / repetitions >= 0.92


def test_where_half_of_the_classes_are_kept_is_marked(mixture):
    result, _ = mixture
    (kept,) = (mark for mark in forward_backward.landmarks(result) if mark.name == "class_kept_05")
    place = list(MIXTURE).index(400)
    assert kept.timestep == result["at"][place]
    assert kept.low < kept.log_snr


def test_endings_are_framed_by_whether_the_class_was_kept():
    ds = forks(8, 3)
    ds["label"][:] = np.arange(8) % 5
    result = forward_backward(ds, baseline=parent(ds), readout=fork_readout(8, 3)).compute()
    kept = fork_readout(8, 3)["x_0_logits"].to_numpy()[:, 0].argmax(axis=-1) == ds["label"].to_numpy()
    np.testing.assert_array_equal(result["ending_kept"], kept[:, :6])
    np.testing.assert_array_equal(result["ending"], ds["x_0"][:, 0, :6])
    drawn = forward_backward.plot(result, "endings")
    assert len(drawn.axes[0].patches) == 3 * 6
    assert {patch.get_linestyle() for patch in drawn.axes[0].patches} == {"-", (0, (2, 1.5))} or len(kept) == 3


def test_events_that_are_no_images_have_no_pixels_to_correlate():
    images = forks(9, 3, 1, 4)
    run = parent(images)
    vectors, starts = (
        ds.assign(x_0=(dims, ds["x_0"].to_numpy().reshape(*ds["x_0"].shape[: len(dims) - 1], 16), ds["x_0"].attrs))
        for ds, dims in (
            (images, ("variant", "replica", "sample", "feature")),
            (run[["x_0"]].assign_attrs(run.attrs), ("sample", "feature")),
        )
    )
    result = forward_backward(vectors, baseline=starts).compute()
    expected = forward_backward(images, baseline=run).compute()
    for name in ("squared_change", "psnr"):
        np.testing.assert_array_equal(result[name], expected[name])
    assert np.isnan(result["ssim"]).all()
    assert not {"susceptibility", "change_map", "image"} & set(result)
    assert len(forward_backward.plot(result).axes) == 3
    for name in ("endings", "changes"):
        assert forward_backward.plot(result, name) is None
    with pytest.raises(ValueError, match="which is of images"):
        forward_backward(vectors, baseline=starts, preset="window:3")
    with pytest.raises(ValueError, match="these events are no images; leave it out"):
        forward_backward(vectors, baseline=starts, threshold=0.1)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused():
    ds = forks(5, 3)
    run = parent(ds)
    with pytest.raises(ValueError, match="compared with the run that was forked and none was given"):
        forward_backward(ds)
    with pytest.raises(ValueError, match="is not the run these forks started from"):
        forward_backward(ds, baseline=run.assign_attrs(fingerprint="another"))
    with pytest.raises(ValueError, match="lacks 1 of the forks' samples, the first is 4"):
        forward_backward(ds, baseline=run.isel(sample=slice(4)))
    with pytest.raises(ValueError, match=r"x_0 .*which `traj fork` makes"):
        forward_backward(trajectories(), baseline=run)
    with pytest.raises(ValueError, match="the readout is one of other forks"):
        forward_backward(ds, baseline=run, readout=fork_readout(4, 3))
    with pytest.raises(ValueError, match=r"5 of 5 samples have a label that is none of the 5 classes.*first is -1"):
        forward_backward(ds, baseline=run, readout=fork_readout(5, 3))
    for threshold in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="expected a change from 0 to below 1"):
            forward_backward(ds, baseline=run, threshold=threshold)


def test_a_baseline_in_another_order_is_put_in_order():
    ds = forks(5, 3)
    run = parent(ds)
    shuffled = run.isel(sample=[3, 1, 4, 0, 2])
    xr.testing.assert_identical(
        forward_backward(ds, baseline=shuffled).compute(), forward_backward(ds, baseline=run).compute()
    )
