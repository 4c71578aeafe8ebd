"""What `traj readout features` says before and after, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests import features_networks, runs
from tests.features_networks import SHAPE, TIMESTEPS, prepare, states
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.making import readout
from traj.pipeline.models import parts
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return features_networks.laid_out(tmp_path_factory.mktemp("features"))


@pytest.fixture(autouse=True)
def here(folder, tmp_path, monkeypatch):
    features_networks.enter(folder, tmp_path, monkeypatch)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, ["readout", "features", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_sizes_come_first_and_what_to_type_next_last():
    text = traj("a.zarr", "r.zarr", "--model", "mine.py:net", "--parts", "first,last")
    assert text.startswith("first: 4 features of 4 x 8 x 8 last: 1 features of 1 x 8 x 8 r.zarr: 2 of 2 blocks to do;")
    assert text.endswith("r.zarr is complete; next: traj analyze probe r.zarr")


def test_features_larger_than_the_disk_are_refused_before_there_is_a_store(monkeypatch):
    monkeypatch.setattr(readout, "disk_free", lambda out: 1 << 10)
    command = ("a.zarr", "r.zarr", "--model", "mine.py:net", "--parts", "first", "--pool", "flat")
    said = traj(*command, code=2)
    assert "r.zarr takes 24.0 KiB, and its disk has 1.0 KiB free; store less with --pool mean" in said
    assert not Path("r.zarr").exists()
    assert "disk at most 24.0 KiB of 1.0 KiB free" in traj(*command, "--dry-run")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--parts", "frist"], "has no part 'frist'; expected one like first"),
        (["--parts", "xyz"], "has no part 'xyz'; expected one out of first, relu, twice, pair, last, idle"),
        (["--parts", ""], "has no part ''"),
        (["--parts", "first,first"], "part first was given twice"),
        (["--parts", "idle"], "part idle, a Linear, is run 0 times in a forward pass; expected once"),
        (["--parts", "twice"], "part twice, a Identity, is run 2 times"),
        (["--parts", "time"], "part time gives a tensor of shape (1, 3) for 2 events"),
        (["--parts", "words"], "part words gives a str without a tensor"),
        (["--parts", "first", "--pool", "max"], "expected mean | flat"),
        (["--parts", "first", "--batch", 0], "batch 0 was given"),
        (["--parts", "first", "--timesteps", 501], "timestep 501 is not stored in a.zarr; the nearest are 500 and 900"),
        (["--parts", "first", "--timesteps", "500,500"], "some of them twice"),
        (["--parts", "first", "--timesteps", 500, "--every", 2], "expected one of them"),
        (["--parts", "first", "--model", "gaussian:0,1,1x8x8"], "is a closed form, and has none: expected a network"),
        (["--parts", "first", "--model", "mine.py:hidden"], "shows no modules: hand the torch.nn.Module in it to wrap"),
        (["--parts", "conv_in", "--model", "./digits", "--labels", "cycle"], "expected none | stored"),
    ],
)
def test_what_cannot_be_read_is_refused(asked, message):
    model = [] if "--model" in asked else ["--model", "mine.py:net"]
    assert message in traj("a.zarr", "r.zarr", *model, *asked, code=2)
    assert not Path("r.zarr").exists()


def test_states_of_other_noise_levels_or_none_are_refused():
    runs.make("b.zarr", 4, timesteps=TIMESTEPS)
    net = ("--model", "mine.py:net", "--parts", "first")
    assert "has another signal and noise_scale at the timesteps of b.zarr" in traj("b.zarr", "r.zarr", *net, code=2)
    states("c.zarr", 4, schedule=tables.edm(2000), timesteps=np.array([1500, 3]))
    assert "has another signal and noise_scale at the timesteps of c.zarr" in traj("c.zarr", "r.zarr", *net, code=2)
    runs.dataset("d.zarr", np.zeros((2, *SHAPE)))
    assert "d.zarr has no states x_t" in traj("d.zarr", "r.zarr", *net, code=2)
    assert "events of shape (1, 4, 4), and a.zarr has (1, 8, 8)" in traj(
        "a.zarr", "r.zarr", "--model", "gaussian:0,1,1x4x4", "--parts", "first", code=2
    )


def test_parts_whose_variables_would_share_a_name_are_refused(monkeypatch):
    network = torch.nn.Module()
    network.add_module("a_b", torch.nn.Identity())
    network.add_module("a", torch.nn.Module())
    network.a.add_module("b", torch.nn.Identity())
    network.forward = lambda x, t: network.a_b(network.a.b(x))
    mine = wrap(network, tables.named("linear"), shape=SHAPE, predicts="epsilon")
    monkeypatch.setattr(models, "load", lambda *_, **__: mine)
    with pytest.raises(ValueError, match=r"a_b and a\.b would both be called features_a_b"):
        prepare(("a_b", "a.b"))


def test_no_hook_stays_after_an_error():
    denoiser = models.load("mine.py:net")
    chosen = parts.find(denoiser, ["first", "words"])
    with pytest.raises(ValueError, match="words gives a str"):
        parts.outputs(denoiser, chosen, torch.clone, torch.zeros(2, *SHAPE), 5, torch.full((2,), -1))
    assert not any(module._forward_hooks for module in chosen.values())
