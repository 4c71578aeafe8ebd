"""The autoencoder that turns the latents of a store into images: that of the pipeline, or one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import xarray as xr

from traj.pipeline.models import own, stored
from traj.stores import InputError


class Decoder(Protocol):
    """What turns latents (image, channel, y, x) into images (image, channel, y, x) in about [-1, 1]."""

    name: str
    identity: dict[str, Any]

    def image_shape(self, latent: tuple[int, ...]) -> tuple[int, int, int]:
        """Give the shape of the image of a latent's. Raises InputError for what is no latent of it."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images."""
        ...


@dataclass
class OwnDecoder:
    """The ``decode`` of one's own denoiser, whose ``identity`` covers it."""

    name: str
    identity: dict[str, Any]
    decode: Callable[[torch.Tensor], torch.Tensor]
    device: str

    def image_shape(self, latent: tuple[int, ...]) -> tuple[int, int, int]:
        """Decode a latent of zeros, and look. Raises InputError where that gives no image."""
        with torch.inference_mode():
            found = tuple(self.decode(torch.zeros(1, *latent, device=self.device)).shape)
        if len(found) != 4 or found[0] != 1:
            raise InputError(
                f"decode of model {self.name} made {found} of one latent {latent}; expected an image, (1, channel, y, "
                "x)"
            )
        return found[1:]


def load(path: Path, ds: xr.Dataset, given: str | None, device: str) -> Decoder:
    """Load the autoencoder of the model ``given`` for the store of a path, by default of the one that the store names.

    Raises InputError, MissingFile.
    """
    config = stored.origin(path, ds)
    name = stored.name_of(path, config) if given is None else given
    if own.is_own(name):
        denoiser = stored.load_for(path, config, given, device)
        if given is None and (different := stored.differences(denoiser, config)):
            raise _another(name, path, different)
        decode = getattr(denoiser, "decode", None)
        if decode is None:
            raise InputError(f"model {name} has no autoencoder; expected a denoiser with decode, see wrap()")
        return OwnDecoder(denoiser.name, denoiser.identity, decode, device)
    from traj.pipeline.models import autoencoders, repository  # bring in diffusers, which takes seconds

    pipeline = repository.named(name, config.get("variant") if given is None else None)
    if given is None and pipeline is not None and isinstance(expected := config["model"].get("weights"), str):
        _, weights = pipeline.weights(pipeline.network)
        if weights.sha256 != expected:
            raise _another(name, path, ["model.weights"])
    return autoencoders.load(name if pipeline is None else pipeline, device)


def _another(name: str, path: Path, different: list[str]) -> InputError:
    return InputError(
        f"model {name} is not the one {path} was made with: {', '.join(different)} differ; say where that one lies "
        "with --model, or name another"
    )
