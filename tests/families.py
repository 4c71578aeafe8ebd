"""Pipelines of every family with small random networks, saved as folders once a session: copy one to change it."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DConditionModel,
    VQModel,
)

from tests import glide, openai
from tests.networks import random_unet

_PLACE = TemporaryDirectory(prefix="traj-families-")


def pixels():
    return DDPMPipeline(random_unet(), DDPMScheduler())


def ldm(autoencoder):
    unet = random_unet(in_channels=4, out_channels=4)
    return LDMPipeline(vqvae=autoencoder, unet=unet, scheduler=DDIMScheduler(clip_sample=False))


def dit(**changes):
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "out_channels": 8}
    transformer = DiTTransformer2DModel(**{**config, **changes})
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.3)
    names = {k: f"kind {k}, kind of {k}" for k in range(1000)}
    return DiTPipeline(transformer, kl(), DDIMScheduler(clip_sample=False), id2label=names)


def stable_diffusion(**scheduler):
    """1.x, or 2.x where the scheduler is one of v."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    return StableDiffusionPipeline(
        vae=kl(),
        text_encoder=CLIPTextModel(_clip()),
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=40,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(_clip(projection_dim=16)),
        tokenizer=_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip(projection_dim=8, hidden_act="gelu")),
        tokenizer_2=_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


WORDS = ("a", "cat", "dog", "in", "snow")
"""All that the tokenizer of pipelines with texts has a token for."""
TOKENS = 8
"""The most that such a pipeline reads of a text, the first and the last token among them."""


def _clip(**changes):
    from transformers import CLIPTextConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(_vocabulary()) - 2, "eos_token_id": len(_vocabulary()) - 1}
    sizes |= {"vocab_size": len(_vocabulary()), "max_position_embeddings": TOKENS, **ends}
    return CLIPTextConfig(**{**sizes, **changes})


def _merges():
    """The pairs that join the letters of each word from its first one on."""
    for word in WORDS:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        while len(letters) > 1:
            yield letters[0], letters[1]
            letters = ["".join(letters[:2]), *letters[2:]]


def _vocabulary():
    letters = sorted(set("".join(WORDS)))
    words = ["".join(pair) for pair in _merges()]
    return list(dict.fromkeys([*letters, *(f"{x}</w>" for x in letters), *words, "<|startoftext|>", "<|endoftext|>"]))


def _tokenizer():
    from transformers import CLIPTokenizer

    place = Path(_PLACE.name, "tokenizer")
    place.mkdir(exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(_vocabulary())}))
    (place / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in dict.fromkeys(_merges())))
    return CLIPTokenizer.from_pretrained(place, model_max_length=TOKENS)


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

PIPELINES = {
    "pixels": pixels,
    "ldm-vq": lambda: ldm(vq()),
    "ldm-kl": lambda: ldm(kl()),
    "dit": dit,
    "glide": glide.Tiny,
    "openai": openai.Tiny,
}
TEXT_PIPELINES = {
    "sd1": lambda: stable_diffusion(),
    "sd2": lambda: stable_diffusion(prediction_type="v_prediction"),
    "sd3": stable_diffusion_3,
}
"""Those that need transformers."""


@cache
def folder(family):
    """The folder of a pipeline."""
    torch.manual_seed(0)
    place = Path(_PLACE.name, family)
    {**PIPELINES, **TEXT_PIPELINES}[family]().save_pretrained(place)
    return place


def pipeline(family):
    """The same pipeline as diffusers loads it."""
    without = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    loaded = DiffusionPipeline.from_pretrained(folder(family), **without)
    loaded.set_progress_bar_config(disable=True)
    return loaded
