"""Latent pipelines: our loop ends where diffusers' own ends, and latents go through the house without a valid range."""

import numpy as np
import pytest
import torch

from tests import families
from tests.sampling import relative
from traj.pipeline.models import autoencoders, load
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.plans import ddim
from traj.pipeline.process.sampler import reverse

STEPS = 10


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def theirs(family, batch, **told):
    """The first latents of a pipeline's own loop, the last ones, and its images in [0, 1]."""
    pipeline, kept = families.pipeline(family), []
    step = pipeline.scheduler.step

    def kept_step(output, t, x_t, **more):
        landed = step(output, t, x_t, **more)
        kept.append((x_t, landed.prev_sample))
        return landed

    pipeline.scheduler.step = kept_step
    images = pipeline(num_inference_steps=STEPS, generator=torch.manual_seed(3), output_type="np", **told).images
    return kept[0][0][:batch], kept[-1][1][:batch], images


def ours(family, start, labels=None, guidance=1.0):
    """The last latents of our loop with the scheduler's own timesteps."""
    denoiser = guided(load(str(families.folder(family))), guidance)
    asked = {"labels": "none" if labels is None else labels}
    conditions = denoiser.conditions(asked)
    (x_0,) = reverse(
        denoiser,
        [ddim(denoiser.schedule, STEPS)],
        lambda _: conditions.of(range(len(start)), start.device),
        start=lambda _: start,
        noise=lambda _, step: torch.zeros_like(start),
        keep=lambda *_: None,
    )
    return x_0


def images_of(family, latents):
    images = autoencoders.load(str(families.folder(family))).decode(latents).numpy()
    return np.moveaxis(images / 2 + 0.5, 1, -1).clip(0, 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", ["ldm-vq", "ldm-kl"])
def test_an_ldm_ends_where_its_pipeline_ends(family, batch):
    start, end, images = theirs(family, batch, batch_size=batch)
    x_0 = ours(family, start)
    assert relative(x_0, end) < 2e-4
    assert np.abs(images_of(family, x_0) - images).max() < 1e-3


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_dit_ends_where_its_pipeline_ends(batch, guidance):
    labels = [7, 999, 0][:batch]
    start, end, images = theirs("dit", batch, class_labels=labels, guidance_scale=guidance)
    x_0 = ours("dit", start, labels, guidance)
    assert relative(x_0, end) < 2e-4
    assert np.abs(images_of("dit", x_0) - images).max() < 1e-3
    other = ours("dit", start, labels, 5 - guidance)
    assert relative(other, end) > 0.01
