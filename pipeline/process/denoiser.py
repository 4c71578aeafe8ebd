"""What a denoiser is: from a state to predictions of x_0 and of the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of a state x_t, both raw and of its shape: pred_x0 and eps.

    ``variance_fraction`` is there for learned-range networks: 0 means the "small" log variance, 1 the "large".
    """

    pred_x0: torch.Tensor
    eps: torch.Tensor
    variance_fraction: torch.Tensor | None = None


class Condition(Protocol):
    """What a denoiser is to know of some samples, a class or a text: the sampling loop only repeats it."""

    def repeat(self, times: int, /) -> Self:
        """Give the condition of the same samples so many times in a row."""
        ...


class Denoiser(Protocol):
    """Whatever predicts x_0 from x_t: a network or a closed form.

    ``shape`` is that of an event, (channel, y, x) for images; ``dims``, where a denoiser has them, name its axes, else
    they go by how many there are. ``num_classes`` is 0 for models without labels; ``unconditional`` says whether it
    does without one. ``valid_range`` bounds x_0: of a network the range its scheduler clips at, else [-1, 1].
    ``identity`` holds the JSON values that define the model's numbers, for a store's fingerprint; ``name`` loads the
    model again where it still lies in its place.
    """

    name: str
    schedule: Schedule
    shape: tuple[int, ...]
    num_classes: int
    unconditional: bool
    valid_range: tuple[float, float]
    identity: dict[str, Any]

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep.

        The condition of every model here is a label (sample,), -1 for none. ``cut`` says what of the U-Net is left
        out; InputError where there is no such part.
        """
        ...


def network_of(denoiser: Denoiser) -> Any:
    """Give the network in a denoiser; an exact one stands for itself, and is refused by whatever needs a network."""
    return getattr(denoiser, "network", denoiser)


def dims_of(denoiser: Denoiser) -> tuple[str, ...] | None:
    """Give the names a denoiser has for the axes of its events; None for those that are usual."""
    return getattr(denoiser, "dims", None)


def check_label(label: torch.Tensor, num_classes: int, unconditional: bool = True) -> None:
    """Refuse labels a model doesn't have.

    Raises
    ------
    InputError
        When a label lies outside 0..num_classes-1 and isn't -1, or is -1 where the model needs a class.
    """
    lowest, highest = (int(bound) for bound in torch.aminmax(label))
    if highest >= num_classes:
        known = f"expected 0 to {num_classes - 1}" if num_classes else "the model has no classes; use labels none"
        raise InputError(f"label {highest}: {known}")
    if lowest < -1:
        raise InputError(f"label {lowest}: expected -1 (none) or a class")
    if lowest == -1 and not unconditional:
        raise InputError(
            f"label -1 (none), but this model was trained with labels only; expected 0 to {num_classes - 1}, or "
            "a null_label in the model folder's traj.json"
        )


def predicted(
    schedule: Schedule,
    timestep: int,
    x_t: torch.Tensor,
    output: torch.Tensor,
    variance_fraction: torch.Tensor | None = None,
) -> Prediction:
    """Read pred_x0 and eps off what a network answers, by the schedule's prediction type: x_t = c x_0 + d eps."""
    c, d = schedule.at(timestep)
    match schedule.prediction_type:
        case "epsilon":
            return Prediction((x_t - d * output) / c, output, variance_fraction)
        case "sample":
            return Prediction(output, (x_t - c * output) / d, variance_fraction)
        case "v_prediction":  # v = c eps - d x_0, with c^2 + d^2 = 1
            return Prediction(c * x_t - d * output, c * output + d * x_t, variance_fraction)
        case _:  # u = eps - x_0
            return Prediction((x_t - d * output) / (c + d), (x_t + c * output) / (c + d), variance_fraction)


def model_time(schedule: Schedule, timestep: int, device: torch.device) -> torch.Tensor:
    """Return what a network is fed as time, a scalar: an integer where the table holds whole numbers only."""
    whole = bool((schedule.model_time % 1 == 0).all())
    dtype = torch.int64 if whole else torch.float32
    return torch.full((), schedule.model_time[timestep].item(), dtype=dtype, device=device)
