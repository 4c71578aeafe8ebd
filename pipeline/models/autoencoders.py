"""Autoencoders of diffusers: from latents to images and back, exactly as the pipelines do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, VQModel

from traj.pipeline.configs import Key, Keys, flag, number, off, one_of, optional, several, text, whole
from traj.pipeline.models import loading, repository
from traj.pipeline.models.repository import Repository
from traj.stores import InputError, MissingFile

PARTS = ("vae", "vqvae")
"""The parts of a pipeline that may be its autoencoder."""
VALID_RANGE = (-1.0, 1.0)
"""The range that decoded images are meant to lie in; nothing clips them to it."""

_WIDTH = whole(1, 1 << 16)
_CHANNELS = {"in_channels": Key(3, _WIDTH), "out_channels": Key(3, _WIDTH)}
_CONVOLUTIONS = {
    **_CHANNELS,
    "scaling_factor": Key(0.18215, number(above=0)),
    "down_block_types": Key(("DownEncoderBlock2D",), several(text)),
    "up_block_types": Key(("UpDecoderBlock2D",), several(text)),
    "block_out_channels": Key((64,), several(_WIDTH)),
    "layers_per_block": Key(1, whole(1, 1000)),
    "act_fn": Key("silu", text),
    "norm_num_groups": Key(32, _WIDTH),
    "mid_block_add_attention": Key(True, flag),
}
_UNUSED = {
    "sample_size": "of tiles; latents are decoded as a whole",
    "force_upcast": "of half precision; latents are decoded in float32",
}
_KEYS = {
    AutoencoderKL: Keys(
        used={
            **_CONVOLUTIONS,
            "latent_channels": Key(4, _WIDTH),
            "shift_factor": Key(None, optional(number())),
            "latents_mean": Key(False, off),
            "latents_std": Key(False, off),
            "use_quant_conv": Key(True, flag),
            "use_post_quant_conv": Key(True, flag),
        },
        unused=_UNUSED,
    ),
    VQModel: Keys(
        used={
            **_CONVOLUTIONS,
            "latent_channels": Key(3, _WIDTH),
            "num_vq_embeddings": Key(256, whole(1, 10_000_000)),
            "vq_embed_dim": Key(None, optional(_WIDTH)),
            "norm_type": Key("group", one_of("group", "spatial")),
        },
        unused={**_UNUSED, "lookup_from_codebook": "of latents that are numbers of codes"},
    ),
    AutoencoderTiny: Keys(
        used={
            **_CHANNELS,
            "encoder_block_out_channels": Key((64,) * 4, several(_WIDTH)),
            "decoder_block_out_channels": Key((64,) * 4, several(_WIDTH)),
            "num_encoder_blocks": Key((1, 3, 3, 3), several(whole(1, 1000))),
            "num_decoder_blocks": Key((3, 3, 3, 1), several(whole(1, 1000))),
            "upsampling_scaling_factor": Key(2, whole(2, 2)),
            "act_fn": Key("relu", text),
            "upsample_fn": Key("nearest", text),
            "latent_channels": Key(4, _WIDTH),
            "scaling_factor": Key(1.0, number(above=0)),
            "shift_factor": Key(0.0, number()),
        },
        unused={
            **_UNUSED,
            "block_out_channels": "the same as decoder_block_out_channels",
            "latent_magnitude": "of latents stored as bytes",
            "latent_shift": "of latents stored as bytes",
        },
    ),
}
KINDS: dict[str, type[ModelMixin]] = {kind.__name__: kind for kind in _KEYS}
"""The classes of autoencoders that are loaded."""


@dataclass(frozen=True)
class Described:
    """What the config of an autoencoder says, its weights untouched.

    ``part`` is where it lies in ``repository``.
    """

    repository: Repository
    part: str
    kind: type[ModelMixin]
    config: Mapping[str, Any]

    @property
    def factor(self) -> int:
        """The sides of an image over those of its latent: each level but one doubles them."""
        levels = self.config["num_decoder_blocks" if self.kind is AutoencoderTiny else "block_out_channels"]
        return int(2 ** (len(levels) - 1))

    @property
    def latent_channels(self) -> int:
        """How many channels a process makes; those of a VQModel may be fewer than its network's."""
        return int(self.config.get("vq_embed_dim") or self.config["latent_channels"])

    def require_channels(self, channels: int) -> None:
        """Raise InputError where a process does not make latents of this autoencoder."""
        if channels != self.latent_channels:
            raise InputError(
                f"the network makes {channels} channels, and the autoencoder in {self.part} has latents of "
                f"{self.latent_channels}; they do not belong together"
            )

    def latent_sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """Give the height and width of the latents of images. Raises InputError where there are none of this size."""
        height, width = size
        if height % self.factor or width % self.factor:
            fitting = "x".join(str(max(1, round(side / self.factor)) * self.factor) for side in size)
            raise InputError(
                f"size {height}x{width} was given, but an image has {self.factor} times the sides of its latent; "
                f"expected multiples of {self.factor}, such as {fitting}"
            )
        return height // self.factor, width // self.factor


class Autoencoder:
    """An autoencoder with its weights, on a device, in float32.

    ``identity`` holds the JSON values that define its numbers, ``name`` is what it was loaded by, and ``channels`` are
    those of its images.
    """

    def __init__(self, described: Described, device: str) -> None:
        network, sha256 = loading.load(described.kind, described.config, described.repository, described.part)
        self.network: Any = network.to(device).eval().requires_grad_(False)
        self.name, self.config = described.repository.name, described.config
        self.factor, self.latent_channels = described.factor, described.latent_channels
        self.channels = int(described.config["out_channels"])
        self.scaling_factor = float(described.config["scaling_factor"])
        self.shift_factor = float(described.config.get("shift_factor") or 0)
        self.identity = {"weights": sha256, "network": _KEYS[described.kind].fingerprint(described.config)}

    def image_shape(self, latent: tuple[int, ...]) -> tuple[int, int, int]:
        """Give the shape (channel, y, x) of the image of a latent's. Raises InputError for what is no latent of it."""
        if len(latent) != 3 or latent[0] != self.latent_channels:
            raise InputError(
                f"the autoencoder of {self.name} was given events of shape {latent}; expected latents (channel, y, x) "
                f"of {self.latent_channels} channels"
            )
        return self.channels, latent[1] * self.factor, latent[2] * self.factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents (image, channel, y, x), as a process ends with them, to images in about [-1, 1].

        Vectors of a VQModel are first replaced by the nearest in its code book.
        """
        images: torch.Tensor = self.network.decode(latents / self.scaling_factor + self.shift_factor).sample
        return images

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (image, channel, y, x) in [-1, 1] to latents as a process ends with them.

        Of an AutoencoderKL it is the mean; those of a VQModel are not replaced by codes.
        """
        encoded = self.network.encode(images)
        latents: torch.Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents - self.shift_factor) * self.scaling_factor


def load(model: str | Repository, device: str = "cpu") -> Autoencoder:
    """Load the autoencoder of a pipeline, or one that lies alone, by its folder or hub id.

    Raises
    ------
    MissingFile
        When it is not there.
    InputError
        When the pipeline has none, or it is of a kind that is not supported, or cannot be loaded.
    """
    found = model if isinstance(model, Repository) else repository.named(model)
    if found is None:
        raise MissingFile(f"autoencoder {model!r}: there is no such folder; expected one, or a hub id")
    try:
        return Autoencoder(describe(found), device)
    except InputError as error:
        raise type(error)(f"model {found.name}: {error}") from None


def describe(found: Repository) -> Described:
    """Read the config of the autoencoder of a pipeline. Raises MissingFile, InputError as ``load`` does."""
    listed = next((part for part in PARTS if part in found.parts), found.network)
    itself = str(found.config(found.network).get("_class_name")) in KINDS
    part = found.network if itself else listed
    config = found.config(part)
    kind = KINDS.get(str(config.get("_class_name")))
    if kind is None:
        raise InputError(
            f"{part or found.folder} holds {config.get('_class_name')!r}; expected an autoencoder, {', '.join(KINDS)}, "
            f"as the part {' or '.join(PARTS)} of a pipeline, or alone"
        )
    return Described(found, part, kind, _KEYS[kind].read(config, f"the config.json of {part or 'the autoencoder'}"))
