"""Pipelines of a DiTTransformer2DModel on the latents of an autoencoder, with classes: DiTPipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel

from traj.pipeline.configs import Key, Keys, flag, number, off, one_of, optional, text, whole
from traj.pipeline.models import autoencoders, loading, surgery
from traj.pipeline.models.labelled import LabelledDenoiser
from traj.pipeline.models.repository import Repository
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

PARTS = {
    "transformer": (DiTTransformer2DModel.__name__, "Transformer2DModel"),  # as those of 2023 call it
    "vae": tuple(autoencoders.KINDS),
}
"""What a pipeline of this family has beside its scheduler."""

_WIDTH = whole(1, 1 << 16)
_OF_OTHERS = {
    key: Key(False, off)
    for key in (
        "caption_channels",
        "cross_attention_dim",
        "double_self_attention",
        "interpolation_scale",
        "num_vector_embeds",
        "only_cross_attention",
        "use_additional_conditions",
        "use_linear_projection",
    )
} | {"attention_type": Key("default", one_of("default"))}
"""Keys of a Transformer2DModel that such a network has no use for."""
KEYS = Keys(
    used={
        "num_attention_heads": Key(16, _WIDTH),
        "attention_head_dim": Key(72, _WIDTH),
        "in_channels": Key(4, _WIDTH),
        "out_channels": Key(None, optional(_WIDTH)),
        "num_layers": Key(28, whole(1, 1000)),
        "attention_bias": Key(True, flag),
        "sample_size": Key(32, _WIDTH),
        "patch_size": Key(2, whole(1, 1000)),
        "activation_fn": Key("gelu-approximate", text),
        "num_embeds_ada_norm": Key(1000, whole(1, 10_000_000)),
        "upcast_attention": Key(False, flag),
        "norm_type": Key("ada_norm_zero", one_of("ada_norm_zero")),
        "norm_elementwise_affine": Key(False, flag),
        "norm_eps": Key(1e-5, number(above=0)),
        **_OF_OTHERS,
    },
    unused={
        "dropout": "of training; nothing is dropped when a network predicts",
        "norm_num_groups": "of layers that this network does not have",
    },
)


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> DiTDenoiser:
    """Load a DiTTransformer2DModel with its scheduler, and traj.json; ``size`` is that of the decoded images.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When a part is not supported, or the network cannot be loaded or run.
    """
    autoencoder = autoencoders.describe(repository)
    config = KEYS.read(repository.config(repository.network), "the network's config.json")
    autoencoder.require_channels(config["in_channels"])
    network, sha256 = loading.load(
        DiTTransformer2DModel,
        {key: value for key, value in config.items() if key not in _OF_OTHERS},
        repository,
        repository.network,
    )
    denoiser = DiTDenoiser(
        network.to(device),
        loading.schedule(repository, steps, loading.own(repository)),
        size=None if size is None else autoencoder.latent_sides(size),
        name=repository.name,
        identity={"weights": sha256, "network": KEYS.fingerprint(config)},
        autocast=autocast,
    )
    given = "a latent of {} x {} x {}, the size that its config.json says or that was given".format(*denoiser.shape)
    loading.attempt(denoiser, torch.full((1,), -1, device=device), device, given, autoencoder.factor)
    return denoiser


class DiTDenoiser(LabelledDenoiser):
    """A DiTTransformer2DModel (Peebles and Xie 2022); the embedding after those of its classes stands for none.

    Of a network that also predicts a variance, that part is left out where the scheduler has a variance of its own.

    Raises
    ------
    InputError
        When the network's channels don't fit, or latents are not square.
    """

    network: DiTTransformer2DModel
    drops_variance = True
    unconditional = True

    def __init__(
        self,
        network: DiTTransformer2DModel,
        schedule: Schedule,
        *,
        identity: Mapping[str, Any],
        name: str = "network",
        autocast: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        config = network.config
        sides = size or (config.sample_size, config.sample_size)
        if sides[0] != sides[1]:
            raise InputError(
                f"latents of {sides[0]} x {sides[1]} were asked for, but the network makes only square ones"
            )
        super().__init__(
            network,
            schedule,
            shape=(config.in_channels, *sides),
            channels_out=network.out_channels,
            valid_range=None,
            identity=identity,
            name=name,
            autocast=autocast,
        )
        self.num_classes: int = config.num_embeds_ada_norm

    def answer(self, x_t: torch.Tensor, time: torch.Tensor, condition: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Run the network; condition is a label (sample,), -1 for none."""
        surgery.check(self.network, cut)
        output: torch.Tensor = self.network(x_t, time.expand(len(x_t)), self.class_labels(condition)).sample
        return output

    def told(self, label: torch.Tensor) -> torch.Tensor:
        """Give the class embeddings to look up for labels (sample,), -1 for none."""
        return label.where(label >= 0, self.num_classes)
