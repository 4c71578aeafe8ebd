"""The device networks run on, and how they run there."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from statistics import median
from typing import Any, NamedTuple

import torch

from traj import stores
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Denoiser
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.stores import InputError, OutOfMemory

LONG = 10.0
"""Seconds that a trial call may take."""

GROWTH = 4
"""How many times as many samples are tried next."""


def choose_device(name: str) -> torch.device:
    """Turn auto, cpu, cuda or cuda:i into a device that is there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; expected auto, cpu, cuda or cuda:i") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:i")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def environment(device: torch.device) -> dict[str, Any]:
    """Record what the last bits may depend on. No times, hosts or paths: same inputs, same bytes."""
    packages = ("traj", "torch", "diffusers", "numpy", "zarr", "numcodecs")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch has its own class of error for that on a GPU only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = "out of memory|can't allocate memory|ALLOC_FAILED"
    return isinstance(error, RuntimeError) and re.search(said, str(error)) is not None


@contextmanager
def within_memory() -> Iterator[None]:
    """Raise OutOfMemory where torch finds too little memory for a tensor."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            asked = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
            raise OutOfMemory(asked[0] if asked else "") from None
        raise


@contextmanager
def repeatable(tf32: bool = False) -> Iterator[None]:
    """Run networks with the same algorithms every time, and in full float32.

    ``tf32`` lets a GPU's convolutions and matrix products keep 10 bits of their inputs' mantissas, an error of 1e-3.
    """
    wanted: tuple[tuple[object, str, bool], ...] = (
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "allow_tf32", tf32),
        (torch.backends.cuda.matmul, "allow_tf32", tf32),
    )
    before = [getattr(backend, name) for backend, name, _ in wanted]
    try:
        for backend, name, value in wanted:
            setattr(backend, name, value)
        with within_memory():
            yield
    finally:
        for (backend, name, _), value in zip(wanted, before, strict=True):
            setattr(backend, name, value)


@contextmanager
def inference(tf32: bool = False) -> Iterator[None]:
    """Run networks as ``repeatable`` does, without gradients."""
    with repeatable(tf32), torch.inference_mode():
        yield


class Timed(NamedTuple):
    """How many seconds a call with ``samples`` takes, and how many were ``tried`` to tell; ``what`` they are called."""

    seconds: float
    samples: int
    tried: int
    what: str = "samples"

    @property
    def note(self) -> str:
        """Say, behind a time, where it is scaled from a call with fewer samples."""
        if self.tried == self.samples:
            return ""
        return (
            f" (by a call with {self.tried} of {self.samples} {self.what}; whole calls take more memory than is said "
            "here)"
        )


def call_seconds(
    denoiser: Denoiser, trial: Callable[[int], tuple[torch.Tensor, Any]], samples: int, timestep: int, tf32: bool
) -> Timed:
    """Time a call of a denoiser as ``by_trials`` does; ``trial`` makes the states and the condition of so many."""

    def timed(count: int) -> float:
        x_t, condition = trial(count)
        return timed_call(denoiser, x_t, timestep, condition)

    with inference(tf32):
        return by_trials(timed, samples)


def by_trials(timed: Callable[[int], float], samples: int, what: str = "samples") -> Timed:
    """Tell how many seconds a call with so many samples takes, by those of calls with few, which ``timed`` gives.

    One is tried first, then four times as many as before: all of them, of which the median of a few counts unless that
    takes long, or, where the next call might take longer than LONG, as many as were tried, and the time is scaled. (A
    GPU takes hardly longer for many than for one.)
    """
    tried, seconds = 1, timed(1)
    if seconds < LONG < GROWTH * seconds:
        seconds = timed(1)  # the first one also warms up
    while tried < samples:
        more = min(GROWTH * tried, samples)
        if seconds * more / tried > LONG:
            break
        tried, seconds = more, timed(more)
    if tried == samples and seconds < 1:
        seconds = median(timed(samples) for _ in range(3))
    return Timed(seconds * samples / tried, samples, tried, what)


def draw_seconds(source: NoiseSource, samples: Sequence[int]) -> float:
    """Time drawing the noise of a step for these samples: the median of a few."""

    def timed_draw() -> float:
        begun = time.perf_counter()
        source(Purpose.STEP, samples, 0)
        return time.perf_counter() - begun

    return median(timed_draw() for _ in range(3))


def memory_free(device: torch.device) -> int:
    """Return the memory of a device in bytes that is not in use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else stores.memory_free()


def timed_call(denoiser: Denoiser, x_t: torch.Tensor, timestep: int, condition: Any, cut: Cut = WHOLE) -> float:
    """Time one call of a denoiser under a cut, in seconds."""
    begun = time.perf_counter()
    denoiser(x_t, timestep, condition, cut).pred_x0[-1].cpu()  # waits for the device
    return time.perf_counter() - begun
