"""Probes: the optimum of scikit-learn's, what mixtures of subspaces must give, and intervals that hold."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import xarray as xr
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests import features_data
from traj import analysis
from traj.analysis._features import logistic, shape, stored, subspaces
from traj.analysis._quantity import Series
from traj.analysis._statistics.landmarks import highest_of
from traj.pipeline.quantity_options import read_value
from traj.stores import InputError

internals = importlib.import_module("traj.analysis.probe")

SIGMA = np.array([1.0, 0.6, 0.3, 0.14, 0.05])


def probe(ds, **options):
    return analysis.load("probe")(ds, **options).compute()


def classes_apart(samples, features, *, classes=4, apart=1.0, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(samples) % classes
    # of unlike scales, and one that is constant
    rows = apart * rng.standard_normal((classes, features))[label] + rng.standard_normal((samples, features))
    rows *= np.geomspace(0.1, 30, features)
    rows[:, 3] = 0.3
    return rows + 2, label


@pytest.mark.parametrize(("samples", "features", "apart"), [(120, 9, 0.5), (80, 30, 2.0), (24, 60, 1.0)])
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_weights_are_the_optimum_that_scikit_learn_nears(samples, features, apart, ridge):
    rows, label = classes_apart(samples, features, apart=apart)
    scaler = StandardScaler().fit(rows)
    expected = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=20_000).fit(scaler.transform(rows), label)
    fitted = logistic.fit(rows, label, 4, ridge)
    np.testing.assert_allclose(fitted.weights * scaler.scale_, expected.coef_, atol=1e-4)
    scores, best = fitted.scores(rows), expected.decision_function(scaler.transform(rows))
    squares = (expected.coef_**2).sum(), ((fitted.weights * scaler.scale_) ** 2).sum()
    least, loss = (
        (special.logsumexp(one, axis=1) - one[np.arange(samples), label]).sum() + ridge / 2 * square
        for one, square in zip((best, scores), squares, strict=True)
    )
    assert loss == pytest.approx(least, rel=1e-6)
    probabilities = special.softmax(scores, axis=1)
    np.testing.assert_allclose(probabilities, expected.predict_proba(scaler.transform(rows)), atol=1e-4)


def test_a_start_from_other_rows_ends_in_the_same_optimum():
    rows, label = classes_apart(100, 12)
    alone = logistic.fit(rows[20:], label[20:], 4, 1.0)
    started = logistic.fit(rows[20:], label[20:], 4, 1.0, logistic.fit(rows[:80], label[:80], 4, 1.0))
    np.testing.assert_allclose(started.scores(rows), alone.scores(rows), atol=1e-3)


def test_samples_are_told_apart_as_by_scikit_learn_fold_by_fold():
    rows, label = classes_apart(90, 12, apart=0.4)
    ds = features_data.dataset({"h": np.stack([rows, 2 * rows[::-1]], axis=1)}, label, SIGMA[:2])
    result = probe(ds, folds=3)
    dealt = stored.deal(*stored.classes(ds), 3, 5)
    rows = ds["features_h"].to_numpy()[:, 0].astype(float)
    for fold in range(3):
        seen, tested = dealt != fold, dealt == fold
        pipe = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=1000)).fit(rows[seen], label[seen])
        correct = result["correct"].sel(probe="linear", part="h")[tested, 0]
        np.testing.assert_array_equal(correct, pipe.predict(rows[tested]) == label[tested])


def test_a_mixture_of_subspaces_caps_the_linear_probe_and_not_the_projection():
    # METHODS 5.4; draws of the linear probe differ by a few hundredths, see test_errors_know_of_other_training
    estimates, label = features_data.molrg(3000, SIGMA, seed=1)
    result = probe(features_data.dataset({"h": estimates}, label, SIGMA)).isel(part=0)
    linear, projection = result["accuracy"].to_numpy()
    np.testing.assert_allclose(linear, [0.373, 0.433, 0.462, 0.454, 0.450], atol=0.05)
    np.testing.assert_allclose(projection, [0.648, 0.846, 0.969, 0.993, 0.996], atol=0.03)
    assert (np.diff(projection) > 0).all()
    assert result["shape"].sel(probe="projection") == shape.MONOTONE
    assert result.attrs["majority"] == pytest.approx(1 / 3)


def test_each_fold_has_as_many_of_each_class_and_no_order_shows():
    names, positions = np.unique(np.repeat([7, 3, 5], [40, 20, 30]), return_inverse=True)
    dealt = stored.deal(names, positions, 5, 2)
    for k in range(3):
        assert np.ptp(np.bincount(dealt[positions == k], minlength=5)) == 0
    assert np.ptp(np.bincount(dealt)) == 0
    assert len(set(dealt[positions == 0][:5])) < 5  # cards dealt in order would all differ


def test_directions_are_those_of_the_singular_vectors():
    rows, label = classes_apart(40, 12)
    found = subspaces.principal(rows, label, 4, 3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for k in range(4):
        expected = np.linalg.svd((unit - unit.mean(axis=0))[label == k])[2][:3]
        np.testing.assert_allclose(found.vectors[k].T @ found.vectors[k], expected.T @ expected, atol=1e-9)


@pytest.mark.parametrize("distinct", [1, 3])
def test_a_class_whose_features_are_few_has_as_many_directions_as_any(distinct):
    rows = np.random.default_rng(0).standard_normal((distinct, 60))[np.arange(40) // 2 % distinct]
    found = subspaces.principal(rows, np.arange(40) % 2, 2, 5)
    for vectors in found.vectors:
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-12)


def test_errors_know_of_other_training():
    # as many training samples as tell four classes apart badly: accuracies differ more than those of given classifiers
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        label = np.arange(80) % 2
        rows = 0.35 * np.random.default_rng(1).standard_normal((2, 20))[label] + rng.standard_normal((80, 20))
        dealt = stored.deal(np.arange(2), label, 5, 1)
        right = np.empty(80)
        for fold in range(5):
            fitted = logistic.fit(rows[dealt != fold], label[dealt != fold], 2, 1.0)
            right[dealt == fold] = fitted.scores(rows[dealt == fold]).argmax(axis=1) == label[dealt == fold]
        found.append(right.mean())
    found = np.array(found)
    error = np.sqrt(found * (1 - found) / 79)
    truth = found.mean()
    assert (np.abs(found - truth) < 1.96 * stored.error_factor(5) * error).mean() >= 0.88


def test_the_highest_accuracy_of_many_is_no_surer_than_all_of_them_together():
    # forty cells that are told right in 80 of 100 cases each
    held = 0
    for seed in range(100):
        correct = np.random.default_rng(seed).random((2, 4, 200, 10)) < 0.8
        dims = ("probe", "part", "sample", "timestep")
        result = xr.Dataset(
            {"accuracy": (("probe", "part", "timestep"), correct.mean(axis=2)), "correct": (dims, correct)},
            {"probe": list(internals.PROBES)},
            {"error_factor": 1.0},
        )
        linear, _ = internals._numbers(result)
        held += linear.low <= 0.8 <= linear.high
    assert held >= 90


LEVELS = -2 * np.log(np.geomspace(3, 0.03, 9))
UNIMODAL = 0.9 - 0.01 * (np.arange(9) - 5.0) ** 2
MONOTONE = np.linspace(0.4, 0.9, 9) - 0.3 * (np.linspace(1, 0, 9)) ** 4


def right(chances, samples, seed):
    """Whether samples are told right at each level, those that are hard at one being hard at all."""
    rng = np.random.default_rng(seed)
    hardness = 0.8 * rng.standard_normal((samples, 1)) + 0.6 * rng.standard_normal((samples, len(chances)))
    return (special.ndtr(hardness) < chances).astype(float)


def test_the_interval_of_the_peak_holds_it():
    held = 0
    for seed in range(100):
        values = right(UNIMODAL, 400, seed)
        mean = values.mean(axis=0)
        series = Series("h", np.arange(9)[::-1], LEVELS, mean, mean, mean)
        peak = highest_of(series, shape.redrawn(values), "peak", "")
        held += peak.low <= LEVELS[5] <= peak.high
    assert 92 <= held


@pytest.mark.parametrize(
    ("chances", "never", "often"),
    [
        (UNIMODAL, shape.MONOTONE, shape.UNIMODAL),
        (MONOTONE, shape.UNIMODAL, shape.MONOTONE),
        (np.full(9, 0.7), shape.UNIMODAL, shape.CANNOT_TELL),
    ],
    ids=["unimodal", "monotone", "flat"],
)
def test_shapes_are_seldom_told_wrong(chances, never, often):
    found = [shape.of_samples(right(chances, 1000, seed), 0.03, 1.0)[0] for seed in range(60)]
    assert found.count(never) <= 4
    assert found.count(often) >= 50


def test_few_samples_do_not_tell_a_shape():
    told, rise, low, high = shape.of_samples(right(UNIMODAL, 20, 0), 0.01, 1.0)
    assert told == shape.CANNOT_TELL
    assert low < rise < high


def test_fits_are_the_nearest_of_their_shapes():
    curve = np.array([0.2, 0.5, 0.4, 0.9, 0.7, 0.8])
    np.testing.assert_allclose(shape.decreasing(curve), [0.2, 0.45, 0.45, 0.8, 0.8, 0.8])
    np.testing.assert_allclose(shape.unimodal(curve), [0.2, 0.45, 0.45, 0.9, 0.75, 0.75])


def test_a_peak_at_an_end_is_none():
    estimates, label = features_data.molrg(600, SIGMA)
    result = analysis.load("probe")(features_data.dataset({"h": estimates}, label, SIGMA), folds=2).compute()
    marks = {mark.name: mark for mark in analysis.load("probe").landmarks(result)}
    assert np.isnan(marks["probe_peak_projection"].log_snr)


def unlabelled(ds):
    return ds.assign_coords(label=("sample", np.where(ds["sample"] == 3, -1, ds["label"])))


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (unlabelled, {}, "1 of 40 samples have no label; expected features of a labelled dataset"),
        (lambda ds: ds.drop_vars("label"), {}, "40 of 40 samples have no label"),
        (lambda ds: ds.assign_coords(label=ds["label"] * 0), {}, "all 40 samples are of class 0"),
        (lambda ds: ds.isel(sample=slice(2)), {}, "class 0 has 1 samples, fewer than 5 folds"),
        (lambda ds: ds.isel(sample=[*range(0, 40, 2), 1]), {}, "class 1 has 1 samples, fewer than 5 folds"),
        (lambda ds: ds.isel(sample=slice(12)), {}, "class 0 has 4 samples outside a fold of 5, fewer than 5 dir"),
        (lambda ds: ds, {"directions": 7}, r"up_blocks.1 has 7 features, and 7 directions were asked for"),
        (lambda ds: ds, {"directions": 0}, "0 directions were asked for"),
        (lambda ds: ds, {"folds": 1}, "1 folds were asked for; expected 2 or more"),
        (lambda ds: ds, {"ridge": 0.0}, "expected a ridge above 0"),
        (lambda ds: ds.rename(features_mid_block="logits").drop_attrs(), {}, "has no features of parts, but logits"),
        (lambda ds: ds.where(ds["sample"] != 1), {}, "features that are not a number"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, options, says):
    with pytest.raises(InputError, match=says):
        probe(change(features_data.readout(40, 3)), **options)


@pytest.mark.parametrize("value", ["nan", "inf", "-1e999"])
def test_a_number_that_no_identity_can_hold_is_refused_where_it_is_typed(value):
    with pytest.raises(InputError):
        read_value(float, value)
    assert read_value(tuple[float, ...], "1,2e-3") == (1, 0.002)
