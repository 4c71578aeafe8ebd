"""Stable Diffusion 3: a transformer on latents, by rectified flow, that reads two CLIP encoders' embeddings."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel

from traj.pipeline.configs import Key, Keys, Read, Unfit, optional, text, whole
from traj.pipeline.models import autoencoders, loading, surgery
from traj.pipeline.models.repository import Repository
from traj.pipeline.models.text_denoiser import TextDenoiser
from traj.pipeline.models.text_encoders import ClipText
from traj.pipeline.process.cut import Cut
from traj.stores import InputError

PARTS = {
    "transformer": ("SD3Transformer2DModel",),
    "vae": tuple(autoencoders.KINDS),
    "text_encoder": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""What a pipeline of this family has beside its scheduler."""
LEFT_OUT = {
    "text_encoder_3": "the network is told zeros in its place, as by diffusers with text_encoder_3=None",
    "tokenizer_3": "it goes with text_encoder_3",
    "image_encoder": "images are not read",
    "feature_extractor": "images are not read",
}
"""Parts that it may have and that are not loaded, and what a person should know of it."""
ZEROS = 256
"""Tokens of the third text encoder, which diffusers replaces by as many zeros."""

_WIDTH = whole(1, 1 << 16)


def _places(read: Read) -> Read:
    """Read a list that may be empty."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Unfit("a list")
        return tuple(map(read, value))

    return read_all


KEYS = Keys(
    used={
        "sample_size": Key(128, _WIDTH),
        "patch_size": Key(2, _WIDTH),
        "in_channels": Key(16, _WIDTH),
        "num_layers": Key(18, whole(1, 1000)),
        "attention_head_dim": Key(64, _WIDTH),
        "num_attention_heads": Key(18, _WIDTH),
        "joint_attention_dim": Key(4096, _WIDTH),
        "caption_projection_dim": Key(1152, _WIDTH),
        "pooled_projection_dim": Key(2048, _WIDTH),
        "out_channels": Key(16, _WIDTH),
        "pos_embed_max_size": Key(96, _WIDTH),
        "dual_attention_layers": Key((), _places(whole(0, 1000))),
        "qk_norm": Key(None, optional(text)),
    }
)


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> StableDiffusion3Denoiser:
    """Load the transformer with its scheduler, and traj.json; the texts' encoders come when the first text is read.

    Latents are those of images of ``size``, by default the sample_size of the network's config. The third encoder of
    texts is left out.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When a part is not supported, parts do not fit, or the network cannot be loaded or run.
    """
    autoencoder = autoencoders.describe(repository)
    config = KEYS.read(repository.config(repository.network), "the network's config.json")
    clips = ClipText(repository), ClipText(repository, "text_encoder_2", "tokenizer_2")
    texts = JointTexts(clips, config["joint_attention_dim"])
    autoencoder.require_channels(config["in_channels"])
    if (pooled := sum(clip.projection for clip in clips)) != config["pooled_projection_dim"]:
        raise InputError(
            f"the network has pooled_projection_dim {config['pooled_projection_dim']}, and its text encoders give "
            f"{pooled} numbers; they do not belong together"
        )
    network, sha256 = loading.load(SD3Transformer2DModel, config, repository, repository.network)
    denoiser = StableDiffusion3Denoiser(
        network.to(device),
        loading.schedule(repository, steps, loading.own(repository)),
        texts=texts,
        sides=autoencoder.latent_sides(size) if size else (config["sample_size"],) * 2,
        name=repository.name,
        identity={
            "weights": sha256,
            "network": KEYS.fingerprint(config),
            **clips[0].identity,
            **clips[1].identity,
            "text_encoder_3": None,
        },
        autocast=autocast,
    )
    tokens = torch.zeros(1, clips[0].tokens + ZEROS, texts.width, device=device)
    given = "latents of {} x {} x {}, the size that its config.json says or that was given".format(*denoiser.shape)
    loading.attempt(denoiser, (tokens, torch.zeros(1, pooled, device=device)), device, given, autoencoder.factor)
    return denoiser


class JointTexts:
    """What a transformer is told of a text: two encoders' tokens side by side and zeros after them, and the whole."""

    def __init__(self, clips: tuple[ClipText, ClipText], width: int) -> None:
        if width < sum(clip.width for clip in clips):
            raise InputError(
                f"the network has joint_attention_dim {width}; expected at least {sum(clip.width for clip in clips)}, "
                "the widths of both text encoders"
            )
        self._clips, self.width = clips, width

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the embeddings of tokens (token, width) and of the whole text (projection,)."""
        read = [clip.outputs(text, device) for clip in self._clips]
        side_by_side = torch.cat([output.hidden_states[-2][0] for output in read], dim=-1)
        tokens = side_by_side.new_zeros(len(side_by_side) + ZEROS, self.width)
        tokens[: len(side_by_side), : side_by_side.shape[1]] = side_by_side
        return tokens, torch.cat([output.text_embeds[0] for output in read])

    def lost(self, text: str) -> str:
        """Give the longer end of a text that one of the encoders does not read, "" where both read all of it."""
        return max((clip.lost(text) for clip in self._clips), key=len)


class StableDiffusion3Denoiser(TextDenoiser):
    """An SD3Transformer2DModel that is told a text."""

    network: SD3Transformer2DModel

    def answer(
        self, x_t: torch.Tensor, time: torch.Tensor, condition: tuple[torch.Tensor, ...], cut: Cut
    ) -> torch.Tensor:
        """Run the network; condition is the embeddings of tokens and of the whole texts."""
        surgery.check(self.network, cut)
        tokens, pooled = condition
        output: torch.Tensor = self.network(
            x_t, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=time.expand(len(x_t))
        ).sample
        return output
