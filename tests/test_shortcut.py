"""The shortcut of 002, as a run of its own and as an edit of a sweep: the same images, or one message."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import runs
from tests.test_fork import GAUSSIAN, forked, prepare, save_network, traj
from tests.test_generate import make
from traj import stores
from traj.pipeline.making import generate, times
from traj.pipeline.models import surgery
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.plan import Plan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random network of four output blocks."""
    return save_network(tmp_path_factory.mktemp("models") / "random")


RUN = {"sampler_name": "ddim", "steps": 100, "eta": 1.0}


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """The run that the shortcut goes through, of which every seventh state is stored."""
    return make(tmp_path_factory.mktemp("runs") / "p.zarr", 4, model=model, labels="cycle", every=7, **RUN)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "sweep.yaml"
    path.write_text(yaml.safe_dump([{"edit": "jump", "n": 2, "t_start": 920}, {"edit": "shortcut"}]))
    return str(path)


def test_the_shortcut_is_generated_and_recorded(model, tmp_path):
    out = tmp_path / "short.zarr"
    options = ("--model", model, "--sampler", "ddim", "--steps", 100, "--eta", 1, "--samples", 4, "--block", 4)
    assert "is complete" in traj("generate", out, *options, "--plan", "shortcut", "--device", "cpu")
    ds = stores.open(out).compute()
    assert ds.timestep.values.tolist() == list(range(990, 169, -10))
    np.testing.assert_array_equal(ds.x_0, ds.pred_x0.isel(timestep=-1))
    baseline = stores.open(make(tmp_path / "b.zarr", 4, model=model, sampler_name="ddim", steps=100, eta=1.0))
    same = (ds.x_t == baseline.x_t.sel(timestep=ds.timestep)).all(("sample", "channel", "y", "x"))
    assert ds.timestep[same.values].values.tolist() == list(range(990, 639, -10))  # 640 is the first with a cut
    config = json.loads(ds.attrs["config"])
    assert [run["cut"] for run in config["plan"]["runs"] if "cut" in run] == [{"skips": 0, "unet_blocks": 2}] * 3
    assert Plan.from_json(config["plan"]).end == config["plan"]["end"] == "pred_x0"
    replayed = forked(out, tmp_path / "f.zarr", at=[640, 170], noise=["shared"], replicas=1, batch=4, model=model)
    np.testing.assert_array_equal(replayed.x_0[:, 0], np.stack([ds.x_0] * 2))


def test_a_late_shortcut_is_compared_with_the_whole_one_by_the_cuts_of_both(model, tmp_path, monkeypatch):
    seconds = {"whole": 4.0, "cut": 1.0}
    monkeypatch.setattr(times, "timed_call", lambda *asked: seconds["whole" if asked[-1] == Cut() else "cut"])
    data = runs.dataset(tmp_path / "d.zarr", np.zeros((4, 1, 8, 8)))
    rows = []
    for start in ({}, {"start": str(data), "start_step": 400}):
        asked = generate.prepare(model=model, plan_name="shortcut", samples=4, block=4, device="cpu", **RUN, **start)
        times.write_run_times(asked, tmp_path / "t.csv")
        rows += csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    whole, late = rows
    assert late["whole_seconds"] == whole["network_seconds"] == whole["whole_seconds"]
    assert float(late["network_seconds"]) < float(late["whole_seconds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--steps", "50"],
            "the shortcut is a plan of 100 steps, 50 were given; make a run that it fits with `traj generate ... "
            "--sampler ddim --steps 100 --eta 1`",
        ),
        (["--steps", "100"], "a cut needs a U-Net, and this model is a GaussianDenoiser"),
    ],
)
def test_a_shortcut_that_cannot_be_gets_one_message(options, message, tmp_path):
    command = ("generate", tmp_path / "a.zarr", "--model", GAUSSIAN, "--sampler", "ddim", "--plan", "shortcut")
    assert message in traj(*command, *options, code=2)


# --- as an edit of a sweep ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_forked_shortcut_is_the_generated_one_to_the_bit(run, model, table, tmp_path):
    out = tmp_path / "short.zarr"
    expected = stores.open(make(out, 4, model=model, labels="cycle", plan_name="shortcut", **RUN)).compute()
    # a call of four images is the only one there is room for
    ds = forked(run, tmp_path / "f.zarr", table=table, replicas=None, model=model, batch=4, states=True)
    short = ds.isel(variant=1, replica=0)
    np.testing.assert_array_equal(short.x_0, expected.x_0)
    visited = short.timestep[np.isfinite(short.x_t).all(("sample", "channel", "y", "x")).values]
    assert visited.values.tolist() == expected.timestep.values.tolist()
    for states in ("x_t", "pred_x0"):
        np.testing.assert_array_equal(short[states].sel(timestep=visited), expected[states])
    np.testing.assert_array_equal(short.x_0, short.pred_x0.sel(timestep=170))
    assert not np.array_equal(short.x_0, stores.open(run).x_0)


@pytest.mark.slow
def test_the_shortcut_saves_17_evaluations_and_cuts_21(run, model, table, tmp_path):
    forking = prepare(run, table=table, replicas=None, model=model)
    with forking.open(tmp_path / "f.zarr") as writer:
        forking.run(writer, bar=False)
    ds = stores.open(tmp_path / "f.zarr").isel(variant=1)
    row = {
        "at": 990,
        "edit": "shortcut",
        "n": 0,
        "ns": 0,
        "nb": 0,
        "unet_blocks": 0,
        "r": -1,
        "noise": "shared",
        "eta": "1",
    }
    assert {name: ds[name].item() for name in row} == row
    assert (ds.evaluations_saved, ds.evaluations_cut) == (17, 21)
    count = surgery.count(forking.denoiser.network)
    whole, cut = count.whole, count.under(Cut(unet_blocks=2))
    assert ds.multiply_adds_removed.item() == pytest.approx((17 + 21 * (1 - cut / whole)) / 100, rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "family", "message"),
    [
        (20, {}, "the shortcut is a plan of 100 steps, 20 were given; make a run that it fits with `traj generate"),
        (100, {}, "a cut needs a U-Net, and this model is a GaussianDenoiser"),
        (100, {"t_start": 500}, "sweep.yaml, family 1: unknown t_start; edit shortcut takes nothing else"),
        (100, {"nb": 2, "n": 5}, "unknown n, nb; edit shortcut takes nothing else"),
    ],
)
def test_a_forked_shortcut_that_cannot_be_gets_one_message(steps, family, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 4, model=GAUSSIAN, sampler_name="ddim", steps=steps)
    Path("sweep.yaml").write_text(yaml.safe_dump([{"edit": "shortcut", **family}]))
    assert message in traj("fork", "p.zarr", "f.zarr", "--sweep", "sweep.yaml", code=2)
    assert not Path("f.zarr").exists()


def test_a_shortcut_of_a_shortcut_is_refused(model, table, tmp_path):
    short = make(tmp_path / "short.zarr", 4, model=model, plan_name="shortcut", **RUN)
    with pytest.raises(ValueError, match="plan of 100 steps, 83 were given"):
        prepare(short, table=table, replicas=None, model=model)
