"""Analyses scale images by the range x_0 is said to lie in: it must be the one the run really had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from tests.networks import random_unet
from traj import stores
from traj.analysis.psnr import psnr
from traj.pipeline.making import fork, generate
from traj.pipeline.process import plans


@pytest.fixture(scope="module")
def zero(tmp_path_factory):
    """A network that predicts no noise at all, for images in [-5, 5]."""
    unet = random_unet()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.zero_()
    folder = tmp_path_factory.mktemp("models") / "zero"
    DDPMPipeline(unet, DDPMScheduler(clip_sample_range=5.0)).save_pretrained(folder)
    return str(folder)


def run(out, job):
    with job.open(out) as store:
        job.run(store, bar=False)
    return stores.open(out).compute()


def test_images_of_a_network_that_clips_at_5_are_scaled_by_that(zero, tmp_path):
    made = run(tmp_path / "a.zarr", generate.prepare(model=zero, steps=20, device="cpu"))
    assert made.x_0.attrs["valid_range"] == made.x_t.attrs["valid_range"] == [-5, 5]
    assert float((abs(made.x_0) > 1).mean()) > 0.9
    found = float(psnr(made, on=("x_t",)).psnr.sel(timestep=250).mean())
    assert found == pytest.approx(20.43, abs=0.005)
    at_250, x_0 = (np.clip((made[name] + 5) / 10, 0, 1) for name in ("x_t", "x_0"))
    error = np.square(at_250.sel(timestep=250) - x_0).mean(("channel", "y", "x"))
    assert found == pytest.approx(float(-10 * np.log10(error).mean()))
    forked = run(tmp_path / "f.zarr", fork.prepare(store=tmp_path / "a.zarr", at=[100], model=zero, device="cpu"))
    assert forked.x_0.attrs["valid_range"] == [-5, 5]


def test_a_plan_that_clips_elsewhere_says_so(zero, tmp_path):
    job = generate.prepare(model=zero, steps=5, samples=2, block=2, device="cpu")
    made = run(tmp_path / "a.zarr", replace(job, plan=plans.ddim(job.denoiser.schedule, 5, clip=2.0)))
    assert made.x_0.attrs["valid_range"] == [-2, 2]
    assert float(abs(made.x_0).max()) <= 2


@pytest.mark.parametrize(
    ("model", "clip"), [("mixture:-8,-4,6,8", 8.0), ("gaussian:0,0.25", 2.0), ("dataset:digits", 1.0)]
)
def test_clip_asks_the_model_where(model, clip):
    assert generate.prepare(model=model, clip=True).plan.clip == clip
    assert generate.prepare(model=model, clip=False).plan.clip is None


def test_clip_leaves_a_mixture_on_its_points(tmp_path):
    options = {"model": "mixture:-8,-4,6,8", "labels": "cycle", "samples": 8, "block": 8, "device": "cpu"}
    made = run(tmp_path / "a.zarr", generate.prepare(clip=True, **options))
    np.testing.assert_allclose(made.x_0.values.ravel(), [-8, -4, 6, 8] * 2, atol=1e-3)


def test_clip_of_a_range_that_is_not_even_is_refused():
    with pytest.raises(ValueError, match=r"x_0 lies in -8 to 9; expected .* leave out --clip"):
        generate.prepare(model="mixture:-8,9", clip=True)
