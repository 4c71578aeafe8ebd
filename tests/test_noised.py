"""Noised data: exact marginals, the data itself at the end, and forward and backward again by forks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests import runs
from tests.sampling import LINEAR, gain
from tests.test_fork import forked, save_network
from tests.test_fork_closed_forms import label_as_readout, posterior
from traj import stores
from traj.analysis.forward_backward import forward_backward
from traj.pipeline.cli import main
from traj.pipeline.making import generate
from traj.pipeline.models import analytic
from traj.pipeline.process.sampler import learned_log_variance

GAUSSIAN = "gaussian:0,1,1x8x8"
SPAN = (-4.0, 4.0)
"""The valid range of GAUSSIAN."""


def noise(dataset, out, *, blocks=None, **options):
    noising = generate.prepare(**{"start": str(dataset), "noised": True, "device": "cpu", "block": 4, **options})
    with noising.open(out, blocks=blocks) as store:
        noising.run(store, bar=False)
    return stores.open(out, partial=blocks is not None).compute()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Ten images of 8 x 8, each with a label."""
    x_0 = np.random.default_rng(0).standard_normal((10, 1, 8, 8))
    return runs.dataset(tmp_path_factory.mktemp("data") / "d.zarr", x_0, label=np.arange(10) % 3, valid_range=SPAN)


@pytest.mark.parametrize(
    "options", [{"steps": 5}, {"steps": 5, "schedule": "edm"}, {"steps": 5, "schedule": "flow"}], ids=str
)
def test_states_are_a_markov_chain_from_the_data(options, tmp_path):
    x_0 = np.random.default_rng(1).uniform(-1, 1, (4, 1, 64, 64))
    data = runs.dataset(tmp_path / "d.zarr", x_0, valid_range=SPAN)
    ds = noise(data, tmp_path / "n.zarr", model="gaussian:0,1,1x64x64", samples=4, **options)
    c, d = ds.signal.values, ds.noise_scale.values
    levels = (slice(None), None, None, None)
    eps = np.stack([(x_t - c[:, None, None, None] * x_0[k]) / d[levels] for k, x_t in enumerate(ds.x_t.values)], 1)
    eps = eps.reshape(len(c), -1)
    near = 5 / np.sqrt(eps.shape[1])
    np.testing.assert_allclose(eps.mean(1), 0, atol=near)
    np.testing.assert_allclose(eps.var(1), 1, atol=np.sqrt(2) * near)
    assert abs(eps @ np.float64(x_0 - x_0.mean()).ravel() / x_0.size).max() < near  # noise knows nothing of the data
    for t in range(len(c)):
        for s in range(t + 1, len(c)):  # less noise
            assert np.mean(eps[t] * eps[s]) == pytest.approx(c[t] / c[s] * d[s] / d[t], abs=near)


def test_a_store_ends_in_the_data_and_says_what_the_model_makes_of_its_states(dataset, tmp_path):
    ds = noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=10)
    data = stores.open(dataset).compute()
    np.testing.assert_array_equal(ds.x_0, data.x_0)
    np.testing.assert_array_equal(ds.label, data.label)
    shrunk = ds.signal * ds.x_t  # of data with variance 1
    np.testing.assert_allclose(ds.pred_x0, shrunk.transpose(*ds.pred_x0.dims), rtol=1e-5, atol=1e-5)


def test_noised_data_never_meet_the_noise_of_a_late_run(dataset, tmp_path):
    asked = {"model": GAUSSIAN, "steps": 10, "seed": 0, "samples": 4}
    late = generate.prepare(start=str(dataset), start_step=900, device="cpu", block=4, **asked)
    with late.open(tmp_path / "late.zarr") as store:
        late.run(store, bar=False)
    found = []
    for ds in (stores.open(tmp_path / "late.zarr").compute(), noise(dataset, tmp_path / "n.zarr", **asked)):
        state = ds.x_t.sel(timestep=900)
        found.append((state - state.signal * stores.open(dataset).x_0[:4]).values.ravel())
    assert abs(np.corrcoef(found)[0, 1]) < 0.3  # of 256 values


def test_unlabelled_data_stay_unlabelled_whatever_the_model_is_told(tmp_path):
    data = runs.dataset(tmp_path / "d.zarr", np.zeros((4, 1, 1, 1)), valid_range=(-8, 8))
    ds = noise(data, tmp_path / "n.zarr", model="mixture:-8,-4,6,8", samples=4, timesteps=[999], labels="cycle")
    np.testing.assert_array_equal(ds.label, [-1] * 4)
    np.testing.assert_allclose(ds.pred_x0.values.ravel(), [-8, -4, 6, 8])


def test_all_of_fewer_data_than_usual_are_taken_unless_told_otherwise(dataset):
    asked = {"model": GAUSSIAN, "steps": 10, "start": str(dataset), "device": "cpu"}
    assert generate.prepare(noised=True, **asked).samples == 10
    assert generate.prepare(start_step=900, seed=1, **asked).samples == 10
    assert generate.prepare(model=GAUSSIAN).samples == 64


def test_a_state_does_not_depend_on_how_many_are_asked_for_or_kept(dataset, tmp_path):
    ds = noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=10)
    few = noise(dataset, tmp_path / "few.zarr", model=GAUSSIAN, steps=10, samples=6, every=4)
    assert few.step.values.tolist() == [0, 4, 8, 9]
    np.testing.assert_array_equal(few.x_t, ds.x_t[:6].isel(timestep=few.step.values))


def test_only_kept_states_go_through_the_network(dataset, tmp_path, monkeypatch):
    calls = []
    evaluate = analytic.GaussianDenoiser.__call__
    monkeypatch.setattr(analytic.GaussianDenoiser, "__call__", lambda *args: calls.append(args[2]) or evaluate(*args))
    noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=4, every=4)
    assert calls == [900, 500, 100, 0]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(dataset, tmp_path):
    noise(dataset, tmp_path / "a.zarr", model=GAUSSIAN, steps=10, samples=10)
    noise(dataset, tmp_path / "b.zarr", model=GAUSSIAN, steps=10, samples=10, blocks=[1])
    noise(dataset, tmp_path / "b.zarr", model=GAUSSIAN, steps=10, samples=10)
    assert runs.digest(tmp_path / "a.zarr") == runs.digest(tmp_path / "b.zarr")


def test_the_model_is_told_what_was_asked_and_forks_keep_the_labels_of_the_data(tmp_path):
    points, label = [-8.0, -4.0, 6.0, 8.0], np.array([3, 1, 0, 2])
    data = runs.dataset(
        tmp_path / "d.zarr", np.take(points, label)[:, None, None, None], label=label, valid_range=(-8, 8)
    )
    asked = {"model": "mixture:-8,-4,6,8", "samples": 4, "timesteps": [999, 500]}
    untold = noise(data, tmp_path / "none.zarr", **asked)
    told = noise(data, tmp_path / "source.zarr", labels="source", **asked)
    np.testing.assert_array_equal(untold.x_t, told.x_t)
    np.testing.assert_array_equal(untold.label, label)
    np.testing.assert_allclose(told.pred_x0.isel(timestep=0), told.x_0)  # one class has one point
    assert float(abs(untold.pred_x0.isel(timestep=0) - untold.x_0).max()) > 1
    for name in ("none", "source"):
        forks = forked(tmp_path / f"{name}.zarr", tmp_path / f"{name}_forks.zarr", at=[500])
        np.testing.assert_array_equal(forks.label, label)


def test_a_class_survives_forward_and_backward_as_often_as_its_posterior_says(tmp_path):
    """METHODS 7.4 and 10.2: P(class kept) is E sum_c p(c | x_tau)^2, within three standard errors."""
    points, samples, replicas = np.array([-8.0, -4.0, 6.0, 8.0]), 400, 4
    label = np.arange(samples) % 4
    data = runs.dataset(tmp_path / "d.zarr", points[label].reshape(-1, 1, 1, 1), label=label, valid_range=(-8, 8))
    plan = {"timesteps": list(range(599, -1, -10)), "variance": "small"}  # moves P by .005, a quarter of its error
    asked = {"model": "mixture:-8,-4,6,8", "samples": samples, "block": samples, "every": 1, "seed": 3, **plan}
    ds = noise(data, tmp_path / "n.zarr", **asked)
    table = {599: 0.4117, 399: 0.6798}
    forks = forked(tmp_path / "n.zarr", tmp_path / "f.zarr", at=list(table), replicas=replicas, batch=10_000)
    ends = abs(forks.x_0.values[..., 0, 0, :] - points).argmin(-1)  # (variant, replica, sample)
    label_as_readout(tmp_path / "f.zarr", tmp_path / "r.zarr", points)
    found = forward_backward(forks, baseline=ds, readout=stores.open(tmp_path / "r.zarr"))["class_kept"].to_numpy()
    for variant, (timestep, expected) in enumerate(table.items()):
        kept = (ends[variant] == label).mean(0)
        assert kept.mean() == pytest.approx(expected, abs=3 * kept.std() / np.sqrt(samples))
        np.testing.assert_array_equal(found[variant], kept)
        told = posterior(points.tolist(), ds.x_t.sel(timestep=timestep).values, timestep)[np.arange(samples), label]
        assert (kept - told).mean() == pytest.approx(0, abs=3 * (kept - told).std() / np.sqrt(samples))


def test_inversion_and_the_way_back_are_the_products_of_gains(dataset, tmp_path):
    """METHODS 10.2 and 7.1: for Gaussian data both ways are gains, whose product is the round trip."""
    asked = {"model": GAUSSIAN, "sampler_name": "ddim", "steps": 40, "samples": 10, "inversion": True}
    ds = noise(dataset, tmp_path / "n.zarr", **asked)
    abar = LINEAR.alpha_bar[ds.timestep.values]
    up = math.prod(gain(s, t, 1) for t, s in pairwise(abar))
    x_0 = ds.x_0.values
    np.testing.assert_allclose(ds.x_t[:, 0], up * x_0, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ds.x_t[:, -1], x_0)
    assert not ds.noise_sd.any()
    back = forked(tmp_path / "n.zarr", tmp_path / "f.zarr", at=[975, 500], replicas=1)
    down = math.prod(gain(t, s, 1) for t, s in pairwise([*abar, 1.0]))
    np.testing.assert_allclose(back.x_0[0, 0], down * up * x_0, rtol=1e-5, atol=1e-6)
    assert 0.9 < down * up < 0.99  # the more steps, the nearer to 1
    error = [float(np.square(back.x_0[k, 0] - x_0).mean()) for k in range(2)]
    assert error[1] < error[0]


def test_a_file_is_noised_and_inverted_as_the_dataset_of_it(dataset, tmp_path):
    np.savez(tmp_path / "a.npz", x=stores.open(dataset).x_0.values / 4, y=stores.open(dataset).label.values)
    asked = {"model": "gaussian:0,0.0625,1x8x8", "sampler_name": "ddim", "steps": 5, "samples": 4}
    for inversion in (False, True):
        ds = noise(f"{tmp_path}/a.npz", tmp_path / f"{inversion}.zarr", inversion=inversion, **asked)
        np.testing.assert_array_equal(ds.x_0, stores.open(dataset).x_0.values[:4] / 4)
        np.testing.assert_array_equal(ds.label, [0, 1, 2, 0])


@pytest.mark.parametrize("options", [{}, {"sampler_name": "ddim", "eta": 0.5}, {"sampler_name": "ddim", "clip": True}])
def test_only_ddim_without_noise_is_inverted(dataset, options):
    with pytest.raises(stores.InputError, match="inversion goes backwards through ddim without noise"):
        generate.prepare(model=GAUSSIAN, start=str(dataset), noised=True, inversion=True, samples=4, **options)


def test_a_network_that_learns_its_variance_keeps_it(tmp_path):
    model = save_network(tmp_path / "model", variance_type="learned_range")
    data = runs.dataset(tmp_path / "d.zarr", np.zeros((4, 1, 8, 8)))
    ds = noise(data, tmp_path / "n.zarr", model=model, sampler_name="iddpm", steps=5, samples=4)
    assert np.isfinite(ds.log_variance).all()
    run = generate.prepare(model=model, sampler_name="iddpm", steps=5, samples=4, device="cpu")
    x_t = torch.from_numpy(ds.x_t.values[:, 2])
    with torch.inference_mode():
        prediction = run.denoiser(x_t, run.plan.timesteps[2], torch.full((4,), -1))
    expected = learned_log_variance(run.denoiser.schedule, run.plan, 2, prediction)
    np.testing.assert_allclose(ds.log_variance[:, 2], expected, rtol=1e-4)


def test_a_sweep_of_noised_data_is_refused(dataset, tmp_path):
    noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=4)
    (tmp_path / "t.yaml").write_text("- {edit: jump, n: 2, t_start: 500}")
    with pytest.raises(stores.InputError, match="noised data"):
        forked(tmp_path / "n.zarr", tmp_path / "f.zarr", table=str(tmp_path / "t.yaml"), replicas=1)


@pytest.mark.parametrize("edit", ["shared", "shared:500-0"])
def test_forks_of_noised_data_have_no_noise_of_steps_to_share(edit, dataset, tmp_path):
    noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=4)
    with pytest.raises(stores.InputError, match=r"noised data, .* expected --noise independent or zero"):
        forked(tmp_path / "n.zarr", tmp_path / "f.zarr", at=[500], noise=["zero", edit])


def test_an_incomplete_store_names_the_command_that_completes_it(dataset, tmp_path):
    noise(dataset, tmp_path / "n.zarr", model=GAUSSIAN, steps=10, samples=10, blocks=[1])
    with pytest.raises(stores.IncompleteStore, match="run the same `traj noise` again"):
        stores.open(tmp_path / "n.zarr")


def test_the_command_says_what_it_costs_and_makes_a_store(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["noise", str(dataset), "n.zarr", "--model", GAUSSIAN, "--samples", "8", "--block", "4", "--steps", "10"]
    result = CliRunner().invoke(main, [*asked, "--every", "4", "--dry-run"])
    assert "8 network evaluations" in result.output
    assert CliRunner().invoke(main, asked).exit_code == 0
    assert stores.open("n.zarr").sizes["sample"] == 8
    assert "noised.store" in CliRunner().invoke(main, ["info", "n.zarr"]).output
