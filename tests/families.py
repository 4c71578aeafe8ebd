"""Pipelines of every family with small random networks, saved as folders once a session: copy one to change it."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    VQModel,
)

from tests.networks import random_unet

_PLACE = TemporaryDirectory(prefix="traj-families-")


def ldm(autoencoder):
    unet = random_unet(in_channels=4, out_channels=4)
    return LDMPipeline(vqvae=autoencoder, unet=unet, scheduler=DDIMScheduler(clip_sample=False))


def dit(**changes):
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "out_channels": 8}
    transformer = DiTTransformer2DModel(**{**config, **changes})
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.3)
    names = {k: f"kind {k}, kind of {k}" for k in range(1000)}
    return DiTPipeline(transformer, kl(), DDIMScheduler(clip_sample=False), id2label=names)


def kl(**changes):
    return AutoencoderKL(**{**_LEVELS, **changes})


def vq(**changes):
    return VQModel(**{**_LEVELS, "num_vq_embeddings": 32, "scaling_factor": 0.7, **changes})


def tiny():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


_LEVELS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}
"""Of autoencoders whose images have twice the sides of their latents."""

PIPELINES = {"ldm-vq": lambda: ldm(vq()), "ldm-kl": lambda: ldm(kl()), "dit": dit}


@cache
def folder(family):
    """The folder of a pipeline."""
    torch.manual_seed(0)
    place = Path(_PLACE.name, family)
    PIPELINES[family]().save_pretrained(place)
    return place


def pipeline(family):
    """The same pipeline as diffusers loads it."""
    loaded = DiffusionPipeline.from_pretrained(folder(family))
    loaded.set_progress_bar_config(disable=True)
    return loaded
