"""How the networks were trained: the losses that lie beside each model."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from traj.analysis._drawing.losses import Losses, training_losses
from traj.pipeline.configs import shown
from traj.pipeline.folder import json_object
from traj.pipeline.report import markup
from traj.pipeline.report.failures import Failed, attempt
from traj.stores import InputError

CAPTION = (
    "Training losses, each point the mean over the steps since the one before. “simple” is the mean squared error "
    "of the predicted noise, “vlb” the variational bound (bits per pixel of a timestep) that trains a learned "
    "variance, “loss” what was minimised."
)


def html(losses: Mapping[str, Losses]) -> str:
    """Show the losses of every model, nothing where there are none."""
    return markup.figure(training_losses(losses), CAPTION, "Training losses") if losses else ""


def losses(models: Path, failed: Failed, remarks: list[str]) -> dict[str, Losses]:
    """Read every model's loss.csv."""
    found = {path: attempt(partial(_losses, path), str(path), failed, remarks) for path in _files(models, "loss.csv")}
    return {path.parent.name: of_model for path, of_model in found.items() if of_model is not None and len(of_model[1])}


def _losses(path: Path) -> Losses:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        return names, np.array(rows, float)
    except (ValueError, csv.Error) as error:
        raise InputError(f"expected a line of names and lines of as many numbers ({error})") from None


def final_losses(models: Path, failed: Failed, remarks: list[str]) -> dict[str, dict[str, float]]:
    """Read the final losses that training left beside each model: means over the last tenth of the steps."""
    found = {
        path: attempt(partial(_final, path), str(path), failed, remarks) for path in _files(models, "metrics.json")
    }
    return {path.parent.name: of_model for path, of_model in found.items() if of_model is not None}


def _final(path: Path) -> dict[str, float]:
    final = {key: x for key, x in json_object(path).items() if key.startswith("final_")}
    if not all(isinstance(x, float | int) for x in final.values()):
        raise InputError(f"final losses {shown(final)}; expected numbers")
    return {key: float(f"{x:.4g}") for key, x in final.items()}


def _files(models: Path, name: str) -> list[Path]:
    return sorted(models.glob(f"*/{name}"))
