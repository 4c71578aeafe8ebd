"""Label entropy against METHODS 4: the exact mixture, its golden numbers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.bayes_data import ALPHA_BAR, POINTS, forward_paths, log_weights, mixture, readout
from tests.test_forks_and_readouts_on_disk import make_readout
from traj import analysis, stores
from traj.analysis._decisions import loops
from traj.analysis._decisions import means as bayes_means
from traj.analysis._decisions import options as bayes_options
from traj.pipeline.computing import analyze
from traj.stores import InputError

PARTITIONS = ("0+1|2+3", "0|1", "2|3")
GOLDEN = {
    100: (0.003246, 0, 0, 0.006493),
    200: (0.150506, 0, 0.011036, 0.289976),
    400: (0.697875, 0.014108, 0.523939, 0.843595),
    500: (1.019343, 0.154428, 0.788865, 0.940964),
    600: (1.451366, 0.497243, 0.927160, 0.981086),
    800: (1.952096, 0.954856, 0.995586, 0.998894),
    1000: (1.998698, 0.998771, 0.999884, 0.999971),
}
"""METHODS 4.4: bits of the 4-way decision and of PARTITIONS, by times 1 to 1000."""

SIDES = np.array([bayes_options._sides(text, range(4)) for text in ("0|1|2|3", *PARTITIONS)])
label_entropy = analysis.load("label_entropy")


def quadrature(timestep: NDArray[np.int64], nodes: int = 1501) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integrate entropy and rate of the decisions over the mixture's density: (timestep, decision) each."""
    c, d = np.sqrt(ALPHA_BAR[timestep])[:, None], np.sqrt(1 - ALPHA_BAR[timestep])[:, None]
    x = np.linspace(-13, 13, nodes)[None] * np.ones_like(c)
    log_p = log_weights(x, c, d)
    eps = -c[..., None] / d[..., None] * POINTS * np.ones_like(log_p)
    product = eps[..., :, None] * eps[..., None, :]
    found, _ = loops.of_states(log_p.reshape(-1, 4), product.reshape(-1, 4, 4), SIDES)
    each = np.exp(-((x[..., None] - c[..., None] * POINTS) ** 2) / (2 * d[..., None] ** 2)) / 4
    weight = np.stack([each[..., side >= 0].sum(-1) for side in SIDES], axis=-1)
    means = (weight[..., None] * found.reshape(*x.shape, 4, 2)).sum(1) / weight.sum(1)[..., None]
    return means[..., 0], means[..., 1]


@pytest.fixture(scope="module")
def whole():
    """Entropy and rate of METHODS 4.4 at all 1000 timesteps, in order of the store: most noise first."""
    timestep = np.arange(1000)[::-1]
    entropy, rate = quadrature(timestep, 801)
    log_snr = np.log(ALPHA_BAR / (1 - ALPHA_BAR))[timestep]
    return timestep, log_snr, entropy, rate


@pytest.fixture(scope="module")
def labelled():
    return label_entropy(mixture(512, 60), variance="small", partitions=PARTITIONS).compute()


@pytest.fixture(scope="module")
def unlabelled():
    return label_entropy(mixture(512, 60, labelled=False, seed=1), variance="small", partitions=PARTITIONS).compute()


def test_quadrature_gives_the_table_of_the_methods():
    entropy, _ = quadrature(np.array(list(GOLDEN)) - 1, 4001)
    np.testing.assert_allclose(entropy, list(GOLDEN.values()), atol=2e-6)


def test_decisions_add_up_by_the_chain_rule(whole):
    for values in whole[2:]:
        all_four, sides, left, right = values.T
        np.testing.assert_allclose(all_four, sides + (left + right) / 2, atol=1e-9)


def test_rates_from_products_are_the_slopes_of_the_entropy(whole):
    _, log_snr, entropy, rate = whole
    for d in range(4):
        slope = -bayes_options.slope(entropy[:, d], log_snr)
        large = rate[:, d] > 0.05 * rate[:, d].max()
        large[[0, -1]] = False
        np.testing.assert_allclose(slope[large], rate[large, d], rtol=0.01)


def test_peaks_and_windows_are_those_of_the_methods(whole):
    timestep, log_snr, _, rate = whole
    pace = -bayes_options.slope(log_snr, (timestep + 1) / 1000)
    by_tau = rate * pace[:, None]
    for d, tau, height, window in ((1, 0.590, 3.86, (476, 716)), (2, 0.357, 3.43, (246, 520))):
        place = by_tau[:, d].argmax()
        assert (timestep[place] + 1) / 1000 == pytest.approx(tau, abs=0.0015)
        assert by_tau[place, d] == pytest.approx(height, abs=0.006)
        above = timestep[by_tau[:, d] >= by_tau[:, d].max() / 2] + 1
        assert (above.min(), above.max()) == pytest.approx(window, abs=1)


@pytest.mark.parametrize("run", ["labelled", "unlabelled"])
def test_averages_over_samples_agree_with_quadrature(run, request):
    result = request.getfixturevalue(run)
    timestep = result["timestep"].to_numpy()
    entropy, rate = quadrature(timestep, 601)
    for k, decision in enumerate(("all", *PARTITIONS)):
        of = result.sel(decision=decision)
        for name, expected in (("entropy", entropy), ("entropy_rate_log_snr", rate)):
            # where few samples are undecided, none may be; the classifier starts from the prior, .0013 bit off
            often = expected[:, k] > 0.1 * expected[:, k].max()
            off = (abs(of[name] - expected[:, k]) - 0.0015)[often]
            assert (off <= 3 * of[f"{name}_se"][often]).all(), (decision, name)


def test_the_rate_adds_up_to_the_bits_decided(labelled):
    of = labelled.sel(decision="all")
    area = np.trapezoid(of["entropy_rate_log_snr"], of["log_snr"])
    assert area == pytest.approx(2, abs=0.1)
    tau = of["entropy_rate"].isel(timestep=slice(1, -1))
    np.testing.assert_allclose(-np.trapezoid(tau, of["tau"][1:-1]), area, atol=0.05)


def test_the_process_begins_with_log2_k_bits_and_ends_with_none(labelled):
    bits = labelled["entropy"].sel(decision="all")
    assert bits[0] == 2
    assert bits[-1] < 1e-3


def test_the_classifier_follows_the_exact_posterior_of_points_along_any_path():
    timestep = np.arange(999, 0, -37)
    c, d = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    rng = np.random.default_rng(0)
    forward = forward_paths(rng.choice(POINTS, 20), c, d, rng)
    anywhere = c * np.linspace(-9, 9, 20)[:, None] + d * rng.standard_normal((20, 1))
    for x_t in (forward, anywhere):
        posterior = (
            label_entropy(readout(x_t, timestep, np.full(20, -1)), variance="small").compute()["posterior"].to_numpy()
        )
        exact = np.exp(log_weights(x_t, c, d))
        expected = exact / exact[:, :1]  # what the prior in place of P(c | x_T) makes of it
        expected /= expected.sum(axis=-1, keepdims=True)
        there = (exact[:, 0] > 1e-300).all(axis=-1)
        np.testing.assert_allclose(posterior[there], expected[there], atol=1e-12)


def test_an_exact_denoiser_is_calibrated(labelled):
    gap = labelled["entropy_labelled"] - labelled["entropy"]
    error = labelled["entropy_labelled_se"]
    assert np.mean(abs(gap) <= 3 * error + 1e-3) > 0.97
    (number,) = (one for one in label_entropy.numbers(labelled) if one.name == "calibration_gap")
    assert number.low <= 0 <= number.high


def test_an_overconfident_network_is_not_calibrated():
    ds = mixture(64, 100)
    ds["squared_distance"] = 3 * ds["squared_distance"]
    result = label_entropy(ds).compute()
    assert float(result["calibration_gap"]) > 3 * float(result["calibration_gap_se"])


def test_profiles_of_classes_add_up_to_the_labelled_average():
    priors = (0.4, 0.3, 0.2, 0.1)
    result = label_entropy(mixture(40, 30), variance="small", priors=priors).compute()
    total = (result["class_entropy"] * np.array(priors)[:, None]).sum("class")
    np.testing.assert_allclose(total, result["entropy_labelled"].sel(decision="all"), atol=1e-12)


def test_the_sum_over_classes_stays_one_where_the_null_prediction_fits():
    with_null = label_entropy(mixture(48, 400), variance="small").compute()
    assert abs(np.median(np.exp(with_null["log_total"][:, -1])) - 1) < 0.05
    ds = mixture(4, 30)
    ds["squared_distance_null"][:] = np.nan
    result = label_entropy(ds).compute()
    assert np.isnan(result["log_total"]).all()
    assert np.isfinite(result["posterior"]).all()


def test_intervals_of_a_peak_cover_the_true_one_as_often_as_they_say():
    timestep = np.arange(999, 0, -25)
    c, d = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    log_snr = 2 * np.log(c / d)
    pace = -bayes_options.slope(log_snr, timestep / 1000)
    true = log_snr[(quadrature(timestep)[1][:, 1] * pace).argmax()]
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        x_t = forward_paths(rng.choice(POINTS, 32), c, d, rng)
        log_p = log_weights(x_t, c, d)
        eps = (-c[:, None] / d[:, None] * POINTS) * np.ones_like(log_p)
        product = eps[..., :, None] * eps[..., None, :]
        found, _ = loops.of_states(log_p.reshape(-1, 4), product.reshape(-1, 4, 4), SIDES[1:2])
        rate = found[:, 0, 1].reshape(log_p.shape[:2])
        peak = bayes_means.peak(rate * pace, np.ones_like(rate), log_snr, draws=300)
        low, high = log_snr[peak[1:3].astype(int)]
        covered += low <= true <= high
    assert 88 <= covered <= 99


def test_decisions_of_samples_lie_where_the_posterior_passes_one_half_for_good(labelled):
    posterior, timestep = labelled["posterior"].to_numpy(), labelled["timestep"].to_numpy()
    for k in range(20):
        final = int(labelled["decided_class"][k])
        assert final == posterior[k, -1].argmax() == labelled["label"][k]
        step = list(timestep).index(int(labelled["decision_timestep"][k]))
        assert (posterior[k, step:, final] > 0.5).all()
        assert posterior[k, step - 1, final] <= 0.5


def empirical(steps: int, samples: int = 48) -> float:
    """Follow runs of an exact denoiser of 40 points in 4 classes, in 16-D: the mean error of P(c | x_t)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 16))
    points = (centres[:, None] + 0.7 * rng.standard_normal((4, 10, 16))).reshape(-1, 16)
    alpha_bar = np.exp(np.interp(np.linspace(999, 0, steps), np.arange(1000), np.log(ALPHA_BAR)))
    c, d = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x = c[0] * points[rng.integers(0, 40, samples)] + d[0] * rng.standard_normal((samples, 16))
    far, exact = [], []
    for k in range(steps - 1):
        log_w = -((x[:, None] - c[k] * points) ** 2).sum(-1) / (2 * d[k] ** 2)
        w = np.exp(log_w - log_w.max(1, keepdims=True)).reshape(samples, 4, 10)
        in_class = np.exp(log_w.reshape(samples, 4, 10) - log_w.reshape(samples, 4, 10).max(2, keepdims=True))
        in_class /= in_class.sum(2, keepdims=True)
        exact.append(w.sum(2) / w.sum((1, 2))[:, None])
        x_0 = (in_class[..., None] * points.reshape(4, 10, 16)).sum(2)
        ratio = c[k] / c[k + 1]
        added = d[k] ** 2 - (ratio * d[k + 1]) ** 2
        mean = (c[k + 1] * added * x_0 + ratio * d[k + 1] ** 2 * x[:, None]) / d[k] ** 2
        together = (exact[-1][..., None] * mean).sum(1)
        x = together + np.sqrt(added) * d[k + 1] / d[k] * rng.standard_normal(x.shape)
        far.append(((x[:, None] - mean) ** 2).sum(-1))
    squared = np.stack([*far, np.full_like(far[0], np.nan)], axis=1)
    log_p, _ = loops.log_posterior(
        squared, np.full(squared.shape[:2], np.nan), np.log(np.full(4, 0.25)), loops.step_variance(c, d, "small")
    )
    exact = np.stack(exact, axis=1)
    begun = exact / exact[:, :1]
    begun /= begun.sum(-1, keepdims=True)
    return float(abs(np.exp(log_p[:, :-1]) - begun).mean())


def test_the_error_of_classes_with_spread_falls_as_the_root_of_the_number_of_steps():
    few, many = empirical(60), empirical(540)
    assert few / many == pytest.approx(3, rel=0.35)


def test_the_variance_of_spread_classes_is_exact_for_normal_ones():
    rng, v, centres = np.random.default_rng(0), 0.5, np.array([-2.0, 1.0])
    timestep = np.arange(999, 0, -111)
    c, d = np.sqrt(ALPHA_BAR[timestep]), np.sqrt(1 - ALPHA_BAR[timestep])
    x_t = forward_paths(centres[rng.integers(0, 2, 30)] + np.sqrt(v) * rng.standard_normal(30), c, d, rng)
    wide = c**2 * v + d**2
    x_0 = centres + (c * v / wide)[:, None] * (x_t[..., None] - c[:, None] * centres)
    added = d[:-1] ** 2 - (c[:-1] / c[1:] * d[1:]) ** 2
    mean = (c[1:] * added / d[:-1] ** 2)[:, None] * x_0[:, :-1]
    mean += (c[:-1] / c[1:] * d[1:] ** 2 / d[:-1] ** 2 * x_t[:, :-1])[..., None]
    squared = np.concatenate([(x_t[:, 1:, None] - mean) ** 2, np.full((30, 1, 2), np.nan)], axis=1)
    exact = -((x_t[..., None] - c[:, None] * centres) ** 2) / (2 * wide[:, None])
    odds = exact[..., 1] - exact[..., 0]
    prior = np.log(np.full(2, 0.5))
    for variance, close in ((f"spread:{v}", True), ("small", False)):
        s = loops.step_variance(c, d, variance)
        log_p, _ = loops.log_posterior(squared, np.full(squared.shape[:2], np.nan), prior, s)
        found = log_p[..., 1] - log_p[..., 0]
        assert np.allclose(found, odds - odds[:, :1], atol=1e-9) == close


def test_samples_with_labels_are_selected_and_others_weighted():
    log_p = np.log(np.array([[[0.7, 0.1, 0.1, 0.1]], [[0.25] * 4], [[0.25] * 4]]))
    prior, members = np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, False])
    weights = bayes_means.weights(log_p, np.array([0, 1, 2]), prior, members)
    np.testing.assert_allclose(weights[:, 0], [1 / 3, 2 / 3, 0])
    weights = bayes_means.weights(log_p, np.array([], int), prior, members)
    np.testing.assert_allclose(weights[:, 0], [0.8, 0.5, 0.5])


def test_pairs_part_where_the_decision_between_them_does(labelled):
    pairs = labelled["pair_peak_timestep"]
    np.testing.assert_array_equal(pairs, pairs.T)
    assert np.isnan(np.diag(pairs)).all()
    alone = labelled.sel(decision="0|1")
    of_pair = labelled.sel({"class": 0, "other_class": 1})
    assert of_pair["pair_peak_timestep"] == alone["peak_timestep"]
    # six intervals that hold together are wider than one that holds alone
    assert of_pair["pair_peak_low_log_snr"] <= alone["peak_low_log_snr"] <= alone["peak_log_snr"]
    assert of_pair["pair_peak_high_log_snr"] >= alone["peak_high_log_snr"] >= alone["peak_log_snr"]


def test_decisions_are_drawn_over_the_axis_that_is_asked_for(labelled):
    log_snr, timestep = labelled["log_snr"].to_numpy(), labelled["timestep"].to_numpy()
    for axis, places in (("log_snr", log_snr), ("timestep", -timestep)):
        figure = label_entropy.plot(labelled, "decisions", axis=axis)
        rates, *posteriors = figure.axes
        for one in (rates, *posteriors):
            drawn = max((line.get_xdata() for line in one.lines), key=len)
            assert set(np.asarray(drawn)) <= set(places)
        assert rates.get_ylabel() == "bits decided per unit of τ"
    assert rates.get_xlabel().startswith("timestep of")


def test_a_process_without_a_table_is_compared_by_log_snr():
    ds = mixture(16, 30).assign_attrs(config='{"schedule": {"grid": "karras"}}')
    result = label_entropy(ds).compute()
    assert result.attrs["per"] == "log_snr"
    assert "entropy_rate" not in result
    with pytest.raises(InputError, match=r"without a table.*take per log_snr"):
        label_entropy(ds, per="tau")


def test_no_signal_at_the_start_leaves_all_else_as_it_is():
    ds = mixture(16, 30)
    log_snr = ds["log_snr"].to_numpy().copy()
    log_snr[0] = -np.inf
    result = label_entropy(ds.assign_coords(log_snr=("timestep", log_snr)), partitions=PARTITIONS).compute()
    assert np.isnan(result["entropy_rate"][:, 0]).all()
    assert np.isfinite(result["entropy_rate"][:, 1:]).all()
    assert np.isfinite(result["peak_log_snr"]).all()


def test_a_run_of_one_stored_state_has_the_prior_and_no_slope():
    result = label_entropy(mixture(8, 1), variance="small").compute()
    assert (result["posterior"] == 0.25).all()
    assert (result["entropy"].sel(decision="all") == 2).all()
    assert np.isnan(result["entropy_rate"]).all()
    assert np.isfinite(result["entropy_rate_log_snr"].sel(decision="all")).all()


def test_a_class_without_samples_has_no_profile_and_is_named():
    ds = mixture(30, 20)
    ds = ds.isel(sample=ds["label"].to_numpy() != 2)
    result = label_entropy(ds, partitions=("0|1",)).compute()
    assert result.attrs["without_samples"] == [2]
    assert np.isnan(result["class_entropy"].sel({"class": 2})).all()
    assert np.isnan(result["entropy"].sel(decision="all")).all()
    assert np.isfinite(result["entropy"].sel(decision="0|1")).all()
    assert "no samples of class 2" in label_entropy.figures[0].caption({"run": result})
    left_out = label_entropy(ds, priors=(0.4, 0.4, 0.0, 0.2)).compute()
    assert np.isfinite(left_out["entropy"].sel(decision="all")).all()


def test_intervals_are_of_as_many_samples_as_their_means():
    ds = mixture(12, 20)
    result = label_entropy(ds, partitions=("0|1",)).compute()
    assert result["class_samples"].to_numpy().tolist() == [3] * 4
    assert result["decision_samples"].sel(decision=["all", "0|1"]).to_numpy().tolist() == [12, 6]
    for curve, name, samples in ((0, "entropy", 12), (2, "class_entropy", 3)):
        series = label_entropy.curves[curve].of(result)[0]
        half = stats.t.ppf(0.975, samples - 1) * result[f"{name}_se"][0]
        np.testing.assert_allclose(series.high - series.value, half, rtol=1e-12)
    whole = label_entropy(mixture(12, 20, labelled=False)).compute()
    assert (whole["class_samples"] == 12).all()
    assert (whole["decision_samples"] == 12).all()


def test_a_peak_at_the_first_state_that_has_signal_is_not_within_the_process():
    result = label_entropy(mixture(12, 20)).compute()
    log_snr = result["log_snr"].to_numpy().copy()
    log_snr[0] = -np.inf
    early = result.assign_coords(log_snr=("timestep", log_snr))
    for end in ("", "_low", "_high"):
        early[f"peak{end}_log_snr"] = early[f"peak{end}_log_snr"] * 0 + log_snr[1]
    assert label_entropy.tables({"run": early})[2].rows[0][2] == "not seen"


def test_without_labels_a_class_that_no_sample_ends_in_has_no_late_profile():
    ds = mixture(40, 40, labelled=False)
    ds = ds.isel(sample=np.arange(40) % 4 != 2)
    result = label_entropy(ds).compute()
    profile = result["class_entropy"].sel({"class": 2})
    assert np.isfinite(profile[:10]).all()
    assert np.isnan(profile[-5:]).all()
    assert np.isfinite(result["entropy"].sel(decision="all")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitions": ("0|",)}, r"'0\|' has an empty side; expected sides of classes like 0\+1\|2\+3"),
        ({"partitions": ("0+1",)}, r"'0\+1' has one side"),
        ({"partitions": ("0+1|1",)}, r"names 1 twice"),
        ({"partitions": ("0|7",)}, r"class '7' is none of 0, 1, 2, 3"),
        ({"partitions": ("0+rest|1",)}, r"class 'rest' is none of"),
        ({"partitions": ("0+1|2+3|rest",)}, r"leaves no class for rest"),
        ({"priors": (0.5, 0.5)}, r"0.5, 0.5 were given, 2 that add up to 1; expected 4, one for each class"),
        ({"priors": (0.5, 0.5, 0.5, 0.5)}, r"4 that add up to 2; expected 4"),
        ({"priors": (1.5, -0.5, 0.0, 0.0)}, r"0 or above"),
        ({"variance": "medium"}, r"'medium' was given; expected small, large or spread:V"),
        ({"variance": "spread:-1"}, r"'spread:-1' was given"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        label_entropy(mixture(4, 5), **options)


def test_readouts_it_cannot_use_are_refused():
    with pytest.raises(InputError, match=r"needs a likelihood readout of trajectories.*has squared_distance"):
        label_entropy(mixture(4, 5).drop_vars("eps_product"))
    with pytest.raises(InputError, match=r"traj readout likelihood RUN OUT"):
        label_entropy(mixture(4, 5).expand_dims("variant"))
    with pytest.raises(InputError, match=r"of one class only.*expected two"):
        label_entropy(mixture(4, 5).isel({"class": [0], "other_class": [0]}))
    mixed = mixture(4, 5)
    mixed = mixed.assign_coords(label=("sample", [0, -1, 2, 3]))
    with pytest.raises(InputError, match=r"1 of 4 samples have no label"):
        label_entropy(mixed)


def test_runs_are_compared_by_the_same_samples():
    early, late = (label_entropy(mixture(24, 60), variance="small").compute() for _ in range(2))
    late["decision_log_snr"] = late["decision_log_snr"] + 0.5
    table = label_entropy.tables({"exact": early, "trained": late})[-1]
    assert table.rows == [["exact", "trained", "24", "+0.5 (+0.5 to +0.5)", "100%"]]


def test_guided_runs_and_runs_without_noise_are_told_apart():
    ds = mixture(8, 10).assign_attrs(config='{"schedule": {"T": 1000}, "parent_guidance": 3.0}')
    ds = ds.assign_coords(noise_sd=("timestep", np.zeros(10)))
    caption = label_entropy.figures[0].caption({"run": label_entropy(ds).compute()})
    assert "Guided: run by 3." in caption
    assert "Without noise in their steps" in caption


def test_of_all_readouts_it_takes_those_with_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = stores.KINDS["readout"].folder
    make_readout(folder / "classifier.zarr")
    ds = mixture(4, 5)
    dims = {name: (variable.dims, str(name), "1", "float64") for name, variable in ds.data_vars.items()}
    coords = {name: (ds[name].dims[0], ds[name].values, "1", str(name)) for name in ds.coords if name != "sample"}
    with stores.create_readout(
        folder / "likelihood.zarr", of="trajectories", variables=dims, coords=coords, samples=4, block=4, config={}
    ) as store:
        store.write(0, {name: variable.to_numpy() for name, variable in ds.data_vars.items()})
    assert analyze.default_stores({"label_entropy": {}}) == [folder / "likelihood.zarr"]
    assert analyze.default_stores({"label_variance": {}}) == [folder / "classifier.zarr"]
