"""Pipelines of a UNet2DModel and a scheduler, on images themselves: DDPM, DDIM and kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel

from traj.pipeline.models import labelled, loading, unet
from traj.pipeline.models.labelled import LabelledDenoiser
from traj.pipeline.models.labels import NUMBERS
from traj.pipeline.models.repository import Repository
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

PARTS = {"unet": ("UNet2DModel",)}
"""What a pipeline of this family has beside its scheduler."""


def load(
    repository: Repository,
    *,
    device: str,
    autocast: bool,
    steps: int | None,
    size: tuple[int, int] | None,
    factor: int | None = None,
) -> UNetDenoiser:
    """Load a UNet2DModel with its scheduler, and traj.json.

    The network is tried on one image of ``size``, height and width, by default its config's sample_size. A ``factor``
    says that what it makes are latents, and that an image has so many times the sides.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When a part is not supported, or the network cannot be loaded or run.
    """
    own = loading.own(repository, null_label=True)
    config = unet.KEYS.read(repository.config(repository.network), "the network's config.json")
    schedule = loading.schedule(repository, steps, own)
    network, sha256 = loading.load(UNet2DModel, config, repository, repository.network)
    denoiser = UNetDenoiser(
        network.to(device),
        schedule,
        size=size,
        name=repository.name,
        identity={
            "weights": sha256,
            "network": unet.KEYS.fingerprint(config),
            "time_scale": own["time_scale"],
            "null_label": own["null_label"],
        },
        null_label=own["null_label"],
        autocast=autocast,
        latent=factor is not None,
    )
    labelled.attempt(denoiser, device, factor or 1)
    return denoiser


class UNetDenoiser(LabelledDenoiser):
    """A UNet2DModel, with or without labels.

    Labels are rows of a table of embeddings, or with a class_embed_type any whole numbers: "timestep" embeds them as it
    embeds time, "identity" adds them to the embedding of time. ``null_label`` is the class embedding that stands for no
    label, the last one of the network. ``size`` is the height and width of images, by default what the network's config
    says; ``latent`` images have no valid range.

    Raises
    ------
    InputError
        When the network's channels, labels or size don't fit; the message names what.
    """

    network: UNet2DModel

    def __init__(
        self,
        network: UNet2DModel,
        schedule: Schedule,
        *,
        identity: Mapping[str, Any],
        name: str = "network",
        null_label: int | None = None,
        autocast: bool = False,
        size: tuple[int, int] | None = None,
        latent: bool = False,
    ) -> None:
        reach = 1.0 if schedule.clip_sample is None else schedule.clip_sample
        super().__init__(
            network,
            schedule,
            shape=(network.config.in_channels, *(size or _size(network))),
            channels_out=network.config.out_channels,
            valid_range=None if latent else (-reach, reach),
            identity=identity,
            name=name,
            autocast=autocast,
        )
        self.null_label = null_label
        self._kind = network.config.class_embed_type or ("table" if network.config.num_class_embeds else None)
        embeddings = network.config.num_class_embeds if self._kind == "table" else 0
        if null_label is not None and null_label != embeddings - 1:
            raise InputError(f"null_label is {null_label}; expected the last of {embeddings} class embeddings")
        if self._kind in (None, "table"):
            self.num_classes = embeddings if null_label is None else embeddings - 1
        elif self._kind == "timestep" and network.config.time_embedding_type == "learned":
            self.num_classes = network.config.num_train_timesteps
        else:
            self.num_classes = NUMBERS
        self.unconditional = self.num_classes == 0 or null_label is not None

    def told(self, label: torch.Tensor) -> torch.Tensor | None:
        """Give rows of the table, the labels as numbers, or nothing; labels are (sample,), -1 for none."""
        match self._kind:
            case "table":
                return label.where(label >= 0, self.null_label or 0)
            case "identity":
                return label[:, None].float()
            case "timestep" if self.network.config.time_embedding_type == "fourier" and not label.all():
                raise InputError("label 0, but the network is told the logarithm of a label; expected 1 or more")
            case "timestep":
                return label
        return None


def _size(network: UNet2DModel) -> tuple[int, int]:
    size = network.config.sample_size
    if size is None:
        raise InputError("the network's config has no sample_size; expected the images' height and width: give --size")
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
