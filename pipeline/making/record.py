"""Keep what a diffusers pipeline goes through, while it runs its own loop with its own scheduler."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from traj import stores
from traj.pipeline.making.call import TOLD, Call, replaced
from traj.pipeline.models import whole
from traj.pipeline.process.device import environment
from traj.pipeline.process.stepped import require_recorded
from traj.stores import InputError, StoreError

# Raised by hand when the numbers of a record change for equal inputs.
NUMERICS = 1

_UNTOLD = {*TOLD, "output_type", "return_dict"}
"""Arguments of a call that are no input of all its samples alike, or change none of them."""


class _Tried(BaseException):
    """Ends a trial, past whatever a pipeline makes of errors."""


class Recorder:
    """Records each call of a pipeline that is made within ``with`` as one more block of samples of a store.

    For every step of its scheduler it keeps x_t, the state that ``scheduler.step`` was given, and pred_x0, read from
    the network's output by the scheduler's prediction type and the noise level there, never clipped. States in Euler's
    form, x_0 + sigma eps, are stored as they are: signal 1, noise_scale sigma. x_0 is the last state that ``step``
    returned. Where a step takes several evaluations (Heun, KDPM2, the start of PNDM), its first one is kept; the
    coordinate ``step`` counts them all. Timesteps are the scheduler's own where it has a table and they are whole
    numbers that descend; else they count down to 0. ``model_time`` always is the scheduler's.

    Coordinates ``prompt`` and ``label`` are the prompts and class_labels of the calls. A call that fails, or does not
    take all of its steps, leaves nothing in the store; earlier calls stay. What the pipeline returns is unchanged.
    """

    def __init__(
        self,
        pipe: Any,
        path: Path,
        every: int = 1,
        dims: Sequence[str] | None = None,
        stale: stores.Stale = "refuse",
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise InputError(f"every={every} was given; expected 1 for all steps, 2 for each second one, and so on")
        if not hasattr(pipe, "scheduler"):
            raise InputError(f"{type(pipe).__name__} has no scheduler; expected a pipeline of diffusers that has one")
        require_recorded(pipe.scheduler)
        self.calls = 0
        self._pipe, self._path, self._every, self._dims, self._stale = pipe, stores.place(path), every, dims, stale
        self._inputs = dict(inputs or {})
        self._fits: dict[str, Any] | None = None
        self._told: dict[str, list[Any]] = {}
        self._writing: Future[None] | None = None
        self._patched = ExitStack()
        stores.require_writable(self._path)
        self._identity = whole.identity(pipe)
        self._read()

    def __enter__(self) -> Self:
        """Begin to record."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._patched.enter_context(replaced(self._pipe, "__call__", self._record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the pipeline as it was, and wait until the last call is on disk."""
        self._patched.close()
        try:
            self._wait()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(str(failed))
        finally:
            self._pool.shutdown()

    def trial(self, run: Callable[[], object]) -> tuple[Call, float]:
        """Run a call of the pipeline up to its second evaluation, and give it and the seconds between the two.

        Raises InputError for a call that cannot be recorded, or is not like the others.
        """
        tried: list[Call] = []
        times = [time.perf_counter()]

        def step(call: Call, take: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            output = call.step(take, *args, **kwargs)
            times.append(time.perf_counter())
            if len(times) == 3:
                raise _Tried
            return output

        def begun(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = self._call(original, args, kwargs)
            tried.append(call)
            with replaced(call.scheduler, "step", partial(step, call)):
                return original(*args, **kwargs)

        with replaced(self._pipe, "__call__", begun), suppress(_Tried):
            run()
        (call,) = tried
        call.stop()
        if len(times) == 1:
            call.end()
        return call, times[-1] - times[-2]

    def _call(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        require_recorded(self._pipe.scheduler)
        return Call(self._pipe.scheduler, _arguments(original, args, kwargs), self._every, self._require_fit)

    def _record(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline, and keep the call if it ends well."""
        call = self._call(original, args, kwargs)
        try:
            with replaced(call.scheduler, "step", call.step):
                result = original(*args, **kwargs)
        except BaseException:
            call.stop()
            raise
        call.end()
        self._wait()
        self._fits = self._asked(call)
        self._told = {name: self._told.get(name, []) + told for name, told in call.told().items()}
        self._writing = self._pool.submit(self._write, self.calls, call, dict(self._told), self._config(call))
        self.calls += 1
        return result

    def _write(self, block: int, call: Call, told: dict[str, list[Any]], config: dict[str, Any]) -> None:
        """Add the block of a call to the store."""
        steps, kept, batch = call.steps, call.kept, call.shape[0]
        device = whole.device_of(self._pipe)
        with stores.create(
            self._path,
            timestep=steps.timestep[kept],
            signal=steps.signal[kept],
            noise_scale=steps.noise_scale[kept],
            model_time=steps.model_time[kept],
            step=steps.call[kept],
            shape=call.shape[1:],
            dims=self._dims or whole.dims_of(self._pipe, call.shape[1:]),
            valid_range=whole.valid_range_of(self._pipe),
            samples=(block + 1) * batch,
            block=batch,
            blocks=[block],
            config=config,
            label=told.get("label"),
            prompt=told.get("prompt"),
            environment={"model": self._identity.name, **environment(device)},
            stale=self._stale,
        ) as writer:
            if block not in writer.pending:
                raise StoreError(f"another process recorded call {block} of {self._path} meanwhile; record again")
            for k in range(len(kept)):
                writer.put(block, k, call.x_t[k], call.pred_x0[k])
            writer.finish(block, call.x_0)

    def _wait(self) -> None:
        """Wait until the call before is on disk. Raises what went wrong there."""
        if self._writing is not None:
            self._writing.result()

    def _read(self) -> None:
        """Read the inputs of the calls that the store holds, and what their samples were told."""
        if not self._path.exists() or (self._path.is_dir() and not any(self._path.iterdir())):
            return
        found = stores.describe(self._path)
        config = found["config"]
        if found["kind"] != "trajectories" or "record" not in config:
            holds = stores.KINDS[found["kind"]].contents
            raise stores.NotAStore(f"{self._path} holds {holds} that were not recorded; choose another path")
        store = config.pop("store")
        self.calls = found["blocks_done"]
        self._fits = {**config, "batch": store["block"], "shape": store["shape"]}
        ds = stores.open(self._path, partial=True)
        told = [name for name in stores.TOLD if name in ds.coords]
        values = {name: ds[name].values[: self.calls * store["block"]].tolist() for name in told}
        self._told = {name: value for name, value in values.items() if name != "label" or max(value, default=-1) >= 0}
        self._fits["told"] = sorted(self._told)

    def _require_fit(self, call: Call) -> None:
        """Raise InputError for a call that is not like the others of the store."""
        if self._fits is None or not (different := sorted(_differences(self._fits, self._asked(call)))):
            return
        if self._stale == "set-aside" and self._writing is None:
            self.calls, self._told, self._fits = 0, {}, None
            return
        raise InputError(
            f"this call is not like those recorded in {self._path}:\n  "
            + "\n  ".join(different)
            + "\nExpected one that is; record others into another store."
        )

    def _asked(self, call: Call) -> dict[str, Any]:
        """Name what all calls of a store have in common."""
        batch, *event = call.shape
        return {**self._config(call), "batch": batch, "shape": event, "told": sorted(call.told())}

    def _config(self, call: Call) -> dict[str, Any]:
        """Every input the numbers depend on, as far as it can be told."""
        scheduler = call.scheduler
        times = [float(f"{model_time:.9g}") for model_time in call.steps.model_time[call.kept]]
        return {
            "numerics": NUMERICS,
            "record": {
                "pipeline": type(self._pipe).__name__,
                "weights": self._identity.weights,
                "scheduler": {"class": type(scheduler).__name__, **_json(scheduler.config)},
                "timesteps": times,
                "call": {name: value for name, value in _json(call.arguments).items() if name not in _UNTOLD},
            },
            "every": self._every,
            **self._inputs,
        }


def record(
    pipe: Any,
    path: str | os.PathLike[str],
    every: int = 1,
    *,
    dims: Sequence[str] | None = None,
    stale: stores.Stale = "refuse",
) -> Recorder:
    """Record the calls of a diffusers pipeline that are made within ``with traj.record(pipe, path):``.

    Each call adds its batch to a trajectory store, as one more block: x_t and pred_x0 (sample, timestep, *event) of
    every k-th step and the last, and x_0 (sample, *event). A store that is there already is continued: its calls stay,
    and all calls have the same batch size, shape, timesteps, scheduler and arguments, but for prompts, class_labels and
    generators. dims names the axes of an event where neither their number nor the network's config does. ``Recorder``
    says what is kept, and ``traj.pipeline.process.stepped`` of which schedulers.

    Raises InputError, where it is used or at the call that is at fault: for a scheduler that cannot be recorded, a call
    that is not like the others, or one that does not take all steps; NotAStore, LockedStore or StoreError for the path.
    """
    return Recorder(pipe, Path(path), every, dims, stale)


def _arguments(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call that were given."""
    signature = inspect.signature(run)
    found = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
    return found


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what JSON can hold, and is no note of diffusers'."""

    def holds(value: Any) -> bool:
        try:
            stores.canonical_json(value)
        except (TypeError, ValueError):
            return False
        return True

    return {name: json.loads(stores.canonical_json(v)) for name, v in values.items() if name[:1] != "_" and holds(v)}


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Say how one call differs from others, a line for each input."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key}: {_short(new)}, expected {_short(old)}"


def _short(value: Any) -> str:
    text = stores.canonical_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
