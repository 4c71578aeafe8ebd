"""Pipelines of a UNet2DModel from the command line on, and their own loops against ours."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from tests.networks import random_unet
from tests.sampling import noise_for, relative, run, start
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import generate
from traj.pipeline.models.surgery import count
from traj.pipeline.process.cut import Cut


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


# --- their loops ----------------------------------------------------------------------------------------------

LOOPS = {
    "ddpm": (DDPMPipeline, DDPMScheduler(variance_type="fixed_large"), {}),
    "ddpm-v": (DDPMPipeline, DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"), {}),
    "ddim": (DDIMPipeline, DDIMScheduler(), {"clip": True, "eta": 0.0}),
    "ddim-eta": (DDIMPipeline, DDIMScheduler(set_alpha_to_one=False), {"clip": True, "eta": 0.7}),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LOOPS)
def test_our_loop_is_that_of_the_pipeline(tmp_path, name, batch, monkeypatch):
    kind, scheduler, options = LOOPS[name]
    kind(random_unet(), scheduler).save_pretrained(tmp_path)
    sampler = name.partition("-")[0]
    generation = generate.prepare(model=str(tmp_path), sampler_name=sampler, steps=10, device="cpu", **options)
    shape = (batch, *generation.denoiser.shape)
    noise = noise_for(shape)
    ours, _, _, x_0 = run(generation.denoiser, generation.plan, start(shape), noise, torch.full((batch,), -1))

    pipeline = kind.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = []
    pipeline.unet.register_forward_pre_hook(lambda _module, given: theirs.append(given[0].clone()))
    drawn = iter([start(shape), *(noise(step) for step in generation.plan.steps)])
    for module in (f"pipelines.{sampler}.pipeline_{sampler}", f"schedulers.scheduling_{sampler}"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(drawn))
    asked = {"eta": options["eta"]} if "eta" in options else {}
    image = pipeline(batch_size=batch, num_inference_steps=10, output_type="np", **asked).images
    assert len(theirs) == len(ours) == 10
    assert max(relative(mine, their) for mine, their in zip(ours, theirs, strict=True)) < 2e-4
    assert relative((x_0 / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(image)) < 2e-4


def save_with(folder, scheduler):
    """A pipeline of any scheduler: the pipelines of diffusers for a UNet2DModel take theirs only."""
    random_unet().save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    return folder


SCHEDULERS = {
    "euler": ("ddim", EulerDiscreteScheduler(timestep_spacing="trailing")),
    "heun": ("heun", HeunDiscreteScheduler(timestep_spacing="trailing")),
    "edm": ("ddim", EDMEulerScheduler()),
    "flow": ("ddim", FlowMatchEulerDiscreteScheduler(shift=3.0)),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_our_loop_is_that_of_a_scheduler_behind_a_network_of_pixels(tmp_path, name):
    sampler, scheduler = SCHEDULERS[name]
    folder = save_with(tmp_path, scheduler)
    generation = generate.prepare(model=str(folder), sampler_name=sampler, steps=10, device="cpu")
    schedule, first = generation.denoiser.schedule, generation.plan.timesteps[0]
    x_t = schedule.start_sd(first) * start((3, 1, 8, 8))
    *_, x_0 = run(generation.denoiser, generation.plan, x_t, label=torch.full((3,), -1))

    scheduler.set_timesteps(10)
    x = x_t if schedule.alpha_bar is None else x_t / schedule.signal[first]  # theirs adds noise to a whole signal
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(random_unet().eval()(seen, timestep).sample, timestep, x).prev_sample
    assert relative(x_0, x) < 2e-4


def test_a_grid_is_made_of_as_many_steps_as_are_asked_for_and_found_again_by_a_fork(tmp_path):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    folder, out = save_with(tmp_path / "flow", scheduler), tmp_path / "a.zarr"
    refused = invoke("generate", out, "--model", folder, "--sampler", "ddim", code=2)
    assert "say how many: --steps 40" in refused.output.replace("\n", " ")
    invoke("generate", out, "--model", folder, "--sampler", "ddim", "--steps", 40, "--samples", 2)
    ds = stores.open(out)
    scheduler.set_timesteps(40)
    np.testing.assert_allclose(ds.model_time, scheduler.timesteps, rtol=1e-6)
    invoke("fork", out, tmp_path / "f.zarr", "--at", 20, "--noise", "shared", "--replicas", 1, "--model", folder)
    np.testing.assert_allclose(stores.open(tmp_path / "f.zarr").x_0[0, 0], ds.x_0, rtol=1e-5, atol=1e-6)
    assert "40" in invoke("info", folder, "--steps", 40).output


# --- which weights --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline whose plain weights, fp16 variant and averaged network all differ."""
    folder = tmp_path_factory.mktemp("models") / "many"
    DDPMPipeline(random_unet(), DDPMScheduler()).save_pretrained(folder)
    random_unet().half().save_pretrained(folder / "unet", variant="fp16")
    random_unet(center_input_sample=True).save_pretrained(folder / "unet_ema")
    return folder


def test_a_store_says_which_variant_made_it_and_what_reads_it_takes_that(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    out = tmp_path / "a.zarr"
    made = invoke("generate", out, "--model", folder.name, "--variant", "fp16", "--steps", 3, "--samples", 2)
    assert f"many holds unet and unet_ema; unet is used, as diffusers does. For the other, name {folder.name}" in (
        made.stderr.replace("\n", " ")
    )
    assert json.loads(stores.open(out).attrs["config"])["variant"] == "fp16"
    forked = tmp_path / "f.zarr"
    invoke("fork", out, forked, "--at", 333, "--noise", "shared")
    np.testing.assert_array_equal(stores.open(forked).x_0[0, 0], stores.open(out).x_0)
    invoke("readout", "features", out, tmp_path / "r.zarr", "--model", folder / "unet_ema", "--parts", "mid_block")
    assert "model.weights" in invoke("generate", out, "--model", folder, "--steps", 3, "--samples", 2, code=1).output


# --- sizes ----------------------------------------------------------------------------------------------------


def test_a_run_of_another_size_is_made_forked_cut_and_read(folder, tmp_path):
    out, table = tmp_path / "a.zarr", tmp_path / "cuts.yaml"
    invoke("generate", out, "--model", folder, "--size", "16x40", "--steps", 3, "--samples", 2, "--sampler", "ddim")
    ds = stores.open(out)
    assert dict(ds.x_0.sizes) == {"sample": 2, "channel": 1, "y": 16, "x": 40}
    table.write_text("[{edit: blocks, nb: 8, n: 2, t_start: 666}]")
    invoke("fork", out, tmp_path / "s.zarr", "--sweep", table, "--model", folder)
    network = random_unet()
    adds = count(network, (16, 40))
    share = 1 - adds.under(Cut(unet_blocks=2)) / adds.whole
    assert float(stores.open(tmp_path / "s.zarr").multiply_adds_removed[0]) == pytest.approx(share * 2 / 3, rel=1e-12)
    invoke("fork", out, tmp_path / "f.zarr", "--at", 333, "--replicas", 1, "--states", "--model", folder)
    read = ("--parts", "mid_block", "--pool", "flat", "--timesteps", 0, "--model", folder)
    invoke("readout", "features", tmp_path / "f.zarr", tmp_path / "r.zarr", *read)
    assert stores.open(tmp_path / "r.zarr").features_mid_block.sizes["feature_mid_block"] == 16 * 8 * 20


def test_info_counts_a_network_at_the_size_it_is_told(folder):
    said = invoke("info", folder, "--size", "16x40").output
    assert f"{count(random_unet(), (16, 40)).whole:,} multiply-adds for one image" in said
    assert "16 x 40" in said
    assert "holds unet and unet_ema" in said


def test_a_size_that_does_not_fit_is_refused_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "a.zarr"
    for size, says in (("15x40", "multiples of 2, 14x40 or 16x42 for example"), ("15,40", "expected HEIGHTxWIDTH")):
        result = invoke("generate", out, "--model", folder, "--size", size, "--steps", 3, code=2)
        assert says in result.output.replace("\n", " ")
    assert not out.exists()


@pytest.mark.parametrize(("option", "value"), [("--size", "16x16"), ("--variant", "fp16")])
def test_a_model_without_sizes_or_variants_refuses_them(tmp_path, option, value):
    result = invoke("generate", tmp_path / "a.zarr", "--model", "gaussian:0,1", option, value, code=2)
    assert f"{option[2:]} {value} was given, but model gaussian:0,1 has" in result.output
