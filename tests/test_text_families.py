"""Families that read texts: the same latents and images as diffusers' own pipelines make, from the same noise."""

from functools import cache

import pytest
import torch

from tests import families
from tests.sampling import relative
from traj.pipeline import models
from traj.pipeline.models import autoencoders
from traj.pipeline.process import plans
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.sampler import reverse

TOLERANCE = 2e-4
STEPS = 10
PROMPTS = ["a cat", "a dog in snow", ""]
CPU = torch.device("cpu")


@cache
def pipeline(family):
    return families.pipeline(family)


@cache
def model(family):
    return models.load(str(families.folder(family)), steps=STEPS if family == "sd3" else None)


def latents(batch):
    return torch.randn((batch, 4, 8, 8), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def ours(family, batch, guidance, asked):
    denoiser = guided(model(family), guidance)
    conditions = denoiser.conditions({"labels": "none", **asked})
    (x_0,) = reverse(
        denoiser,
        [plans.ddim(denoiser.schedule, None if denoiser.schedule.is_grid else STEPS)],
        lambda times: conditions.of([*range(batch)] * times, CPU),
        start=lambda _: latents(batch),
        noise=lambda *_: pytest.fail("ddim without eta adds no noise"),
        keep=lambda *_: None,
    )
    return x_0


def theirs(family, batch, guidance, asked, output_type="latent"):
    negative = [asked["negative_prompt"]] * batch if "negative_prompt" in asked else None
    return pipeline(family)(
        asked["prompts"][:batch],
        negative_prompt=negative,
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        latents=latents(batch),
        output_type=output_type,
    ).images


@pytest.mark.parametrize("negative", [{}, {"negative_prompt": "in snow"}], ids=["plain", "negative"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", families.TEXT_PIPELINES)
def test_guided_latents_are_those_of_their_pipeline(family, batch, negative):
    asked = {"prompts": PROMPTS, **negative}
    assert relative(ours(family, batch, 5.0, asked), theirs(family, batch, 5.0, asked)) < TOLERANCE


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", families.TEXT_PIPELINES)
def test_latents_without_guidance_are_those_of_their_pipeline(family, batch):
    asked = {"prompts": PROMPTS}
    assert relative(ours(family, batch, 1.0, asked), theirs(family, batch, 1.0, asked)) < TOLERANCE


@pytest.mark.parametrize("family", families.TEXT_PIPELINES)
def test_decoded_images_are_those_of_their_pipeline(family):
    asked = {"prompts": PROMPTS}
    autoencoder = autoencoders.load(str(families.folder(family)))
    with torch.inference_mode():
        images = autoencoder.decode(ours(family, 3, 5.0, asked))
    torch.testing.assert_close(
        (images / 2 + 0.5).clamp(0, 1), theirs(family, 3, 5.0, asked, "pt"), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("family", families.TEXT_PIPELINES)
def test_texts_guidance_and_negative_prompts_all_matter(family):
    """The pipelines of these tests would notice a text that is lost."""
    cat, dog = {"prompts": ["a cat"]}, {"prompts": ["a dog"]}
    ends = [
        ours(family, 1, 1.0, cat),
        ours(family, 1, 1.0, dog),
        ours(family, 1, 5.0, cat),
        ours(family, 1, 5.0, {**cat, "negative_prompt": "snow"}),
    ]
    for k, one in enumerate(ends):
        assert all(relative(one, other) > 5 * TOLERANCE for other in ends[:k])
