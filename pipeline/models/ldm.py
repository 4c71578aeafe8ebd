"""Pipelines of a UNet2DModel on the latents of an autoencoder: LDMPipeline."""

from __future__ import annotations

from traj.pipeline.models import autoencoders, pixels
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.models.repository import Repository

PARTS = {**pixels.PARTS, "vae": tuple(autoencoders.KINDS)}
"""What a pipeline of this family has beside its scheduler."""


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> UNetDenoiser:
    """Load the U-Net of latents, as ``pixels.load`` does; ``size`` is that of the images that are decoded.

    The autoencoder makes no part of a process; only its config is read.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When a part is not supported, or the network cannot be loaded or run.
    """
    autoencoder = autoencoders.describe(repository)
    denoiser = pixels.load(
        repository,
        device=device,
        autocast=autocast,
        steps=steps,
        size=None if size is None else autoencoder.latent_sides(size),
        factor=autoencoder.factor,
    )
    autoencoder.require_channels(denoiser.shape[0])
    return denoiser
