"""Signal to noise of features: the values of METHODS 5.3, intervals that hold, and what cannot be measured."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from tests import features_data, runs
from traj import analysis
from traj.analysis._features import stored
from traj.analysis._molrg.model import Molrg, hidden, sample
from traj.analysis._molrg.snr import snr as theory
from traj.pipeline.computing import analyze
from traj.stores import InputError

internals = importlib.import_module("traj.analysis.snr")

SIGMA = np.array([1.978, 0.969, 0.480, 0.282, 0.098, 0.030])
GOLDEN = [0.793, 3.223, 20.56, 29.61, 15.32, 12.78]
"""METHODS 5.3, three classes: optimal denoiser, noisy input."""


def snr(ds, **options):
    return analysis.load("snr")(ds, **options).compute()


@pytest.fixture(scope="module")
def mixture():
    molrg = Molrg()
    rng = np.random.default_rng(0)
    x_0, label = sample(molrg, rng.standard_normal((6000, 16)))
    features = [hidden(molrg, x_0 + sigma * rng.standard_normal(x_0.shape), 1.0, sigma) for sigma in SIGMA]
    ds = features_data.dataset({"hidden": np.stack(features, axis=1)}, label, SIGMA)
    return ds.assign_attrs(config=json.dumps({"model": molrg.identity}))


@pytest.fixture(scope="module")
def measured(mixture):
    return snr(mixture).isel(part=0)


def test_features_of_many_samples_have_the_ratio_of_the_optimal_denoiser(measured):
    np.testing.assert_allclose(measured["snr_theory"], GOLDEN, rtol=0.01)
    for kind, rtol in (("exact", 0.05), ("principal", 0.07)):
        np.testing.assert_allclose(measured["snr"].sel(subspaces=kind), GOLDEN, rtol=rtol)
        np.testing.assert_allclose(measured["snr_pooled"].sel(subspaces=kind), GOLDEN, rtol=rtol)
    exact = measured.sel(subspaces="exact")
    assert ((exact["snr_low"] <= GOLDEN) & (GOLDEN <= exact["snr_high"])).sum() >= 5
    assert (exact["energy_along"] + exact["energy_beside"]).dims == ("sample", "timestep")


@pytest.mark.parametrize("told", [{"labels": "stored"}, {"condition": {"labels": "cycle"}}])
def test_a_network_that_was_told_classes_is_not_held_against_the_theory_of_one_that_was_not(mixture, told):
    few = mixture.isel(sample=slice(60))
    config = json.loads(few.attrs["config"])
    for say, there in ((told, False), ({"labels": "none"}, True), ({"condition": {"labels": "none"}}, True)):
        result = snr(few.assign_attrs(config=json.dumps(config | say)))
        assert ("snr_theory" in result, "exact" in result["subspaces"]) == (there, True)


def test_the_ratio_is_highest_between_the_ends(mixture):
    (peak,) = analysis.load("snr").landmarks(snr(mixture))
    assert np.exp(-peak.log_snr / 2) == pytest.approx(0.282)
    assert np.isfinite([peak.low, peak.high]).all()


def test_pred_x0_of_trajectories_are_features_too(mixture):
    molrg = Molrg()
    pred_x0 = mixture["features_hidden"].to_numpy() @ molrg.U.T
    ds = mixture.drop_vars("features_hidden").drop_vars("feature_hidden", errors="ignore")
    ds = ds.assign(pred_x0=(("sample", "timestep", "feature"), pred_x0.astype(np.float32)))
    ds = ds.assign_attrs(kind="trajectories").isel(sample=slice(1500))
    expected = snr(mixture.isel(sample=slice(1500)))
    found = snr(ds)
    assert found["part"] == ["pred_x0"]
    np.testing.assert_allclose(found["snr"].sel(subspaces="exact"), expected["snr"].sel(subspaces="exact"), rtol=1e-3)


def test_exact_directions_of_oblique_classes_are_theirs_in_features_and_in_pred_x0():
    molrg, rng, sigma = Molrg(dims=(2, 2), features=6, theta=40), np.random.default_rng(0), np.array([0.5, 0.1])
    x_0, label = sample(molrg, rng.standard_normal((400, 5)))
    h = np.stack([hidden(molrg, x_0 + one * rng.standard_normal(x_0.shape), 1.0, one) for one in sigma], axis=1)
    ds = features_data.dataset({"hidden": h, "pred_x0": h @ molrg.span.T}, label, sigma)
    result = snr(ds.assign_attrs(config=json.dumps({"model": molrg.identity})), directions=2)
    assert "snr_theory" not in result
    for step, x_hat in enumerate(np.moveaxis(h @ molrg.span.T, 1, 0)):
        ratios = []
        for k in range(2):
            of_class, basis = x_hat[label == k], molrg.U[:, molrg.class_of == k]
            along = of_class @ basis @ basis.T
            ratios.append((along**2).sum() / ((of_class - along) ** 2).sum())
        found = result["snr"].sel(subspaces="exact").isel(timestep=step)
        np.testing.assert_allclose(found, np.mean(ratios), rtol=1e-4)


def test_clean_input_has_the_ratio_of_clean_input():
    molrg, sigma = Molrg(), np.array([0.969, 0.189])
    x_0, label = sample(molrg, np.random.default_rng(1).standard_normal((3000, 16)))
    features = np.stack([hidden(molrg, x_0, 1.0, one) for one in sigma], axis=1)
    ds = features_data.dataset({"hidden": features}, label, sigma).assign_attrs(
        config=json.dumps({"model": molrg.identity})
    )
    ds["features_hidden"].attrs["input"] = "clean"
    result = snr(ds).isel(part=0)
    np.testing.assert_allclose(result["snr_theory"], [91.8, 41.4], rtol=0.01)
    np.testing.assert_allclose(result["snr"].sel(subspaces="exact"), [91.8, 41.4], rtol=0.1)


def test_intervals_hold_the_ratio_of_the_distribution():
    # small samples, where errors show: 200 of two classes, unequally many
    molrg = Molrg(dims=(3, 2), features=5, delta=0.3, weights=(0.7, 0.3))
    truth, held = theory(molrg, [0.5]), np.zeros(2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        x_0, label = sample(molrg, rng.standard_normal((200, 6)))
        h = hidden(molrg, x_0 + 0.5 * rng.standard_normal(x_0.shape), 1.0, 0.5)
        own = molrg.class_of == label[:, None]
        along, beside = (h**2 * own).sum(axis=1), (h**2 * ~own).sum(axis=1)
        columns = internals._of_samples(along, beside, 1.0, label)
        held += [
            low <= true[0] <= high
            for (_, _, low, high), true in zip(columns[:8].reshape(2, 4), (truth.mean, truth.pooled), strict=True)
        ]
    assert (held >= 0.88 * 200).all()
    assert (held <= 0.995 * 200).all()


def test_intervals_know_of_other_directions():
    # as few samples as find directions badly: ratios differ more than those along given directions
    samples = 30
    columns, label, dealt = np.eye(20)[:, :9].reshape(20, 3, 3), np.arange(samples) % 3, np.arange(samples) // 3 % 5
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        within = np.einsum("fkd,sd->skf", columns, rng.standard_normal((samples, 3)))
        rows = within[np.arange(samples), label] + 0.3 * rng.standard_normal((samples, 20))
        options = {"classes": label, "dealt": dealt, "among": 3, "unit": False, "basis": None, "labels": label}
        along, beside = internals._energies(rows, kinds=1, **options)
        found.append(
            [internals._of_samples(along, beside, factor, label)[:4] for factor in (1.0, stored.error_factor(5))]
        )
    truth = np.exp(np.log([ratio for (ratio, *_), _ in found]).mean())
    plain, larger = np.mean([[low <= truth <= high for _, _, low, high in both] for both in found], axis=0)
    assert plain < 0.9 <= larger


def test_the_highest_ratio_of_many_is_no_surer_than_all_of_them_together():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(40):  # the same ratio, 3 of 17, at all levels
        ds = features_data.dataset(
            {"h": rng.standard_normal((60, 12, 20))}, np.arange(60) % 2, np.geomspace(1, 0.1, 12)
        )
        (highest,) = internals.snr.numbers(snr(ds, directions=3))
        held += highest.low <= 3 / 17 <= highest.high
    assert held >= 36


def test_pseudo_values_are_those_of_leaving_each_sample_out():
    rng = np.random.default_rng(0)
    along, beside, label = rng.gamma(2, 1, 60), rng.gamma(3, 1, 60), np.arange(60) % 3
    found = internals._pseudo_values(along, beside, label)
    for k, (ratio, pseudo) in enumerate(found):
        left_out = [
            internals._pseudo_values(*(np.delete(one, i) for one in (along, beside, label)))[k][0] for i in range(60)
        ]
        np.testing.assert_allclose(pseudo.mean(), ratio)
        np.testing.assert_allclose(pseudo, 60 * ratio - 59 * np.array(left_out), rtol=0.15, atol=0.15)


def test_directions_found_in_the_samples_they_measure_read_high():
    # nothing but noise: no direction holds more than its share, 3 of 20
    rng = np.random.default_rng(0)
    ds = features_data.dataset({"h": rng.standard_normal((80, 6, 20))}, np.arange(80) % 2, np.geomspace(1, 0.1, 6))
    honest, published = snr(ds, directions=3), snr(ds, directions=3, held_out=False)
    assert float(honest["snr"].mean()) == pytest.approx(3 / 17, rel=0.15)
    assert (published["snr"] > 1.5 * 3 / 17).all()


def test_what_all_classes_have_in_common_is_noise_of_raw_features_and_none_of_unit_ones():
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    means = np.zeros((2, 10))
    means[0, :2], means[1, 2:4] = 1, 1
    rows = means[label, None] + 0.2 * rng.standard_normal((200, 1, 10)) + 20 * np.eye(10)[9]
    ds = features_data.dataset({"h": rows}, label, np.array([1.0]))
    assert snr(ds, directions=1)["snr"] < 0.1
    assert snr(ds, directions=1, measured="unit")["snr"] > 1


def test_variation_that_classes_share_has_a_high_ratio_and_tells_none_apart():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 3, 10)) * np.array([3.0] * 2 + [0.1] * 8)
    ds = features_data.dataset({"h": rows}, np.arange(200) % 2, np.array([2.0, 1.0, 0.5]))
    result = snr(ds, directions=2)
    assert (result["snr"] > 100).all()
    assert (analysis.load("probe")(ds, directions=2)["accuracy"].compute() < 0.6).all()
    assert "a high ratio alone does not say that classes can be told apart" in internals._caption({"run": result})


@pytest.mark.parametrize("measured", ["raw", "unit"])
def test_features_that_are_the_same_for_all_samples_have_no_ratio(measured):
    ds = features_data.readout(40, 4)
    ds["features_mid_block"] = ds["features_mid_block"] * 0 + np.float32(1.3)
    ds["features_mid_block"].attrs["part"] = "mid_block"
    result = snr(ds, measured=measured)
    assert result["snr"].sel(part="mid_block").isnull().all()
    (highest,) = internals._numbers(result)
    assert highest.value == result["snr"].sel(part="up_blocks.1").max()
    still, _ = internals._peaks(result)
    assert np.isnan([still.log_snr, still.low, still.high]).all()
    internals.snr.plot({"run": result})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"directions": 7}, "up_blocks.1 has 7 features, and 7 directions were asked for"),
        ({"folds": 21}, "class 0 has 20 samples, fewer than 21 folds"),
    ],
)
def test_too_few_features_and_samples_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        snr(features_data.readout(40, 3), **options)


def test_trajectories_are_measured_and_not_probed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = runs.make("a.zarr")
    (job,) = analyze.plan_jobs([path], {"snr": {}}, None)
    assert job.quantity == "snr"
    for options in ({"probe": {}}, {"snr": {}, "probe": {}}):
        with pytest.raises(InputError, match=r"is a store of kind trajectories; .*probe needs one of kind readout"):
            analyze.plan_jobs([path], options, None)
