"""Sample quality says what the closed forms, scikit-learn and plain loops say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from scipy import special, stats
from sklearn.neighbors import NearestNeighbors

from tests.analysis_data import images, trajectories
from traj.analysis._statistics import mmd
from traj.analysis.sample_quality import sample_quality
from traj.stores import InputError

REPETITIONS = 300


def shifted_mmd(shift, width, sd=1.0, dims=2):
    """MMD^2 of N(0, sd^2) and N(shift, sd^2) in so many dimensions, shifted in the first."""
    wide = width**2 + 2 * sd**2
    return 2 * (width**2 / wide) ** (dims / 2) * (1 - np.exp(-(shift**2) / (2 * wide)))


def repeated(n, m, *, shift=0.0, common=0.0, width=1.5, permutations=39, paired=False):
    """COLUMNS of many pairs of sets of normal samples: (repetition, column)."""
    rng = np.random.default_rng([n, m])
    found = []
    for _ in range(REPETITIONS):
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
        y = common * x + np.sqrt(1 - common**2) * y if common else y
        y[:, 0] += shift
        found.append(mmd.discrepancy(x, y, width, permutations, paired=paired))
    return np.array(found)


def readout_of(ds, logits):
    return xr.Dataset(
        {"x_0_logits": (("sample", "class"), logits)},
        {"sample": ds["sample"]},
        {"kind": "readout", "fingerprint": "readout", "config": '{"parent":{"fingerprint":"test"}}'},
    )


def run_of(x_0, **attrs):
    """A run with this x_0."""
    ds = trajectories(len(x_0), 4, *x_0.shape[1:3])
    ds["x_0"][:] = x_0
    return ds.assign_attrs(attrs)


# --- discrepancy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "paired"), [(5, 7, False), (6, 6, True)])
def test_discrepancy_is_the_sum_over_pairs_of_different_samples(n, m, paired):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))

    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * 1.3**2))

    def mean(a, b, different):
        return np.mean([k(a[i], b[j]) for i in range(len(a)) for j in range(len(b)) if i != j or not different])

    def estimate(x, y):
        return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired)

    value, error, low, high, _ = mmd.discrepancy(x, y, 1.3, 19, paired=paired)
    assert value == pytest.approx(estimate(x, y), abs=1e-12)
    without_x = [estimate(np.delete(x, i, 0), np.delete(y, i, 0) if paired else y) for i in range(n)]
    without_y = [] if paired else [estimate(x, np.delete(y, j, 0)) for j in range(m)]
    squares = [(len(one) - 1) * np.var(one) for one in (without_x, without_y) if one]
    assert error == pytest.approx(np.sqrt(sum(squares)))
    assert high - low == pytest.approx(2 * stats.t(min(n, m) - 1).ppf(0.975) * error)


@pytest.mark.parametrize(("n", "m", "options"), [(8, 8, {}), (8, 20, {}), (8, 8, {"common": 0.8, "paired": True})])
def test_equal_distributions_have_none_on_average_and_uniform_p_values(n, m, options):
    found = repeated(n, m, **options)
    value, p = found[:, 0], found[:, 4]
    assert abs(value.mean()) < 3 * value.std() / np.sqrt(REPETITIONS)
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(p <= level) == pytest.approx(level, abs=3.2 * np.sqrt(level * (1 - level) / REPETITIONS))
    assert np.mean((found[:, 2] < 0) & (found[:, 3] > 0)) > 0.93


def test_with_the_diagonal_it_would_be_too_large():
    x, y = np.random.default_rng(1).standard_normal((2, 8, 2))
    kernel = mmd.gaussian(np.concatenate([x, y]), 1.5) + np.eye(16)
    biased = kernel[:8, :8].mean() + kernel[8:, 8:].mean() - 2 * kernel[:8, 8:].mean()
    assert biased > mmd.discrepancy(x, y, 1.5, 1)[0] + 0.05


@pytest.mark.parametrize(("shift", "paired"), [(1.0, False), (1.0, True)])
def test_shifted_normal_samples_have_the_closed_form_and_an_honest_interval(shift, paired):
    found = repeated(40, 40, shift=shift, paired=paired, permutations=1)
    expected = shifted_mmd(shift, 1.5)
    assert abs(found[:, 0].mean() - expected) < 3 * found[:, 0].std() / np.sqrt(REPETITIONS)
    covered = np.mean((found[:, 2] < expected) & (expected < found[:, 3]))
    assert 0.9 < covered < 0.99
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.15)


def test_a_shift_is_found_and_equal_sets_in_pairs_are_the_same():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    assert mmd.discrepancy(x, x + 1, 1.5, 999)[4] == 0.001
    value, _, _, _, p = mmd.discrepancy(x, x.copy(), 1.5, 99, paired=True)
    assert abs(value) < 1e-15
    assert p == 1


def test_two_samples_have_no_error():
    x = np.arange(4.0).reshape(2, 2)
    value, error, low, high, p = mmd.discrepancy(x, x + 1, 1.5, 9)
    assert np.isfinite([value, p]).all()
    assert np.isnan([error, low, high]).all()


# --- nearest images -----------------------------------------------------------------------------------------------


def test_nearest_images_are_scikit_learns():
    ds, real = trajectories(9, 4, 3, 5), images(40, 3, 5)
    result = sample_quality(ds, dataset=real, permutations=9).compute()
    flat, of_real = (one["x_0"].to_numpy().reshape(one.sizes["sample"], -1) for one in (ds, real))
    distance, index = NearestNeighbors(n_neighbors=2).fit(of_real).kneighbors(flat)
    np.testing.assert_allclose(result["nearest_distance"], distance[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(result["nearest_index"], index[:, 0])
    others, _ = NearestNeighbors(n_neighbors=2).fit(of_real).kneighbors(of_real)
    np.testing.assert_allclose(result["dataset_distance"], others[:, 1], rtol=1e-6)
    np.testing.assert_allclose(result["nearest_ratio"], distance[:, 0] / others[:, 1].mean(), rtol=1e-6)
    np.testing.assert_array_equal(result["shown_nearest"], real["x_0"].to_numpy()[index[:8, 0]])
    np.testing.assert_array_equal(result["shown_x_0"], ds["x_0"][:8])


def test_images_of_the_dataset_are_copies_at_no_distance():
    real = images(40)
    x_0 = real["x_0"].to_numpy()[[3, 0, 39, 7, 3, 12]]
    x_0[5] += 0.05
    x_0[4] = np.random.default_rng(0).uniform(-1, 1, x_0[4].shape)
    result = sample_quality(run_of(x_0), dataset=real, permutations=9).compute()
    assert result["nearest_distance"][:4].to_numpy().tolist() == [0, 0, 0, 0]
    assert result["nearest_index"].to_numpy()[[0, 1, 2, 3, 5]].tolist() == [3, 0, 39, 7, 12]
    assert result["copied"].to_numpy().tolist() == [1, 1, 1, 1, 0, 1]
    assert 0 < result["copied_low"] < result["copied_mean"] < result["copied_high"] < 1


def test_a_copy_of_an_image_that_is_there_twice_is_one():
    real = images(6).isel(sample=[0, 1, 2, 3, 4, 4])
    result = sample_quality(run_of(real["x_0"].to_numpy()[3:]), dataset=real, permutations=9).compute()
    assert result["copied"].to_numpy().tolist() == [1, 1, 1]


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_run_is_compared_with_the_dataset_and_in_pairs_with_another_run():
    ds, real = trajectories(12, 4), images(30)
    other = trajectories(12, 4, seed=1).isel(sample=[*range(5, 12), *range(5)])
    result = sample_quality(ds, dataset=real, baseline=other, permutations=19).compute()
    x, y, z = (
        one["x_0"].to_numpy().reshape(one.sizes["sample"], -1).astype(np.float64)
        for one in (ds, real, other.sortby("sample"))
    )
    width = np.median(np.linalg.norm(y[:, None] - y, axis=-1)[np.triu_indices(30, 1)])
    expected = [mmd.discrepancy(x, y, width, 19), mmd.discrepancy(x, z, width, 19, paired=True)]
    found = [result[name] for name in ("mmd", "mmd_se", "mmd_low", "mmd_high", "mmd_p")]
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-9)
    assert result["against"].to_numpy().tolist() == ["dataset", "baseline"]
    few = sample_quality(ds, dataset=real, at_most=10, permutations=19).compute()
    chosen = [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]
    width = np.median(np.linalg.norm(y[chosen][:, None] - y[chosen], axis=-1)[np.triu_indices(10, 1)])
    expected = mmd.discrepancy(x[[0, 1, 2, 4, 5, 6, 7, 9, 10, 11]], y[chosen], width, 19)
    np.testing.assert_allclose(few["mmd"], expected[0], rtol=1e-9)


def test_a_classifier_says_how_sure_it_is():
    ds = trajectories(7, 4)
    logits = 3 * np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    result = sample_quality(ds, dataset=images(), readout=readout_of(ds, logits), permutations=9).compute()
    p = special.softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(result["confidence"], p.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(result["label_entropy"], stats.entropy(p, axis=1, base=2), rtol=1e-10)


def test_samples_are_counted_that_a_classifier_labels_as_asked():
    labels = np.array([0, 0, 2, -1, 2, 2, 0])
    seen = np.array([0, 1, 2, 2, 2, 2, 0])
    ds = trajectories(7, 4, chunks=(3, 2)).assign_coords(label=("sample", labels))
    readout = readout_of(ds, np.eye(3, dtype=np.float32)[seen])
    result = sample_quality(ds, dataset=images(), readout=readout, permutations=9).compute()
    np.testing.assert_array_equal(result["as_asked"], [1, 0, 1, np.nan, 1, 1, 1])
    assert result["asked_class"].to_numpy().tolist() == [0, 2]
    np.testing.assert_allclose(result["class_as_asked"], [2 / 3, 1])
    for share, (low, high), hits, of in (
        (result["as_asked_mean"], (result["as_asked_low"], result["as_asked_high"]), 5, 6),
        (result["class_as_asked"][1], (result["class_as_asked_low"][1], result["class_as_asked_high"][1]), 3, 3),
    ):
        assert share == pytest.approx(hits / of)
        wilson = stats.binomtest(hits, of).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx(tuple(wilson))
    (number,) = (one for one in sample_quality.numbers(result) if one.name == "as_asked")
    assert (number.value, number.low) == (result["as_asked_mean"], result["as_asked_low"])
    of_runs, by_class = sample_quality.tables({"one": result})
    assert of_runs.rows[0][of_runs.head.index("labelled as asked")] == "0.833 (0.436 to 0.97)"
    assert by_class.head == ["run", "0", "2"]
    assert by_class.rows == [["one", "0.67 (0.21 to 0.94)", "1.00 (0.44 to 1.00)"]]


def test_without_labels_nothing_was_asked_and_labels_of_no_class_are_refused():
    ds = trajectories(4, 3)
    readout = readout_of(ds, np.zeros((4, 3), np.float32))
    result = sample_quality(ds, dataset=images(), readout=readout, permutations=9).compute()
    assert "as_asked" not in result
    assert "as_asked" not in {number.name for number in sample_quality.numbers(result)}
    asked = ds.assign_coords(label=("sample", [0, 7, 1, 9]))
    with pytest.raises(InputError, match=r"2 of 4 samples have a label that is none of the 3 classes.*first is 7"):
        sample_quality(asked, dataset=images(), readout=readout)


def test_a_label_that_cannot_be_told_leaves_no_share():
    ds = trajectories(4, 3).assign_coords(label=("sample", [0, 1, 0, 1]))
    logits = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    logits[1] = np.nan
    result = sample_quality(ds, dataset=images(), readout=readout_of(ds, logits), permutations=9).compute()
    np.testing.assert_array_equal(result["as_asked"], [1, np.nan, 1, 1])
    assert np.isnan(result["as_asked_mean"])
    np.testing.assert_array_equal(result["class_as_asked"], [1, np.nan])


def test_evaluations_are_those_of_the_plan():
    x_0 = images(5)["x_0"].to_numpy()
    plans = {
        4: {},
        7: {"plan": {"runs": [{"rule": "heun"}]}},
        0: {"noised": {"store": "images"}, "plan": {"runs": [{"rule": "ddim"}]}},
    }
    for evaluations, config in plans.items():
        run = run_of(x_0, config=json.dumps(config))
        assert sample_quality(run, dataset=images(), permutations=9).attrs["evaluations"] == evaluations


def test_runs_stand_in_the_table_by_what_they_cost():
    real = images()
    runs = {f"of {steps}": trajectories(6, steps) for steps in (9, 3, 5)}
    results = {name: sample_quality(ds, dataset=real, permutations=9).compute() for name, ds in runs.items()}
    results["of 5"] = results["of 5"].assign_coords(seconds=0.0125)
    (table,) = sample_quality.tables(results)
    cost = [["of 3", "3", "", "20"], ["of 5", "5", "12.5", "40"], ["of 9", "9", "", "80"]]
    assert [row[:4] for row in table.rows] == cost
    assert [row[-1] for row in table.rows] == [""] * 3


def test_events_that_are_no_images_have_neighbours_and_no_pictures():
    dims = ("sample", "feature")
    flat = [
        one.assign(x_0=(dims, one["x_0"].to_numpy().reshape(one.sizes["sample"], -1), one["x_0"].attrs))
        for one in (trajectories(6, 4)[["x_0"]].assign_coords(trajectories(6, 4).coords), images())
    ]
    result = sample_quality(flat[0], dataset=flat[1], permutations=9).compute()
    expected = sample_quality(trajectories(6, 4), dataset=images(), permutations=9).compute()
    np.testing.assert_array_equal(result["nearest_distance"], expected["nearest_distance"])
    np.testing.assert_array_equal(result["mmd"], expected["mmd"])
    assert sample_quality.plot(result, "nearest_images") is None


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused():
    ds, real = trajectories(5, 4), images()
    with pytest.raises(ValueError, match="sample_quality needs a dataset"):
        sample_quality(ds)
    with pytest.raises(ValueError, match="images of the dataset have channel 1 x y 5"):
        sample_quality(ds, dataset=images(side=5))
    for few, other in ((ds.isel(sample=[0]), real), (ds, real.isel(sample=[0]))):
        with pytest.raises(ValueError, match="expected two or more of each"):
            sample_quality(few, dataset=other)
    for options in ({"at_most": 1}, {"permutations": 0}):
        with pytest.raises(ValueError, match="expected 2 or more, and 1 or more"):
            sample_quality(ds, dataset=real, **options)
    with pytest.raises(ValueError, match="the samples differ: 1 are in only one"):
        sample_quality(ds, dataset=real, baseline=trajectories(4, 4))
    logits = np.zeros((5, 3))
    with pytest.raises(ValueError, match="the readout has no x_0_logits of a run"):
        sample_quality(ds, dataset=real, readout=readout_of(ds, logits).rename(x_0_logits="logits"))
    for other in (ds.isel(sample=slice(4)), ds.assign_coords(sample=np.arange(5) + 1)):
        with pytest.raises(ValueError, match="the readout is one of another run"):
            sample_quality(ds, dataset=real, readout=readout_of(other, logits[: other.sizes["sample"]]))


def test_a_sample_that_was_never_written_leaves_the_rest_their_neighbours():
    ds = trajectories(5, 4)
    ds["x_0"][2] = np.nan
    result = sample_quality(ds, dataset=images(), permutations=9).compute()
    assert np.isnan(result["nearest_distance"]).to_numpy().tolist() == [False, False, True, False, False]
    assert result["nearest_index"][2] == -1
    assert np.isnan(result["mmd"]).all()
