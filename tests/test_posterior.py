"""The posterior over a dataset equals plain sums, has its closed forms and limits, and refuses what it cannot take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import logsumexp

from tests import analysis_data
from traj.analysis._blocks.datasets import Images
from traj.analysis._drawing.style import look_of
from traj.analysis._posterior import one_pass, shown
from traj.analysis._statistics.landmarks import median
from traj.analysis.posterior import posterior
from traj.pipeline.models.analytic import PointsDenoiser
from traj.pipeline.models.digits import images as digits
from traj.stores import InputError

PROCESSES = {
    "VP": (np.sqrt([1e-4, 0.1, 0.9]), np.sqrt([1 - 1e-4, 0.9, 0.1])),
    "VE": (np.ones(3), np.array([80.0, 1.0, 0.05])),
    "flow": (np.array([0.0, 0.5, 0.98]), np.array([1.0, 0.5, 0.02])),
}
"""Signals and noise scales; a flow begins where there is no signal."""


def vectors(points, labels=None):
    """A dataset of vectors (image, value)."""
    points = np.asarray(points, np.float32)
    coords = {} if labels is None else {"label": ("sample", np.asarray(labels))}
    return xr.Dataset({"x_0": (("sample", "feature"), points)}, coords, {"kind": "dataset", "fingerprint": "points"})


def run(x_t, signal, noise_scale, pred_x0=None):
    """A run of vectors x_t (sample, timestep, value)."""
    x_t = np.asarray(x_t, np.float32)
    samples, steps, _ = x_t.shape
    with np.errstate(divide="ignore"):
        log_snr = 2 * np.log(np.divide(signal, noise_scale))
    return xr.Dataset(
        {
            "x_t": (("sample", "timestep", "feature"), x_t),
            "pred_x0": (("sample", "timestep", "feature"), x_t if pred_x0 is None else np.asarray(pred_x0, np.float32)),
            "x_0": (("sample", "feature"), x_t[:, -1]),
        },
        {
            "sample": np.arange(samples),
            "timestep": np.arange(steps)[::-1],
            "signal": ("timestep", np.asarray(signal, float)),
            "noise_scale": ("timestep", np.asarray(noise_scale, float)),
            "log_snr": ("timestep", log_snr),
        },
        {"kind": "trajectories"},
    )


def noised(points, signal, noise_scale, samples, seed=0):
    """States of the forward process, a sample's own noise at each level: (sample, timestep, value)."""
    rng = np.random.default_rng(seed)
    x_0 = points[rng.integers(0, len(points), samples)][:, None]
    noise = rng.standard_normal((samples, len(signal), points.shape[1]))
    return np.asarray(signal)[:, None] * x_0 + np.asarray(noise_scale)[:, None] * noise


def brute_force(x_t, points, signal, noise_scale):
    """Take the log weights by plain differences, in float64: (sample, timestep, image)."""
    differences = x_t.astype(np.float32).astype(float)[:, :, None] - np.asarray(signal)[:, None, None] * points
    exponents = -(differences**2).sum(axis=-1) / (2 * np.asarray(noise_scale)[:, None] ** 2)
    return exponents - logsumexp(exponents, axis=-1, keepdims=True)


def landmarks(result):
    return {mark.name: mark for mark in posterior.landmarks(result)}


@pytest.fixture(scope="module")
def handwritten():
    """Digits and their classes: (image, value), (image,)."""
    points, classes = digits()
    return points.reshape(len(points), -1).astype(np.float64), np.asarray(classes)


@pytest.mark.parametrize("process", PROCESSES)
def test_it_is_what_plain_sums_give(process, handwritten):
    points, classes = handwritten
    signal, noise_scale = PROCESSES[process]
    x_t = noised(points, signal, noise_scale, 20)
    pred_x0 = np.random.default_rng(1).standard_normal(x_t.shape)
    result = posterior(
        run(x_t, signal, noise_scale, pred_x0), dataset=vectors(points, classes), top=7, keep_mean=True
    ).compute()
    log_weights = brute_force(x_t, points, signal, noise_scale)
    weights = np.exp(log_weights)
    order = np.argsort(-log_weights, axis=-1, kind="stable")[..., :7]
    distinct = signal > 0  # without signal all are equal, and rounding orders the sums
    np.testing.assert_array_equal(result["index"][:, distinct], order[:, distinct])
    np.testing.assert_allclose(result["log_weight"], np.take_along_axis(log_weights, order, -1), rtol=1e-11, atol=1e-8)
    entropy = -(weights * log_weights).sum(axis=-1) / np.log(2)
    np.testing.assert_allclose(result["entropy"], entropy, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result["effective_number"], 2**entropy, rtol=1e-8)
    mean = weights @ points
    np.testing.assert_allclose(result["posterior_mean"], mean, rtol=0, atol=1e-6)
    away = np.sqrt(((mean - pred_x0.astype(np.float32)) ** 2).mean(axis=-1))
    np.testing.assert_allclose(result["distance_to_pred_x0"], away, rtol=1e-8)
    near = points[result["index"][..., 0]]
    np.testing.assert_allclose(
        result["distance_to_nearest"], np.sqrt(((mean - near) ** 2).mean(axis=-1)), rtol=1e-6, atol=1e-8
    )
    centre = points.mean(axis=0)
    ratio = np.linalg.norm(mean - centre, axis=-1) / np.linalg.norm(near - centre, axis=-1)
    np.testing.assert_allclose(result["distance_ratio"], ratio, rtol=1e-8, atol=1e-8)
    by_class = np.stack([weights[..., classes == k].sum(axis=-1) for k in range(10)], axis=-1)
    np.testing.assert_allclose(result["class_probability"], by_class, rtol=0, atol=1e-8)
    bits = -(by_class * np.log2(np.maximum(by_class, 1e-300))).sum(axis=-1)
    np.testing.assert_allclose(result["label_entropy"], bits, rtol=0, atol=1e-7)


def test_it_is_what_the_exact_denoiser_goes_by(handwritten):
    points, classes = handwritten
    denoiser = PointsDenoiser(
        points, classes, name="points", identity={"name": "points"}, valid_range=(-1, 1), device="cpu"
    )
    timesteps = np.array([900, 400, 20])
    signal, noise_scale = np.array([denoiser.schedule.at(int(t)) for t in timesteps]).T
    x_t = noised(points, signal, noise_scale, 8).astype(np.float32)
    predicted = np.empty_like(x_t)
    none = torch.full((8,), -1)
    for step, timestep in enumerate(timesteps):
        predicted[:, step] = denoiser(torch.as_tensor(x_t[:, step]), int(timestep), none).pred_x0
    result = posterior(run(x_t, signal, noise_scale, predicted), dataset=vectors(points)).compute()
    for step, timestep in enumerate(timesteps):
        exact = denoiser.log_weights(torch.as_tensor(x_t[:, step]), int(timestep), none).numpy()
        largest = np.take_along_axis(exact, result["index"].to_numpy()[:, step], axis=1)
        np.testing.assert_allclose(result["log_weight"][:, step], largest, rtol=0, atol=1e-9)
    assert float(result["distance_to_pred_x0"].max()) < 1e-6


LEVELS = [(0.0, 1.0), (1e-3, 1.0), (0.5, 0.9), (0.9, 0.4), (1.0, 0.05), (1.0, 1e-4), (1.0, 0.0), (1.0, 80.0)]
"""From no signal to no noise, and the noise of a VE process."""


@pytest.mark.parametrize("count", [1, 2, 15, 1200])
@pytest.mark.parametrize(("c", "d"), LEVELS)
def test_weights_and_means_are_those_of_plain_sums_to_1e_12(count, c, d):
    rng = np.random.default_rng(count)
    points = rng.uniform(-1, 1, (count, 16)).astype(np.float32).astype(float)
    points[count // 2 :: 3] = points[0]  # equal images, in other blocks too
    x_t = c * points[rng.integers(0, count, 40)] + d * rng.standard_normal((40, 16))
    found = one_pass.of_states(x_t, np.full(40, c), np.full(40, d), Images(vectors(points)), 1)
    exponents = -((x_t[:, None] - c * points) ** 2).sum(axis=-1)
    exponents -= exponents.max(axis=1, keepdims=True)
    weights = np.exp(exponents / (2 * max(d, 1e-9) ** 2))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.mean, weights @ points, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_weight[:, 0]), weights.max(axis=1), rtol=1e-12)


@pytest.mark.parametrize("behind", np.arange(20, 70, 5.0))
@pytest.mark.parametrize("nearest_first", [True, False])
def test_no_image_is_left_out_that_counts_though_it_be_one_of_many_far_ones(behind, nearest_first):
    # One image at the state itself; 1500 at one distance, far enough that each weighs e^-behind beside it.
    far = np.sqrt(2 * behind) * np.array([0.6, 0.8])
    points = np.concatenate([np.zeros((1, 2)), np.tile(far, (1500, 1))]).astype(np.float32).astype(float)
    points = points if nearest_first else points[::-1]
    found = one_pass.of_states(np.zeros((3, 2)), np.ones(3), np.ones(3), Images(vectors(points)), 1)
    of_each = np.exp(-(points**2).sum(axis=1).max() / 2)
    mass = 1500 * of_each / (1 + 1500 * of_each)
    np.testing.assert_allclose(found.mean, np.tile(mass * points[[0, -1]].sum(axis=0), (3, 1)), rtol=1e-13, atol=1e-17)
    entropy = -(1 - mass) * np.log1p(-mass) - mass * np.log(of_each / (1 + 1500 * of_each))
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-9, atol=1e-14)


def test_two_images_of_the_source_have_its_odds():
    # 001: distances 44.25 and 44.40 at c = .2, d = .8 (METHODS 2.2)
    points = np.array([[44.25 / 0.2, 0], [0, 44.40 / 0.2], [60 / 0.2, 0]])
    result = posterior(run([[[0, 0]]], [0.2], [0.8]), dataset=vectors(points), top=3).compute()
    odds = float(result["log_weight"][0, 0, 0] - result["log_weight"][0, 0, 1])
    assert odds == pytest.approx(10.38867, abs=2e-4)  # the points are float32
    assert np.exp(odds) == pytest.approx(3.249e4, rel=1e-3)
    assert result["index"][0, 0].to_numpy().tolist() == [0, 1, 2]


def test_log_odds_of_noised_images_follow_their_law():
    # Normal(D^2 / 2, D^2) with D = c / d times the distance (METHODS 2.2)
    draws, (c, d) = 4000, (0.3, 0.9)
    points = np.random.default_rng(3).uniform(-1, 1, (2, 500))
    x_t = c * points[0] + d * np.random.default_rng(4).standard_normal((draws, 500))
    found = one_pass.of_states(x_t, np.full(draws, c), np.full(draws, d), Images(vectors(points)), 2)
    sign = np.where(found.image[:, 0] == 0, 1, -1)
    odds = sign * (found.log_weight[:, 0] - found.log_weight[:, 1])
    squared = (c / d) ** 2 * ((points[0] - points[1]) ** 2).sum()
    assert abs(odds.mean() - squared / 2) < 4 * np.sqrt(squared / draws)
    assert abs(odds.var() / squared - 1) < 4 * np.sqrt(2 / draws)


def test_limits_are_all_images_alike_the_nearest_one_and_two_halves():
    points = np.array([[-1.0, 0], [1, 0], [0, 5], [0, -3]])
    x_t = [[[0.3, 0.1], [0, 0.2], [0.9, 0.1]]]
    ds = run(x_t, [0.0, 1.0, 1.0], [1.0, 0.2, 0.0])  # no signal, midway of two, no noise
    result = posterior(ds, dataset=vectors(points), top=4, keep_mean=True).compute().isel(sample=0)
    np.testing.assert_allclose(result["weight"][0], 1 / 4)
    np.testing.assert_allclose(result["posterior_mean"][0], points.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(result["effective_number"], [4, 2, 1])
    np.testing.assert_allclose(result["distance_ratio"][0], 0, atol=1e-12)
    np.testing.assert_allclose(result["weight"][1], [1 / 2, 1 / 2, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(result["weight"][2], [1, 0, 0, 0])
    assert int(result["index"][2, 0]) == 1
    np.testing.assert_array_equal(result["posterior_mean"][2], points[1])
    assert result["regime"].to_numpy().tolist() == [0, 1, 2]
    assert result["log_snr"].to_numpy()[0] == -np.inf


def test_weights_too_small_for_a_number_keep_their_odds():
    points = np.array([[0.0], [1.0], [2.0]])
    result = posterior(run([[[0.1]]], [1.0], [1e-3]), dataset=vectors(points), top=3).compute()
    assert result["weight"][0, 0].to_numpy().tolist() == [1, 0, 0]
    exact = [0, (0.1**2 - 0.9**2) / 2e-6, (0.1**2 - 1.9**2) / 2e-6]
    np.testing.assert_allclose(result["log_weight"][0, 0], exact, rtol=1e-6)


def test_digits_go_from_all_images_to_one_as_noise_falls(handwritten):
    points, classes = handwritten
    alpha_bar = analysis_data.ALPHA_BAR[[999, 700, 500, 400, 300, 200, 100, 0]]
    signal, noise_scale = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x_t = noised(points, signal, noise_scale, 48)
    result = posterior(run(x_t, signal, noise_scale), dataset=vectors(points, classes)).compute()
    number = result["effective_number_mean"].to_numpy()
    assert (np.diff(number) < 0).all()
    assert number[0] > 0.99 * len(points)
    assert number[-1] == pytest.approx(1, abs=1e-6)
    assert (np.diff(result["distance_ratio_mean"]) > 0).all()
    assert float(result["label_entropy_mean"][0]) == pytest.approx(np.log2(10), abs=0.01)
    shares = [result[f"{name}_share"].to_numpy() for name in ("statistics", "feature", "denoising")]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1)
    assert [share.argmax() for share in np.transpose(shares)[[0, -1]]] == [0, 2]
    first, last = (landmarks(result)[name] for name in ("statistics_end", "denoising_start"))
    assert first.log_snr < last.log_snr
    assert first.low <= first.log_snr <= first.high


def test_boundaries_are_where_a_plain_loop_finds_them(handwritten):
    points, _ = handwritten
    alpha_bar = analysis_data.ALPHA_BAR[[900, 700, 600, 500, 300, 200, 100, 20]]
    signal, noise_scale = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x_t = noised(points, signal, noise_scale, 12)  # noise of its own at each level: regimes come and go
    result = posterior(run(x_t, signal, noise_scale), dataset=vectors(points)).compute()
    regime = result["regime"].to_numpy()
    for row, of in enumerate(regime):
        steps = len(of)
        leaves = next(k for k in range(steps + 1) if not (of[k:] == 0).any())
        enters = next(k for k in range(steps + 1) if (of[k:] == 2).all())
        assert result["statistics_end_timestep"][row] == ([*result["timestep"].to_numpy(), -1])[leaves]
        assert result["denoising_start_timestep"][row] == ([*result["timestep"].to_numpy(), -1])[enters]
    log_snr = result["denoising_start_log_snr"].to_numpy()
    expected = median(result["denoising_start_timestep"].to_numpy(), log_snr, "denoising_start", "", "")
    assert np.isfinite(expected.log_snr)
    assert landmarks(result)["denoising_start"].log_snr == expected.log_snr


def test_bits_do_not_depend_on_how_run_and_dataset_are_cut():
    whole = analysis_data.trajectories(5, 3)
    images = analysis_data.images(1100)  # more than two blocks
    expected = posterior(whole, dataset=images).compute()
    for samples, steps, cut in ((1, 2, 1100), (3, 3, 170), (5, 1, 700)):
        lazy = analysis_data.cut(images, {"sample": cut, "y": 3})
        parts = analysis_data.cut(whole, {"sample": samples, "timestep": steps})
        found = posterior(parts, dataset=lazy).compute(scheduler="threads", num_workers=2)
        xr.testing.assert_identical(found, expected)


def test_thresholds_are_options(handwritten):
    points, _ = handwritten
    signal, noise_scale = [0.5], [np.sqrt(0.75)]
    ds, dataset = run(noised(points, signal, noise_scale, 6), signal, noise_scale), vectors(points)
    bounds = {"denoising_weight": 1.0, "denoising_number": 1.0}
    all_of_them = posterior(ds, dataset=dataset, statistics_share=1e-9, **bounds)["regime"]
    assert (all_of_them == 0).all()
    one = posterior(ds, dataset=dataset, denoising_number=1e9)["regime"]
    assert (one == 2).all()
    neither = posterior(ds, dataset=dataset, statistics_share=1.0, **bounds)["regime"]
    assert (neither == 1).all()


def test_states_that_are_no_numbers_have_no_posterior():
    ds = analysis_data.trajectories(3, 4)
    ds["x_t"][1, 2, 0, 0, 0] = np.nan
    result = posterior(ds, dataset=analysis_data.images()).compute()
    assert np.isnan(result["weight"][1, 2]).all()
    assert (result["index"][1, 2] == -1).all()
    assert int(result["regime"][1, 2]) == -1
    assert np.isfinite(result["weight"].isel(timestep=[0, 1, 3])).all()
    assert np.isnan(result["denoising_start_log_snr"][1])


def test_images_to_be_drawn_are_those_of_the_largest_weights():
    images = analysis_data.images()
    result = posterior(analysis_data.trajectories(6, 20), dataset=images, keep_mean=True).compute()
    at = {"sample": result["shown_sample"], "timestep": result["shown_timestep"]}
    there = result.sel(at)
    np.testing.assert_array_equal(result["shown_nearest"], images["x_0"].to_numpy()[there["index"].to_numpy()])
    np.testing.assert_allclose(result["shown_mean"], there["posterior_mean"], atol=1e-6)
    assert result.sizes["shown_sample"] == 4
    assert 2 < result.sizes["shown_timestep"] <= 10


def test_images_too_large_to_be_kept_are_left_out(monkeypatch):
    monkeypatch.setattr(shown, "BYTES", 4 * 64 * 8 - 1)  # a state with two of its nearest images
    result = posterior(analysis_data.trajectories(2, 1), dataset=analysis_data.images(), top=5)
    assert "shown_mean" not in result
    assert posterior.plot(result.compute(), "posterior_nearest") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": None}, "needs a dataset"),
        ({"dataset": xr.Dataset(attrs={"kind": "readout"})}, "a store of kind readout was given as the dataset"),
        (
            {"dataset": analysis_data.images(side=7)},
            "channel 1 x y 7 x x 7, events of this store channel 1 x y 8 x x 8",
        ),
        ({"dataset": vectors(np.zeros((3, 64)))}, "images of the dataset have feature 64"),
        ({"dataset": analysis_data.images().isel(sample=slice(0))}, "the dataset is empty"),
        ({"dataset": analysis_data.images().transpose("y", ...)}, "expected sample, then an event's"),
        ({"top": 13}, "top 13; expected 1 to 12"),
        ({"top": 0}, "top 0; expected 1 to 12"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_anything_is_read(change, said):
    with pytest.raises(InputError, match=said):
        posterior(analysis_data.trajectories(2, 3), **{"dataset": analysis_data.images(), **change})


def test_an_image_that_is_no_number_is_named():
    images = analysis_data.images(600)
    images["x_0"][537, 0, 1, 1] = np.inf
    with pytest.raises(InputError, match="image 537 of the dataset holds a value that is not a number"):
        posterior(analysis_data.trajectories(2, 3), dataset=images).compute()


def test_a_run_without_its_noise_levels_is_refused():
    ds = analysis_data.trajectories(2, 3).drop_vars(["signal", "noise_scale"])
    with pytest.raises(InputError, match="no signal and no noise_scale"):
        posterior(ds, dataset=analysis_data.images())


@pytest.mark.parametrize("labels", [None, [0, 1, -1, 2]])
def test_without_a_label_for_each_image_there_are_no_classes(labels):
    result = posterior(run(np.zeros((2, 1, 2)), [0.5], [0.5]), dataset=vectors(np.eye(4, 2), labels), top=1)
    assert "class_probability" not in result
    assert "label_entropy" not in result


def test_classes_are_those_of_the_labels():
    dataset = vectors([[0.0], [1.0], [5.0]], [7, 3, 7])
    result = posterior(run([[[0.4]]], [1.0], [0.1]), dataset=dataset, top=1).compute()
    assert result["class"].to_numpy().tolist() == [3, 7]
    odds = (0.6**2 - 0.4**2) / (2 * 0.1**2)
    np.testing.assert_allclose(
        result["class_probability"][0, 0], [1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], rtol=1e-5
    )


def times(dataset, ds):
    """Where a dataset's classes part and its images do, by its covariance."""
    marks = landmarks(posterior(ds, dataset=dataset, top=1).compute())
    return marks["speciation"], marks["collapse_gaussian"], marks["collapse"]


def linear(points, samples=24):
    """Noised points at every tenth timestep of the linear schedule."""
    timesteps = np.arange(0, 1000, 10)[::-1]
    alpha_bar = analysis_data.ALPHA_BAR[timesteps]
    signal, noise_scale = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    return run(noised(points, signal, noise_scale, samples), signal, noise_scale).assign_coords(timestep=timesteps)


def test_classes_part_where_the_covariance_says_so(handwritten):
    points, _ = handwritten
    parts, least, one = times(vectors(points), linear(points))
    largest = np.linalg.eigvalsh(np.cov(points.T, ddof=0))[-1]
    assert 1 / (1 + np.exp(-parts.log_snr)) == pytest.approx(1 / largest)
    assert abs(parts.timestep - 316) < 1  # METHODS 10.3, whose eigenvalue has the divisor N - 1
    two = np.array([[-4.0], [4.0]])
    assert abs(times(vectors(two), linear(two))[0].timestep - 521) < 1
    assert parts.low < parts.log_snr < parts.high
    assert parts.log_snr < least.log_snr < one.log_snr


def test_the_interval_of_where_classes_part_is_that_of_other_draws_of_images(handwritten):
    points, _ = handwritten
    rng = np.random.default_rng(0)
    draws = points[rng.integers(0, len(points), (60, len(points)))]
    centred = draws - draws.mean(axis=1, keepdims=True)
    largest = np.linalg.eigvalsh(centred.swapaxes(1, 2) @ centred / len(points))[:, -1]
    error = float(posterior(linear(points, 1), dataset=vectors(points))["spectrum_se"])
    assert error == pytest.approx(largest.std(ddof=1), rel=4 / np.sqrt(2 * len(draws)))


def test_gaussian_data_leave_the_least_entropy(handwritten):
    points, _ = handwritten
    result = posterior(linear(points, 64), dataset=vectors(points), top=1).compute()
    room = 4 * result["entropy_se"] + 1e-9
    assert (result["entropy_mean"] > result["gaussian_entropy"] - room).all()
    assert float((result["entropy_mean"] - result["gaussian_entropy"]).max()) > 1  # digits are not Gaussian
    eigenvalues = np.linalg.eigvalsh(np.cov(points.T, ddof=0)).clip(0)
    gamma = np.exp(result["log_snr"].to_numpy())[:, None]
    exact = np.log2(len(points)) - np.log2(1 + gamma * eigenvalues).sum(axis=1) / 2
    np.testing.assert_allclose(result["gaussian_entropy"], exact.clip(0), atol=1e-9)


def test_data_collapse_no_earlier_than_gaussian_ones_of_their_covariance():
    points = np.array([[-8.0], [-4.0], [6.0], [8.0]])
    signal, noise_scale = np.sqrt(analysis_data.ALPHA_BAR[::-1]), np.sqrt(1 - analysis_data.ALPHA_BAR[::-1])
    _, least, one = times(vectors(points), run(noised(points, signal, noise_scale, 256), signal, noise_scale))
    # 1/2 log2(1 + snr var) = 2 - 1 bit
    assert least.log_snr == pytest.approx(np.log(3 / points.var()))
    assert one.timestep < least.timestep
    two = times(vectors(points[:2]), linear(points[:2]))
    assert np.isnan(two[1].log_snr)  # one bit is all there is


def test_what_regimes_are_left_before_any_signal_is_written_and_drawn():
    points = np.array([[-1e3], [1e3]])
    ds = run(np.full((8, 3, 1), 1e3), *PROCESSES["flow"])
    result = posterior(ds, dataset=vectors(points), top=1, statistics_share=1.0).compute()
    left = landmarks(result)["statistics_end"]
    assert (left.timestep, left.log_snr) == (2, -np.inf)
    assert posterior.tables({"run": result})[0].rows[0][1] == "the start (the start to the start)"
    for figure in posterior.figures:
        figure.draw({"run": result}, look_of({"run": result}))


def test_the_covariance_is_left_out_where_it_would_be_too_large_and_where_nothing_parts():
    large = posterior(run(np.zeros((1, 1, 4097)), [0.5], [0.5]), dataset=vectors(np.eye(2, 4097)), top=1).compute()
    assert "spectrum" not in large
    assert "speciation" not in {mark.name for mark in posterior.landmarks(large)}
    narrow = np.array([[-0.5], [0.5]])  # a variance below 1: the noise of x_T covers it from the first
    assert np.isnan(times(vectors(narrow), linear(narrow))[0].log_snr)
    single = times(vectors(narrow[:1]), linear(narrow[:1]))
    assert np.isnan([mark.log_snr for mark in single[:2]]).all()
