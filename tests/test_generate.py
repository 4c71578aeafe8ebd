import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from tests import warm
from tests.runs import digest
from traj import stores
from traj.pipeline.making import generate, hostcopy
from traj.pipeline.process.noise import NoiseSource, Purpose


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A random class-conditional network of the digits' kind, saved as people save theirs."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=11,
    )
    folder = tmp_path_factory.mktemp("models") / "random"
    DDPMPipeline(unet, DDPMScheduler(variance_type="fixed_large")).save_pretrained(folder)
    (folder / "traj.json").write_text(json.dumps({"null_label": 10}))
    return str(folder)


def make(out, samples=10, *, blocks=None, **options):
    generation = generate.prepare(**{"block": 4, "device": "cpu", "steps": 20, "samples": samples, **options})
    with generation.open(Path(out), blocks=blocks) as store:
        generation.run(store, bar=False)
    return Path(out)


def test_a_run_holds_every_state_the_network_was_given(network, tmp_path):
    ds = stores.open(make(tmp_path / "a.zarr", model=network, labels="cycle")).compute()
    assert ds.label.values.tolist() == list(range(10))
    assert ds.timestep.values.tolist() == list(range(950, -1, -50))
    start = NoiseSource(0, (1, 8, 8))(Purpose.START, range(10), 0)
    np.testing.assert_array_equal(ds.x_t.isel(timestep=0), start)
    # pred_x0 is the raw prediction made from the stored x_t
    denoiser = generate.prepare(model=network, device="cpu", block=10).denoiser
    x_t = torch.from_numpy(ds.x_t.sel(timestep=500).values)
    with torch.inference_mode():
        expected = denoiser(x_t, 500, torch.arange(10)).pred_x0.numpy()
    np.testing.assert_allclose(ds.pred_x0.sel(timestep=500), expected, rtol=1e-4, atol=1e-4)
    assert float(abs(ds.pred_x0).max()) > 1  # unclipped
    np.testing.assert_array_equal(ds.pred_x0.isel(timestep=-1).clip(-1, 1), ds.x_0)


def test_a_sample_does_not_depend_on_how_many_were_asked_for(network, tmp_path):
    few = stores.open(make(tmp_path / "a.zarr", 6, model=network)).compute()
    many = stores.open(make(tmp_path / "b.zarr", 10, model=network)).compute()
    np.testing.assert_array_equal(few.x_t, many.x_t[:6])
    np.testing.assert_array_equal(few.x_0, many.x_0[:6])


@pytest.mark.slow
def test_extending_and_any_block_order_equal_one_run(network, tmp_path):
    expected = digest(make(tmp_path / "straight.zarr", 10, model=network))
    make(tmp_path / "grown.zarr", 5, model=network)
    make(tmp_path / "grown.zarr", 10, model=network)
    make(tmp_path / "backwards.zarr", 10, model=network, blocks=[2])
    make(tmp_path / "backwards.zarr", 10, model=network, blocks=[0, 1])
    assert digest(tmp_path / "grown.zarr") == expected
    assert digest(tmp_path / "backwards.zarr") == expected


def test_every_keeps_a_subset_of_the_same_states(network, tmp_path):
    full = stores.open(make(tmp_path / "full.zarr", 4, model=network)).compute()
    some = stores.open(make(tmp_path / "some.zarr", 4, model=network, every=6)).compute()
    assert some.step.values.tolist() == [0, 6, 12, 18, 19]
    np.testing.assert_array_equal(some.x_t, full.x_t.isel(timestep=some.step.values))


@pytest.mark.parametrize("option", [{"dtype": "float16"}, {"round_bits": 10}])
def test_smaller_numbers_stay_close_and_leave_the_run_itself_alone(network, tmp_path, option):
    full = stores.open(make(tmp_path / "full.zarr", 4, model=network)).compute()
    less = stores.open(make(tmp_path / "less.zarr", 4, model=network, **option)).compute()
    np.testing.assert_allclose(less.x_t, full.x_t, rtol=2**-10, atol=1e-4)
    np.testing.assert_array_equal(less.x_0, full.x_0)


def test_learned_variances_are_stored(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "traj.json").write_text(json.dumps({"time_scale": 0.25}))
    out = make(tmp_path / "a.zarr", 4, model=str(tmp_path / "model"), sampler_name="iddpm")
    ds = stores.open(out).compute()
    assert np.isfinite(ds.log_variance).all()
    assert np.isnan(ds.noise_sd.values[:-1]).all()
    np.testing.assert_array_equal(ds.model_time, ds.timestep * 0.25)


def test_mixture_samples_end_on_its_points_in_the_class_asked_for(tmp_path):
    ds = stores.open(make(tmp_path / "a.zarr", 12, model="mixture:-8,-4,6,8", labels="cycle", steps=None))
    np.testing.assert_allclose(ds.x_0.values.ravel(), [-8, -4, 6, 8] * 3, atol=1e-3)


def golden_numbers(model, folder, **options):
    ds = stores.open(make(folder / f"{len(list(folder.iterdir()))}.zarr", 4, model=model, steps=50, **options))
    return [round(float(v), 4) for v in (ds.x_0.mean(), ds.x_0.std(), ds.x_t.std(), ds.pred_x0.std())]


def test_goldens_of_networks_say_when_numerics_must_be_raised(network, tmp_path):
    """The numbers of runs with equal inputs may change only together with generate.NUMERICS; see test_goldens too."""
    for golden in json.loads((Path(__file__).parent / "goldens.json").read_text())["networks"]:
        found = golden_numbers(network, tmp_path, **golden["options"])
        assert found == pytest.approx(golden["x_0 mean and sd, x_t sd, pred_x0 sd"], rel=1e-3, abs=1e-3), (
            f"{golden['model']}: the numbers of equal inputs changed; raise generate.NUMERICS and renew "
            "tests/goldens.json, or undo"
        )


@pytest.mark.parametrize(
    ("model", "labels", "of_6_to_9"),
    [
        ("mixture:-8,-4,6,8", "cycle", [2, 3, 0, 1]),
        ("mixture:-8,-4,6,8", "3", [3] * 4),
        ("gaussian:0,1", "none", [-1] * 4),
    ],
)
def test_labels_are_a_function_of_the_sample_number(model, labels, of_6_to_9):
    conditions = generate.prepare(model=model, labels=labels, device="cpu").conditions
    assert conditions.asked == {"labels": labels}
    assert conditions.visible(range(6, 10))["label"].tolist() == of_6_to_9
    assert conditions.of([*range(6, 10), None], torch.device("cpu")).tolist() == [*of_6_to_9, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nothing"}, "unknown"),
        ({"model": "digits"}, "traj train digits"),
        ({"sampler_name": "euler"}, "expected ddpm, ddim, iddpm or heun"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 1001}, "1 to 1000"),
        ({"eta": 0.5}, "only ddim"),
        ({"sampler_name": "ddim", "variance": "small"}, "only with ddpm"),
        ({"sampler_name": "iddpm"}, "learned"),
        ({"eps": "rederived", "clip": True}, "only with sampler ddim or heun, and with clip"),
        ({"eps": "rederived", "sampler_name": "ddim"}, "only with sampler ddim or heun, and with clip"),
        ({"eps": "lost", "sampler_name": "ddim", "clip": True}, "kept"),
        ({"spacing": "karras"}, "leading"),
        ({"labels": "cycle"}, "no classes"),
        ({"model": "mixture:-1,1", "labels": "2"}, "0 to 1"),
        ({"samples": 0}, "at least 1"),
        ({"every": 0}, "at least 1"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"device": "cuda:7"}, "not there"),
    ],
)
def test_what_cannot_be_is_refused_in_words(options, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate.prepare(**{"model": "gaussian:0,1", **options})


def test_numbers_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    generation = generate.prepare(model="gaussian:0,1", steps=4, samples=4, block=4)
    monkeypatch.setattr(type(generation.denoiser), "__call__", broken_prediction)
    with pytest.raises(FloatingPointError, match="not finite"), generation.open(tmp_path / "a.zarr") as store:
        generation.run(store, bar=False)
    assert stores.describe(tmp_path / "a.zarr")["blocks_done"] == 0


def broken_prediction(self, x_t, *_):
    from traj.pipeline.process.denoiser import Prediction

    return Prediction(x_t * float("nan"), x_t)


def test_an_error_of_the_store_reaches_the_generating_thread(tmp_path, monkeypatch):
    generation = generate.prepare(model="gaussian:0,1", samples=8, block=4)

    def full_disk(*arguments):
        raise OSError(28, "No space left")

    with generation.open(tmp_path / "a.zarr") as store:
        monkeypatch.setattr("traj.stores.shards.ShardFile.append", full_disk)
        with pytest.raises(stores.StoreError, match="No space"):
            generation.run(store, bar=False)
        monkeypatch.undo()
        store._error = None


def test_the_host_copy_keeps_order_and_waits_when_the_store_is_behind(monkeypatch):
    taken = []

    class SlowStore:
        def put(self, block, step, *arrays):
            time.sleep(0.005)
            taken.append((block, step, float(arrays[0][0])))

    with hostcopy.HostCopy(SlowStore(), torch.device("cpu")) as host:
        for step in range(30):
            host.put(0, step, [torch.full((2,), float(step))])
            assert step - len(taken) <= hostcopy.SLOTS + 2
        host.flush()
        assert taken == [(0, step, float(step)) for step in range(30)]


class Absorbing:
    """A store that takes everything."""

    def put(self, block, step, *arrays):
        pass


def stop_copying_at_any_moment(times):
    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    moments = random.Random(0)
    for _ in range(int(times)):
        try:
            with hostcopy.HostCopy(Absorbing(), torch.device("cpu")) as host:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-4, 5e-4))
                while True:
                    host.put(0, 0, [torch.zeros(1)])
        except KeyboardInterrupt:
            pass


@pytest.mark.slow
def test_an_interrupted_host_copy_never_waits_for_good(server):
    """With queue.Queue, an interrupt within put now and then left its reader waiting, and everybody for the reader."""
    process = warm.Process(server, [1500], call=("tests.test_generate", "stop_copying_at_any_moment"))
    try:
        assert process.wait() == 0
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        raise


EXACT = ["--model", "gaussian:0,0.25,1x16x16", "--block", "4", "--device", "cpu"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_then_resume_equals_uninterrupted(server, tmp_path):
    arguments = [*EXACT, "--samples", "54"]
    command = ["generate", tmp_path / "a.zarr", *arguments]
    assert warm.Process(server, ["generate", tmp_path / "straight.zarr", *arguments]).wait() == 0
    rng = np.random.default_rng(int(os.environ.get("TRAJ_TEST_SEED", "0")))
    for _ in range(10):
        process = warm.Process(server, command)
        shards = len(list((tmp_path / "a.zarr").glob("x_t/c.*.0")))
        while not process.ended() and len(list((tmp_path / "a.zarr").glob("x_t/c.*.0"))) == shards:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert warm.Process(server, command).wait() == 0
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "straight.zarr")


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_run_resumes(server, tmp_path):
    command = ["generate", tmp_path / "a.zarr", *EXACT, "--samples", "60"]
    process = warm.Process(server, command, stderr=tmp_path / "said")
    while not (tmp_path / "a.zarr" / "x_t" / "c.0.0.0.0.0").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    stderr = (tmp_path / "said").read_text()
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.rglob("*.partial"))
    assert warm.Process(server, command).wait() == 0
    assert stores.verify(tmp_path / "a.zarr", deep=True) == []


def test_weights_are_part_of_the_fingerprint(network, tmp_path):
    make(tmp_path / "a.zarr", 4, model=network)
    other = tmp_path / "random"
    shutil.copytree(network, other)
    unet = UNet2DModel.from_pretrained(other, subfolder="unet")
    with torch.no_grad():
        next(unet.parameters()).add_(1e-3)
    unet.save_pretrained(other / "unet")
    with pytest.raises(stores.StaleStore, match=r"model\.weights"):
        make(tmp_path / "a.zarr", 4, model=str(other))


def test_same_inputs_same_bytes_wherever_the_model_lies(network, tmp_path):
    shutil.copytree(network, tmp_path / "elsewhere" / "random")
    first = digest(make(tmp_path / "a.zarr", 4, model=network))
    second = digest(make(tmp_path / "b.zarr", 4, model=str(tmp_path / "elsewhere" / "random")))
    assert first == second
    text = (tmp_path / "a.zarr" / "zarr.json").read_text()
    assert str(tmp_path) not in text
    assert hashlib.sha256(text.encode()).hexdigest() == first["zarr.json"]
