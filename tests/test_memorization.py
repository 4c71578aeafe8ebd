"""Memorization finds copies and only these: plain neighbours, an exact denoiser, held-out images, noise."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import xarray as xr
from sklearn.neighbors import NearestNeighbors

from tests.analysis_data import images, trajectories
from traj import stores
from traj.analysis._statistics.verdicts import CANNOT_TELL, wilson
from traj.analysis.memorization import memorization
from traj.pipeline.making import dataset, generate
from traj.pipeline.models.digits import LEARNT, held_out_images, training_images
from traj.stores import InputError

internals = importlib.import_module("traj.analysis.memorization")

N = 32


def dataset_of(x_0):
    """A dataset of images (image, channel, y, x)."""
    return images(len(x_0), side=x_0.shape[-1]).assign(x_0=(("sample", "channel", "y", "x"), x_0))


def run_of(x_0, pred_x0=None):
    """A run with this x_0, which pred_x0 (sample, timestep, *event) leads to."""
    ds = trajectories(len(x_0), 4 if pred_x0 is None else pred_x0.shape[1], *x_0.shape[1:3])
    ds["x_0"][:] = x_0
    if pred_x0 is not None:
        ds["pred_x0"][:] = pred_x0
    return ds


def two_distances(x_0, training):
    flat = [one.reshape(len(one), -1) for one in (training, x_0)]
    return NearestNeighbors(n_neighbors=2).fit(flat[0]).kneighbors(flat[1])


@pytest.fixture(scope="module")
def digits():
    return dataset_of(training_images(N)[0])


# --- what it computes ---------------------------------------------------------------------------------------------


def test_ratios_are_those_of_scikit_learns_neighbours():
    ds, real, others = trajectories(9, 4, 3, 5), images(40, 3, 5), images(30, 3, 5, seed=7)
    result = memorization(ds, dataset=real, held_out=others, threshold=0.9).compute()
    x_0, training, held_out = (one["x_0"].to_numpy() for one in (ds, real, others))
    distance, index = two_distances(x_0, training)
    np.testing.assert_allclose(result["nearest_distance"], distance[:, 0], rtol=1e-6)
    np.testing.assert_allclose(result["distance_ratio"], distance[:, 0] / distance[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(result["nearest_index"], index[:, 0])
    share = np.mean(distance[:, 0] < 0.9 * distance[:, 1])
    assert result["memorized_mean"] == share
    assert (result["memorized_low"], result["memorized_high"]) == pytest.approx(wilson(share, 9))
    assert result["generalization"] == 1 - share
    apart = two_distances(held_out, training)[0]
    np.testing.assert_allclose(result["held_out_ratio"], apart[:, 0] / apart[:, 1], rtol=1e-6)
    assert result["false_positives"] == np.mean(apart[:, 0] < 0.9 * apart[:, 1])
    np.testing.assert_array_equal(result["nearer"], distance[:, 0] < two_distances(x_0, held_out)[0][:, 0])
    assert result.attrs["nearer_by_chance"] == 4 / 7
    index = np.where(result["nearer"] == 1, index[:, 0], 40 + two_distances(x_0, held_out)[1][:, 0])
    rng = np.random.default_rng(0)
    changed = [np.isin(index, rng.permutation(70)[:40]).mean() for _ in range(4000)]
    assert float(result["nearer_deviation"]) == pytest.approx(np.std(changed), rel=0.05)


def test_along_the_run_the_nearest_image_is_settled_where_it_last_changes():
    training = images(6)["x_0"].to_numpy()
    path = np.array([[1, 0, 1, 1, 1], [2, 2, 2, 2, 2], [4, 4, 4, 4, 3]])
    ds = run_of(training[[1, 2, 5]], training[path])
    result = memorization(ds, dataset=dataset_of(training)).compute()
    settled = result.sel(on="pred_x0")
    assert settled["nearest_settled_step"].to_numpy().tolist() == [2, 0, 5]
    assert settled["nearest_settled_timestep"].to_numpy().tolist() == [20, 40, -1]
    assert (settled["state_ratio"] == 0).all()
    (mark,) = memorization.landmarks(result)
    assert mark.timestep == 20
    by_hand = two_distances(trajectories(5, 6)["pred_x0"].to_numpy()[:, 3], training)[0]
    other = memorization(trajectories(5, 6), dataset=dataset_of(training)).compute()
    expected = by_hand[:, 0] / by_hand[:, 1]
    np.testing.assert_allclose(other["state_ratio"].sel(on="pred_x0")[:, 3], expected, rtol=1e-6)


def test_a_copy_of_an_image_that_is_there_twice_is_one():
    training = images(6)["x_0"].to_numpy()[[0, 1, 2, 2]]
    assert memorization(run_of(training[2:]), dataset=dataset_of(training))["memorized_mean"] == 1


def test_pairs_are_shown_from_the_smallest_ratio_to_the_largest_and_numbers_that_are_none_last():
    training = images(50)["x_0"].to_numpy()
    rng = np.random.default_rng(0)
    x_0 = training[:30] + rng.permutation(30)[:, None, None, None] * 0.02 * rng.standard_normal((30, 1, 8, 8))
    x_0[4] = np.nan
    result = memorization(run_of(x_0), dataset=dataset_of(training)).compute()
    ratio = result["shown_ratio"].to_numpy()
    assert np.isnan(ratio[-1])
    assert np.isnan(result["shown_nearest"][-1]).all()
    assert (np.diff(ratio[:-1]) > 0).all()
    ratios = result["distance_ratio"].to_numpy()
    assert ratio[0] == np.nanmin(ratios)
    for shown, sample in zip(ratio[:-1], result["shown_x_0"].to_numpy()[:-1], strict=True):
        (k,) = np.flatnonzero(ratios == shown)
        np.testing.assert_array_equal(sample, x_0[k].astype(np.float32))


# --- what it is calibrated with -----------------------------------------------------------------------------------


def test_an_exact_denoiser_of_the_training_images_memorizes_all(tmp_path):
    with (collection := dataset.prepare("digits:train", samples=N)).open(tmp_path / "digits.zarr") as store:
        collection.run(store, bar=False)
    exact = f"dataset:{tmp_path / 'digits.zarr'}"
    generation = generate.prepare(model=exact, sampler_name="ddim", steps=20, samples=24, block=24)
    with generation.open(tmp_path / "run.zarr") as store:
        generation.run(store, bar=False)
    ds, real = stores.open(tmp_path / "run.zarr"), stores.open(tmp_path / "digits.zarr")
    result = memorization(ds, dataset=real, held_out=dataset_of(held_out_images()[0])).compute()
    assert result["memorized_mean"] == 1
    assert result["nearer_mean"] == 1
    assert result["state_ratio_mean"].to_numpy()[0, -1] < 0.01 < 0.5 < result["state_ratio_mean"].to_numpy()[0, 0]
    numbers = {number.name: number for number in memorization.numbers(result)}
    assert numbers["generalization"].value == 0
    assert numbers["generalization"].high < 0.15
    (table,) = memorization.tables({"exact": result})
    assert table.rows[0][-1] == "seen"


@pytest.mark.parametrize("count", [N, LEARNT])
def test_images_never_learned_from_count_as_copies_in_less_than_one_of_a_hundred(count):
    training, new = training_images(count)[0], held_out_images()[0]
    half, other = new[::2], new[1::2]
    result = memorization(run_of(half), dataset=dataset_of(training), held_out=dataset_of(other)).compute()
    assert result["memorized_mean"] == 0
    assert result["false_positives"] == 0
    assert result["memorized_high"] < 0.03
    low, high = result["nearer_low"], result["nearer_high"]
    assert low < count / (count + len(other)) < high
    assert memorization.tables({"new": result})[0].rows[0][-1] == "cannot tell"


@pytest.mark.parametrize(("training", "held_out"), [(32, 32), (32, 300)])
def test_samples_that_know_no_image_seldom_lean_to_the_ones_or_the_others(training, held_out):
    # many samples beside few images: some of these are near to many samples, as those in the middle are
    told = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        real, others, x_0 = (rng.standard_normal((n, 1, 3, 3)) for n in (training, held_out, 600))
        result = memorization(run_of(x_0), dataset=dataset_of(real), held_out=dataset_of(others)).compute()
        told.append(internals._leaning(result) != CANNOT_TELL)
    assert np.mean(told) <= 0.1


def test_noise_is_no_copy(digits):
    noise = np.random.default_rng(0).standard_normal((200, 1, 8, 8))
    result = memorization(run_of(noise), dataset=digits).compute()
    assert result["memorized_mean"] == 0
    assert result["distance_ratio"].min() > 0.7


def test_one_sample_and_two_images_are_enough():
    training = images(2)["x_0"].to_numpy()
    result = memorization(run_of(training[:1]), dataset=dataset_of(training)).compute()
    assert result["memorized_mean"] == 1
    assert 0.2 < result["memorized_low"] < 0.3
    assert memorization.plot(result, "training_images") is not None


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused():
    ds, real = trajectories(5, 4), images()
    for options, message in [
        ({}, "memorization needs a dataset"),
        ({"dataset": images(side=5)}, "images of the dataset have channel 1 x y 5"),
        ({"dataset": real, "held_out": images(side=5)}, "images of the dataset have channel 1 x y 5"),
        ({"dataset": real.isel(sample=[0])}, "the dataset has one image; expected two or more"),
        ({"dataset": real, "threshold": 0.0}, "threshold 0; expected a number above 0 and below 1"),
        ({"dataset": real, "threshold": 1.0}, "threshold 1; expected"),
    ]:
        with pytest.raises(InputError, match=message):
            memorization(ds, **options)
    with pytest.raises(InputError, match="no variable pred_x0"):
        memorization(ds.drop_vars("pred_x0"), dataset=real)


def test_events_that_are_no_images_have_neighbours_and_no_pictures():
    def flat(ds):
        names = [name for name in ("x_0", "pred_x0") if name in ds]
        values = {
            name: ds[name]
            .stack(feature=("channel", "y", "x"))
            .drop_vars(["feature", "channel", "y", "x"], errors="ignore")
            for name in names
        }
        return xr.Dataset(values, {k: v for k, v in ds.coords.items()}, ds.attrs)

    result = memorization(flat(trajectories(6, 4)), dataset=flat(images())).compute()
    expected = memorization(trajectories(6, 4), dataset=images()).compute()
    np.testing.assert_array_equal(result["distance_ratio"], expected["distance_ratio"])
    assert memorization.plot(result, "training_images") is None
    assert memorization.plot(result, "memorization") is not None
