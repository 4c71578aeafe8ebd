"""Processes of signal and noise on the command line, and what analyses and pages make of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.networks import random_unet
from tests.test_cli import traj
from traj import analysis, stores
from traj.pipeline.computing.project import Stored
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.pipeline.report import runs
from traj.pipeline.report.entries import Entry

SMALL = ("--samples", 4, "--block", 4, "--device", "cpu")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("schedule", "sampler", "steps", "evaluations", "final"),
    [("edm", "heun", 18, 35, 0.52762), ("edm", "ddim", 40, 40, 0.46485), ("flow:3", "ddim", 28, 28, 0.45027)],
)
def test_a_gaussian_gain_comes_out_of_the_command_line(schedule, sampler, steps, evaluations, final):
    command = ("generate", "a.zarr", "--model", "gaussian:0,0.25", "--schedule", schedule, "--sampler", sampler)
    text = traj(*command, "--steps", steps, *SMALL)
    assert f"{evaluations} network evaluations" in text
    start = NoiseSource(0, (1, 1, 1))(Purpose.START, range(4), 0)
    np.testing.assert_allclose(stores.open("a.zarr").x_0 / start, final, atol=6e-6)
    assert traj("verify", "a.zarr", "--deep") == "a.zarr is whole\n"


def test_a_network_on_a_grid_is_generated_and_forked_with_the_steps_of_its_run():
    from diffusers import DDPMPipeline, EDMEulerScheduler

    DDPMPipeline(random_unet(), EDMEulerScheduler()).save_pretrained("edm")
    command = ("generate", "a.zarr", "--model", "edm", "--sampler", "ddim", "--eta", 0.5, *SMALL)
    assert "say how many: --steps 40" in traj(*command, code=2)
    traj(*command, "--steps", 5)
    traj("fork", "a.zarr", "f.zarr", "--at", 2, "--replicas", 1, "--device", "cpu")
    runs, forks = stores.open("a.zarr"), stores.open("f.zarr")
    assert runs.timestep.values.tolist() == [4, 3, 2, 1, 0]
    np.testing.assert_allclose(runs.sigma[[0, -1]], [80, 0.002])
    assert runs.x_0.shape == forks.x_0.isel(variant=0, replica=0).shape
    assert np.isfinite(forks.x_0).all()


def test_timesteps_and_guidance_are_options():
    command = ("generate", "a.zarr", "--model", "mixture:-1,1", "--labels", "cycle", "--sampler", "ddim", *SMALL)
    traj(*command, "--timesteps", "999,700,400,100", "--guidance", 1.5)
    ds = stores.open("a.zarr")
    assert ds.timestep.values.tolist() == [999, 700, 400, 100]
    assert json.loads(ds.attrs["config"])["guidance"] == 1.5
    assert "expected one of them" in traj(*command, "--timesteps", "9,5", "--steps", 2, code=2)
    assert "expected one of them" in traj(*command, "--timesteps", "9,5", "--spacing", "trailing", code=2)
    assert "say how many: --steps" in traj(
        "generate", "b.zarr", "--model", "mixture:-1,1", "--schedule", "flow", code=2
    )


@pytest.mark.slow
def test_a_start_without_signal_survives_every_analysis_and_the_report(without_figures):
    run, forks, sweep = "data/trajectories/flow.zarr", "data/forks/flow_forks.zarr", "data/sweeps/jumps.zarr"
    few = ("--samples", 32, "--block", 16, "--device", "cpu")
    flow = ("--model", "dataset:digits", "--labels", "cycle", "--schedule", "flow", "--steps", 12, *few)
    traj("generate", "ddpm.zarr", *flow, "--sampler", "ddpm")
    traj("generate", run, *flow, "--sampler", "ddim", "--eta", 0.5)
    for store in ("ddpm.zarr", run):
        assert stores.open(store).log_snr[0] == -np.inf
        assert np.isfinite(stores.open(store).x_0).all()
    of_runs = [name for name, one in analysis.usable().items() if one.reads == "trajectories" and not one.stores]
    traj("analyze", ",".join(of_runs), run, "--set", "entropy.bins=16")
    traj("fork", run, forks, "--at", "11,8,4", "--replicas", 3, "--samples", 16, "--device", "cpu")
    Path("edits.yaml").write_text("- {edit: jump, n: 3, t_start: [11, 6]}\n")
    traj("fork", run, sweep, "--sweep", "edits.yaml", "--device", "cpu")
    traj("analyze", "consistency", forks)
    traj("analyze", "intervention,phases,redundancy", sweep, "--baseline", run)
    traj("train", "digits-classifier", "--steps", 2, "--device", "cpu")
    for store, name in ((run, "flow"), (forks, "flow_forks")):
        read = f"data/readouts/{name}.zarr"
        traj("readout", "classifier", store, read, "--model", "digits-classifier", "--device", "cpu")
        traj("analyze", "label_variance", read)
    assert traj("report").splitlines()[-1] == "wrote report/index.html"
    pages = [page.read_text() for page in Path("report").rglob("*.html")]
    remarks = [said for page in pages for said in re.findall('class="remarks".*?</ul>', page)]
    for said in "".join(remarks).split("<li>")[1:]:
        assert re.search("no .*: run `traj analyze", said), said  # of quantities that nothing was computed of here
    assert {"flow", "flow_forks", "jumps"} <= json.loads(Path("report/metrics.json").read_text())["runs"].keys()


def test_the_table_of_runs_names_the_sampler_the_model_and_its_evaluations():
    plan = {
        "clip": None,
        "runs": [{"rule": "heun", "variance": 0.0, "noise": "shared", "first": 17, "last": 0, "stride": 1}],
    }
    config = {"plan": plan, "guidance": 2.0, "model": {"weights": "sha256:0"}}
    environments = [{"environment": {"model": "mine.py:edm"}, "blocks": [0]}]
    arrays = {"x_t": {"dims": {"sample": 2}}}
    described = {"config": config, "environments": environments, "arrays": arrays, "bytes": 0}
    run = Stored("a", "trajectories", Path(), described, None, None)
    table = runs.tables([Entry("a", {"trajectories": run})], {"a": "#000"}, "")
    _, model, sampler, condition, steps, samples, evaluations, *_ = re.findall(r"<td[^>]*>(.*?)</td>", table)
    assert [model, sampler, condition] == ["mine.py:<wbr>edm", "Heun; guidance 2.0", "–"]
    assert [steps, samples, evaluations] == ["18", "2", "70"]
