"""What a denoiser is: from a state to predictions of x_0 and of the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.schedule import Schedule


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of a state x_t, both raw and of its shape: pred_x0 and eps.

    ``variance_fraction`` is there for learned-range networks: 0 means the "small" log variance, 1 the "large".
    """

    pred_x0: torch.Tensor
    eps: torch.Tensor
    variance_fraction: torch.Tensor | None = None


class Conditions(Protocol):
    """What each sample is made under, such as a class or a text. A model makes it from the samples' numbers."""

    @property
    def asked(self) -> Mapping[str, Any]:
        """What was asked for, JSON values that a store's fingerprint covers."""
        ...

    def of(self, samples: Sequence[int | None], device: torch.device) -> Any:
        """Make the condition of a batch of samples, with the null condition for None.

        The model alone looks into it.
        """
        ...

    def visible(self, samples: Sequence[int]) -> Mapping[str, Any]:
        """Give what a store shows of it: label (sample,) int64, -1 for none, and prompt (sample,) if it is a text."""
        ...


class Denoiser(Protocol):
    """Whatever predicts x_0 from x_t: a network or a closed form.

    ``shape`` is that of an event, (channel, y, x) for images; ``dims``, if a denoiser has them, name its axes;
    otherwise the number of axes decides. ``dtype``, if a denoiser has it, is float64 where it keeps that precision.
    ``reads_texts``, if a denoiser has it, is True where conditions are texts. ``identity`` holds the JSON values
    that define the model's numbers, for a store's fingerprint; ``name`` loads the model again where it still lies
    in its place.
    """

    name: str
    schedule: Schedule
    shape: tuple[int, ...]
    identity: dict[str, Any]

    @property
    def valid_range(self) -> tuple[float, float] | None:
        """Bounds of x_0: of a network the range its scheduler clips at, else [-1, 1]; None for latents."""
        ...

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Conditions:
        """Read what samples are to be made under, such as {"labels": "cycle"}; ``null`` says that None will be asked.

        Raises InputError for what the model cannot be told.
        """
        ...

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep; condition is what ``conditions`` made for the samples.

        ``cut`` says what of the U-Net is left out; InputError where there is no such part.
        """
        ...


def network_of(denoiser: Denoiser) -> Any:
    """Give the network in a denoiser; an exact denoiser has none and is given itself."""
    return getattr(denoiser, "network", denoiser)


def dims_of(denoiser: Denoiser) -> tuple[str, ...] | None:
    """Give a denoiser's names for the axes of its events, None for the default names."""
    return getattr(denoiser, "dims", None)


def dtype_of(denoiser: Denoiser) -> torch.dtype:
    """Give the dtype of the most precise states a denoiser can be given, float32 unless it says otherwise."""
    dtype: torch.dtype = getattr(denoiser, "dtype", torch.float32)
    return dtype


def predicted(
    schedule: Schedule,
    timestep: int,
    x_t: torch.Tensor,
    output: torch.Tensor,
    variance_fraction: torch.Tensor | None = None,
) -> Prediction:
    """Turn a network's output into pred_x0 and eps, by the schedule's prediction type: x_t = c x_0 + d eps."""
    c, d = schedule.at(timestep)
    match schedule.prediction_type:
        case "epsilon":
            return Prediction((x_t - d * output) / c, output, variance_fraction)
        case "sample":
            return Prediction(output, (x_t - c * output) / d, variance_fraction)
        case "v_prediction":  # v = c eps - d x_0, with c^2 + d^2 = 1
            return Prediction(c * x_t - d * output, c * output + d * x_t, variance_fraction)
        case "preconditioned":  # x_0 = c_skip x_t + c_out F
            assert schedule.preconditioning is not None
            _, c_skip, c_out = (float(scale[timestep]) for scale in schedule.preconditioning)
            x_0 = c_skip * x_t + c_out * output
            return Prediction(x_0, (x_t - c * x_0) / d, variance_fraction)
        case _:  # u = eps - x_0
            return Prediction((x_t - d * output) / (c + d), (x_t + c * output) / (c + d), variance_fraction)


def network_input(schedule: Schedule, timestep: int, x_t: torch.Tensor) -> torch.Tensor:
    """Return what a network is fed as the state: x_t itself, or c_in x_t where it is preconditioned."""
    scales = schedule.preconditioning
    return x_t if scales is None else float(scales.c_in[timestep]) * x_t


def model_time(schedule: Schedule, timestep: int, device: torch.device) -> torch.Tensor:
    """Return what a network is fed as time, a scalar: an integer where the table holds whole numbers only."""
    whole = bool((schedule.model_time % 1 == 0).all())
    dtype = torch.int64 if whole else torch.float32
    return torch.full((), schedule.model_time[timestep].item(), dtype=dtype, device=device)
