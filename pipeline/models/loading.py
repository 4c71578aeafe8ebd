"""One network of diffusers from its config and exactly the weights that are hashed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging

from traj.pipeline.configs import Key, Keys, number, one_of, optional, whole
from traj.pipeline.folder import json_object
from traj.pipeline.models import weights
from traj.pipeline.models.network import NetworkDenoiser
from traj.pipeline.models.repository import Repository
from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.spacing import SPACINGS
from traj.stores import InputError

Network = TypeVar("Network", bound=ModelMixin)
OWN = Keys(
    {
        "time_scale": Key(1.0, number(above=0)),
        "null_label": Key(None, optional(whole(0, 10_000_000))),
        "spacing": Key(None, optional(one_of(*SPACINGS))),
    }
)
"""The keys of traj.json."""


def load(kind: type[Network], config: Mapping[str, Any], repository: Repository, part: str) -> tuple[Network, str]:
    """Build a network from a whole config, with the weights of a part of a pipeline and no others, and hash those.

    Raises
    ------
    MissingFile
        Where there are no weights.
    InputError
        Where they cannot be loaded, are not finite, or are those of another network.
    """
    folder, found = repository.weights(part)
    with weights.staged(found.named) as place, quiet():
        (place / "config.json").write_text(json.dumps({**config, "_class_name": kind.__name__}), encoding="utf-8")
        try:
            network, told = kind.from_pretrained(
                place,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=found.safe,
                output_loading_info=True,
            )
        except Exception as error:  # whatever a broken file may lead to
            raise InputError(f"{folder} cannot be loaded: {weights.reason(error, place, folder)}") from None
    for key, problem in (("missing_keys", "lack"), ("unexpected_keys", "also hold")):
        if names := sorted(told[key]):
            raise InputError(
                f"the weights in {folder} {problem} {weights.first(names)}; they do not belong to its config.json"
            )
    weights.require_finite(network.state_dict(), folder)
    return network, found.sha256


def own(repository: Repository, *, null_label: bool = False) -> dict[str, Any]:
    """Read traj.json, which need not be there: what the configs of diffusers cannot say.

    ``time_scale`` is what times are multiplied by, and ``spacing`` how timesteps are spaced where a plan does not say.
    ``null_label`` is the class that stands for none, in families that may have one.

    Raises InputError for another key, or a value that a key does not take.
    """
    file = repository.file("traj.json")
    found = OWN.read(json_object(file) if file else {}, str(file))
    if found["null_label"] is not None and not null_label:
        raise InputError(f"{file} has null_label, but such a network has no label that stands for none; leave it out")
    return found


def schedule(repository: Repository, steps: int | None, own: Mapping[str, Any]) -> Schedule:
    """Read the scheduler config of a pipeline, and what ``own``, its traj.json, says of it.

    ``steps`` is the number of timesteps where the schedule is a grid.

    Raises MissingFile where there is none, and InputError where it asks for what is not supported.
    """
    config = json_object(repository.require("scheduler", "scheduler_config.json"))
    found = Schedule.from_config(config, own["time_scale"], steps)
    return found if own["spacing"] is None else replace(found, spacing=own["spacing"])


def attempt(denoiser: NetworkDenoiser, condition: Any, device: str, given: str, factor: int = 1) -> None:
    """Run a network once, on zeros at the noisiest timestep, under the condition of one sample.

    ``given`` says what it is run on. An image has ``factor`` times the sides of that, as where it is a latent.

    Raises
    ------
    InputError
        Where it fails, or gives anything but finite numbers in the shape of the state.
    """
    x_t = torch.zeros(1, *denoiser.shape, device=device)
    advice = _sizes_that_fit(denoiser, factor)
    try:
        with torch.inference_mode():
            eps = denoiser(x_t, denoiser.schedule.T - 1, condition).eps
    except Exception as error:  # layers that do not fit may raise anything
        raise InputError(f"the network fails on {given}: {weights.reason(error, Path(), Path())}{advice}") from None
    if eps.shape != x_t.shape:
        raise InputError(f"the network gives {tuple(eps.shape[1:])} for {given}{advice}")
    if not eps.isfinite().all():
        raise InputError(
            f"the network gives values that are not finite for {given}, though its weights are finite; expected those "
            "of a network that was trained with this config.json"
        )


def _sizes_that_fit(denoiser: NetworkDenoiser, factor: int) -> str:
    """Say which sizes a network takes that halves its images or parts them into patches, if it does not take this."""
    network: Any = denoiser.network
    halvings = sum(bool(level.downsamplers) for level in getattr(network, "down_blocks", ()))
    patch = int(network.config.get("patch_size") or 1)
    sides, multiple = denoiser.shape[1:], patch * 2**halvings
    if all(side % multiple == 0 for side in sides):
        return ""
    fitting = ["x".join(str(max(1, side // multiple + more) * multiple * factor) for side in sides) for more in (0, 1)]
    what, place = ("images", "as sample_size in config.json or by --size") if factor == 1 else ("latents", "by --size")
    times = "once" if halvings == 1 else f"{halvings} times"
    why = f"parts {what} into patches of {patch} x {patch}" if patch > 1 else f"halves {what} {times}"
    return (
        f". It {why}: both sides of images must be multiples of {multiple * factor}, {' or '.join(fitting)} for "
        f"example, {place}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers while it loads."""
    verbosity, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if bars:
            diffusers_logging.enable_progress_bar()
