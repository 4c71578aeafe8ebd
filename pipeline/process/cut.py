"""What a step leaves out of a U-Net, as data; `models.surgery` applies it to a network."""

from __future__ import annotations

from dataclasses import dataclass

from traj.stores import InputError


@dataclass(frozen=True)
class Cut:
    """What is left out of a U-Net: the top ``skips`` skip connections, the bottom ``unet_blocks`` output blocks.

    Raises
    ------
    InputError
        When a number is negative.
    """

    skips: int = 0
    unet_blocks: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, number in (("skips", self.skips), ("unet_blocks", self.unet_blocks)):
            if number < 0:
                raise InputError(f"a cut of {number} {name}; expected 0 or more")


WHOLE = Cut()  # nothing is left out
