"""A network that is told a class, or none, beside the state and the time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from traj.pipeline.models import loading, surgery
from traj.pipeline.models.labels import Labels, check_label
from traj.pipeline.models.network import NetworkDenoiser
from traj.pipeline.process.cut import Cut


class LabelledDenoiser(NetworkDenoiser):
    """A network with ``num_classes`` classes, perhaps 0; ``unconditional`` tells whether it works without one.

    A family says with ``told`` what the network is given for labels.
    """

    num_classes: int
    unconditional: bool
    _checked: tuple[torch.Tensor, torch.Tensor | None] | None = None

    @abstractmethod
    def told(self, label: torch.Tensor) -> torch.Tensor | None:
        """Give what the network is told of labels (sample,), -1 for none."""

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Labels:
        """Read which labels samples are to have."""
        return Labels(self, asked, null)

    def answer(self, x_t: torch.Tensor, time: torch.Tensor, condition: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Run the network; condition is a label (sample,), -1 for none."""
        return surgery.forward(self.network, cut, x_t, time, self.class_labels(condition))

    def class_labels(self, label: torch.Tensor) -> torch.Tensor | None:
        """Return what the network is told as labels, checked once per label tensor (a check waits for the device)."""
        if self._checked is None or self._checked[0] is not label:
            check_label(label, self.num_classes, self.unconditional)
            self._checked = label, self.told(label)
        return self._checked[1]


def attempt(denoiser: LabelledDenoiser, device: str, factor: int = 1) -> None:
    """Run a network on one image, or one latent, of which an image has ``factor`` times the sides.

    Raises InputError where it fails, or gives anything but finite numbers in the shape of the image.
    """
    channels, height, width = denoiser.shape
    label = torch.full((1,), -1 if denoiser.unconditional else denoiser.num_classes - 1, device=device)
    what = "an image" if denoiser.valid_range else "a latent"
    given = f"{what} of {channels} x {height} x {width}, the size that its config.json says or that was given"
    loading.attempt(denoiser, label, device, given, factor)
