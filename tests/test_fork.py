"""Forks: what they share with their parent, what they do not, and how they stop, go on and are refused."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from tests import runs, warm
from tests.runs import digest
from tests.test_generate import make
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import fork
from traj.pipeline.process.noise import NoiseSource, Purpose

GAUSSIAN = "gaussian:0,1,1x4x4"


def save_network(folder, widths=(8, 16), **scheduler):
    """Save a random network with two output blocks for each width."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2 if "variance_type" in scheduler else 1,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=4,
        num_class_embeds=11,
    )
    DDPMPipeline(unet, DDPMScheduler(**scheduler)).save_pretrained(folder)
    (folder / "traj.json").write_text(json.dumps({"null_label": 10}))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random networks, with a fixed and with a learned variance."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "fixed": save_network(folder / "fixed", widths=(8,)),
        "learned": save_network(folder / "learned", widths=(8,), variance_type="learned_range"),
    }


RUNS = {
    "ddpm": ("fixed", {}),
    "ddim": ("fixed", {"sampler_name": "ddim", "clip": True}),
    "ddim, eta 1": ("fixed", {"sampler_name": "ddim", "eta": 1.0, "clip": True}),
    "learned": ("learned", {"sampler_name": "iddpm"}),
}


@pytest.fixture(scope="module")
def parents(models, tmp_path_factory):
    """Runs of ten samples in blocks of four and ten steps: the store, and its model."""
    folder = tmp_path_factory.mktemp("parents")
    return {
        name: (make(folder / f"{count}.zarr", model=models[model], labels="cycle", steps=10, **options), models[model])
        for count, (name, (model, options)) in enumerate(RUNS.items())
    }


def prepare(store, **options):
    return fork.prepare(**{"store": store, "replicas": 2, "device": "cpu", **options})


def forked(store, out, *, blocks=None, **options):
    forking = prepare(store, **options)
    with forking.open(Path(out), blocks=blocks) as writer:
        forking.run(writer, bar=False)
    return stores.open(out, partial=blocks is not None).compute()


# --- the parent again -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_with_the_runs_own_noise_a_fork_replays_it_to_the_bit(parents, name, tmp_path):
    store, model = parents[name]
    parent = stores.open(store).isel(sample=slice(6)).compute()
    at = [900, 500, 0]
    ds = forked(store, tmp_path / "f.zarr", at=at, noise=["shared"], samples=6, batch=4, states=True, model=model)
    assert ds.x_0.dims == ("variant", "replica", "sample", "channel", "y", "x")
    for variant, timestep in enumerate(at):
        for replica in ds.replica.values:
            branch = ds.isel(variant=variant).sel(replica=replica)
            np.testing.assert_array_equal(branch.x_0, parent.x_0)
            for states in ("x_t", "pred_x0"):
                visited = branch[states].sel(timestep=slice(timestep, None))
                np.testing.assert_array_equal(visited, parent[states].sel(timestep=slice(timestep, None)))
                assert np.isnan(branch[states].sel(timestep=slice(None, timestep + 1))).all()


def test_branches_that_share_a_network_call_stay_close_to_the_run(parents, tmp_path):
    store, model = parents["ddpm"]
    ds = forked(store, tmp_path / "f.zarr", at=[900, 700, 400, 200], noise=["shared"], replicas=4, model=model)
    error = abs(ds.x_0 - stores.open(store).x_0.compute()).max(("channel", "y", "x"))
    assert error.size == 160
    assert int((error > 1e-4).sum()) <= 1


def test_coordinates_say_where_a_fork_starts_and_what_was_edited(parents, tmp_path):
    store, model = parents["ddim, eta 1"]
    options = {"at": [100, 700], "noise": ["zero:700-500", "shared:300-200"], "eta": ["0.5:100-0"], "model": model}
    ds = forked(store, tmp_path / "f.zarr", **options)
    parent = stores.open(store)
    assert ds["at"].values.tolist() == [700, 100]
    assert ds.noise.values.tolist() == [
        "zero:700-500 independent:400-400 shared:300-200 independent:100-0",
        "independent",
    ]
    assert ds.eta.values.tolist() == ["1:700-200 0.5:100-0", "0.5"]
    assert ds.replica.values.tolist() == [1, 2]
    assert ds.timestep.values.tolist() == list(range(700, -1, -100))
    for name in ("step", "model_time", "signal", "noise_scale", "alpha_bar", "sigma", "log_snr"):
        np.testing.assert_array_equal(ds[name], parent[name].sel(timestep=ds.timestep))
    np.testing.assert_array_equal(ds.label, parent.label)
    np.testing.assert_array_equal(ds.log_snr.sel(timestep=ds["at"]).values, parent.log_snr.sel(timestep=[700, 100]))


# --- noise of their own ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replicas_differ_where_noise_is_added_and_only_there(parents, tmp_path):
    for name, differ in (("ddpm", True), ("learned", True), ("ddim, eta 1", True), ("ddim", False)):
        store, model = parents[name]
        x_0 = forked(store, tmp_path / f"{name}.zarr", at=[700], model=model, samples=4).x_0[0].values
        assert (abs(x_0[0] - x_0[1]).max(axis=(1, 2, 3)) > 1e-3).all() == differ, name
        assert (x_0[0] != x_0[1]).any() == differ, name


def test_a_replicas_noise_is_that_of_its_number(tmp_path):
    store = make(tmp_path / "p.zarr", 10, model=GAUSSIAN, seed=5)
    x_t = forked(store, tmp_path / "f.zarr", at=[700], replicas=3, states=True).x_t[0]
    noise_sd = float(stores.open(store).noise_sd.sel(timestep=700))
    z = [NoiseSource(5, (1, 4, 4))(Purpose.STEP, range(10), 700, replica) for replica in (1, 2, 3)]
    parted = x_t.sel(timestep=650) - x_t.sel(timestep=650, replica=1)
    np.testing.assert_allclose(parted, noise_sd * (np.stack(z) - z[0]), atol=1e-6)


def test_a_fork_does_not_depend_on_the_others_made_with_it(tmp_path):
    store = make(tmp_path / "p.zarr", 10, model=GAUSSIAN)
    expected = forked(store, tmp_path / "a.zarr", at=[700, 300], replicas=3, batch=4).x_0
    for count, options in enumerate(
        (
            {"at": [950, 700, 500, 300, 0], "replicas": 5},
            {"at": [700, 300], "replicas": 3, "block": 3},
            {"at": [300, 700], "replicas": 3, "block": 10, "batch": 1},
            {"at": [700, 300], "replicas": 3, "batch": 20, "states": True},
        )
    ):
        ds = forked(store, tmp_path / f"{count}.zarr", **options)
        chosen = ds.x_0.isel(variant=np.isin(ds["at"], [700, 300])).sel(replica=[1, 2, 3])
        np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_same_forks_have_the_same_bytes_in_one_run_or_grown(parents, tmp_path):
    store, model = parents["ddpm"]
    options = {"at": [700, 300], "model": model, "states": True}
    forked(store, tmp_path / "a.zarr", **options)
    forked(store, tmp_path / "b.zarr", **options, samples=6)
    forked(store, tmp_path / "b.zarr", **options)
    forked(store, tmp_path / "c.zarr", **options, blocks=[2])
    forked(store, tmp_path / "c.zarr", **options, blocks=[0, 1])
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr") == digest(tmp_path / "c.zarr")
    assert stores.verify(tmp_path / "a.zarr") == []


def test_forks_grow_with_their_parent(tmp_path):
    store = make(tmp_path / "p.zarr", 6, model=GAUSSIAN)
    forked(store, tmp_path / "f.zarr", at=[700])
    make(store, 10, model=GAUSSIAN)
    grown = forked(store, tmp_path / "f.zarr", at=[700])
    assert grown.sizes["sample"] == 10
    np.testing.assert_array_equal(grown.x_0, forked(store, tmp_path / "straight.zarr", at=[700]).x_0)


def test_a_fork_of_rounded_states_starts_from_what_is_stored(tmp_path):
    store = make(tmp_path / "p.zarr", 4, model=GAUSSIAN, dtype="float16")
    ds = forked(store, tmp_path / "f.zarr", at=[500], noise=["shared"], states=True)
    parent = stores.open(store).compute()
    np.testing.assert_array_equal(ds.x_t[0, 0].sel(timestep=500), parent.x_t.sel(timestep=500).astype("f4"))
    np.testing.assert_allclose(ds.x_0[0, 0], parent.x_0, atol=2e-3)


# --- edits of the plan ----------------------------------------------------------------------------------------


def test_eta_turns_a_ddim_run_into_the_one_with_that_eta(models, tmp_path):
    options = {"model": models["fixed"], "sampler_name": "ddim", "clip": True, "steps": 10}
    store = make(tmp_path / "p.zarr", 4, **options)
    stochastic = stores.open(make(tmp_path / "eta.zarr", 4, **options, eta=1.0))
    ds = forked(
        store, tmp_path / "f.zarr", at=[900], eta=["1"], noise=["shared"], batch=4, model=models["fixed"], states=True
    )
    np.testing.assert_array_equal(ds.x_0[0, 0], stochastic.x_0)
    np.testing.assert_array_equal(ds.x_t[0, 1], stochastic.x_t)


@pytest.mark.parametrize("edit", [{"eta": ["1", "0:950-500"]}, {"eta": ["1"], "noise": ["zero:950-500"]}])
def test_noise_off_on_the_first_part_keeps_replicas_together_there(edit, tmp_path):
    store = make(tmp_path / "p.zarr", 4, model=GAUSSIAN, sampler_name="ddim")
    x_t = forked(store, tmp_path / "f.zarr", at=[950], **edit, states=True).x_t[0]
    apart = (x_t[0] != x_t[1]).any(("sample", "channel", "y", "x"))
    assert x_t.timestep[apart.values].values.tolist() == list(range(400, -1, -50))


# --- runs that stop, change or cannot be ----------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(server, tmp_path):
    store = make(tmp_path / "p.zarr", 16, model="gaussian:0,0.25,1x16x16", steps=250)
    out, flag = tmp_path / "a.zarr", tmp_path / "a.zarr" / "done" / "c" / "1"
    arguments = ["--at", "900,500", "--replicas", "4", "--states", "--device", "cpu"]
    process = warm.Process(server, ["fork", store, out, *arguments])
    while not (flag.exists() and flag.read_bytes()[:1] == b"\x01") and not process.ended():
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= stores.describe(out)["blocks_done"] < 4
    forked(store, out, at=[900, 500], replicas=4, states=True)
    forked(store, tmp_path / "straight.zarr", at=[900, 500], replicas=4, states=True)
    assert digest(out) == digest(tmp_path / "straight.zarr")


def test_the_cost_counts_the_network_calls_that_are_made(parents, tmp_path, monkeypatch):
    store, model = parents["ddpm"]
    forking = prepare(store, at=[900, 500, 0], model=model, batch=17)
    calls = []
    original = type(forking.denoiser).__call__
    expected = forking.cost(tmp_path / "f.zarr").evaluations
    monkeypatch.setattr(
        type(forking.denoiser),
        "__call__",
        lambda self, x_t, *rest: calls.append(len(x_t)) or original(self, x_t, *rest),
    )
    with forking.open(tmp_path / "f.zarr") as writer:
        forking.run(writer, bar=False)
    assert len(calls) == expected == 3 * (4 * 1 + 5 * 1 + 2)
    assert sum(calls) == 3 * 4 * 2 * (10 + 6 + 1)
    assert max(calls) == 16


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_the_command_says_the_cost_first_and_what_to_type_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 8, model=GAUSSIAN)
    command = ("fork", "p.zarr", "f.zarr", "--at", "900, 500", "--device", "cpu")
    assert "f.zarr: 60 network evaluations" in traj(*command, "--batch", 32, "--dry-run")
    assert not Path("f.zarr").exists()
    text = traj(*command)
    assert text.index("network evaluations") < text.index("is complete; next: traj analyze consistency f.zarr")
    assert "nothing to do" in traj(*command)
    assert "store.replicas: 8 in the store, 4 asked for" in traj(*command, "--replicas", 4, code=1)
    assert "batch: 512 in the store, 64 asked for" in traj(*command, "--batch", 64, code=1)
    assert "plan.runs" in traj(*command, "--noise", "zero:500-0", code=1)
    assert "kept as f.stale-" in traj(*command, "--noise", "zero:500-0", "--stale", "set-aside")


def test_exact_denoisers_are_found_again_by_their_numbers(tmp_path):
    for count, name in enumerate(("gaussian:0.1,0.3,1x2x3", "mixture:-8,-4.5,6,8", "dataset:digits")):
        store = make(tmp_path / f"{count}.zarr", 2, model=name, steps=2, block=2)
        assert prepare(store, at=[500]).denoiser.identity["name"] == name.partition(":")[0] + ":digits" * (count == 2)


def test_a_model_may_be_renamed_but_not_changed(parents, models, tmp_path):
    store, model = parents["ddpm"]
    renamed = shutil.copytree(model, tmp_path / "renamed")
    assert prepare(store, at=[500], model=str(renamed)).config == prepare(store, at=[500], model=model).config
    with pytest.raises(
        ValueError, match=r"learned is not the one .*: model\.network, model\.weights, schedule\.learned_range"
    ):
        prepare(store, at=[500], model=models["learned"])
    with pytest.raises(ValueError, match=r"model 'fixed' is unknown.* --model"):
        prepare(store, at=[500])
    unet = UNet2DModel.from_pretrained(renamed, subfolder="unet")
    with torch.no_grad():
        next(unet.parameters()).add_(1e-3)
    unet.save_pretrained(renamed / "unet")
    with pytest.raises(ValueError, match=r"made with: model\.weights differ"):
        prepare(store, at=[500], model=str(renamed))


def test_a_parent_that_is_replaced_meanwhile_is_noticed(tmp_path):
    store = make(tmp_path / "p.zarr", 4, model=GAUSSIAN)
    forking = prepare(store, at=[500])
    with forking.open(tmp_path / "f.zarr") as writer:
        shutil.rmtree(store)
        make(store, 4, model=GAUSSIAN, seed=1)
        with pytest.raises(stores.StaleStore, match="changed while it was forked"):
            forking.run(writer, bar=False)
    assert stores.describe(tmp_path / "f.zarr")["blocks_done"] == 0


def test_a_damaged_state_is_named(tmp_path):
    store = make(tmp_path / "p.zarr", 4, model=GAUSSIAN)
    shard = store / "x_t" / "c.0.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[:64] = bytes(64)
    shard.write_bytes(content)
    forking = prepare(store, at=[950])
    with forking.open(tmp_path / "f.zarr") as writer, pytest.raises(stores.DamagedStore, match="traj verify"):
        forking.run(writer, bar=False)


@pytest.fixture(scope="module")
def of_every_kind(tmp_path_factory):
    """A folder of stores: a run, half of one, one of another's making, a result."""
    folder = tmp_path_factory.mktemp("kinds")
    make(folder / "p.zarr", 4, model=GAUSSIAN)
    make(folder / "half.zarr", 8, model=GAUSSIAN, blocks=[0])
    runs.make(folder / "mine.zarr", 4)
    stores.save(stores.open(folder / "p.zarr")[["timestep"]], folder / "result.zarr", {"quantity": "none"})
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.zarr"], 2, "nowhere.zarr does not exist"),
        (["mine.zarr"], 2, "neither `traj generate` nor `traj noise` made"),
        (["result.zarr"], 2, "result.zarr holds result"),
        (["half.zarr"], 1, "incomplete: 1 of 2 blocks"),
        (["p.zarr", "--at", "510"], 2, "timestep 510 is not stored in p.zarr; the nearest are 500 and 550"),
        (["p.zarr", "--at", "900,x"], 2, "expected timesteps, for example 900,800,700"),
        (["p.zarr", "--at", "500,500"], 2, "each once"),
        (["p.zarr", "--samples", "9"], 2, "p.zarr has 4"),
        (["p.zarr", "--samples", "0"], 2, "at least 1"),
        (["p.zarr", "--replicas", "0"], 2, "replicas 0 was given, expected at least 1"),
        (["p.zarr", "--batch", "0"], 2, "at least 1"),
        (["p.zarr", "--block", "0"], 2, "at least 1"),
        (["p.zarr", "--blocks", "3:4"], 2, "have 0 to 0"),
        (["p.zarr", "--noise", "loud"], 2, "'loud'; expected one of"),
        (["p.zarr", "--noise", "zero:2000-1500"], 2, "no step at timesteps 2000 to 1500"),
        (["p.zarr", "--noise", "zero:950-600"], 2, "the plan visits 500, 450, 400, ..., 0"),
        (["p.zarr", "--noise", "zero:100-400"], 2, "expected from high to low"),
        (["p.zarr", "--noise", "zero:400"], 2, "VALUE:FIRST-LAST"),
        (["p.zarr", "--eta", "1"], 2, "eta needs rule ddim"),
        (["p.zarr", "--eta", "much"], 2, "NUMBER:FIRST-LAST"),
        (["p.zarr", "--device", "tpu"], 2, "auto, cpu, cuda"),
        (["p.zarr", "--model", "nothing"], 2, "unknown"),
        (["p.zarr", "--model", "gaussian:0,2,1x4x4"], 2, "model.variance differ"),
    ],
)
def test_what_cannot_be_gets_one_message(arguments, code, message, of_every_kind, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(of_every_kind, tmp_path, dirs_exist_ok=True))
    store, *options = arguments
    at = [] if "--at" in options else ["--at", "500"]
    assert message in traj("fork", store, "f.zarr", *at, *options, code=code)
