"""Converted networks of improved-diffusion and guided-diffusion, on images, with or without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from traj.pipeline.configs import Key, Keys, flag, number, optional, several, whole
from traj.pipeline.models import labelled, loading
from traj.pipeline.models.labelled import LabelledDenoiser
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.models.repository import Repository
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

PARTS = {"unet": (OpenAIUNet.__name__,)}
"""What a pipeline of this family has beside its scheduler."""

_WIDTH = whole(1, 1 << 16)
KEYS = Keys(
    {
        "sample_size": Key(64, _WIDTH),
        "in_channels": Key(3, _WIDTH),
        "out_channels": Key(3, _WIDTH),
        "model_channels": Key(128, _WIDTH),
        "channel_mult": Key((1, 2, 3, 4), several(number(above=0))),
        "num_res_blocks": Key(2, whole(1, 1000)),
        "attention_resolutions": Key((16, 8), several(_WIDTH)),
        "num_heads": Key(4, _WIDTH),
        "num_head_channels": Key(None, optional(_WIDTH)),
        "num_heads_upsample": Key(None, optional(_WIDTH)),
        "use_scale_shift_norm": Key(True, flag),
        "resblock_updown": Key(False, flag),
        "use_new_attention_order": Key(False, flag),
        "num_classes": Key(None, optional(whole(1, 10_000_000))),
        "text_width": Key(None, optional(_WIDTH)),
    }
)
"""The keys of an OpenAIUNet's config."""


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> OpenAIDenoiser:
    """Load an OpenAIUNet with its scheduler, and traj.json.

    Raises
    ------
    MissingFile
        When a file that belongs to such a model is missing.
    InputError
        When a part is not supported, a size was asked for, or the network cannot be loaded or run.
    """
    config = KEYS.read(repository.config(repository.network), "the network's config.json")
    refuse_size(size, config)
    if config["text_width"] is not None:
        raise InputError("the network reads texts, and there is no text_encoder beside it; convert the checkpoint anew")
    own = loading.own(repository)
    schedule = loading.schedule(repository, steps, own)
    network, sha256 = loading.load(OpenAIUNet, config, repository, repository.network)
    denoiser = OpenAIDenoiser(
        network.to(device),
        schedule,
        name=repository.name,
        identity={"weights": sha256, "network": KEYS.fingerprint(config), "time_scale": own["time_scale"]},
        autocast=autocast,
    )
    labelled.attempt(denoiser, device)
    return denoiser


def refuse_size(size: tuple[int, int] | None, config: Mapping[str, Any]) -> None:
    """Refuse another size than that of the config, which says at which sizes there is attention. Raises InputError."""
    if size is not None:
        side = config["sample_size"]
        raise InputError(f"size {size[0]}x{size[1]} was given, but its images are {side} x {side}; leave out --size")


class OpenAIDenoiser(LabelledDenoiser):
    """An OpenAIUNet without text. One with classes has none that stands for no label.

    Raises
    ------
    InputError
        When the network's channels don't fit.
    """

    network: OpenAIUNet

    def __init__(
        self,
        network: OpenAIUNet,
        schedule: Schedule,
        *,
        identity: Mapping[str, Any],
        name: str = "network",
        autocast: bool = False,
    ) -> None:
        config = network.config
        super().__init__(
            network,
            schedule,
            shape=(config.in_channels, config.sample_size, config.sample_size),
            channels_out=config.out_channels,
            valid_range=(-1.0, 1.0),
            identity=identity,
            name=name,
            autocast=autocast,
        )
        self.num_classes = config.num_classes or 0
        self.unconditional = not self.num_classes

    def told(self, label: torch.Tensor) -> torch.Tensor | None:
        """Give the labels (sample,), of a network with classes."""
        return label if self.num_classes else None
