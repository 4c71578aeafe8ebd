"""The run that is forked: what it was made from, the states it stores, and its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from traj import stores
from traj.pipeline.models import stored
from traj.pipeline.models.labels import SOURCE
from traj.pipeline.process.denoiser import Conditions, Denoiser
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.plan import Plan
from traj.pipeline.process.spacing import nearest
from traj.stores import InputError, attributes


@dataclass(frozen=True)
class Parent:
    """The run that is forked: its inputs, and what of it forks start from; ``timesteps`` are those stored.

    ``visible`` are the coordinates that
    show what its samples were made under, label and perhaps prompt.
    """

    path: Path
    config: dict[str, Any]
    fingerprint: str
    plan: Plan
    timesteps: tuple[int, ...]
    visible: dict[str, np.ndarray]

    @classmethod
    def open(cls, path: Path) -> Parent:
        """Read a trajectory store without its states. Raises StoreError where it is no such store, or is incomplete."""
        ds = stores.open(path)
        attrs, config = ds.attrs, json.loads(ds.attrs["config"])
        inputs = {"model", "schedule", "plan", "seed", "condition", "autocast"}
        if attrs["kind"] != "trajectories" or not inputs <= config.keys():
            raise stores.NotAStore(
                f"{path} holds {attrs['kind']} that neither `traj generate` nor `traj noise` made; only their runs "
                "can be forked"
            )
        plan = Plan.from_json(config["plan"])
        timesteps = tuple(ds.timestep.values.tolist())
        visible = {name: ds[name].values for name in stores.TOLD if name in ds.coords}
        return cls(path, config, attrs["fingerprint"], plan, timesteps, visible)

    @property
    def samples(self) -> int:
        """How many samples the run has."""
        return len(self.visible["label"])

    @property
    def noised(self) -> bool:
        """Whether its states are noised data, so that no plan led to its x_0."""
        return "noised" in self.config

    @property
    def rounding(self) -> str | None:
        """How stored states differ from those the run went through; None where they are the same to the bit."""
        store = self.config["store"]
        if store["keepbits"] is not None:
            return f"rounded to {store['keepbits']} bits of mantissa"
        return None if store["dtype"] == "float32" else f"as {store['dtype']}"

    def x_t(self, timesteps: Sequence[int], samples: np.ndarray) -> np.ndarray:
        """Read states: float32 (timestep, sample, *event). Raises DamagedStore, or StaleStore after a change."""
        with stores.reading(self.path):
            x_t = xr.open_zarr(self.path, chunks=None).x_t
            states = x_t.sel(timestep=list(timesteps)).isel(sample=samples).transpose("timestep", "sample", ...)
            values: np.ndarray = states.values.astype(np.float32, copy=False)
            return values

    def require_unchanged(self) -> None:
        """Raise StaleStore where another run has taken the parent's place."""
        if attributes(self.path)["fingerprint"] != self.fingerprint:
            raise stores.StaleStore(f"{self.path} was changed while it was forked; run the same again")

    def require_stored(self, timesteps: Iterable[int]) -> None:
        """Raise InputError for a timestep whose state is not stored."""
        for timestep in timesteps:
            if timestep not in self.timesteps:
                raise InputError(
                    f"timestep {timestep} is not stored in {self.path}; the nearest are "
                    f"{nearest(self.timesteps, timestep)}"
                )


def load_model(parent: Parent, model: str | None, device: torch.device) -> Denoiser:
    """Load the model the parent was made with, and refuse any other.

    Its name and place may have changed, its weights may not.

    Raises InputError or MissingFile.
    """
    if model is None:
        denoiser = stored.load_for(parent.path, parent.config, None, str(device))
    else:
        denoiser = stored.load(model, parent.config, str(device))
    if different := stored.differences(denoiser, parent.config):
        raise InputError(
            f"model {model or denoiser.name} is not the one {parent.path} was made with: {', '.join(different)} "
            "differ; give that one with --model"
        )
    return guided(denoiser, parent.config.get("guidance", 1))


def conditions_of(parent: Parent, denoiser: Denoiser) -> Conditions:
    """Have the model read what the parent's samples were made under.

    A noised store shows the labels of its data, whatever the model was told.

    Raises InputError where it now makes other conditions of it, as a function of your own may.
    """
    asked = parent.config["condition"]
    if asked["labels"] == SOURCE:
        asked = {**asked, "labels": parent.visible["label"].tolist()}
    conditions = denoiser.conditions(asked)
    if parent.noised:
        return conditions
    now = conditions.visible(range(parent.samples))
    for name in now.keys() | parent.visible.keys():
        if not np.array_equal(now.get(name, ()), parent.visible.get(name, ())):
            raise InputError(
                f"model {denoiser.name} gives samples of {parent.path} another {name} than they were made with; give "
                "that one with --model"
            )
    return conditions
