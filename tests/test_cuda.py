"""On a GPU: the noise and, within float32, the numbers of a CPU; bits that repeat; too little memory in our words."""

import json
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline, DDIMScheduler
from torch.nn.functional import conv2d, scaled_dot_product_attention

import traj
from tests import families
from tests.networks import random_unet
from tests.runs import digest
from tests.test_generate import make
from traj import stores
from traj.analysis.posterior import posterior
from traj.pipeline.cli import main
from traj.pipeline.making import dataset, fork, readout
from traj.pipeline.making.hostcopy import SLOTS, HostCopy
from traj.pipeline.models import train
from traj.pipeline.models.digits import CLASSIFIERS, RECIPES, VAES
from traj.pipeline.process.device import inference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

CUDA = torch.device("cuda")
FLOAT32, TF32, RUN = 2e-5, 1e-4, 1e-4
"""Relative errors: sums in another order stay below the first, products of TF32 are above the second, and a run adds up
those of float32 to the last at most."""


def error(found, expected):
    """The norm of a difference, relative."""
    return np.linalg.norm(np.ravel(found - expected)) / np.linalg.norm(np.ravel(expected))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Networks hardly trained, on the GPU."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("digits", "digits-iddpm", "digits-classifier"):
        assert train.train(name, folder / name, steps=3, batch=8, device="cuda", progress=False)
    return folder


RUNS = {
    "ddpm": ("digits", {"labels": "cycle"}),
    "ddim": ("digits", {"sampler_name": "ddim", "clip": True}),
    "learned variance": ("digits-iddpm", {"sampler_name": "iddpm"}),
    "guided": ("digits", {"labels": "cycle", "guidance": 2.0}),
    "gaussian": ("gaussian:0.5,0.25,1x4x4", {}),
    "mixture": ("mixture:-8,-4,6,8", {"labels": "cycle"}),
    "heun": ("mixture:-8,-4,6,8", {"schedule": "edm", "sampler_name": "heun"}),
    "dataset": ("dataset:digits", {"sampler_name": "ddim"}),
}


def run(models, name, out, **options):
    model, of_run = RUNS[name]
    there = models / model
    return make(out, model=str(there) if there.is_dir() else model, **of_run, **{"device": "cuda", **options})


@pytest.fixture(scope="module")
def parents(models, tmp_path_factory):
    """Runs on the GPU, ten samples in blocks of four."""
    folder = tmp_path_factory.mktemp("parents")
    return {name: run(models, name, folder / f"{count}.zarr") for count, name in enumerate(RUNS)}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_a_cpu(models, parents, name, tmp_path):
    on_cpu = stores.open(run(models, name, tmp_path / "cpu.zarr", device="cpu")).compute()
    on_gpu = stores.open(parents[name]).compute()
    assert on_gpu.attrs["fingerprint"] == on_cpu.attrs["fingerprint"]
    np.testing.assert_array_equal(on_gpu.x_t.isel(timestep=0), on_cpu.x_t.isel(timestep=0))  # noise, bit for bit
    for states in ("x_t", "pred_x0"):
        pairs = zip(*(ds[states].transpose("timestep", ...).values for ds in (on_gpu, on_cpu)), strict=True)
        assert max(error(*pair) for pair in pairs) < RUN, states
    assert error(on_gpu.x_0.values, on_cpu.x_0.values) < RUN


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_in_full_float32_unless_tf32_is_asked_for(tf32):
    torch.manual_seed(0)
    points, kernel = torch.randn(8, 64, 16, 16), torch.randn(64, 64, 3, 3)
    products = {
        "convolution": lambda points, kernel: conv2d(points, kernel),
        "matrices": lambda points, kernel: points.flatten(0, 2) @ kernel.flatten(1)[:16],
    }
    for name, product in products.items():
        with inference(tf32):
            found = product(points.to(CUDA), kernel.to(CUDA)).cpu()
        expected = product(points.double(), kernel.double())
        assert (error(found.numpy(), expected.numpy()) > TF32) == tf32, name
        assert error(found.numpy(), expected.numpy()) < (1e-2 if tf32 else FLOAT32), name


def test_attention_is_in_full_float32():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 256, 8)
    with inference():
        found = scaled_dot_product_attention(query.to(CUDA), key.to(CUDA), value.to(CUDA)).cpu()
    expected = scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert error(found.numpy(), expected.numpy()) < FLOAT32


def test_tf32_and_autocast_are_inputs_and_the_card_is_named(models, parents, tmp_path):
    plain = stores.open(parents["ddpm"])
    first = plain.pred_x0[:, 0].values
    for option, most in (("tf32", 1e-2), ("autocast", 1e-1)):
        path = run(models, "ddpm", tmp_path / option, **{option: True})
        found = stores.open(path)
        assert json.loads(found.attrs["config"])[option] is True
        assert found.attrs["fingerprint"] != plain.attrs["fingerprint"]
        assert FLOAT32 < error(found.pred_x0[:, 0].values, first) < most, option
        (made,) = stores.describe(path)["environments"]
        assert made["environment"]["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("name", ["ddpm", "learned variance", "dataset"])
def test_a_run_that_goes_on_later_has_the_bytes_of_one_that_was_not_stopped(models, parents, name, tmp_path):
    run(models, name, tmp_path / "a.zarr", blocks=range(1))
    assert digest(run(models, name, tmp_path / "a.zarr")) == digest(parents[name])


@pytest.mark.parametrize("name", ["ddpm", "learned variance", "mixture"])
def test_with_the_runs_own_noise_a_fork_replays_it_to_the_bit(models, parents, name, tmp_path):
    parent = stores.open(parents[name]).compute()
    at = [int(timestep) for timestep in parent.timestep[[0, 9, 19]]]
    model, _ = RUNS[name]
    model = str(models / model) if (models / model).is_dir() else None
    forks = fork.prepare(
        store=parents[name], at=at, noise=["shared"], replicas=2, batch=4, states=True, model=model, device="cuda"
    )
    with forks.open(tmp_path / "f.zarr") as store:
        forks.run(store, bar=False)
    ds = stores.open(tmp_path / "f.zarr").compute()
    for variant, timestep in enumerate(at):
        branch, visited = ds.isel(variant=variant), slice(timestep, None)
        for replica in range(2):
            np.testing.assert_array_equal(branch.x_0[replica], parent.x_0)
            for states in ("x_t", "pred_x0"):
                np.testing.assert_array_equal(
                    branch[states][replica].sel(timestep=visited), parent[states].sel(timestep=visited)
                )


class Slow:
    """Stands for a store whose disk holds the run up."""

    def __init__(self):
        self.taken = []

    def put(self, block, step, *arrays):
        time.sleep(0.02)
        self.taken.append([array.copy() for array in arrays])


def test_states_handed_over_are_those_of_a_plain_copy():
    matrix = torch.eye(2048, device=CUDA)

    def made(step):
        state = torch.full((2048, 2048), float(step), device=CUDA)
        for _ in range(8):  # so that the copy is asked for long before there is anything to copy
            state = matrix @ state
        return [state, -state[:7]]

    store, steps = Slow(), 4 * SLOTS
    with HostCopy(store, CUDA) as host, inference():
        for step in range(steps):
            host.put(0, step, made(step))  # nothing else holds on to its memory
        host.flush()
    for step, taken in enumerate(store.taken):
        for found, expected in zip(taken, made(step), strict=True):
            np.testing.assert_array_equal(found, expected.cpu())


def read(name, out, **options):
    reading = readout.prepare(name, **options)
    with reading.open(out) as store:
        reading.run(store, bar=False)
    return stores.open(out).compute()


@pytest.mark.parametrize(
    ("name", "of", "values"),
    [
        ("classifier", "ddpm", ["logits", "x_0_logits"]),
        ("likelihood", "ddpm", ["squared_distance", "squared_distance_null", "eps_difference"]),
        ("likelihood", "mixture", ["squared_distance", "eps_difference"]),
    ],
)
def test_networks_read_what_they_read_on_a_cpu(models, parents, name, of, values, tmp_path):
    model = {"classifier": str(models / "digits-classifier"), "likelihood": str(models / "digits")}[name]
    options = {"store": parents[of], **({} if of == "mixture" else {"model": model})}
    on_cpu, on_gpu = (read(name, tmp_path / device, device=device, **options) for device in ("cpu", "cuda"))
    for value in values:
        known = np.isfinite(on_cpu[value].values)
        assert error(on_gpu[value].values[known], on_cpu[value].values[known]) < FLOAT32, value
        np.testing.assert_array_equal(np.isfinite(on_gpu[value]), known)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    making, out = dataset.prepare("digits"), tmp_path_factory.mktemp("datasets") / "digits.zarr"
    with making.open(out) as store:
        making.run(store, bar=False)
    return out


def test_the_posterior_is_that_of_the_analysis(parents, digits, tmp_path):
    found = read("posterior", tmp_path / "r", store=parents["ddpm"], dataset=str(digits), batch=64, device="cuda")
    expected = posterior(stores.open(parents["ddpm"]), dataset=stores.open(digits)).compute()
    for name in ("weight", "log_weight", "entropy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found["index"], expected["index"])


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *CLASSIFIERS.values(), *VAES.values()], ids=lambda _: "")
def test_training_repeats_to_the_bit_and_is_close_to_that_of_a_cpu(recipe):
    options = {"steps": 4, "batch": 8, "seed": 0}
    (network, curve), (again, _) = (train.fit(recipe, device=CUDA, **options) for _ in range(2))
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name
    _, on_cpu = train.fit(recipe, **options)
    for term, values in on_cpu.items():
        np.testing.assert_allclose(curve[term], values, rtol=1e-3, err_msg=term)


FAMILIES = {
    "ldm-kl": {"sampler_name": "ddim"},
    "dit": {"labels": "cycle", "guidance": 4.0},
    "sd1": {"sampler_name": "ddim", "prompts": ["a cat", "a dog"], "guidance": 5.0, "negative_prompt": "snow"},
    "sd3": {"sampler_name": "heun", "prompts": ["a cat"]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_and_their_images_are_those_of_a_cpu(family, tmp_path):
    latents, images = [], []
    for device in ("cpu", "cuda"):
        of_run = {"steps": 10, "samples": 3, "block": 3, "device": device, **FAMILIES[family]}
        path = make(tmp_path / device, model=str(families.folder(family)), **of_run)
        latents.append(stores.open(path).compute())
        decoded = {"store": tmp_path / "cpu", "model": str(families.folder(family)), "dtype": "float16"}
        images.append(read("decode", tmp_path / f"{device} images", device=device, **decoded))
    for states in ("x_t", "pred_x0", "x_0"):
        assert error(latents[1][states].values, latents[0][states].values) < RUN, states
        assert error(images[1][states].values, images[0][states].values) < 1e-3, states


def test_features_are_those_of_a_cpu(models, parents, tmp_path):
    asked = {"store": parents["ddpm"], "model": str(models / "digits"), "parts": ("mid_block", "up_blocks.0")}
    on_cpu, on_gpu = (read("features", tmp_path / device, device=device, **asked) for device in ("cpu", "cuda"))
    for name in on_cpu.data_vars:
        assert error(on_gpu[name].values, on_cpu[name].values) < FLOAT32, name


def test_a_recorded_pipeline_returns_the_same_bits_and_its_states_are_those_of_a_cpu(tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        pipe = DDIMPipeline(random_unet(), DDIMScheduler(clip_sample=False)).to(device)
        pipe.set_progress_bar_config(disable=True)

        def call(pipe=pipe):
            generator = torch.Generator().manual_seed(0)
            return pipe(batch_size=3, num_inference_steps=6, generator=generator, output_type="np").images

        with inference():
            plain = call()
            with traj.record(pipe, tmp_path / device):
                recorded = [call(), call()]
        assert all(np.array_equal(images, plain) for images in recorded)
        found[device] = stores.open(tmp_path / device).compute()
    for states in ("x_t", "pred_x0", "x_0"):
        assert error(found["cuda"][states].values, found["cpu"][states].values) < RUN, states


@pytest.fixture
def little_memory():
    """Lets this process have 128 MiB of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**27 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_too_little_memory_is_said_in_one_line_and_leaves_nothing_behind(models, little_memory, tmp_path):
    size = ["--samples", "8192", "--block", "8192", "--steps", "2"]
    out = tmp_path / "out.zarr"
    result = CliRunner().invoke(
        main, ["generate", str(out), "--model", str(models / "digits"), *size, "--device", "cuda"]
    )
    assert result.exit_code == 1, result.output
    (said,) = [line for line in result.output.splitlines() if "not enough memory" in line]
    assert "ried to allocate" in said
    assert "Traceback" not in result.output
    assert not out.exists()
