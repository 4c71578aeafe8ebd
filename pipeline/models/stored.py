"""The model that a stored run was made with, loaded again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj.pipeline import models
from traj.pipeline.models import own
from traj.pipeline.process import tables
from traj.pipeline.process.denoiser import Denoiser
from traj.stores import InputError, environment_of, event_dims


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
        size=tuple(config["size"]) if "size" in config else None,
        variant=config.get("variant"),
    )


def origin(path: Path, ds: xr.Dataset) -> dict[str, Any]:
    """Read what the states of a store were made with, from its config: of forks, what their parent's says of it."""
    told: dict[str, Any] = environment_of(path, 0).get("parent", {}) if "variant" in ds.dims else {}
    return {**told, **json.loads(ds.attrs["config"])}


def load_for(path: Path, config: Mapping[str, Any], given: str | None, device: str) -> Denoiser:
    """Load the model ``given`` for the store of a path, by default the one that the store names, in its variant.

    A store may come from anybody, so that a file of code is never taken from there.

    Raises InputError or MissingFile.
    """
    if given is not None:
        return load(given, {key: value for key, value in config.items() if key != "variant"}, device)
    name = name_of(path, config)
    try:
        return load(name, config, device)
    except InputError as error:
        raise type(error)(f"{error}; if the model of {path} lies elsewhere, say where with --model") from None


def name_of(path: Path, config: Mapping[str, Any]) -> str:
    """Read the name of the model that a store was made with.

    Raises InputError where it has none, or one whose code would run.
    """
    name = environment_of(path, 0).get("model")
    if name is None:
        raise InputError(f"{path} does not say which model made it; give one with --model")
    if "model" not in config:
        raise InputError(f"{path} names {name} as its model, but not its weights; give it, or another, with --model")
    if own.is_file(name):
        raise InputError(
            f"{path} names {name} as its model, whose code would run; give --model {name} if it is yours or you trust "
            "it"
        )
    return str(name)


def load_to_read(path: Path, ds: xr.Dataset, given: str | None, device: str) -> Denoiser:
    """Load the model of a store of states, or another one for the same events and noise levels.

    Raises InputError, MissingFile.
    """
    config = origin(path, ds)
    denoiser = load_for(path, config, given, device)
    if given is None and (different := differences(denoiser, config)):
        raise InputError(
            f"model {denoiser.name} is not the one {path} was made with: {', '.join(different)} differ; say where "
            "that one lies with --model, or name another"
        )
    shape = tuple(ds.x_t.sizes[dim] for dim in event_dims(ds.x_t.dims))
    if denoiser.shape != shape:
        raise InputError(
            f"model {denoiser.name} has events of shape {denoiser.shape}, and {path} has {shape}; expected a model for "
            "those"
        )
    schedule, timestep = denoiser.schedule, ds.timestep.values
    if timestep.max() >= schedule.T or not all(
        np.allclose(column[timestep], ds[level].values, rtol=1e-8, atol=0)  # stores hash 9 digits
        for level, column in (("signal", schedule.signal), ("noise_scale", schedule.noise_scale))
    ):
        raise InputError(
            f"model {denoiser.name} has another signal and noise_scale at the timesteps of {path}; expected a model "
            "with the same schedule"
        )
    return denoiser


def differences(denoiser: Denoiser, config: Mapping[str, Any]) -> list[str]:
    """Name what a model and its schedule have otherwise than those in a run's config, such as model.weights."""
    found = {"model": denoiser.identity, "schedule": denoiser.schedule.identity}
    return sorted(
        f"{part}.{key}"
        for part, values in found.items()
        for key in values.keys() | config[part].keys()
        if values.get(key) != config[part].get(key)
    )
