"""MoLRG, the mixture of low-rank Gaussians of 004: its data, its exact denoiser, and what is known of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import integrate, special

from traj import stores
from traj.analysis._molrg.model import Molrg, class_posterior, denoised, hidden, of_model, sample
from traj.analysis._molrg.snr import approximate_snr, bayes_accuracy, snr
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.making.dataset import prepare
from traj.pipeline.process import tables

PAPER = (5, 10, 20, 40, 60, 80, 100, 120, 140, 160, 180, 240, 260, 280)
"""The timesteps of 004's figures, counted from 1."""
SIGMA = tables.named("ve").sigma[np.array(PAPER) - 1]
UNEQUAL = Molrg(dims=(3, 1, 2), features=7, delta=0.3, weights=(0.5, 0.2, 0.3), basis=4)
OBLIQUE = Molrg(dims=(3, 1, 2), features=7, delta=0.3, weights=(0.5, 0.2, 0.3), basis=4, theta=40)


def drawn(molrg, samples, seed=0):
    return sample(molrg, np.random.default_rng(seed).standard_normal((samples, 1 + sum(molrg.dims))))


# ---- the data


def test_bases_are_orthonormal_and_those_of_their_seed():
    for molrg in (Molrg(), UNEQUAL):
        np.testing.assert_allclose(molrg.U.T @ molrg.U, np.eye(sum(molrg.dims)), atol=1e-14)
    assert not np.allclose(Molrg(basis=1).U, Molrg().U)
    np.testing.assert_array_equal(Molrg().U, Molrg(delta=0.5).U)


def test_samples_have_the_weights_and_the_covariances_of_their_classes():
    x_0, label = drawn(UNEQUAL, 60_000)
    share = np.bincount(label) / len(label)
    np.testing.assert_allclose(share, UNEQUAL.weights, atol=4 * 0.5 / np.sqrt(len(label)))
    for k in range(3):
        variance = np.where(UNEQUAL.class_of == k, 1, 0.3**2)
        found = np.cov(x_0[label == k] @ UNEQUAL.U, rowvar=False)
        np.testing.assert_allclose(found, np.diag(variance), atol=6 / np.sqrt((label == k).sum()))
    np.testing.assert_allclose(x_0 @ UNEQUAL.U @ UNEQUAL.U.T, x_0, atol=1e-13)  # nothing in other directions


@pytest.mark.parametrize("theta", [0.01, 5, 30, 89])
def test_theta_is_every_principal_angle_between_two_classes(theta):
    molrg = Molrg(dims=(2, 3, 2), features=9, theta=theta)
    bases = [molrg.U[:, molrg.class_of == k] for k in range(3)]
    for k, basis in enumerate(bases):
        np.testing.assert_allclose(basis.T @ basis, np.eye(molrg.dims[k]), atol=1e-14)
        for other in bases[:k]:
            cosines = np.linalg.svd(basis.T @ other)[1]
            np.testing.assert_allclose(np.degrees(np.arccos(cosines)), theta, atol=1e-8)
    np.testing.assert_allclose(molrg.span.T @ molrg.span, np.eye(7), atol=1e-14)


def test_samples_of_oblique_classes_have_their_covariances():
    x_0, label = drawn(OBLIQUE, 60_000)
    for k in range(3):
        variance = np.where(OBLIQUE.class_of == k, 1, 0.3**2)
        found, expected = np.cov(x_0[label == k], rowvar=False), OBLIQUE.U * variance @ OBLIQUE.U.T
        np.testing.assert_allclose(found, expected, atol=8 / np.sqrt((label == k).sum()))


def test_theta_of_90_is_the_mixture_that_names_none():
    assert "theta" not in Molrg().identity["molrg"]
    assert models.load("molrg:theta=90").identity == models.load("molrg:").identity
    assert models.load("molrg:theta=60").identity["molrg"]["theta"] == 60
    np.testing.assert_array_equal(Molrg().U, Molrg().span)
    near = replace(UNEQUAL, theta=90 - 1e-7)
    x_t = np.random.default_rng(0).standard_normal((9, 7))
    np.testing.assert_allclose(denoised(near, x_t, 0.8, 0.5), denoised(UNEQUAL, x_t, 0.8, 0.5), atol=1e-7)
    np.testing.assert_allclose(hidden(near, x_t, 0.8, 0.5), hidden(UNEQUAL, x_t, 0.8, 0.5), atol=1e-7)


def test_what_is_known_of_orthogonal_classes_is_refused_of_others():
    for known in (snr, bayes_accuracy):
        with pytest.raises(stores.InputError, match=r"40 degrees apart, .* expected theta 90"):
            known(OBLIQUE, [0.5])
    with pytest.raises(stores.InputError, match="expected theta 90"):
        approximate_snr(Molrg(theta=40), [0.5])


def test_a_mixture_is_known_by_its_identity():
    for molrg in (Molrg(), UNEQUAL, OBLIQUE):
        assert of_model(json.loads(json.dumps(molrg.identity))) == molrg
    assert of_model({"name": "gaussian"}) is None
    assert Molrg(weights=(1 / 3,) * 3) == Molrg()


# ---- the exact denoiser


def brute_force(molrg, x_t, signal, noise_scale):
    """Give P(k | x_t) and E[x_0 | x_t] of a Gaussian mixture, from the covariances of its classes."""
    log_joint, means = [], []
    for k, weight in enumerate(molrg.weights):
        variance = np.where(molrg.class_of == k, 1, molrg.delta**2)
        covariance = molrg.U * variance @ molrg.U.T
        noisy = signal**2 * covariance + noise_scale**2 * np.eye(molrg.features)
        solved = np.linalg.solve(noisy, x_t.T).T
        log_joint.append(np.log(weight) - np.linalg.slogdet(noisy)[1] / 2 - (x_t * solved).sum(1) / 2)
        means.append(signal * solved @ covariance)
    posterior = special.softmax(np.stack(log_joint, axis=1), axis=1)
    return posterior, np.einsum("sk,ksf->sf", posterior, np.stack(means))


@pytest.mark.parametrize("molrg", [Molrg(), UNEQUAL, OBLIQUE], ids=["equal", "unequal", "oblique"])
@pytest.mark.parametrize(("signal", "noise_scale"), [(1, 0.05), (1, 0.6), (1, 12), (0.6, 0.8), (0, 1)])
def test_the_denoiser_is_the_mean_of_a_gaussian_mixture(molrg, signal, noise_scale):
    x_0, _ = drawn(molrg, 50)
    x_t = signal * x_0 + noise_scale * np.random.default_rng(1).standard_normal(x_0.shape)
    posterior, mean = brute_force(molrg, x_t, signal, noise_scale)
    np.testing.assert_allclose(class_posterior(molrg, x_t, signal, noise_scale), posterior, atol=1e-12)
    np.testing.assert_allclose(denoised(molrg, x_t, signal, noise_scale), mean, atol=1e-12)
    np.testing.assert_allclose(hidden(molrg, x_t, signal, noise_scale), mean @ molrg.span, atol=1e-12)


@pytest.mark.parametrize("molrg", [UNEQUAL, OBLIQUE], ids=["orthogonal", "oblique"])
@pytest.mark.parametrize("schedule", [None, "linear", "cosine", "edm", "flow"])
def test_the_model_is_the_denoiser_at_any_schedule(schedule, molrg):
    denoiser = models.load(
        f"molrg:classes=3,dim=3:1:2,features=7,delta=.3,weights=.5:.2:.3,basis=4,theta={molrg.theta:g}",
        schedule=schedule,
        steps=20,
    )
    x_t, none = torch.randn(6, 7, dtype=torch.float64), torch.full((6,), -1)
    for timestep in (0, 10, denoiser.schedule.T - 1):
        expected = denoised(molrg, x_t.numpy(), *denoiser.schedule.at(timestep))
        prediction = denoiser(x_t, timestep, none)
        np.testing.assert_allclose(prediction.pred_x0, expected, atol=1e-12)
        c, d = denoiser.schedule.at(timestep)
        np.testing.assert_allclose(c * prediction.pred_x0 + d * prediction.eps, x_t, atol=1e-12)
        h = denoiser.network.hidden(x_t, timestep)
        np.testing.assert_allclose(h, hidden(molrg, x_t.numpy(), c, d), atol=1e-12)


@pytest.mark.parametrize("theta", [90, 40])
def test_a_label_gives_the_mean_of_its_class(theta):
    denoiser = models.load(f"molrg:delta=.3,theta={theta}")
    (c, d), molrg = denoiser.schedule.at(200), Molrg(delta=0.3, theta=theta)
    x_t = torch.randn(4, 50, dtype=torch.float64)
    told = denoiser(x_t, 200, torch.tensor([0, 2, -1, 1])).pred_x0
    for row, label in ((0, 0), (1, 2), (3, 1)):
        variance = np.where(molrg.class_of == label, 1, 0.3**2)
        covariance = molrg.U * variance @ molrg.U.T
        noisy = c**2 * covariance + d**2 * np.eye(50)
        expected = c * covariance @ np.linalg.solve(noisy, x_t[row].numpy())
        np.testing.assert_allclose(told[row], expected, atol=1e-12)
    np.testing.assert_allclose(told[2], denoised(molrg, x_t.numpy(), c, d)[2], atol=1e-12)
    with pytest.raises(stores.InputError, match="label 3: expected 0 to 2"):
        denoiser(x_t, 200, torch.full((4,), 3))


@pytest.mark.parametrize("theta", [90, 40])
def test_timesteps_of_a_batch_are_those_of_its_events_alone(theta):
    network = models.load(f"molrg:theta={theta}").network
    x_t, timestep = torch.randn(3, 50, dtype=torch.float64), torch.tensor([0, 250, 499])
    together = network(x_t, timestep)
    for row, one in enumerate(timestep.tolist()):
        np.testing.assert_allclose(together[row], network(x_t[row : row + 1], one)[0], atol=1e-12)


def test_its_schedule_is_that_of_the_source():
    published = [0.030, 0.053, 0.098, 0.189, 0.282, 0.379, 0.480, 0.588, 0.704, 0.830, 0.969, 1.492, 1.717, 1.978]
    np.testing.assert_allclose(SIGMA, published, atol=5e-4)
    schedule = models.load("molrg:").schedule
    assert (schedule.T, set(schedule.signal)) == (500, {1.0})
    np.testing.assert_array_equal(schedule.noise_scale[np.array(PAPER) - 1], SIGMA)


def test_the_name_of_a_mixture_says_what_is_not_default_and_is_the_model_that_was_named():
    named = models.load("molrg:classes=2,dim=10:2,weights=.8:.2,features=30,delta=.25,basis=3")
    assert models.load(named.name).identity == named.identity
    assert of_model(named.identity) == Molrg((10, 2), 30, 0.25, (0.8, 0.2), 3)
    assert models.load("molrg:weights=.2:.3:.5").name.endswith("weights=0.2:0.3:0.5")
    assert models.load("molrg:theta=60").name.endswith("delta=0.2,theta=60.0")
    assert models.load("molrg:").name == "molrg:classes=3,dim=5,features=50,delta=0.2"
    assert models.load(models.load("molrg:").name).identity == models.load("molrg:").identity
    assert models.load("molrg:").identity == models.load("molrg:classes=3,dim=5,features=50,delta=.2").identity


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("clases=3", "'clases=3' has no known key; expected each of classes, dim, features"),
        ("dim=5,dim=5", "'dim=5' repeats a key"),
        ("classes=5,dim=11", "11, 11, 11, 11, 11 dimensions take 55 features, but there are 50"),
        ("classes=1", "subspaces of 5 dimensions; expected two or more"),
        ("classes=0", "expected two or more"),
        ("dim=0", "each of 1 or more"),
        ("dim=10:2", "2 numbers of dim for 3 classes"),
        ("theta=0", "theta 0; expected degrees from 0.01 to 90"),
        ("theta=1e-6", "theta 1e-06; expected degrees from 0.01"),  # rounding alone would tell these subspaces apart
        ("theta=91", "theta 91; expected"),
        ("delta=0", "delta 0; expected a number between 0 and 1"),
        ("delta=1", "delta 1; expected"),
        ("delta=nan", "delta nan; expected"),
        ("delta=x", "'x' was given, expected a number"),
        ("classes=2,weights=.8:.3", r"weights 0.8, 0.3, whose sum is 1.1; expected numbers above 0 that sum to 1"),
        ("classes=2,weights=1.2:-.2", "expected numbers above 0"),
        ("classes=2,weights=.2:.3:.5", "3 weights for 2 classes"),
        ("classes=99999999999999999999", "99999999999999999999 classes in 50 features"),
        ("features=9999999", "values at most"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(stores.InputError, match=message):
        models.load(f"molrg:{fields}")


# ---- what is known of it (METHODS 5.3)


def test_snr_of_two_classes_is_the_known_one_and_near_what_networks_learnt_in_the_source():
    sigma = [0.008, 0.023, 0.060, 0.296, 1.088, 1.923]
    two = Molrg(dims=(5, 5))
    np.testing.assert_allclose(snr(two, sigma).mean, [25.05, 25.32, 27.13, 58.76, 4.079, 1.574], rtol=0.005)
    learnt = [24.88, 25.15, 26.95, 58.27, 4.05, 1.57]
    np.testing.assert_allclose(snr(two, sigma).mean, learnt, rtol=0.01)
    np.testing.assert_allclose(snr(two, [0.140, 0.585]).mean, [35.84, 20.84], rtol=0.025)


def test_snr_and_best_accuracy_of_three_classes_are_the_known_ones():
    known = [12.78, 13.32, 15.32, 22.24, 29.61, 29.03, 20.56, 12.61, 7.689, 4.880, 3.223, 1.208, 0.954, 0.793]
    np.testing.assert_allclose(snr(Molrg(), SIGMA).mean, known, rtol=0.005)
    best = [0.9973, 0.9971, 0.9960, 0.9900, 0.9751, 0.9470, 0.9036, 0.8476, 0.7841, 0.7180, 0.6534, 0.5013, 0.4648]
    np.testing.assert_allclose(bayes_accuracy(Molrg(), SIGMA), [*best, 0.4362], atol=0.0007)


def test_snr_of_denoised_clean_data_is_the_known_one():
    found = snr(Molrg(), SIGMA[[0, 3, 6, 8, 10, 13]], clean=True).mean
    np.testing.assert_allclose(found, [13.07, 41.4, 262, 225, 91.8, 16.2], rtol=0.005)


@pytest.mark.parametrize("molrg", [Molrg(dims=(5, 5)), Molrg(), Molrg(dims=(5,) * 10, features=100, delta=0.3)])
def test_snr_without_noise_and_in_nothing_but_noise(molrg):
    others = len(molrg.dims) - 1
    found = snr(molrg, [1e-4, 1e4])
    np.testing.assert_allclose(found.mean, [1 / (others * molrg.delta**2), 1 / others], rtol=1e-4)
    np.testing.assert_allclose(snr(molrg, [1e-4], clean=True).mean, 1 / (others * molrg.delta**2), rtol=1e-4)
    np.testing.assert_allclose(approximate_snr(molrg, [1e-4, 1e4]), found.mean, rtol=1e-3)
    np.testing.assert_allclose(bayes_accuracy(molrg, [1e4]), 1 / (others + 1), atol=1e-3)


def test_the_approximation_rises_and_falls_once():
    sigma = np.geomspace(0.01, 5, 60)
    up = np.diff(approximate_snr(Molrg(dims=(5, 5)), sigma)) > 0
    assert up[0]
    assert not up[-1]
    assert (np.diff(up.astype(int)) != 0).sum() == 1
    assert approximate_snr(Molrg(dims=(5, 5)), [0.585])[0] == pytest.approx(153, rel=0.01)
    with pytest.raises(stores.InputError, match="equal dims and weights"):
        approximate_snr(UNEQUAL, [1.0])


@pytest.mark.parametrize("clean", [False, True])
def test_snr_and_best_accuracy_of_unequal_classes_are_those_of_drawn_states(clean):
    sigma, samples = 0.5, 150_000
    x_0, label = drawn(UNEQUAL, samples)
    x_t = x_0 if clean else x_0 + sigma * np.random.default_rng(2).standard_normal(x_0.shape)
    own = UNEQUAL.class_of == label[:, None]
    h2 = hidden(UNEQUAL, x_t, 1, sigma) ** 2
    signal, rest = (h2 * own).sum(1), (h2 * ~own).sum(1)
    found = snr(UNEQUAL, sigma, clean=clean)
    ratio = [signal[label == k].mean() / rest[label == k].mean() for k in range(3)]
    np.testing.assert_allclose(found.ratio[0], ratio, rtol=0.03)
    np.testing.assert_allclose(found.mean[0], np.mean(ratio), rtol=0.03)
    np.testing.assert_allclose(found.pooled[0], signal.sum() / rest.sum(), rtol=0.03)
    if not clean:
        right = (class_posterior(UNEQUAL, x_t, 1, sigma).argmax(1) == label).mean()
        assert bayes_accuracy(UNEQUAL, sigma)[0] == pytest.approx(right, abs=4 * 0.5 / np.sqrt(samples))


def test_snr_of_two_lines_is_the_integral_over_both_energies():
    two, s2, delta2 = Molrg(dims=(1, 1), features=2), 0.09, 0.04
    zeta, xi = 1 / (1 + s2), delta2 / (delta2 + s2)

    def part(own):
        def integrand(y, x):  # of standard normal coordinates; METHODS 5.2
            P, Q = (1 + s2) * x**2, (delta2 + s2) * y**2
            g = (1 - delta2) / (2 * (1 + s2) * (delta2 + s2)) * (P - Q)
            w = special.expit(g if own else -g)
            b = xi + (zeta - xi) * w
            return b**2 * (P if own else Q) * np.exp(-(x**2 + y**2) / 2)

        return integrate.dblquad(integrand, 0, 10, 0, 10, epsrel=1e-7)[0]

    expected = part(own=True) / part(own=False)
    assert snr(two, 0.3).mean[0] == pytest.approx(expected, rel=1e-6)


# ---- from the command line


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of two classes, the run it is noised to, a run, and its forks: their folder."""
    folder = tmp_path_factory.mktemp("molrg")
    name = "molrg:classes=2,dim=2,features=6,delta=.3"
    for command in (
        f"dataset {name} {folder}/data.zarr --samples 300 --seed 5",
        f"noise {folder}/data.zarr {folder}/noised.zarr --model {name} --timesteps 279,59,4 --samples 300 --block 300",
        f"generate {folder}/run.zarr --model {name} --sampler ddim --steps 20 --samples 8 --labels cycle",
        f"fork {folder}/run.zarr {folder}/forks.zarr --at 100 --replicas 2",
    ):
        result = CliRunner().invoke(main, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def test_a_dataset_has_the_classes_of_its_samples_each_the_same_however_many_are_drawn(made, tmp_path):
    molrg = Molrg(dims=(2, 2), features=6, delta=0.3)
    ds = stores.open(made / "data.zarr")
    assert (ds.x_0.dims, ds.x_0.dtype, ds.x_0.attrs["valid_range"]) == (("sample", "feature"), np.float32, [-4, 4])
    assert {*ds.label.values} == {0, 1}
    own = molrg.class_of == ds.label.values[:, None]
    coefficients = ds.x_0.values @ molrg.U
    assert coefficients[own].std() == pytest.approx(1, abs=0.15)
    assert coefficients[~own].std() == pytest.approx(0.3, abs=0.05)
    for seed, same in ((5, True), (6, False)):
        fewer = prepare("molrg:classes=2,dim=2,features=6,delta=.3", samples=20, seed=seed)
        assert np.array_equal(fewer.events.read(0, 20), ds.x_0.values[:20]) == same


def test_its_dataset_is_noised_by_its_schedule_and_keeps_its_labels(made):
    ds, data = stores.open(made / "noised.zarr"), stores.open(made / "data.zarr")
    np.testing.assert_allclose(ds.sigma, SIGMA[[13, 4, 0]])
    np.testing.assert_array_equal(ds.label, data.label)
    molrg = of_model(json.loads(ds.attrs["config"])["model"])
    assert molrg == Molrg(dims=(2, 2), features=6, delta=0.3)
    x_t = ds.x_t.isel(timestep=1).values.astype(np.float64)
    expected = denoised(molrg, x_t, 1, SIGMA[4])
    np.testing.assert_allclose(ds.pred_x0.isel(timestep=1), expected, atol=1e-6)


def test_a_run_ends_on_data_of_the_classes_it_was_told(made):
    ds, molrg = stores.open(made / "run.zarr"), Molrg(dims=(2, 2), features=6, delta=0.3)
    x_0 = ds.x_0.values.astype(np.float64)
    np.testing.assert_allclose(x_0 @ molrg.U @ molrg.U.T, x_0, atol=0.05)
    assert ds.label.values.tolist() == [0, 1] * 4
    assert stores.open(made / "forks.zarr").x_0.shape == (1, 2, 8, 6)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("molrg:", {}, "say how many: --samples 12000"),
        ("molrg:", {"samples": 0}, "samples 0 was given"),
        ("molrg:sd=1", {"samples": 5}, r"source 'molrg:sd=1': 'sd=1' has no known key; .* expected one like molrg:"),
        ("molrg:", {"samples": 5, "labels": "y"}, "brings its classes"),
        ("digits", {"seed": 1}, "seed 1 was given, but digits is not drawn"),
    ],
)
def test_data_that_cannot_be_drawn_are_refused(source, options, message):
    with pytest.raises(stores.InputError, match=message):
        prepare(source, **options)
