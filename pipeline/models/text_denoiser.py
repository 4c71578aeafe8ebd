"""A network that is told a text, of whatever family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from traj.pipeline.models.network import NetworkDenoiser
from traj.pipeline.models.prompts import Prompts, Texts
from traj.pipeline.process.schedule import Schedule


class TextDenoiser(NetworkDenoiser):
    """A network whose conditions are texts, which ``texts`` reads for it.

    ``sides`` are the height and width of its images; without a ``valid_range`` these are latents. A family says in
    ``answer`` how the network is told what ``texts`` gives.

    Raises
    ------
    InputError
        When the network's channels do not fit.
    """

    reads_texts = True

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        texts: Texts,
        sides: tuple[int, int],
        identity: Mapping[str, Any],
        valid_range: tuple[float, float] | None = None,
        name: str = "network",
        autocast: bool = False,
    ) -> None:
        config: Any = network.config
        super().__init__(
            network,
            schedule,
            shape=(config.in_channels, *sides),
            channels_out=config.out_channels,
            valid_range=valid_range,
            identity=identity,
            name=name,
            autocast=autocast,
        )
        self.texts = texts

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Prompts:
        """Read which texts samples are to be made under."""
        return Prompts(self.texts, self.name, asked, null)
