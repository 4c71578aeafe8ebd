"""Stable Diffusion 1.x and 2.x: a U-Net on latents that reads a CLIP encoder's embedding of a text."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from traj.pipeline.models import autoencoders, loading, surgery, unet
from traj.pipeline.models.repository import Repository
from traj.pipeline.models.text_denoiser import TextDenoiser
from traj.pipeline.models.text_encoders import ClipText
from traj.pipeline.process.cut import Cut
from traj.stores import InputError

PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": tuple(autoencoders.KINDS),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""What a pipeline of this family has beside its scheduler."""
LEFT_OUT = {
    "safety_checker": "images are not checked",
    "feature_extractor": "images are not checked",
    "image_encoder": "images are not read",
}
"""Parts that it may have and that are not loaded, and what a person should know of it."""


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> StableDiffusionDenoiser:
    """Load the U-Net with its scheduler, and traj.json; the texts' encoder comes when the first text is read.

    Latents are those of images of ``size``, by default the sample_size of the network's config. As in diffusers'
    pipeline, predictions are never clipped, and steps are counted from 1 where they are spaced from the start.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When a part is not supported, parts do not fit, or the network cannot be loaded or run.
    """
    autoencoder = autoencoders.describe(repository)
    texts = PlainTexts(ClipText(repository))
    config = unet.CONDITION_KEYS.read(repository.config(repository.network), "the network's config.json")
    autoencoder.require_channels(config["in_channels"])
    if config["cross_attention_dim"] != texts.clip.width:
        raise InputError(
            f"the network has cross_attention_dim {config['cross_attention_dim']}, and its text encoder gives "
            f"embeddings of {texts.clip.width}; they do not belong together"
        )
    schedule = loading.schedule(repository, steps, loading.own(repository))
    sides = autoencoder.latent_sides(size) if size else unet.sides_of(config)
    network, sha256 = loading.load(UNet2DConditionModel, config, repository, repository.network)
    denoiser = StableDiffusionDenoiser(
        network.to(device),
        replace(schedule, clip_sample=None, steps_offset=1),
        texts=texts,
        sides=sides,
        name=repository.name,
        identity={"weights": sha256, "network": unet.CONDITION_KEYS.fingerprint(config), **texts.clip.identity},
        autocast=autocast,
    )
    condition = (torch.zeros(1, texts.clip.tokens, texts.clip.width, device=device),)
    given = "latents of {} x {} x {}, the size that its config.json says or that was given".format(*denoiser.shape)
    loading.attempt(denoiser, condition, device, given, autoencoder.factor)
    return denoiser


class PlainTexts:
    """What a U-Net is told of a text: the last hidden states of its tokens."""

    def __init__(self, clip: ClipText) -> None:
        self.clip, self.lost = clip, clip.lost

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor]:
        """Give the embeddings of a text's tokens (token, width)."""
        return (self.clip.outputs(text, device).last_hidden_state[0],)


class StableDiffusionDenoiser(TextDenoiser):
    """A UNet2DConditionModel that is told a text."""

    network: UNet2DConditionModel

    def answer(
        self, x_t: torch.Tensor, time: torch.Tensor, condition: tuple[torch.Tensor, ...], cut: Cut
    ) -> torch.Tensor:
        """Run the network; condition is (embeddings,), each (sample, token, width)."""
        return surgery.forward(self.network, cut, x_t, time, encoder_hidden_states=condition[0])
