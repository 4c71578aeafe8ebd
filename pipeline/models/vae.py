"""Variational autoencoders as what a process may start from: images decoded from addressed noise (001)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from traj.pipeline.configs import Key, Keys, whole
from traj.pipeline.folder import json_object
from traj.pipeline.models import weights
from traj.pipeline.models.digits import VAES, DigitsVae
from traj.pipeline.process.device import within_memory
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.stores import InputError, MissingFile

_SIZE = Key(1, whole(1, 1 << 12))
_KEYS = Keys(
    {"channels": _SIZE, "size": _SIZE, "width": Key(4, whole(4, 1 << 16)), "latent": _SIZE},
    unused={"model_type": "checked before"},
)
_KNOWN = f"expected one of {', '.join(VAES)}, or the folder of one that traj train made"


class VaeSource:
    """Images that a VAE decodes; the latent of sample k is noise with the address of sample k.

    ``name`` is digits-vae (a folder under ``models``, or under the folder TRAJ_MODELS names), or a folder.

    Raises
    ------
    MissingFile
        When there is no such folder, or a file of it is missing.
    InputError
        When it holds anything but a VAE that ``traj train`` made.
    """

    valid_range: tuple[float, float] | None = (-1.0, 1.0)
    samples: int | None = None
    labels: list[int] | None = None
    seeds: frozenset[int] = frozenset()

    def __init__(self, name: str, seed: int) -> None:
        folder = Path(os.environ.get("TRAJ_MODELS", "models")) / name if name in VAES else Path(name)
        if not folder.is_dir():
            way_out = f"run traj train {name}" if name in VAES else _KNOWN
            raise MissingFile(f"VAE {name!r}: there is no folder {folder}; {way_out}")
        self._network, self.identity = _loaded(folder)
        self.name = f"vae:{folder.name}"
        self.shape: tuple[int, ...] = self._network.shape
        self._noise = NoiseSource(seed, (self._network.latent,))

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Decode the images of samples, on the CPU: float32 (sample, *event)."""
        with torch.inference_mode():
            latent = torch.from_numpy(self._noise(Purpose.SOURCE, samples, 0))
            images: np.ndarray = self._network.decode(latent).numpy()
        return images

    def require_unchanged(self) -> None:
        """Do nothing: the weights are in memory."""


def _loaded(folder: Path) -> tuple[DigitsVae, dict[str, Any]]:
    """Load the network of a folder, with the JSON values that define its numbers."""
    if not (folder / "config.json").is_file():
        raise MissingFile(f"VAE {folder}: no config.json there; {_KNOWN}")
    config = json_object(folder / "config.json")
    if config.get("model_type") not in VAES:
        raise InputError(f"{folder} holds {config.get('model_type')!r}; {_KNOWN}")
    arguments = _KEYS.read(config, f"{folder / 'config.json'}")
    found = weights.find(folder, "model", "model")
    try:
        with within_memory():
            network = DigitsVae(**arguments)
            network.load_state_dict(weights.read(found.files[0]))
    except (TypeError, RuntimeError):
        raise InputError(f"{found.files[0]} does not belong to its config.json; train it again") from None
    return network.eval().requires_grad_(False), {"vae": {"weights": found.sha256, "network": arguments}}
