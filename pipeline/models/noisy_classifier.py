"""A classifier of noisy images, which is told how noisy they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from traj.pipeline.process.schedule import Schedule
from traj.stores import IMAGE_DIMS, InputError, valid_range

Shape = tuple[int, int, int]
Bounds = tuple[float, float]
Function = Callable[[Tensor, Tensor | None], Tensor]
"""From images (image, channel, y, x) and their timesteps (image,), None for finished images, to logits."""

VALID_RANGE = (-1.0, 1.0)
TOLERANCE = 1e-6
"""By how much signal^2 may differ, relative to it, and noise_scale^2: more than by rounding to float32."""


@dataclass(frozen=True)
class NoisyClassifier:
    """A network that gives logits (image, class) of images (image, channel, y, x) and their times (image,).

    It was trained at the noise levels of ``schedule``, on images in [-1, 1] and noise, which are never clipped or
    resized; ``shape`` (channel, y, x) is theirs. ``name`` is what it is called, ``identity`` what a store's fingerprint
    knows of it.
    """

    name: str
    network: Callable[[Tensor, Tensor], Tensor]
    shape: Shape
    class_names: tuple[str, ...]
    schedule: Schedule
    identity: dict[str, Any]
    batch = 64
    """Images of 64 x 64, at the usual width, take about 3 GiB in one network call."""
    learned_from = "noisy images"

    def __call__(self, images: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Classify images of timesteps (image,), by default the least noisy, into logits (image, class), float32."""
        if timestep is None:
            timestep = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        times = torch.as_tensor(self.schedule.model_time, dtype=torch.float32, device=images.device)
        return self.network(images, times[timestep]).float()

    @property
    def environment(self) -> dict[str, str]:
        """What the last bits may depend on besides torch and the device."""
        return {"classifier": self.name}

    def fitted(
        self, path: Path, ds: xr.Dataset, states: tuple[str, ...], bounds: Bounds, device: torch.device
    ) -> Function:
        """Give the function that classifies x_t at its timesteps, and images without as the least noisy."""
        self.check(path, ds, states)
        return self

    def cautions(self, ds: xr.Dataset) -> tuple[str, ...]:
        """Say nothing, as images are given to the network as they are stored."""
        return ()

    def check(self, path: Path, ds: xr.Dataset, states: tuple[str, ...]) -> None:
        """Raise InputError where the images of a store, or its states if they have x_t, are not what it was trained on.

        x_t must have the signal and the noise_scale that the classifier's own schedule has at the same timestep, as a
        run in fewer steps has.
        """
        if (shape := shape_of(ds)) != self.shape:
            raise InputError(
                f"classifier {self.name} takes images of shape {self.shape} (channel, y, x), those of {path} have "
                f"{shape}; noisy images cannot be resized, so expected a classifier for these"
            )
        if (bounds := valid_range(ds)) != VALID_RANGE:
            raise InputError(
                f"classifier {self.name} takes images in -1 to 1, those of {path} are in {bounds}; expected a store of "
                "images in that range"
            )
        if "x_t" in states:
            self._check_levels(path, ds)

    def _check_levels(self, path: Path, ds: xr.Dataset) -> None:
        instead = "expected a store of the same process, or --on pred_x0 for its predictions alone"
        if ds.attrs["kind"] == "decoded":
            raise InputError(
                f"x_t of {path} was decoded from noisy latents, and classifier {self.name} takes images with noise "
                f"added to them; {instead}"
            )
        if missing := [name for name in ("signal", "noise_scale") if name not in ds.coords]:
            raise InputError(
                f"{path} has no {' and no '.join(missing)} along timestep, by which classifier {self.name} tells "
                f"whether it fits; {instead}"
            )
        timestep = ds["timestep"].to_numpy()
        if len(beyond := timestep[timestep >= self.schedule.T]):
            raise InputError(
                f"classifier {self.name} was trained at {self.schedule.T} timesteps, and {path} has timestep "
                f"{beyond[0]}; {instead}"
            )
        signal, noise_scale = ds["signal"].to_numpy(), ds["noise_scale"].to_numpy()
        trained_signal, trained_noise = self.schedule.signal[timestep], self.schedule.noise_scale[timestep]
        alike = np.isclose(signal**2, trained_signal**2, rtol=TOLERANCE, atol=0)
        alike &= np.isclose(noise_scale**2, trained_noise**2, rtol=0, atol=TOLERANCE)
        if len(other := np.flatnonzero(~alike)):
            k = other[0]
            raise InputError(
                f"classifier {self.name} was trained with signal {trained_signal[k]:.6g} and noise_scale "
                f"{trained_noise[k]:.6g} at timestep {timestep[k]}, and x_t of {path} has {signal[k]:.6g} and "
                f"{noise_scale[k]:.6g} there; {instead}"
            )


def shape_of(ds: xr.Dataset) -> Shape:
    """Give the shape (channel, y, x) of a store's images."""
    channel, y, x = (ds.sizes[dim] for dim in IMAGE_DIMS)
    return channel, y, x
