"""A network as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from traj.pipeline.models import surgery
from traj.pipeline.models.labels import Labels, check_label
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Prediction, model_time, predicted
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

if TYPE_CHECKING:  # diffusers takes seconds to import, and exact denoisers do not need it
    from diffusers import UNet2DModel


class NetworkDenoiser:
    """A UNet2DModel, predicting epsilon, sample or v, with or without labels and learned-range variance.

    ``null_label`` is the class embedding that stands for no label, the last one of the network. ``autocast``
    runs the network in bfloat16; predictions keep the precision of x_t.

    Raises
    ------
    InputError
        When the network's channels, labels or size don't fit; the message names what.
    """

    def __init__(
        self,
        network: UNet2DModel,
        schedule: Schedule,
        *,
        identity: Mapping[str, Any],
        name: str = "network",
        null_label: int | None = None,
        autocast: bool = False,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.schedule = schedule
        self.identity = dict(identity)
        self.name = name
        self.shape: tuple[int, ...] = _shape(network)
        reach = 1.0 if schedule.clip_sample is None else schedule.clip_sample
        self.valid_range = (-reach, reach)
        self.null_label = null_label
        self.autocast = autocast
        self._checked: tuple[torch.Tensor, torch.Tensor | None] | None = None
        channels, out = network.config.in_channels, network.config.out_channels
        expected = channels * (2 if schedule.learned_range else 1)
        if out != expected:
            raise InputError(
                f"the network has {channels} channels in and {out} out; expected {expected} out with "
                f"{'learned_range' if schedule.learned_range else 'fixed'} variance"
            )
        if network.config.class_embed_type is not None:
            raise InputError(
                f"class_embed_type {network.config.class_embed_type!r} is not supported; expected labels "
                "through num_class_embeds"
            )
        embeddings = network.config.num_class_embeds or 0
        if null_label is not None and null_label != embeddings - 1:
            raise InputError(f"null_label is {null_label}; expected the last of {embeddings} class embeddings")
        self.num_classes = embeddings if null_label is None else embeddings - 1
        self.unconditional = self.num_classes == 0 or null_label is not None

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Labels:
        """Read which labels samples are to have."""
        return Labels(self, asked, null)

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: torch.Tensor, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, channel, y, x) of one timestep; condition is a label (sample,), -1 for none.

        ``cut`` says what of the U-Net is left out; InputError where there is no such part.
        """
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            time, classes = model_time(self.schedule, timestep, x_t.device), self._class_labels(condition)
            output = surgery.forward(self.network, cut, x_t, time, classes)
        output = output.to(x_t.dtype)
        fraction = None
        if self.schedule.learned_range:
            output, v = output.chunk(2, dim=1)
            fraction = (v + 1) / 2
        return predicted(self.schedule, timestep, x_t, output, fraction)

    def _class_labels(self, label: torch.Tensor) -> torch.Tensor | None:
        """Return the class embeddings to look up, checked once per label tensor (a check waits for the device)."""
        if self._checked is None or self._checked[0] is not label:
            check_label(label, self.num_classes, self.unconditional)
            has_embeddings = self.network.config.num_class_embeds
            self._checked = label, label.where(label >= 0, self.null_label or 0) if has_embeddings else None
        return self._checked[1]


def _shape(network: UNet2DModel) -> tuple[int, int, int]:
    size = network.config.sample_size
    if size is None:
        raise InputError("the network's config has no sample_size; expected the images' height and width")
    height, width = (size, size) if isinstance(size, int) else size
    return network.config.in_channels, int(height), int(width)
