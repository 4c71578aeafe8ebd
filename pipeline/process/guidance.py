"""Classifier-free guidance: a model's predictions with and without a condition, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Conditions, Denoiser, Prediction, dims_of, network_of
from traj.stores import InputError


def guided(denoiser: Denoiser, guidance: float) -> Denoiser:
    """Guide a denoiser by its condition: eps = eps_u + guidance (eps_c - eps_u), and pred_x0 likewise.

    1 is the denoiser as it is, 0 what it predicts under the null condition.

    Raises
    ------
    InputError
        When guidance is no number. The denoiser's ``conditions`` refuse what cannot be guided.
    """
    if not math.isfinite(guidance):
        raise InputError(f"guidance {guidance} was given, expected a number")
    return denoiser if guidance == 1 else Guided(denoiser, guidance)


class Guided:
    """A denoiser that goes further towards a condition than it does by itself (Ho and Salimans 2022, eq. 6).

    Both predictions of a sample come from one batch, twice as large. A variance is the one predicted with the
    condition.
    """

    def __init__(self, denoiser: Denoiser, guidance: float) -> None:
        self.denoiser, self.guidance = denoiser, guidance
        self.network = network_of(denoiser)
        self.schedule, self.valid_range = denoiser.schedule, denoiser.valid_range
        self.shape, self.dims = denoiser.shape, dims_of(denoiser)
        self.name = denoiser.name
        self.identity: dict[str, Any] = denoiser.identity

    def conditions(self, asked: Mapping[str, Any], null: bool = True) -> Conditions:
        """Read what samples are to be made under; each condition comes with as many null conditions."""
        return _WithNull(self.denoiser.conditions(asked, null))

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep under a condition that ``conditions`` made."""
        both = self.denoiser(torch.cat([x_t, x_t]), timestep, condition, cut)
        pred_x0, eps = (self._guided(*predicted.chunk(2)) for predicted in (both.pred_x0, both.eps))
        fraction = both.variance_fraction
        return Prediction(pred_x0, eps, None if fraction is None else fraction.chunk(2)[0])

    def _guided(self, with_condition: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        return without + self.guidance * (with_condition - without)


class _WithNull:
    """Conditions of samples, followed by as many null conditions."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions, self.asked = conditions, conditions.asked
        self.cautions: tuple[str, ...] = getattr(conditions, "cautions", ())

    def of(self, samples: Sequence[int | None], device: torch.device) -> Any:
        return self._conditions.of([*samples, *[None] * len(samples)], device)

    def visible(self, samples: Sequence[int]) -> Mapping[str, Any]:
        return self._conditions.visible(samples)
