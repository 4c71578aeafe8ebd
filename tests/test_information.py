"""Information is that of closed forms: normal values, two points, a finite dataset, any process."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar

from tests import runs
from tests.test_noised import GAUSSIAN, SPAN, noise
from traj.analysis.information import information
from traj.stores import InputError

LEVELS = np.linspace(-10, 9, 58)
GAMMA = np.exp(LEVELS)


def plan(noise="shared", **step):
    """A plan of one kind of step, as a config holds it."""
    return {"runs": [{"noise": noise, **step}]}


def scales(process, log_snr):
    """Signal and noise of these log SNR."""
    ratio = np.exp(-log_snr / 2)
    return {
        "variance preserving": (1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)),
        "variance exploding": (np.ones_like(ratio), ratio),
        "flow": (1 / (1 + ratio), ratio / (1 + ratio)),
    }[process]


def predicted(x_0, pred_x0, log_snr=LEVELS, **coords):
    """Predictions (sample, timestep, feature) of x_0, as a run stores them."""
    steps = len(log_snr)
    along = {"step": np.arange(steps), "log_snr": log_snr, **coords}
    return xr.Dataset(
        {
            "pred_x0": (("sample", "timestep", "feature"), pred_x0.astype("f4")),
            "x_0": (("sample", "feature"), x_0.astype("f4")),
        },
        {
            "sample": np.arange(len(x_0)),
            "timestep": np.arange(steps)[::-1],
            **{name: ("timestep", values) for name, values in along.items()},
        },
        {"kind": "trajectories"},
    )


def noised(x_0, denoiser, process="variance preserving", log_snr=LEVELS, **coords):
    """What a denoiser predicts of x_0 with noise, the same for every process."""
    eps = np.random.default_rng(1).standard_normal((len(x_0), len(log_snr), x_0.shape[1]))
    signal, noise = (scale[:, None] for scale in scales(process, log_snr))
    return predicted(x_0, denoiser(signal * x_0[:, None] + noise * eps, signal, noise), log_snr, **coords)


def of_normal(variances):
    return lambda x_t, signal, noise: signal * variances / (signal**2 * variances + noise**2) * x_t


def of_points(points):
    def denoiser(x_t, signal, noise):
        distance = ((x_t[..., None, :] - signal[..., None] * points) ** 2).sum(-1) / (2 * noise**2)
        weights = np.exp(distance.min(-1, keepdims=True) - distance)
        return weights / weights.sum(-1, keepdims=True) @ points

    return denoiser


@pytest.fixture(scope="module")
def normal():
    """Normal values of four variances, what is measured of them, and the closed form (METHODS 7.6)."""
    variances = np.array([0.1, 0.5, 1, 2])
    x_0 = np.sqrt(variances) * np.random.default_rng(0).standard_normal((600, 4))
    each = 1 + GAMMA[:, None] * variances
    return information(noised(x_0, of_normal(variances))).compute(), (variances / each).sum(1), np.log2(each).sum(1) / 2


TWO = np.array([[-1.0], [1.0]])


@pytest.fixture(scope="module")
def two_points():
    x_0 = TWO[np.random.default_rng(0).integers(2, size=800)]
    return information(noised(x_0, of_points(TWO))).compute()


def of_two_points(gamma):
    """The mmse of -1 and 1 in noise, by quadrature."""
    density = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    return 1 - quad(lambda z: density(z) * np.tanh(gamma + np.sqrt(gamma) * z), -8, 8)[0]


def errors_off(result, name, exact, spare=0.0):
    """How many standard errors a mean is off, beyond what is spared."""
    mean, error = (result[f"{name}_{part}"].isel(on=0).to_numpy() for part in ("mean", "se"))
    return (np.abs(mean - exact) - spare).clip(0) / error


def test_normal_values_have_the_error_and_the_information_of_the_closed_form(normal):
    result, mmse, bits = normal
    assert (errors_off(result, "squared_error", mmse)[::6] < 3).all()
    assert errors_off(result, "information", bits, 0.01 * bits).max() < 3
    assert float(result["information_se"].max()) < 0.2


def test_bounds_hold_the_information_however_far_apart_the_steps_are():
    for steps in (8, 20, 300):
        log_snr = np.linspace(-9, 9, steps)
        mmse = 1 / (1 + np.exp(log_snr))
        result = information(predicted(np.zeros((2, 1)), np.sqrt(mmse)[None, :, None] * np.ones((2, 1, 1)), log_snr))
        exact = np.log2(1 + np.exp(log_snr)) / 2
        least, most = (result[f"information_at_{end}"][0].to_numpy() for end in ("least", "most"))
        assert (least < exact + 1e-6).all()
        # before the first step the bound is by the variance of x_0, which is 0 here
        assert (most[1:] - most[0] > exact[1:] - exact[0] - 1e-6).all()
        step = log_snr[1] - log_snr[0]
        np.testing.assert_allclose(result["information_mean"][0], exact, rtol=step**2 / 11, atol=1e-6)
        assert float(result["information_mean"][0, -1]) == pytest.approx(exact[-1], rel=4e-2 if steps == 8 else 2e-3)


def test_bounds_of_normal_values_hold_within_the_standard_error(normal):
    result, _, bits = normal
    spare = 3 * result["information_se"][0]
    assert (result["information_at_least"][0] - spare < bits).all()
    assert (result["information_at_most"][0] + spare > bits).all()


def test_two_points_are_one_bit(two_points):
    assert errors_off(two_points, "information", 1)[-1] < 3
    assert float(two_points["information_se"][0, -1]) < 0.05


@pytest.mark.parametrize("count", [8, 64])
def test_a_dataset_of_n_points_holds_log2_n_bits_and_in_the_end_none_are_open(count):
    rng = np.random.default_rng(2)
    points = rng.standard_normal((count, 6))
    data = xr.Dataset({"x_0": (("sample", "feature"), points.astype("f4"))})
    result = information(noised(points[rng.integers(count, size=500)], of_points(points)), dataset=data).compute()
    assert errors_off(result, "information", np.log2(count))[-1] < 3
    assert errors_off(result, "open", 0)[-1] < 3
    assert float(result["open_mean"][0, 0]) == pytest.approx(np.log2(count), abs=0.01)


def test_what_is_open_is_counted_from_the_last_state_where_data_are_not_finite(normal):
    result, _, _ = normal
    known, still = result["information_mean"][0], result["open_mean"][0]
    np.testing.assert_allclose(known + still, known[-1], rtol=1e-12)
    assert float(still[-1]) == float(result["open_se"][0, -1]) == 0


def test_the_curve_of_normal_values_is_theirs_and_above_that_of_any_data(normal, two_points):
    result, mmse, _ = normal
    np.testing.assert_allclose(result["gaussian_error"], mmse, rtol=0.15)  # variances of 600 samples
    spare = 3 * two_points["squared_error_se"][0] + 0.01  # the variance is of samples, too
    assert (two_points["squared_error_mean"][0] < two_points["gaussian_error"] + spare).all()


def test_processes_have_one_curve_over_log_snr(two_points):
    x_0 = TWO[np.random.default_rng(0).integers(2, size=800)]
    for process in ("variance exploding", "flow"):
        other = information(noised(x_0, of_points(TWO), process)).compute()
        np.testing.assert_allclose(other["information"], two_points["information"], rtol=1e-4, atol=1e-5)


def test_a_run_of_an_exact_sampler_tells_what_noised_data_tell():
    # normal values of variance 1: the posterior rule with the large variance is exact (METHODS 7.1)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::-1][::20]
    log_snr = np.log(alpha_bar / (1 - alpha_bar))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 2))
    pred_x0 = []
    for here, there in zip(alpha_bar, [*alpha_bar[1:], 1.0], strict=True):
        pred_x0.append(np.sqrt(here) * x)
        ratio = np.sqrt(here / there)
        x = ratio * x + np.sqrt(1 - ratio**2) * rng.standard_normal(x.shape)
    result = information(predicted(x, np.stack(pred_x0, axis=1), log_snr, noise_sd=np.ones(50)))
    exact = np.log2(1 + np.exp(log_snr))
    assert (errors_off(result, "squared_error", 2 / (1 + np.exp(log_snr)))[::6] < 3).all()
    assert errors_off(result, "information", exact, 0.01 * exact).max() < 3


def test_few_samples_leave_no_bias(normal):
    result, _, _ = normal
    by_two = result["information"][0, :, -1].to_numpy().reshape(-1, 2).mean(axis=1)
    assert by_two.mean() == pytest.approx(float(result["information_mean"][0, -1]), rel=1e-12)


def test_variances_of_two_samples_are_right_on_average():
    x_0 = np.random.default_rng(4).standard_normal((40, 2, 3))
    first = np.full(1, -20.0)
    found = [float(information(predicted(two, np.zeros((2, 1, 3)), first))["gaussian_error"][0]) for two in x_0]
    assert np.mean(found) == pytest.approx(3, abs=3 * np.std(found) / np.sqrt(len(found)))


def test_a_process_that_begins_with_nothing_but_noise_holds_no_information_there(two_points):
    x_0 = TWO[np.random.default_rng(0).integers(2, size=800)]
    ds = noised(x_0, of_points(TWO))
    first = ds.isel(timestep=[0]).assign_coords(timestep=[len(LEVELS)], log_snr=("timestep", [-np.inf]))
    whole = xr.concat([first, ds], "timestep", coords="minimal", compat="override", data_vars="minimal")
    result = information(whole).compute()
    assert float(result["information_mean"][0, 0]) == 0
    np.testing.assert_allclose(result["information"][0, :, 1:], two_points["information"][0], rtol=1e-12)
    assert [mark.log_snr for mark in information.landmarks(result)] == [
        mark.log_snr for mark in information.landmarks(two_points)
    ]
    for figure in ("denoising_error", "information_rate", "information"):
        assert information.plot(result, figure) is not None


def test_half_of_a_bit_and_the_fastest_growth_are_where_quadrature_has_them(two_points):
    bits = lambda log_snr: quad(lambda l: np.exp(l) * of_two_points(np.exp(l)) / 2, -12, log_snr)[0] / np.log(2)  # noqa: E731, E741
    half = brentq(lambda log_snr: bits(log_snr) - 0.5, -3, 3, xtol=1e-3)
    peak = minimize_scalar(lambda l: -np.exp(l) * of_two_points(np.exp(l)), bounds=(-3, 3), method="bounded").x  # noqa: E741
    found = {mark.name: mark for mark in information.landmarks(two_points)}
    for name, exact in (("information_half", half), ("information_peak", peak)):
        assert found[name].low < exact < found[name].high
        assert found[name].high - found[name].low < 2
    assert information.numbers(two_points)[0].low < 1 < information.numbers(two_points)[0].high


def test_states_that_are_no_number_leave_the_rest_of_a_sample_without():
    ds = noised(np.ones((3, 1)), of_normal(np.ones(1)))
    ds["pred_x0"][1, 20] = np.nan
    result = information(ds).compute()
    assert np.isfinite(result["information"][0, 1, :20]).all()
    assert np.isnan(result["information"][0, 1, 20:]).all()
    assert np.isfinite(result["information"][0, [0, 2]]).all()


@pytest.mark.parametrize(
    ("config", "noise_sd", "flaw"),
    [
        ({}, 0.0, "noise"),
        ({}, 0.1, ""),
        ({}, np.nan, ""),
        ({"plan": plan(rule="posterior", variance="small")}, 0.1, "end"),
        ({"plan": plan(rule="ddim", variance=1.0)}, 0.1, "end"),
        ({"plan": plan(rule="ddim", variance=0.5)}, 0.1, "noise"),
        ({"plan": plan(rule="heun", variance=0.0)}, 0.0, "noise"),
        ({"plan": plan(rule="posterior", variance="small", noise="zero")}, 0.0, "noise"),
        ({"noised": {}, "plan": plan(rule="ddim", variance=0.0)}, 0.0, ""),
        ({"noised": {}, "inversion": True, "plan": plan(rule="ddim", variance=0.0)}, 0.0, "noise"),
    ],
)
def test_runs_whose_errors_are_no_mmse_are_told(config, noise_sd, flaw):
    x_0 = np.random.default_rng(0).standard_normal((9, 1))
    ds = noised(x_0, of_normal(np.ones(1)), noise_sd=np.full(len(LEVELS), noise_sd))
    ds.attrs["config"] = json.dumps(config)
    result = information(ds).compute()
    assert result.attrs["flaw"] == flaw
    assert bool(information.landmarks(result)) == bool(information.numbers(result)) == (not flaw)
    for figure in information.figures:
        assert ("no mmse, of run: " in figure.caption({"run": result})) == bool(flaw)


def test_the_end_of_a_run_does_not_matter_where_data_are_finite(two_points):
    ds = noised(TWO[np.random.default_rng(0).integers(2, size=9)], of_points(TWO))
    ds.attrs["config"] = json.dumps({"plan": plan(rule="posterior", variance="small")})
    data = xr.Dataset({"x_0": ds["x_0"][:2]})
    assert information(ds, dataset=data).attrs["flaw"] == ""


def test_noised_data_have_an_mmse_and_data_led_to_noise_by_a_fixed_rule_have_none(tmp_path):
    x_0 = np.random.default_rng(5).standard_normal((40, 1, 8, 8))
    data = runs.dataset(tmp_path / "data.zarr", x_0, valid_range=SPAN)
    options = {"model": GAUSSIAN, "sampler_name": "ddim", "steps": 12, "samples": 40, "block": 40}
    drawn = information(noise(data, tmp_path / "drawn.zarr", **options)).compute()
    led = information(noise(data, tmp_path / "led.zarr", inversion=True, **options)).compute()
    assert [one.attrs["flaw"] for one in (drawn, led)] == ["", "noise"]
    assert errors_off(drawn, "squared_error", 64 / (1 + np.exp(drawn["log_snr"].to_numpy()))).max() < 3


def test_a_network_beside_the_exact_denoiser_has_its_excess_in_pairs(two_points):
    x_0 = TWO[np.random.default_rng(0).integers(2, size=800)]
    exact = of_points(TWO)
    other = information(noised(x_0, lambda *states: exact(*states) + 0.1 * np.sign(exact(*states)))).compute()
    (table,) = information.tables({"exact": two_points, "network": other})
    assert table.head == ("", "exact", "network", "second minus first")
    excess = (other["squared_error"] - two_points["squared_error"])[0].mean("sample")
    for row in table.rows[:-1]:
        level = float(row[0].split()[-1].replace("−", "-"))
        mean = float(excess[np.abs(LEVELS - level).argmin()])
        assert row[3].split(" ±")[0] == f"{mean:+.3g}".replace("-", "−")
    assert table.rows[-1][0].startswith("information")
    assert information.tables({"a": two_points, "b": two_points.isel(timestep=slice(9))}) == []


def test_data_that_do_not_fit_are_refused():
    ds = noised(np.ones((3, 2)), of_normal(np.ones(2)))
    with pytest.raises(InputError, match=r"events of the dataset have the shape \(3,\), those of this store \(2,\)"):
        information(ds, dataset=xr.Dataset({"x_0": (("sample", "feature"), np.zeros((4, 3)))}))
    with pytest.raises(InputError, match="no variable x_0"):
        information(ds, dataset=xr.Dataset({"images": (("sample", "feature"), np.zeros((4, 2)))}))
    with pytest.raises(InputError, match="no variable pred_x0"):
        information(ds.drop_vars("pred_x0"))


def test_attributes_can_be_kept_in_a_store(two_points):
    assert json.loads(json.dumps(two_points.attrs)) == two_points.attrs
