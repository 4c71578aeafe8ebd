"""One call of a pipeline, watched while it runs: what it goes through is held in memory until it has ended."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from traj.pipeline.making.hostcopy import HostCopy
from traj.pipeline.process.stepped import Steps, steps_of
from traj.stores import InputError

TOLD = {"prompt": "prompt", "class_labels": "label"}
"""What a call may tell each sample, by the name of the argument: coordinates of a store."""


class Call:
    """The states that a scheduler is given in one call of a pipeline.

    ``arguments`` are those of the call, ``check`` is run once the shape and the steps are known, and may refuse them.
    """

    def __init__(self, scheduler: Any, arguments: Mapping[str, Any], every: int, check: Callable[[Call], None]) -> None:
        self.scheduler, self.arguments = scheduler, arguments
        self._every, self._check = every, check
        self._signature = inspect.signature(scheduler.step)
        self._times: list[Any] = []
        self._evaluations = 0
        self._host: HostCopy | None = None

    def step(self, take: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have the scheduler take a step, and keep what it is given where that is the first evaluation of the step."""
        given = self._signature.bind(*args, **kwargs).arguments
        if self._host is None:
            self._begin(given)
        self._keep(given)
        self._evaluations += 1
        output = take(*args, **kwargs)
        if self._evaluations > self.steps.call[-1]:
            last = output[0] if isinstance(output, tuple) else output.prev_sample
            self._last = last.detach().to(torch.float32, copy=True)
        return output

    def end(self) -> None:
        """Wait for the last copies.

        Raises InputError unless the pipeline took every step of its scheduler, in the scheduler's order.
        """
        if self._host is None:
            raise InputError(f"the pipeline took no step of its {type(self.scheduler).__name__}: nothing was recorded")
        self.stop()
        wanted = int(self.steps.call[-1]) + 1
        if self._evaluations < wanted:
            raise InputError(
                f"the pipeline stopped after {self._evaluations} of its scheduler's {wanted} evaluations; only calls "
                "that take all of them are recorded"
            )
        for time, expected in zip(self._times, self.steps.model_time, strict=True):
            there = torch.as_tensor(time).detach().cpu().double().numpy()
            if not np.allclose(there, expected, rtol=1e-6, atol=1e-9):
                raise InputError(
                    f"the pipeline stepped at {', '.join(f'{t:g}' for t in np.unique(there))} where its scheduler "
                    f"expected {expected:g}; only steps in the scheduler's order, at one timestep for all of the "
                    "batch, are recorded"
                )
        self.x_0 = self._last.cpu().numpy()

    def stop(self) -> None:
        """End the thread that copies. Raises what went wrong there."""
        if self._host is not None:
            self._host.__exit__(None, None, None)

    def put(self, block: int, step: int, x_t: NDArray[Any], pred_x0: NDArray[Any], /) -> None:
        """Take a step that is kept."""
        self.x_t[step], self.pred_x0[step] = x_t, pred_x0

    def told(self) -> dict[str, list[Any]]:
        """Give what each sample was told: one value, or a list whose values have equal parts of the batch in turn.

        Raises InputError where the batch cannot be divided so.
        """
        batch, found = self.shape[0], dict[str, list[Any]]()
        for argument, name in TOLD.items():
            value = self.arguments.get(argument)
            values = value.tolist() if isinstance(value, torch.Tensor) else value
            if values is None:
                continue
            values = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
            if not values or batch % len(values):
                raise InputError(
                    f"{argument} has {len(values)} values for a batch of {batch}; expected as many, or a divisor"
                )
            found[name] = [value for value in values for _ in range(batch // len(values))]
        return found

    def _begin(self, given: Mapping[str, Any]) -> None:
        """Lay out the call, once its first step is asked for."""
        self.steps: Steps = steps_of(self.scheduler, float(torch.as_tensor(given["timestep"]).flatten()[0]))
        self.kept = sorted({*range(0, len(self.steps), self._every), len(self.steps) - 1})
        self.shape = tuple(given["sample"].shape)
        self._check(self)
        self.x_t, self.pred_x0 = (np.empty((len(self.kept), *self.shape), np.float32) for _ in range(2))
        self._host = HostCopy(self, given["sample"].device)

    def _keep(self, given: Mapping[str, Any]) -> None:
        x_t, at = given["sample"], int(np.searchsorted(self.steps.call, self._evaluations))
        if x_t.shape != self.shape:
            raise InputError(
                f"states grew from {self.shape} to {tuple(x_t.shape)} within a call; a store has one shape"
            )
        if given.get("per_token_timesteps") is not None:
            raise InputError("steps with per_token_timesteps cannot be recorded: a store has one noise for a state")
        if at == len(self.steps) or self.steps.call[at] != self._evaluations:
            return
        self._times.append(given["timestep"])  # compared at the end: reading it now would wait for the GPU
        if at in self.kept and self._host:
            with torch.no_grad():
                pred_x0 = self.steps.pred_x0(at, x_t, given["model_output"])
            # a copy of x_t, as a pipeline may write into its latents before the host has them
            self._host.put(0, self.kept.index(at), [x_t.detach().to(torch.float32, copy=True), pred_x0])


@contextmanager
def replaced(owner: Any, name: str, instead: Callable[..., Any]) -> Iterator[None]:
    """Have one object's method call ``instead(method, *arguments)`` for a while.

    Its class is exchanged for a subclass of the same name: this reaches methods such as ``__call__``, and leaves other
    objects, and copies that are made of this one, as they are.
    """
    kind = type(owner)
    original = getattr(kind, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not owner:
            return original(self, *args, **kwargs)
        return instead(functools.partial(original, self), *args, **kwargs)

    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    owner.__class__ = type(kind.__name__, (kind,), {name: method, **same})
    try:
        yield
    finally:
        owner.__class__ = kind
