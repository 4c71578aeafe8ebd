"""Your own network: a function in a file of yours, or of an installed package, that returns a denoiser."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from traj.analysis import _offered
from traj.pipeline.models import surgery
from traj.pipeline.models.labels import Labels, check_label, refuse_prompts
from traj.pipeline.models.parts import modules_of
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Conditions, Denoiser, Prediction, predicted
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError, MissingFile, checked_event

ENTRY_POINTS = "traj.models"
_DENOISER = ("schedule", "shape", "valid_range", "identity", "conditions")  # and its name, added here


class OwnDenoiser:
    """A callable as a denoiser; `wrap` makes one."""

    def __init__(
        self,
        network: Callable[..., torch.Tensor],
        schedule: Schedule,
        *,
        shape: Sequence[int],
        dims: Sequence[str] | None,
        whole_times: bool,
        num_classes: int,
        null_label: int | None,
        condition: Callable[[list[int | None]], Any] | None,
        prompt: Callable[[int], str] | None,
        valid_range: tuple[float, float] | None,
        identity: dict[str, Any],
        modules: nn.Module | None,
        decode: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self.network, self.schedule, self.modules, self.decode = network, schedule, modules, decode
        self.shape, self.dims = checked_event(shape, dims)
        self.num_classes, self.null_label = num_classes, null_label
        self.unconditional = num_classes == 0 or null_label is not None
        self.condition, self.prompt = condition, prompt
        self.name, self.valid_range, self.identity = "own", valid_range, identity
        self.autocast = False
        self._times = torch.int64 if whole_times else torch.float32

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Conditions:
        """Read which labels samples are to have, or make their conditions in one's own way."""
        if self.condition is None:
            return Labels(self, asked, null)
        refuse_prompts(self.name, asked)
        if asked["labels"] != "none":
            raise InputError(
                f"labels were asked for, but model {self.name} has conditions of its own; use --labels none"
            )
        return OwnConditions(self.condition, self.prompt)

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep; condition is a label (sample,), or one's own.

        InputError where parts of a U-Net are cut, a label is unknown, or the network answers in another shape.
        """
        surgery.check(self, cut)
        time = torch.full((len(x_t),), self.schedule.model_time[timestep].item(), dtype=self._times, device=x_t.device)
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            output = self.network(x_t, time, *self._told(condition))
        if output.shape != x_t.shape:
            raise InputError(f"the network answers in shape {tuple(output.shape)} to states of {tuple(x_t.shape)}")
        return predicted(self.schedule, timestep, x_t, output.to(x_t.dtype))

    def _told(self, condition: Any) -> list[Any]:
        """List what the network is given beside the state and the time."""
        if self.condition is not None:
            return [condition]
        check_label(condition, self.num_classes, self.unconditional)
        return [condition.where(condition >= 0, self.null_label or 0)] if self.num_classes else []


class OwnConditions:
    """Conditions that a function of one's own makes of the numbers of samples."""

    def __init__(self, make: Callable[[list[int | None]], Any], prompt: Callable[[int], str] | None) -> None:
        self._make, self._prompt = make, prompt
        self.asked = {"labels": "none"}

    def of(self, samples: Sequence[int | None], device: torch.device) -> Any:
        """Make the condition of a batch, on a device where it can be moved."""
        condition = self._make(list(samples))
        return condition.to(device) if hasattr(condition, "to") else condition

    def visible(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """Give the coordinates label, -1, and prompt, where there are prompts."""
        label = {"label": np.full(len(samples), -1, np.int64)}
        if self._prompt is None:
            return label
        return {**label, "prompt": np.array([self._prompt(k) for k in samples], object)}


def wrap(
    network: Callable[..., torch.Tensor],
    schedule: Schedule,
    *,
    shape: Sequence[int],
    predicts: Literal["epsilon", "sample", "v_prediction", "flow_prediction"],
    time: Literal["model_time", "index", "sigma"] = "model_time",
    num_classes: int = 0,
    null_label: int | None = None,
    condition: Callable[[list[int | None]], Any] | None = None,
    prompt: Callable[[int], str] | None = None,
    dims: Sequence[str] | None = None,
    valid_range: tuple[float, float] | None = (-1.0, 1.0),
    weights: Iterable[str | os.PathLike[str]] = (),
    modules: nn.Module | None = None,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> OwnDenoiser:
    """Make a denoiser of any callable network(x_t, time), network(x_t, time, label) or network(x_t, time, condition).

    x_t is float32 (sample, *shape), time (sample,): the schedule's model time (sigma on EDM's grid, t from 1 to 0 on
    that of a flow), the timestep's index, or sigma = noise_scale / signal. label is int64 (sample,), null_label for
    none. ``predicts`` says what the answer is, of the shape of x_t: eps ("epsilon"), x_0 ("sample", also EDM's
    D(x; sigma)), v, or the flow's velocity eps - x_0. ``dims`` names the axes of an event where they are not feature;
    channel, position; channel, y, x; or channel, frame, y, x. ``weights`` are the files whose content the fingerprint
    covers. ``modules`` is for reading features of a network that is a plain function: the torch.nn.Module that it
    calls, by whose parts they are named. ``valid_range`` is that of x_0, None for latents. ``decode`` is for latents,
    and leaves them no range: it turns them (event, *shape) into images (event, channel, y, x) in about [-1, 1], for
    `traj readout decode`.

    ``num_classes`` is for a network with classes. For any other condition, such as embeddings of texts, ``condition``
    turns the numbers of a batch's samples into what the network is given; it is moved to the device if it has ``to``. A
    number is None where --guidance asks for the null condition. ``prompt`` gives the text of a sample, which the store
    keeps. Both must always give the same for a number, so that a run can be resumed, extended and forked.

    Raises
    ------
    InputError
        When the schedule does not go with what is predicted, null_label is one of the classes, there are both classes
        and conditions, prompts without conditions, or dims do not fit.
    MissingFile
        When a file of weights is not there.
    """
    if null_label is not None and 0 <= null_label < num_classes:
        raise InputError(f"null_label {null_label} is one of the {num_classes} classes; expected a number of its own")
    if condition is not None and num_classes:
        raise InputError(f"{num_classes} classes and a condition of one's own were given, expected one of them")
    if prompt is not None and condition is None:
        raise InputError("prompt was given without condition; expected what the network is to make of it")
    times = {"model_time": schedule.model_time, "index": np.arange(schedule.T), "sigma": schedule.sigma}
    if time not in times:
        raise InputError(f"time {time!r}; expected one of {', '.join(times)}")
    if not np.isfinite(times[time]).all():
        raise InputError(
            f"time sigma is infinite at timestep {schedule.T - 1}, where no signal is left; expected model_time or "
            "index"
        )
    modules = network if isinstance(network, nn.Module) else modules
    if modules is not None:
        modules.eval().requires_grad_(False)
    return OwnDenoiser(
        network,
        replace(schedule, prediction_type=predicts, preconditioning=None, model_time=times[time]),
        shape=shape,
        dims=dims,
        whole_times=time == "index",
        num_classes=num_classes,
        null_label=null_label,
        condition=condition,
        prompt=prompt,
        valid_range=None if decode else valid_range,
        identity={"time": time, "null_label": null_label, "weights": [_sha256(Path(file)) for file in weights]},
        modules=modules,
        decode=decode,
    )


def preconditioned(network: Callable[..., torch.Tensor], sigma_data: float = 0.5) -> Callable[..., torch.Tensor]:
    """Turn EDM's raw network F(c_in x, c_noise) into its D(x; sigma), the predicted x_0 (Karras et al. 2022, eq. 7)."""

    def D(x: torch.Tensor, sigma: torch.Tensor, *told: Any) -> torch.Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        scale = (s**2 + sigma_data**2).sqrt()
        output = network(x / scale, sigma.log() / 4, *told)
        return (sigma_data / scale) ** 2 * x + s * sigma_data / scale * output

    return D


def is_own(name: str) -> bool:
    """Whether a name means a function: FILE.py:NAME, or one that a package registers."""
    return is_file(name) or _registered(name) is not None


def is_file(name: str) -> bool:
    """Whether a name means a function in a file, whose code runs when it is loaded: FILE.py:NAME."""
    return name.rpartition(":")[0].endswith(".py")


def load(name: str, device: str = "cpu", autocast: bool = False, steps: int | None = None) -> Denoiser:
    """Call the function of a name, FILE.py:NAME or a registered one, for its denoiser.

    It is given ``steps`` and ``device`` where it has parameters of these names. The denoiser's identity gets the
    function's name and the hash of its file.

    Raises
    ------
    MissingFile
        When there is no such file.
    InputError
        When the file has no such function, it needs a number of steps, or returns no denoiser.
    """
    file, _, function = name.rpartition(":")
    entry = _registered(name)
    build = _imported(Path(file), function) if entry is None else entry.load()
    denoiser: Any = build(**_arguments(name, build, {"steps": steps, "device": device}))
    missing = [part for part in _DENOISER if not hasattr(denoiser, part)]
    if missing or not callable(denoiser):
        raise InputError(f"model {name} returns {type(denoiser).__name__} without {', '.join(missing)}; see wrap()")
    if autocast and not hasattr(denoiser, "autocast"):
        raise InputError(f"model {name} has no autocast; leave --autocast out")
    if autocast:
        denoiser.autocast = True
    if (modules := modules_of(denoiser)) is not None:
        modules.to(device)
    code = {"function": build.__name__, "code": _sha256(Path(inspect.getsourcefile(build) or inspect.getfile(build)))}
    loaded: Denoiser = denoiser
    loaded.name, loaded.identity = name, {**loaded.identity, **code}
    return loaded


def _registered(name: str) -> EntryPoint | None:
    return next(iter(_offered.entries(ENTRY_POINTS).select(name=name)), None)


def _imported(file: Path, name: str) -> Callable[..., Denoiser]:
    """Import a file, with its folder on sys.path, and find a function in it."""
    if not file.is_file():
        raise MissingFile(f"model {file}:{name}: there is no file {file}")
    folder = str(file.resolve().parent)
    spec = importlib.util.spec_from_file_location(f"traj_model_{file.stem}", file)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    found = getattr(module, name, None)
    if not inspect.isfunction(found):
        known = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise InputError(f"{file} has no function {name}; it has {known or 'none'}")
    return found


def _arguments(name: str, build: Callable[..., Denoiser], given: dict[str, Any]) -> dict[str, Any]:
    """Choose what a function is called with."""
    parameters = inspect.signature(build).parameters
    unknown = [key for key, p in parameters.items() if key not in given and p.default is p.empty]
    if unknown:
        raise InputError(f"model {name} needs {', '.join(unknown)}; expected no parameters but steps and device")
    if given["steps"] is None and "steps" in parameters:
        if parameters["steps"].default is inspect.Parameter.empty:
            raise InputError(
                f"model {name} is sampled on a grid with a timestep for each step; say how many: --steps 40"
            )
        del given["steps"]
    return {key: value for key, value in given.items() if key in parameters}


def _sha256(file: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    except OSError:
        raise MissingFile(f"weights {file}: no such file") from None
