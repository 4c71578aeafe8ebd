"""Checkpoints as OpenAI's programs save them: dicts of tensors, pickled by torch."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from traj.pipeline.configs import shown
from traj.pipeline.models import weights
from traj.stores import InputError, MissingFile

State = dict[str, Tensor]
"""Tensors by name, of which the floating ones are float32."""
_WRAPPED = ("state_dict", "model_state_dict", "model")
"""Where other programs keep a state dict within a checkpoint."""


def read(path: Path) -> State:
    """Read the tensors of a checkpoint, and run no code of it.

    Raises
    ------
    MissingFile
        Where there is no such file.
    InputError
        Where it holds anything but tensors of finite numbers by name.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: no such checkpoint; expected a file of tensors, such as model.pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a broken or hostile file may lead to
        if isinstance(error, UnpicklingError):  # torch's own words advise to run the code of the file
            reason = "it holds something else, or is damaged"
        else:
            reason = weights.reason(error, Path(), Path())
        raise InputError(
            f"{path} cannot be read as tensors, and no code of a checkpoint is run: {reason}. Expected a state dict, "
            "as torch.save(model.state_dict()) writes"
        ) from None
    state = _unwrapped(found)
    if state is None:
        raise InputError(f"{path} holds {_described(found)}; expected a state dict: tensors by name")
    if odd := [name for name, tensor in state.items() if not _is_of_network(tensor)]:
        raise InputError(f"{path} holds {weights.first(odd)}; expected dense tensors of floating-point numbers only")
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())

    def alone(tensor: Tensor) -> Tensor:
        """Copy a tensor that shares its memory, which safetensors refuses."""
        return tensor if storages[tensor.untyped_storage().data_ptr()] == 1 else tensor.clone()

    read = {name: alone(tensor.detach()).float().contiguous() for name, tensor in state.items()}
    weights.require_finite(read, path)
    return read


def require(
    state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], what: str, advice: str = "check the flags"
) -> None:
    """Check that a state dict has tensors of exactly these names and shapes; ``what`` names what it is for.

    Raises InputError, with the first three names that are missing, not known, or of another shape.
    """
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    other = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    problems = [
        f"{problem} {weights.first(names)}"
        for problem, names in (("lacks", missing), ("also has", extra), ("has", other))
        if names
    ]
    if problems:
        raise InputError(f"the checkpoint {'; '.join(problems)}. It does not belong to {what}; {advice}")


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Give the shape of every tensor of a network, which may lie on torch's device meta."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _unwrapped(found: Any) -> State | None:
    if _is_state(found):
        return dict(found)
    inside = [key for key in _wrapped(found) if key in _WRAPPED]
    return dict(found[inside[0]]) if len(_wrapped(found)) == len(inside) == 1 else None


def _wrapped(found: Any) -> list[str]:
    """Name the states of one network, or several alike such as its average, in a dict."""
    states = {key: value for key, value in found.items() if _is_state(value)} if isinstance(found, dict) else {}
    ours = {name for key in _WRAPPED for name in states.get(key, ())}
    return [key for key, value in states.items() if ours & value.keys()]


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _is_of_network(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.is_floating_point() and tensor.ndim > 0 and tensor.numel() > 0


def _described(value: Any) -> str:
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    if {"state", "param_groups"} <= value.keys():
        return "the state of an optimizer"
    if len(several := _wrapped(value)) > 1:
        return f"{len(several)} state dicts, {weights.first(several)}, of which it is not said which to take"
    return f"a dict with {weights.first([shown(key) for key in value])}" if value else "an empty dict"
