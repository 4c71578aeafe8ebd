"""Networks of one's own: whatever they predict and are fed, they become the same denoiser."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import offered
from tests.test_cli import traj
from tests.test_docs import block as readme
from traj import stores
from traj.pipeline import models
from traj.pipeline.making import fork, generate, readout
from traj.pipeline.models import own
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.models.own import preconditioned, wrap
from traj.pipeline.process import tables

SHAPE = (1, 8, 8)
NONE = torch.full((3,), -1)
IMPORTS = "from traj.pipeline.process import tables\nfrom traj.pipeline.models.own import wrap\ndef mine(): return"
NETWORKS = """
from torch import nn

class Velocity(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x_t, t):
        import torch
        time = t.reshape(-1, 1, 1, 1).expand_as(x_t)
        return self.layer(torch.cat([x_t, time], dim=1))

class Denoiser(Velocity):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the networks of README, their weights and its file."""
    monkeypatch.chdir(tmp_path)
    Path("my_networks.py").write_text(NETWORKS)
    names = {}
    exec(NETWORKS, names)
    for seed, (name, kind) in enumerate({"edm": "Denoiser", "flow": "Velocity"}.items()):
        torch.manual_seed(seed)
        torch.save(names[kind]().state_dict(), f"{name}.pt")
    Path("mine.py").write_text(readme("wrap("))
    yield tmp_path
    sys.modules.pop("my_networks", None)


def exact(schedule):
    return GaussianDenoiser(0.2, 0.25, SHAPE, schedule)


def answer(denoiser, timestep, x_t, predicts):
    """What a perfect network of a kind says."""
    prediction, (c, d) = denoiser(x_t, timestep, NONE), denoiser.schedule.at(timestep)
    x_0, eps = prediction.pred_x0, prediction.eps
    return {"epsilon": eps, "sample": x_0, "v_prediction": c * eps - d * x_0, "flow_prediction": eps - x_0}[predicts]


@pytest.mark.parametrize("time", ["model_time", "index", "sigma"])
@pytest.mark.parametrize(
    ("name", "predicts"),
    [
        *(("linear", predicts) for predicts in ("epsilon", "sample", "v_prediction", "flow_prediction")),
        *(("edm", predicts) for predicts in ("epsilon", "sample", "flow_prediction")),
        *(("flow:3", predicts) for predicts in ("sample", "flow_prediction")),
    ],
)
def test_any_prediction_and_any_time_make_the_same_denoiser(name, predicts, time):
    schedule = tables.named(name, 20)
    if name.startswith("flow") and time == "sigma":
        with pytest.raises(ValueError, match="sigma is infinite at timestep 19"):
            wrap(abs, schedule, shape=SHAPE, predicts=predicts, time=time)
        return
    true = exact(schedule)
    column = {"model_time": schedule.model_time, "index": np.arange(schedule.T), "sigma": schedule.sigma}[time]
    timestep = 13 if name != "linear" else 700

    def network(x_t, fed):
        assert fed.shape == (len(x_t),)
        assert fed.dtype == (torch.int64 if time == "index" else torch.float32)
        assert fed[0] == torch.tensor(column[timestep], dtype=fed.dtype)
        return answer(true, timestep, x_t, predicts)

    denoiser = wrap(network, schedule, shape=SHAPE, predicts=predicts, time=time)
    x_t = torch.randn((3, *SHAPE), dtype=torch.float64) * schedule.noise_scale[timestep]
    ours, theirs = denoiser(x_t, timestep, NONE), true(x_t, timestep, NONE)
    torch.testing.assert_close(ours.pred_x0, theirs.pred_x0)
    torch.testing.assert_close(ours.eps, theirs.eps)


def test_the_raw_network_of_edm_becomes_its_denoiser():
    x, sigma = torch.randn(3, *SHAPE), torch.tensor([0.002, 0.5, 80.0])
    seen = []

    def network(scaled, c_noise):
        seen.extend([scaled, c_noise])
        return torch.ones_like(scaled)

    s = sigma.reshape(-1, 1, 1, 1)
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt()
    torch.testing.assert_close(preconditioned(network)(x, sigma), expected)
    torch.testing.assert_close(seen[0], x / (s**2 + 0.25).sqrt())
    torch.testing.assert_close(seen[1], sigma.log() / 4)


def test_readmes_networks_run_from_the_command_line(folder):
    for name, sampler, steps in (("edm", "heun", 6), ("flow", "ddim", 5)):
        command = ("generate", f"{name}.zarr", "--model", f"mine.py:{name}", "--sampler", sampler, "--samples", 3)
        traj(*command, "--steps", steps, "--block", 3, "--device", "cpu")
        ds = stores.open(f"{name}.zarr")
        assert ds.sizes["timestep"] == steps
        assert np.isfinite(ds.x_0).all()
        np.testing.assert_allclose(ds.model_time, ds.noise_scale)


def test_a_fork_finds_a_network_of_ones_own_where_it_lay_or_is_said_to_lie(folder):
    made = generate.prepare(
        model="mine.py:flow", steps=5, sampler_name="ddpm", samples=2, block=2, device="cpu", variance="small"
    )
    with made.open(folder / "a.zarr") as store:
        made.run(store, bar=False)
    forks = fork.prepare(store=folder / "a.zarr", at=[3], model="mine.py:flow", device="cpu")
    assert forks.denoiser.schedule == made.denoiser.schedule
    Path("mine.py").rename("moved.py")
    fork.prepare(store=folder / "a.zarr", at=[3], model="moved.py:flow", device="cpu")
    Path("mine.py").write_text(readme("wrap(") + "\n# another\n")
    with pytest.raises(ValueError, match=r"model\.code differ"):
        fork.prepare(store=folder / "a.zarr", at=[3], model="mine.py:flow", device="cpu")


def test_code_that_only_a_store_names_is_not_run(folder):
    made = generate.prepare(model="mine.py:flow", steps=5, sampler_name="ddim", samples=2, block=2, device="cpu")
    with made.open(folder / "a.zarr") as store:
        made.run(store, bar=False)
    Path("mine.py").write_text("open('ran', 'w').close()")
    for reading in (
        lambda: fork.prepare(store=folder / "a.zarr", at=[3], device="cpu"),
        lambda: readout.prepare("likelihood", store=folder / "a.zarr", device="cpu"),
    ):
        with pytest.raises(stores.InputError, match=r"names mine.py:flow as its model, .* give --model mine.py:flow"):
            reading()
    assert not Path("ran").exists()


def test_the_fingerprint_covers_the_file_and_the_weights_it_names_and_no_place(folder):
    def identity():
        return json.dumps(models.load("mine.py:edm", steps=4).identity, sort_keys=True)

    first = identity()
    (folder / "elsewhere").mkdir()
    for file in ("mine.py", "my_networks.py"):
        (folder / "elsewhere" / file).write_text(Path(file).read_text())
    assert json.dumps(models.load("elsewhere/mine.py:edm", steps=4).identity, sort_keys=True) == first
    weights = torch.load("edm.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in weights.items()}, "edm.pt")
    second = identity()
    Path("mine.py").write_text(readme("wrap(") + "\n")
    assert len({first, second, identity()}) == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("def other(): ...", "no function mine; it has other"),
        ("def mine(steps): ...", "say how many"),
        ("def mine(path): ...", "needs path"),
        ("def mine(): return 3", "returns int without schedule"),
        (f"{IMPORTS} wrap(abs, tables.flow(3), shape=(1, 8, 8), predicts='epsilon')", "epsilon says nothing"),
        (f"{IMPORTS} wrap(abs, tables.edm(3), shape=(1, 8, 8), predicts='v_prediction')", "v_prediction needs"),
        (f"{IMPORTS} wrap(abs, tables.edm(3), shape=(1, 8, 8), predicts='velocity')", "expected one of epsilon"),
        (f"{IMPORTS} wrap(abs, tables.edm(3), shape=(1, 8, 8), predicts='sample', time='t')", "time 't'"),
    ],
)
def test_functions_that_return_no_denoiser_are_refused_by_name(tmp_path, body, named):
    (tmp_path / "mine.py").write_text(body)
    with pytest.raises(ValueError, match=named):
        models.load(f"{tmp_path}/mine.py:mine")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.py"):
        models.load(f"{tmp_path}/none.py:mine")
    with pytest.raises(FileNotFoundError, match=r"weights .*none\.pt"):
        wrap(abs, tables.edm(3), shape=SHAPE, predicts="sample", weights=[tmp_path / "none.pt"])


def test_an_answer_of_another_shape_is_refused():
    denoiser = wrap(lambda x_t, t: x_t[:, :, :4], tables.edm(3), shape=SHAPE, predicts="sample")
    with pytest.raises(ValueError, match=r"shape \(3, 1, 4, 8\) to states of \(3, 1, 8, 8\)"):
        denoiser(torch.zeros(3, *SHAPE), 1, NONE)


def test_labels_reach_a_network_and_minus_one_is_the_null_label():
    def network(x_t, t, label):
        return label.float().reshape(-1, 1, 1, 1).expand_as(x_t)

    denoiser = wrap(network, tables.edm(3), shape=SHAPE, predicts="sample", num_classes=4, null_label=4)
    labels = denoiser(torch.zeros(3, *SHAPE), 1, torch.tensor([0, -1, 3])).pred_x0[:, 0, 0, 0]
    assert labels.tolist() == [0, 4, 3]
    with pytest.raises(ValueError, match="label 4"):
        denoiser(torch.zeros(1, *SHAPE), 1, torch.tensor([4]))
    with pytest.raises(ValueError, match="one of the 4 classes"):
        wrap(network, tables.edm(3), shape=SHAPE, predicts="sample", num_classes=4, null_label=2)


def test_a_package_registers_a_model_by_an_entry_point(folder, monkeypatch):
    assert not own.is_own("waves")
    monkeypatch.syspath_prepend(offered.install(folder, "toybox", {"waves": "mine:flow"}, group=own.ENTRY_POINTS))
    denoiser = models.load("waves", steps=7)
    assert denoiser.schedule.T == 7
    assert (denoiser.name, denoiser.identity["function"]) == ("waves", "flow")
    sys.modules.pop("mine")
