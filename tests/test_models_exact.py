"""Exact denoisers predict the posterior mean of their data."""

import json
import math

import numpy as np
import pytest
import torch

from tests import runs
from traj import stores
from traj.pipeline.models import load
from traj.pipeline.models.analytic import PointsDenoiser
from traj.pipeline.models.digits import images
from traj.pipeline.models.labels import Labels
from traj.pipeline.process.plans import ddim, ddpm
from traj.pipeline.process.sampler import reverse
from traj.pipeline.process.schedule import Schedule

NONE = torch.full((3,), -1)


def states(*shape):
    return torch.randn(shape or (3, 1, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["gaussian:0,1", "mixture:-1,1"])
def test_labels_a_model_does_not_have_are_refused(name):
    with pytest.raises(ValueError, match="label 7"):
        load(name)(states(3, 1, 1, 1), 50, torch.tensor([0, 7, 0]))
    with pytest.raises(ValueError, match="label -2"):
        load(name)(states(3, 1, 1, 1), 50, torch.tensor([-1, -2, -1]))


def test_gaussian_predicts_the_posterior_mean():
    denoiser = load("gaussian:0.5,0.25,2x3x4")
    assert denoiser.shape == (2, 3, 4)
    assert denoiser.valid_range == (-1.5, 2.5)
    # joint normal of x_0 and x_t: regression of one on the other
    x_t, timestep = states(3, 2, 3, 4).double(), 300
    abar = denoiser.schedule.alpha_bar[timestep]
    slope = math.sqrt(abar) * 0.25 / (abar * 0.25 + 1 - abar)
    prediction = denoiser(x_t, timestep, NONE)
    torch.testing.assert_close(prediction.pred_x0, 0.5 + slope * (x_t - math.sqrt(abar) * 0.5))
    together = math.sqrt(abar) * prediction.pred_x0 + math.sqrt(1 - abar) * prediction.eps
    torch.testing.assert_close(together, x_t)


def test_mixture_weighs_its_points_by_their_likelihood():
    points = np.array([-8.0, -4.0, 6.0, 8.0])
    denoiser = load("mixture:-8,-4,6,8")
    assert (denoiser.num_classes, denoiser.valid_range) == (4, (-8.0, 8.0))
    x_t = torch.tensor([-1.0, 0.3, 2.0]).double().reshape(3, 1, 1, 1)
    for timestep in (0, 500, 999):
        abar = denoiser.schedule.alpha_bar[timestep]
        z = -((x_t.numpy().reshape(3, 1) - math.sqrt(abar) * points) ** 2) / (2 * (1 - abar))
        weights = np.exp(z - z.max(1, keepdims=True))
        expected = (weights @ points) / weights.sum(1)
        np.testing.assert_allclose(denoiser(x_t, timestep, NONE).pred_x0.ravel(), expected, rtol=1e-9)
    named = denoiser(x_t, 500, torch.tensor([0, 2, 3])).pred_x0.ravel()
    np.testing.assert_array_equal(named, points[[0, 2, 3]])


def test_halfway_between_two_points_both_weigh_the_same():
    denoiser = load("mixture:-1,3")
    x_t = torch.full((3, 1, 1, 1), math.sqrt(denoiser.schedule.alpha_bar[200])).double()
    torch.testing.assert_close(denoiser.log_weights(x_t, 200, NONE).exp(), torch.full((3, 2), 0.5).double())


def brute_force(denoiser, x_t, timestep, members):
    """Return the posterior mean with the distances taken one by one."""
    points = denoiser.points.numpy()[members]
    abar = denoiser.schedule.alpha_bar[timestep]
    z = np.array([-((x_t - math.sqrt(abar) * point) ** 2).sum() / (2 * (1 - abar)) for point in points])
    weights = np.exp(z - z.max())
    return weights @ points / weights.sum()


@pytest.mark.parametrize("timestep", [0, 150, 600, 999])
def test_dataset_agrees_with_brute_force_with_and_without_labels(timestep):
    denoiser = load("dataset:digits")
    assert (denoiser.shape, denoiser.num_classes, denoiser.valid_range) == ((1, 8, 8), 10, (-1.0, 1.0))
    abar = denoiser.schedule.alpha_bar[timestep]
    x_t = math.sqrt(abar) * denoiser.points[[3, 500, 1700]].reshape(3, 1, 8, 8)
    x_t = x_t + math.sqrt(1 - abar) * states().double()
    pred_x0 = denoiser(x_t, timestep, torch.tensor([-1, 4, -1])).pred_x0.reshape(3, -1).numpy()
    everyone, fours = slice(None), denoiser.classes.numpy() == 4
    for row, members in enumerate((everyone, fours, everyone)):
        expected = brute_force(denoiser, x_t[row].numpy().ravel(), timestep, members)
        np.testing.assert_allclose(pred_x0[row], expected, rtol=1e-7, atol=1e-9)


def test_dataset_posterior_is_the_nearest_point_without_noise_and_the_mean_without_signal():
    denoiser = load("dataset:digits")
    x_t = 1.5 * states().double()
    denoiser.schedule = Schedule.from_config({"trained_betas": [1e-9, 1 - 1e-9]})
    nearest = torch.cdist(x_t.flatten(1), denoiser.points).argmin(1)
    torch.testing.assert_close(denoiser(x_t, 0, NONE).pred_x0.flatten(1), denoiser.points[nearest])
    mean = denoiser.points.mean(0).expand(3, -1)
    torch.testing.assert_close(denoiser(x_t, 1, NONE).pred_x0.flatten(1), mean, rtol=0, atol=1e-2)


@pytest.mark.parametrize("build", [lambda s: ddim(s, 50), lambda s: ddpm(s, 100, "small")])
def test_sampling_the_dataset_ends_on_training_points(build):
    denoiser = load("dataset:digits")
    label = torch.tensor([-1, 2, 9])
    (x_0,) = reverse(
        denoiser,
        [build(denoiser.schedule)],
        label.repeat,
        start=lambda _: states(),
        noise=lambda _, step: torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(step.timestep)),
        keep=lambda *_: None,
    )
    distance, point = torch.cdist(x_0.flatten(1).double(), denoiser.points).min(1)
    assert distance.max() < 1e-4
    assert denoiser.classes[point][1:].tolist() == [2, 9]


def test_identities_of_exact_denoisers_hold_their_numbers():
    names = ["gaussian:0,1", "gaussian:0,2", "gaussian:0,1,1x2x2", "mixture:-1,1", "mixture:-1,2", "dataset:digits"]
    identities = [json.dumps(load(name).identity, sort_keys=True) for name in names]
    assert len(set(identities)) == len(names)
    assert load("gaussian:0.0,1.0,1x1x1").identity == load("gaussian:0,1").identity


# ---- datasets


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Datasets by name: the digits, and three points of which the second has no class and no point is of class 1."""
    folder = tmp_path_factory.mktemp("datasets")
    points = np.arange(6, dtype="f4").reshape(3, 2)
    for name, values, label in (("digits", *images()), ("points", points, np.array([0, -1, 2]))):
        with stores.create_dataset(
            folder / f"{name}.zarr",
            shape=values.shape[1:],
            samples=len(values),
            block=len(values),
            config={},
            label=label,
            valid_range=(-1, 1) if name == "digits" else (0, 5),
        ) as store:
            store.write(0, {"x_0": values})
    return folder


def test_the_dataset_of_the_digits_is_the_model_dataset_digits(datasets):
    stored, builtin = load(f"dataset:{datasets}/digits.zarr"), load("dataset:digits")
    assert stored.identity == builtin.identity
    assert (stored.shape, stored.num_classes, stored.valid_range) == ((1, 8, 8), 10, (-1, 1))
    label = torch.tensor([-1, 3, 9])
    torch.testing.assert_close(
        stored(states(), 400, label).pred_x0, builtin(states(), 400, label).pred_x0, rtol=0, atol=0
    )


def test_a_dataset_of_vectors_is_a_model_of_vectors(datasets):
    denoiser = load(f"dataset:{datasets}/points.zarr")
    assert (denoiser.shape, denoiser.dims, denoiser.num_classes, denoiser.valid_range) == (
        (2,),
        ("feature",),
        3,
        (0, 5),
    )
    assert denoiser.identity["shape"] == [2]
    one = denoiser(torch.zeros(1, 2), 500, torch.tensor([2])).pred_x0
    torch.testing.assert_close(one, torch.tensor([[4.0, 5.0]]))
    all_of_them = denoiser.log_weights(torch.zeros(1, 2), 999, torch.tensor([-1]))
    assert torch.isfinite(all_of_them).all()


def test_a_class_without_points_is_not_asked_for(datasets):
    denoiser = load(f"dataset:{datasets}/points.zarr")
    for labels in ("cycle", "1"):
        with pytest.raises(stores.InputError, match="no points of class 1; ask for another label"):
            denoiser.conditions({"labels": labels})
    denoiser.conditions({"labels": "2"})
    denoiser.conditions({"labels": "none"})


def test_every_label_of_a_source_needs_points(datasets):
    denoiser = load(f"dataset:{datasets}/points.zarr")  # of classes 0 and 2
    with pytest.raises(stores.InputError, match="no points of class 1; ask for another label"):
        denoiser.conditions({"labels": [0, 0, 0, 0, 1]})
    assert denoiser.conditions({"labels": [0, 2, -1]}).classes == [0, 2]


@pytest.mark.parametrize(("labels", "message"), [("cycle", "class 1"), ("999999", "class 999999"), ("1000000000", "")])
def test_a_class_of_a_large_number_takes_no_longer(labels, message, monkeypatch):
    denoiser = PointsDenoiser(
        np.zeros((2, 1)), np.array([0, 10**9]), name="points", identity={}, valid_range=(-1.0, 1.0)
    )
    monkeypatch.setattr(Labels, "visible", None)  # goes through every sample
    if message:
        with pytest.raises(stores.InputError, match=f"no points of {message};"):
            denoiser.conditions({"labels": labels})
    else:
        assert denoiser.conditions({"labels": labels}).classes == (10**9,)


def test_a_dataset_that_memory_cannot_hold_is_refused_by_its_size(datasets, monkeypatch):
    monkeypatch.setattr(stores, "memory_free", lambda: 71)
    with pytest.raises(stores.InputError, match=r"6 values, which take 48 B in float64, and 72 B .* has 71 B free"):
        load(f"dataset:{datasets}/points.zarr")


@pytest.mark.parametrize("place", ["digits.npz", "digits", "run"])
def test_whatever_a_dataset_can_be_made_of_is_a_model(datasets, tmp_path, place):
    points, classes = images()
    if place == "run":
        name = str(runs.make(tmp_path / "a.zarr", 4))
        expected = stores.open(name).x_0.values, np.full(4, -1)
    else:
        np.savez(tmp_path / "digits.npz", x=points, y=classes)
        name, expected = str(tmp_path / place) if place == "digits.npz" else place, (points, classes)
    denoiser = load(f"dataset:{name}")
    np.testing.assert_array_equal(denoiser.points.reshape(-1, 1, 8, 8), expected[0])
    np.testing.assert_array_equal(denoiser.classes, expected[1])
    if place != "run":
        assert denoiser.identity == load(f"dataset:{datasets}/digits.zarr").identity


def test_data_that_need_an_option_are_no_model_before_they_are_a_dataset(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 3, 5), 7.0))
    with pytest.raises(stores.InputError, match=r"--range LOW,HIGH.*make a dataset of .*a.npy with it first"):
        load(f"dataset:{tmp_path}/a.npy")
    with pytest.raises(stores.MissingFile, match="no such file or folder"):
        load(f"dataset:{tmp_path}/b.zarr")
