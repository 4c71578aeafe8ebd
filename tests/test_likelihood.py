"""The likelihood readout: P(c | x_t) that it accumulates against closed forms, its products against evaluations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from tests import runs
from tests.test_events import made
from tests.test_fork import forked
from traj import stores
from traj.pipeline import models, readouts
from traj.pipeline.making import generate, readout
from traj.pipeline.models.analytic import mixture
from traj.pipeline.process import tables
from traj.pipeline.readouts.likelihood import likelihood

POINTS = [-8.0, -4.0, 6.0, 8.0]
MIXTURE = "mixture:-8,-4,6,8"
PATHS = [
    ("linear", "ancestral"),
    ("linear", "of a class"),
    ("linear", "noised"),
    ("linear", "stored now and then"),
    ("edm:0.02,40,7", "noised"),
    ("flow", "ancestral"),
]

OWN = '''
import torch
from torch import nn
from traj.pipeline.models.labels import Labels
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables
from traj.pipeline.process.denoiser import Prediction

MEANS, VARIANCE = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [1.0, -2.0]], dtype=torch.float64), 0.3


class Classes:
    """Three normal classes, without a null class."""

    name, num_classes, unconditional, dtype = "classes", 3, False, torch.float64
    shape, valid_range, identity = (2,), (-3.0, 3.0), {}

    def __init__(self, schedule):
        self.schedule = schedule

    def conditions(self, asked, null=False):
        return Labels(self, asked, null)

    def __call__(self, x_t, timestep, condition, cut=None):
        c, d = self.schedule.at(timestep)
        m = MEANS[condition].to(x_t.dtype)
        pred_x0 = m + c * VARIANCE / (c**2 * VARIANCE + d**2) * (x_t - c * m)
        return Prediction(pred_x0, (x_t - c * pred_x0) / d)


def linear():
    return Classes(tables.named("linear"))


def grid(steps=12):
    return Classes(tables.named("edm:0.02,40,7", steps))


def straight(steps=12):
    return Classes(tables.named("flow", steps))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.told = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(4, 16)

    def forward(self, x_t, t, label):
        return self.layer(x_t + self.told(label).reshape(-1, 1, 4, 4)) + t.reshape(-1, 1, 1, 1) / 1000


def network():
    return wrap(Network(), tables.named("linear"), shape=(1, 4, 4), predicts="epsilon", num_classes=3, null_label=3)


def labelled(samples):
    return torch.zeros(len(samples), dtype=torch.int64)


def prompted():
    return wrap(
        Network(), tables.named("linear"), shape=(1, 4, 4), predicts="epsilon", condition=labelled
    )
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file of models of one's own."""
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(OWN)
    return file


def run(path, **options):
    return made(generate.prepare(**{"samples": 6, "block": 6, "device": "cpu", **options}), path)


def read(store, out, **options):
    reading = readout.prepare("likelihood", store=Path(store), device="cpu", **options)
    return stores.open(made(reading, out)).compute()


def noised(path, model, x_0, seed=0, **options):
    """Data with noise added timestep by timestep, kept as a run's states."""
    rng = np.random.default_rng(seed)
    generation = generate.prepare(model=model, samples=len(x_0), block=len(x_0), device="cpu", **options)
    visited, schedule, states = generation.plan.timesteps, generation.denoiser.schedule, []
    x_t, before = x_0, (1.0, 0.0)
    for c, d in map(schedule.at, reversed(visited)):
        a = c / before[0]
        x_t, before = a * x_t + np.sqrt(d**2 - (a * before[1]) ** 2) * rng.standard_normal(x_0.shape), (c, d)
        states.append(x_t)
    with generation.open(path) as store:
        for step, state in enumerate(reversed(states)):
            store.put(0, step, state, state)
        store.finish(0, x_0)
    return path


def kernel(ds):
    """signal, noise_scale and variance of the noise added, of all timesteps but the last and of those they lead to."""
    c, d = ds.signal.values, ds.noise_scale.values
    added = d[:-1] ** 2 - (c[:-1] / c[1:] * d[1:]) ** 2
    return c[:-1], d[:-1], c[1:], d[1:], added


def accumulated(found, start, variance):
    """log P(c | x_t), from that at the first timestep (sample, class) down: (sample, timestep, class)."""
    increments = -found.squared_distance.values[:, :-1] / (2 * variance[:, None])
    sums = np.concatenate([start[:, None], start[:, None] + increments.cumsum(1)], 1)
    return log_softmax(sums, axis=-1)


# ---- exact classes (METHODS 4.2)


@pytest.mark.parametrize(("schedule", "path"), PATHS)
def test_point_classes_are_told_exactly_on_any_path(tmp_path, schedule, path):
    options = {"model": MIXTURE, "schedule": schedule, "steps": 40}
    if path == "noised":
        store = noised(tmp_path / "a.zarr", x_0=np.array(POINTS * 2).reshape(8, 1, 1, 1), **options)
    else:
        more = {"of a class": {"labels": "cycle"}, "stored now and then": {"every": 3}}
        store = run(tmp_path / "a.zarr", **options, **more.get(path, {}))
    ds, found = stores.open(store), read(store, tmp_path / "r.zarr")
    _, d_t, _, d_s, added = kernel(ds)
    x_t, c, d = ds.x_t.astype("f8").values[:, :, 0, 0], ds.signal.values[:, None], ds.noise_scale.values[:, None]
    expected = log_softmax(-((x_t - c * np.array(POINTS)) ** 2) / (2 * d**2), axis=-1)
    log_p = accumulated(found, expected[:, 0], added * d_s**2 / d_t**2)
    np.testing.assert_allclose(np.exp(log_p), np.exp(expected), rtol=0, atol=1e-12)
    assert 0.1 < np.exp(expected).max(-1).min() < 0.9  # there was something to decide
    assert np.isnan(found.squared_distance[:, -1]).all()
    assert not np.isnan(found.eps_difference).any()


@pytest.mark.parametrize(("model", "steps"), [("linear", 40), ("grid", 12), ("straight", 12)])
def test_normal_classes_are_told_exactly_with_the_variance_they_add(own, tmp_path, model, steps):
    store = run(tmp_path / "a.zarr", model=f"{own}:{model}", steps=steps, labels="cycle")
    ds, found = stores.open(store), read(store, tmp_path / "r.zarr", model=f"{own}:{model}")
    c_t, d_t, c_s, d_s, added = kernel(ds)
    v = 0.3
    coef_x_0 = c_s * added / d_t**2
    variance = added * d_s**2 / d_t**2 + coef_x_0**2 * v * d_t**2 / (c_t**2 * v + d_t**2)
    means = np.array([[-1.0, 0.0], [0.5, 1.0], [1.0, -2.0]])
    c, d = ds.signal.values[:, None], ds.noise_scale.values[:, None]
    distance = (ds.x_t.astype("f8").values[:, :, None] - c[..., None] * means) ** 2
    expected = log_softmax(-distance.sum(-1) / (2 * (c**2 * v + d**2)), axis=-1)
    np.testing.assert_allclose(accumulated(found, expected[:, 0], variance), expected, rtol=0, atol=1e-12)
    assert np.isnan(found.squared_distance_null).all()
    assert found.eps_product.attrs["reference"] == found.eps_difference.attrs["reference"] == "mean"


# ---- what is kept


@pytest.fixture(scope="module")
def networked(own, tmp_path_factory):
    """A run of a network with three classes and a null class, and its readout."""
    folder = tmp_path_factory.mktemp("networked")
    store = run(folder / "a.zarr", model=f"{own}:network", steps=10, labels="cycle", block=4)
    return store, read(store, folder / "r.zarr", model=f"{own}:network")


def evaluated(store, model, label, timestep):
    """A model's prediction of a run's states at one timestep, under one label, as float64 arrays of events in a row."""
    x_t = torch.from_numpy(stores.open(store).x_t.sel(timestep=timestep).values)
    with torch.inference_mode():
        found = models.load(model)(x_t, timestep, torch.full((len(x_t),), label))
    return [values.double().numpy().reshape(len(x_t), -1) for values in (found.pred_x0, found.eps)]


def test_products_and_distances_are_those_of_single_evaluations(own, networked):
    store, found = networked
    ds = stores.open(store)
    assert found.eps_product.attrs["reference"] == "null"
    assert found.eps_product.dims == ("sample", "timestep", "class", "other_class")
    c_t, d_t, c_s, d_s, added = kernel(ds)
    for k in (0, 4):
        now = found.isel(timestep=k)
        evaluations = [evaluated(store, f"{own}:network", label, int(now.timestep)) for label in (0, 1, 2, -1)]
        x_t, x_s = (ds.x_t[:, at].astype("f8").values.reshape(6, -1) for at in (k, k + 1))
        towards, kept = c_s[k] * added[k] / d_t[k] ** 2, c_t[k] / c_s[k] * d_s[k] ** 2 / d_t[k] ** 2
        distances = [((x_s - towards * x_0 - kept * x_t) ** 2).sum(1) for x_0, _ in evaluations]
        np.testing.assert_allclose(now.squared_distance, np.transpose(distances[:3]), rtol=1e-5)
        np.testing.assert_allclose(now.squared_distance_null, distances[3], rtol=1e-5)
        difference = np.stack([eps - evaluations[3][1] for _, eps in evaluations[:3]], 1)
        np.testing.assert_allclose(now.eps_product, difference @ difference.swapaxes(1, 2), rtol=1e-4, atol=1e-6)
        # one class against the mean of the others
        one, others = evaluations[0][1], (evaluations[1][1] + evaluations[2][1]) / 2
        weight = np.array([1, -0.5, -0.5])
        np.testing.assert_allclose(
            np.einsum("a,sab,b->s", weight, now.eps_product, weight), ((one - others) ** 2).sum(1), rtol=1e-4
        )
    np.testing.assert_allclose(found.eps_difference, np.diagonal(found.eps_product, axis1=2, axis2=3), rtol=1e-12)


def test_batches_change_last_bits_at_most_and_are_an_input(own, networked, tmp_path):
    store, expected = networked
    found = read(store, tmp_path / "r.zarr", model=f"{own}:network", batch=11)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert found.attrs["fingerprint"] != expected.attrs["fingerprint"]


def test_classes_and_products_may_be_left_out(own, networked, tmp_path):
    store, every = networked
    found = read(store, tmp_path / "r.zarr", model=f"{own}:network", classes=(2, 0), products=False)
    assert set(found.data_vars) == {"squared_distance", "squared_distance_null", "eps_difference"}
    assert found["class"].values.tolist() == [2, 0]
    np.testing.assert_allclose(found.squared_distance, every.squared_distance.sel({"class": [2, 0]}), rtol=1e-5)


def test_an_exact_model_tells_the_run_of_another_one(own, tmp_path):
    store = run(tmp_path / "a.zarr", model="gaussian:0,1", schedule="cosine", steps=10)
    found = read(store, tmp_path / "r.zarr", model=MIXTURE)
    x_t = torch.from_numpy(stores.open(store).x_t[:, 3].values)
    exact = mixture(POINTS, schedule=tables.named("cosine"))
    eps = [exact(x_t.double(), int(found.timestep[3]), torch.full((6,), k)).eps.flatten() for k in (0, 1, 2, 3, -1)]
    np.testing.assert_allclose(found.eps_difference[:, 3], (torch.stack(eps[:4], 1) - eps[4][:, None]) ** 2, rtol=1e-9)


def test_forks_with_states_are_read_replica_by_replica(tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, steps=10)
    forks = forked(store, tmp_path / "f.zarr", at=[500], replicas=2, states=True)
    found = read(tmp_path / "f.zarr", tmp_path / "r.zarr", model=MIXTURE)
    by_default = read(tmp_path / "f.zarr", tmp_path / "d.zarr")
    assert by_default.attrs["fingerprint"] == found.attrs["fingerprint"]
    assert found.squared_distance.dims == ("variant", "replica", "sample", "timestep", "class")
    visited = np.broadcast_to(forks.timestep <= 500, found.eps_difference.shape[:-1])
    np.testing.assert_array_equal(np.isfinite(found.eps_difference).all("class"), visited)


def test_forks_of_a_grid_are_read_at_the_parents_noise_levels(tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, schedule="flow:3", sampler_name="ddim", steps=5)
    forked(store, tmp_path / "f.zarr", at=[2], replicas=2, states=True)
    found = read(tmp_path / "f.zarr", tmp_path / "r.zarr")
    assert found.sizes["timestep"] == 3
    assert json.loads(found.attrs["config"])["schedule"] == tables.named("flow:3", 5).identity


# ---- what cannot be


def test_what_cannot_tell_classes_is_refused_by_name(own, tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, steps=5)
    for options, reason in {
        (("model", "gaussian:0,1"),): "model gaussian:0.0,1.0,1x1x1 has no classes; expected a class-conditional model",
        (("model", "dataset:digits"),): r"events of shape \(1, 8, 8\), and .*a.zarr has \(1, 1, 1\)",
        (("model", f"{own}:linear"),): r"events of shape \(2,\)",
        (("classes", (0, 4)),): "classes 0,4 were given; expected different numbers from 0 to 3",
        (("classes", (1, 1)),): "classes 1,1 were given",
        (("batch", 4),): "batch 4 was given; a state takes 5 evaluations",
        (("batch", 0),): "batch 0 was given",
    }.items():
        with pytest.raises(stores.InputError, match=reason):
            readout.prepare("likelihood", store=store, device="cpu", **dict(options))
    pictures = run(tmp_path / "b.zarr", model=f"{own}:prompted", steps=5)
    with pytest.raises(stores.InputError, match="prompted has no classes"):
        readout.prepare("likelihood", store=pictures, model=f"{own}:prompted", device="cpu")


def test_a_class_without_samples_is_refused_unless_it_is_left_out(tmp_path):
    points = np.array([-2.0, 1.0, 2.0], np.float32).reshape(3, 1, 1, 1)
    with stores.create_dataset(
        tmp_path / "d.zarr", shape=(1, 1, 1), samples=3, block=3, config={}, label=[0, 2, 2]
    ) as dataset:
        dataset.write(0, {"x_0": points})
    store = run(tmp_path / "a.zarr", model="gaussian:0,1", steps=5)
    model = f"dataset:{tmp_path / 'd.zarr'}"
    with pytest.raises(stores.InputError, match="has no points of class 1"):
        readout.prepare("likelihood", store=store, model=model, device="cpu")
    assert read(store, tmp_path / "r.zarr", model=model, classes=(0, 2))["class"].values.tolist() == [0, 2]


def test_another_schedule_is_refused(own, tmp_path):
    store = run(tmp_path / "a.zarr", model=f"{own}:straight", steps=12, labels="cycle")
    for other in ("grid", "linear"):
        with pytest.raises(stores.InputError, match=f"{other} has another signal and noise_scale at the timesteps of"):
            readout.prepare("likelihood", store=store, model=f"{own}:{other}", device="cpu")


def test_levels_that_differ_beyond_what_stores_hash_are_the_same(tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, steps=5)
    ds = stores.open(store)

    def changed(by):
        other = ds.assign_coords(signal=ds.signal * (1 + by))
        return likelihood(readouts.Source(store, other, torch.device("cpu")), model=MIXTURE)

    changed(1e-10)
    with pytest.raises(stores.InputError, match="has another signal and noise_scale"):
        changed(1e-6)


def test_a_run_of_one_stored_timestep_has_a_cost_and_no_next_state(tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, timesteps=[0])
    assert readout.prepare("likelihood", store=store, device="cpu").cost(tmp_path / "r.zarr").seconds > 0
    assert np.isnan(read(store, tmp_path / "r.zarr").squared_distance).all()


def test_a_model_that_changed_since_is_refused(tmp_path):
    data = runs.dataset(tmp_path / "d.zarr", np.reshape(POINTS, (4, 1, 1, 1)), label=range(4), valid_range=(-8, 8))
    store = run(tmp_path / "a.zarr", model=f"dataset:{data}", steps=5, labels="cycle")
    shutil.rmtree(data)
    runs.dataset(data, np.zeros((4, 1, 1, 1)), label=range(4), valid_range=(-8, 8))
    with pytest.raises(stores.InputError, match=r"is not the one .* was made with: model.data differ"):
        readout.prepare("likelihood", store=store, device="cpu")


def test_stores_without_states_or_without_a_model_are_refused(tmp_path):
    store = run(tmp_path / "a.zarr", model=MIXTURE, steps=5)
    forked(store, tmp_path / "f.zarr", at=[400], replicas=2)
    with pytest.raises(stores.InputError, match="has no states x_t; expected trajectories, or forks made with"):
        readout.prepare("likelihood", store=tmp_path / "f.zarr", model=MIXTURE, device="cpu")
    with pytest.raises(stores.InputError, match="does not say which model made it; give one with --model"):
        readout.prepare("likelihood", store=runs.make(tmp_path / "b.zarr", 4), device="cpu")
