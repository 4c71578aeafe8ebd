"""How the networks were trained: the losses that lie beside each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from traj.analysis._drawing.losses import Losses, training_losses
from traj.pipeline import folder
from traj.pipeline.report import markup
from traj.pipeline.report.failures import Failed, T, attempt

CAPTION = (
    "Training losses, each point the mean over the steps since the one before. “simple” is the mean squared error "
    "of the predicted noise, “vlb” the variational bound (bits per pixel of a timestep) that trains a learned "
    "variance, “loss” what was minimised."
)


def html(losses: Mapping[str, Losses]) -> str:
    """Show the losses of every model, nothing where there are none."""
    return markup.figure(training_losses(losses), CAPTION, "Training losses") if losses else ""


def losses(models: Path, failed: Failed, remarks: list[str]) -> dict[str, Losses]:
    """Read the curves of every model's losses."""
    found = _of_each(models, "loss.csv", folder.losses, failed, remarks)
    return {name: (columns, rows) for name, (columns, rows) in found.items() if len(rows)}


def final_losses(models: Path, failed: Failed, remarks: list[str]) -> dict[str, dict[str, float]]:
    """Read the losses at the end of every model's training."""
    return _of_each(models, "metrics.json", folder.final_losses, failed, remarks)


def _of_each(models: Path, name: str, read: Callable[[Path], T], failed: Failed, remarks: list[str]) -> dict[str, T]:
    """Read the file of a name beside each model, by the models' names."""
    files = sorted(models.glob(f"*/{name}"))
    found = {path.parent.name: attempt(partial(read, path), str(path), failed, remarks) for path in files}
    return {model: of_model for model, of_model in found.items() if of_model is not None}
