"""Classifier-free guidance: a model's predictions with and without a label, put together."""

from __future__ import annotations

import math
from typing import Any

import torch

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Denoiser, Prediction, dims_of, network_of
from traj.stores import InputError


def guided(denoiser: Denoiser, guidance: float) -> Denoiser:
    """Guide a denoiser by its labels: eps = eps_u + guidance (eps_c - eps_u), and pred_x0 likewise.

    1 is the denoiser as it is, 0 what it predicts without a label.

    Raises
    ------
    InputError
        When guidance is no number, or the model has no labels or cannot do without.
    """
    if not math.isfinite(guidance):
        raise InputError(f"guidance {guidance} was given, expected a number")
    if guidance == 1:
        return denoiser
    if not (denoiser.num_classes and denoiser.unconditional):
        lack = "was trained with labels only" if denoiser.num_classes else "has no labels"
        raise InputError(f"guidance {guidance:g} needs a model with labels and a null label; this one {lack}")
    return Guided(denoiser, guidance)


class Guided:
    """A denoiser that goes further towards a label than it does by itself (Ho and Salimans 2022, eq. 6).

    Both predictions of a sample come from one batch, twice as large. A variance is the one predicted with the label.
    """

    def __init__(self, denoiser: Denoiser, guidance: float) -> None:
        self.denoiser, self.guidance = denoiser, guidance
        self.network = network_of(denoiser)
        self.schedule, self.valid_range = denoiser.schedule, denoiser.valid_range
        self.shape, self.dims = denoiser.shape, dims_of(denoiser)
        self.num_classes, self.unconditional = denoiser.num_classes, denoiser.unconditional
        self.name = denoiser.name
        self.identity: dict[str, Any] = denoiser.identity
        self._both: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: torch.Tensor, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep; condition is a label (sample,), -1 for none."""
        if self._both is None or self._both[0] is not condition:  # the denoiser checks a label tensor once
            self._both = condition, torch.cat([condition, torch.full_like(condition, -1)])
        both = self.denoiser(torch.cat([x_t, x_t]), timestep, self._both[1], cut)
        pred_x0, eps = (self._guided(*predicted.chunk(2)) for predicted in (both.pred_x0, both.eps))
        fraction = both.variance_fraction
        return Prediction(pred_x0, eps, None if fraction is None else fraction.chunk(2)[0])

    def _guided(self, with_label: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        return without + self.guidance * (with_label - without)
