"""The model that a stored run was made with, loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traj.pipeline import models
from traj.pipeline.process import tables
from traj.pipeline.process.denoiser import Denoiser


def load(name: str, config: Mapping[str, Any], device: str) -> Denoiser:
    """Load a model as a run's config says: an exact one with the run's schedule, a network with its autocast.

    Raises InputError or MissingFile.
    """
    schedule = config.get("schedule", {})
    return models.load(
        name,
        device,
        config.get("autocast", False),
        schedule=tables.name_of(schedule) if models.is_exact(name) else None,
        steps=schedule.get("T"),
    )


def differences(denoiser: Denoiser, config: Mapping[str, Any]) -> list[str]:
    """Name what a model and its schedule have otherwise than those in a run's config, such as model.weights."""
    found = {"model": denoiser.identity, "schedule": denoiser.schedule.identity}
    return sorted(
        f"{part}.{key}"
        for part, values in found.items()
        for key in values.keys() | config[part].keys()
        if values.get(key) != config[part].get(key)
    )
