"""A network as a denoiser, whatever family it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Conditions, Prediction, model_time, network_input, predicted
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError


class NetworkDenoiser(ABC):
    """A network of diffusers, predicting epsilon, sample, v or a flow, with or without learned-range variance.

    A family says what its network is told beside the state and the time: ``conditions`` and ``answer``. ``shape``
    is that of an event (channel, y, x), ``valid_range`` the range of x_0, None for latents. A network with a
    variance answers with twice the channels it is given. Where the schedule does not say that it is learned, the
    variance is refused, or left out in a family that ``drops_variance``. ``autocast`` runs the network in bfloat16;
    predictions keep the precision of x_t.

    Raises
    ------
    InputError
        When the network's channels do not fit.
    """

    drops_variance = False
    cautions: tuple[str, ...] = ()
    """What a person should know of where it was loaded from."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        shape: tuple[int, ...],
        channels_out: int,
        valid_range: tuple[float, float] | None,
        identity: Mapping[str, Any],
        name: str = "network",
        autocast: bool = False,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.schedule, self.shape, self.valid_range = schedule, shape, valid_range
        self.identity, self.name, self.autocast = dict(identity), name, autocast
        expected = shape[0] * (2 if schedule.learned_range else 1)
        self._has_variance = channels_out == 2 * shape[0]
        if channels_out != expected and not (self._has_variance and self.drops_variance):
            raise InputError(
                f"the network has {shape[0]} channels in and {channels_out} out; expected {expected} out with "
                f"{'learned_range' if schedule.learned_range else 'fixed'} variance"
            )

    @abstractmethod
    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Conditions:
        """Read what samples are to be made under."""

    @abstractmethod
    def answer(self, x_t: torch.Tensor, time: torch.Tensor, condition: Any, cut: Cut) -> torch.Tensor:
        """Run the network under a condition that ``conditions`` made."""

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, channel, y, x) of one timestep under a condition that ``conditions`` made.

        ``cut`` says what of a U-Net is left out; InputError where there is no such part.
        """
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            time, seen = model_time(self.schedule, timestep, x_t.device), network_input(self.schedule, timestep, x_t)
            output = self.answer(seen, time, condition, cut)
        output, fraction = output.to(x_t.dtype), None
        if self._has_variance:
            output, v = output.chunk(2, dim=1)
            fraction = (v + 1) / 2 if self.schedule.learned_range else None
        return predicted(self.schedule, timestep, x_t, output, fraction)
