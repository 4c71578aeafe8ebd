"""The parts of a network by name: which there are, and what they give in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from traj.pipeline.process.denoiser import Denoiser
from traj.stores import InputError

CONTAINERS = (nn.ModuleList, nn.ModuleDict)
"""Modules that are never called, only those within them."""


def modules_of(denoiser: Denoiser) -> nn.Module | None:
    """Give the module whose parts have names, None for a closed form, and a function that shows no modules."""
    places = (getattr(denoiser, "network", None), getattr(denoiser, "modules", None), denoiser)
    return next((place for place in places if isinstance(place, nn.Module)), None)


def listed(network: nn.Module, prefix: str = "") -> list[str]:
    """Name the largest parts of a network in the order they are kept in, such as down_blocks.0.

    Within each, smaller ones have longer names. Of a network that only wraps another one, the other's are named.
    """
    children = list(network.named_children())
    wraps = len(children) == 1 and not isinstance(network, CONTAINERS)
    names: list[str] = []
    for name, child in children:
        inside = isinstance(child, CONTAINERS) or (wraps and bool(list(child.children())))
        names += listed(child, f"{prefix}{name}.") if inside else [prefix + name]
    return names


def find(denoiser: Denoiser, names: Sequence[str]) -> dict[str, nn.Module]:
    """Find the parts of a model by their names.

    Raises
    ------
    InputError
        When the model has no parts, or none of such a name, or a name is given twice.
    """
    network = modules_of(denoiser)
    if network is None:
        why = (
            "is a function that shows no modules: hand the torch.nn.Module in it to wrap(..., modules=...)"
            if hasattr(denoiser, "network")
            else "is a closed form, and has none: expected a network"
        )
        raise InputError(f"parts {', '.join(names)} were asked for, but model {denoiser.name} {why}")
    there = dict(network.named_modules(remove_duplicate=False))
    del there[""]
    for name in names:
        if name not in there:
            near = ", ".join(get_close_matches(name, there, cutoff=0.3))
            raise InputError(
                f"model {denoiser.name} has no part {name!r}; expected "
                + (f"one like {near}" if near else f"one out of {', '.join(listed(network))}")
                + "; traj info MODEL lists them"
            )
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"part {twice[0]} was given twice; expected each once")
    return {name: there[name] for name in names}


def outputs(
    denoiser: Denoiser,
    modules: Mapping[str, nn.Module],
    kept: Callable[[torch.Tensor], torch.Tensor],
    x_t: torch.Tensor,
    timestep: int,
    condition: Any,
) -> dict[str, torch.Tensor]:
    """Run a denoiser once on states (event, *event dims) and keep what its parts give: ``kept`` of each output.

    An output (event, ...) is kept at once, since what follows may change it in place. Of a tuple, a list or a mapping
    it is the first tensor.

    Raises
    ------
    InputError
        When a part is not run, or more than once, or gives no tensor with a row for each event.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in modules}

    def keep(name: str, output: Any) -> None:
        tensor = _first_tensor(name, output)
        if tensor.shape[:1] != x_t.shape[:1]:
            raise InputError(
                f"part {name} gives a tensor of shape {tuple(tensor.shape)} for {len(x_t)} events; expected the events "
                "along its first axis: name another part"
            )
        found[name].append(kept(tensor))

    with _watched(modules, keep):
        denoiser(x_t, timestep, condition)
    for name, calls in found.items():
        if len(calls) != 1:
            raise InputError(
                f"part {name}, a {type(modules[name]).__name__}, is run {len(calls)} times in a forward pass; expected "
                "once: name a part within or around it"
            )
    return {name: output for name, (output,) in found.items()}


@contextmanager
def _watched(modules: Mapping[str, nn.Module], seen: Callable[[str, Any], None]) -> Iterator[None]:
    """Tell of every output of some modules, and leave no hook behind."""
    hooks = []
    try:
        for name, module in modules.items():
            hooks.append(module.register_forward_hook(lambda _module, _given, output, name=name: seen(name, output)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first_tensor(name: str, output: Any) -> torch.Tensor:
    several = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    for one in (output, *several):
        if isinstance(one, torch.Tensor):
            return one
    raise InputError(f"part {name} gives a {type(output).__name__} without a tensor; name another part")
