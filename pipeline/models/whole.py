"""Whole pipelines of diffusers, run by their own loop: loaded without foreign code, and what can be told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from traj.pipeline.folder import json_object
from traj.pipeline.models.loading import OWN, quiet
from traj.stores import InputError, MissingFile

LIBRARIES = ("diffusers", "transformers")
WEIGHTS = (".safetensors", ".bin")


class Identity(NamedTuple):
    """What a pipeline is called, and the hash of its weights: None where it came from no folder."""

    name: str
    weights: str | None


def load(name: str, device: torch.device) -> Any:
    """Load a pipeline from a folder or a hub id, with classes of diffusers and transformers alone.

    Raises
    ------
    MissingFile
        When there is no pipeline of that name.
    InputError
        When it asks for code of its own, or cannot be loaded.
    """
    import diffusers

    if not name.strip():
        raise InputError("an empty pipeline name was given; expected a folder of diffusers, or a hub id")
    with quiet():
        try:
            index = diffusers.DiffusionPipeline.load_config(name)
        except (OSError, ValueError) as error:
            raise MissingFile(f"{name} is no pipeline of diffusers: {_line(error)}") from None
        _require_known_code(name, index)
        _require_plain_times(Path(name, "traj.json"))
        left_out = {part: None for part, entry in index.items() if entry in ([None, None], (None, None))}
        try:
            # diffusers wants to be told what its own index says, as of SD3 without its T5
            pipe = diffusers.DiffusionPipeline.from_pretrained(name, trust_remote_code=False, **left_out)
        except Exception as error:  # whatever a broken folder may lead to
            raise InputError(f"{name} cannot be loaded: {_line(error)}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _require_known_code(name: str, index: dict[str, Any]) -> None:
    """Raise InputError for a pipeline that is, or has a part, of a class outside diffusers and transformers."""
    import diffusers

    kind = index.get("_class_name")
    if kind is None:
        raise InputError(
            f"{name} is no pipeline of diffusers: its model_index.json names no class of one. If it is a model that "
            "traj converted, traj generate OUT --model takes it"
        )
    if not isinstance(kind, str) or not hasattr(diffusers, kind):
        raise InputError(
            f"{name} is a {kind}, which is no pipeline of diffusers {diffusers.__version__}; code of its own "
            "(custom_pipeline) is never run. If you trust it, load it yourself and record it in Python"
        )
    for part, entry in index.items():
        library = entry[0] if isinstance(entry, list) and entry else None
        own = Path(name, part, f"{library}.py").exists() or Path(name, f"{library}.py").exists()
        if library and (own or not (library in LIBRARIES or hasattr(diffusers.pipelines, str(library)))):
            raise InputError(
                f"{name}: its {part} is of {library}, and code from model folders is never run; expected parts of "
                f"{' or '.join(LIBRARIES)}"
            )


def _require_plain_times(own: Path) -> None:
    """Raise InputError for a pipeline whose traj.json says that its network is told other times than by diffusers."""
    scale = OWN.read(json_object(own), str(own))["time_scale"] if own.is_file() else 1
    if scale != 1:
        raise InputError(
            f"{own} has time_scale {scale:g}, which the loop of a pipeline of diffusers knows nothing of; traj "
            "generate OUT --model takes it"
        )


def identity(pipe: Any) -> Identity:
    """Name a pipeline, and hash the weights of the folder it came from, if it came from one."""
    name = str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)
    if not Path(name).is_dir():
        return Identity(name, None)
    digest = hashlib.sha256()
    for path in sorted(file for file in Path(name).rglob("*") if file.suffix in WEIGHTS):
        digest.update(path.relative_to(name).as_posix().encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return Identity(name, f"sha256:{digest.hexdigest()}")


def dims_of(pipe: Any, shape: Sequence[int]) -> tuple[str, ...] | None:
    """Name the dims of states that do not have their channels first, None for the default names.

    Some transformers take tokens before channels, and some films frames before channels: the network's config says how
    many channels there are.
    """
    config = getattr(getattr(pipe, "transformer", None) or getattr(pipe, "unet", None), "config", {})
    channels = [config.get(name) for name in ("out_channels", "in_channels") if config.get(name)][:1]
    if len(shape) not in (2, 4) or not channels or shape[0] == channels[0] or shape[1] != channels[0]:
        return None
    return ("position", "channel") if len(shape) == 2 else ("frame", "channel", "y", "x")


def valid_range_of(pipe: Any) -> tuple[float, float] | None:
    """Give the range that x_0 is expected in, None for a pipeline that decodes latents."""
    if any(mark in type(part).__name__ for part in vars(pipe).values() for mark in ("Autoencoder", "VQModel")):
        return None
    config = pipe.scheduler.config
    bound = config.get("clip_sample_range", 1.0) if config.get("clip_sample") else 1.0
    return -float(bound), float(bound)


def device_of(pipe: Any) -> torch.device:
    """Give the device a pipeline runs on, the CPU for one that does not say."""
    found = getattr(pipe, "device", None)
    return found if isinstance(found, torch.device) else torch.device("cpu")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
