"""Open a store whose states are written step by step, for writing: a run, forks or a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traj.stores import levels
from traj.stores.asked import at_least_one, inputs, known, like, of_samples, opened
from traj.stores.claim import Stale
from traj.stores.description import Description, Variable
from traj.stores.errors import InputError
from traj.stores.events import checked_event
from traj.stores.kinds import KINDS
from traj.stores.layout import Coord, Layout
from traj.stores.vocabulary import COORDINATES, DERIVED, FORK_DIMS, STATES, VARIABLES
from traj.stores.writer import TrajectoryWriter


def create(
    path: str | os.PathLike[str],
    *,
    timestep: ArrayLike,
    signal: ArrayLike,
    noise_scale: ArrayLike,
    shape: Sequence[int],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    step: ArrayLike | None = None,
    model_time: ArrayLike | None = None,
    noise_sd: ArrayLike | None = None,
    label: ArrayLike | None = None,
    prompt: ArrayLike | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    keepbits: int | None = None,
    log_variance: bool = False,
    dims: Sequence[str] | None = None,
    valid_range: tuple[float, float] | None = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> TrajectoryWriter:
    """Open a trajectory store for writing: make it, resume it, or extend it.

    timestep is the descending list of stored timesteps; signal and noise_scale (x_t = signal x_0 + noise_scale eps),
    step, model_time and noise_sd go along it. label (-1 for none) and, where there are texts, prompt go along the
    samples. shape is that of one event and dims name its axes; by default they go by its length: feature; channel,
    position; channel, y, x; channel, frame, y, x. valid_range is the range x_0 is meant to lie in, None for latents.
    config names every input the numbers depend on: a store with another config, or with other labels or prompts, is
    refused, or set aside. keepbits rounds float32 mantissas to that many bits. blocks limits this writer to some
    blocks, so that several processes can share a run.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype {dtype!r} was given, expected float32 or float16")
    if keepbits is not None and (dtype != "float32" or not 1 <= keepbits <= 22):
        raise InputError(f"keepbits={keepbits} with {dtype} was given; it needs float32 and 1 to 22 bits")
    at_least_one(samples=samples, block=block)
    along_timestep = _along_timestep(timestep, signal, noise_scale, step, model_time, noise_sd)
    event, names = checked_event(shape, dims)
    states = (*STATES, *(["log_variance"] if log_variance else []))
    timesteps = len(along_timestep["timestep"])
    layout = Layout.of(samples=samples, block=block, timesteps=timesteps, shape=event, dtype=dtype, states=len(states))
    store = {
        **inputs(layout, names, valid_range, along_timestep),
        "keepbits": keepbits,
        "log_variance": log_variance,
    }
    description = Description(
        kind="trajectories",
        layout=layout,
        variables=_variables(layout, names, states, valid_range),
        coords={**known(along_timestep), **of_samples(samples, label, prompt)},
        config={**config, "store": store},
        environment=environment or {},
        keepbits=keepbits,
    )
    return opened(TrajectoryWriter, path, description, stale, blocks)


def create_forks(
    path: str | os.PathLike[str],
    *,
    variant: Mapping[str, ArrayLike],
    replicas: int,
    timestep: ArrayLike,
    signal: ArrayLike,
    noise_scale: ArrayLike,
    shape: Sequence[int],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    kind: Literal["fork", "sweep"] = "fork",
    states: bool = False,
    step: ArrayLike | None = None,
    model_time: ArrayLike | None = None,
    label: ArrayLike | None = None,
    prompt: ArrayLike | None = None,
    dims: Sequence[str] | None = None,
    valid_range: tuple[float, float] | None = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> TrajectoryWriter:
    """Open a fork store, or that of a sweep, for writing: make it, resume it, or extend it.

    variant maps the name of a coordinate to its value for every fork, `at` among them: the timestep it starts from.
    Those of a sweep say what was edited, and what that saves: edit, n, ns, nb, unet_blocks, r, evaluations_saved,
    evaluations_cut, multiply_adds_removed; it has one replica.
    Replicas are numbered from 1. states keeps x_t and pred_x0 along timestep beside the final samples; NaN is put
    where a fork has no state. All else is as for `create`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    at_least_one(samples=samples, block=block, replicas=replicas)
    if missing := [name for name in KINDS[kind].edits if name not in variant]:
        raise InputError(
            f"variant has {', '.join(variant) or 'nothing'}; a {kind} has {', '.join(missing)} among its coordinates"
        )
    if kind == "sweep" and replicas != 1:
        raise InputError(f"replicas={replicas} was given for a sweep; expected 1, all its noise is the run's")
    along_variant = {name: np.asarray(values) for name, values in variant.items()}
    count = len(along_variant["at"])
    if not count or any(values.shape != (count,) for values in along_variant.values()):
        shapes = ", ".join(f"{name} {values.shape}" for name, values in along_variant.items())
        raise InputError(f"variant has coordinates of shapes {shapes}; expected one value for every fork")
    along_timestep = _along_timestep(timestep, signal, noise_scale, step, model_time, None)
    del along_timestep["noise_sd"]
    event, names = checked_event(shape, dims)
    timesteps, kept = len(along_timestep["timestep"]), STATES if states else ()
    layout = Layout.of(
        samples=samples,
        block=block,
        timesteps=timesteps,
        shape=event,
        dtype="float32",
        lead=(count, replicas),
        states=len(kept),
    )
    store = {
        **inputs(layout, names, valid_range, along_timestep),
        "variant": {name: values.tolist() for name, values in along_variant.items() if name not in DERIVED},
        "replicas": replicas,
        "states": list(kept),
    }
    numbers = {"variant": np.arange(count), "replica": np.arange(1, replicas + 1)}
    description = Description(
        kind=kind,
        layout=layout,
        variables=_variables(layout, names, kept, valid_range),
        coords={
            **known(numbers),
            **{name: _of_variants(name, values) for name, values in along_variant.items()},
            **known(along_timestep),
            **of_samples(samples, label, prompt),
        },
        config={**config, "store": store},
        environment=environment or {},
    )
    return opened(TrajectoryWriter, path, description, stale, blocks)


def _variables(
    layout: Layout, dims: Sequence[str], states: Sequence[str], valid_range: tuple[float, float] | None
) -> dict[str, Variable]:
    """Describe x_0 and the states on the way to it, cut as the layout says; `dims` are those of an event."""
    found = {}
    for name in (*states, "x_0"):
        said = VARIABLES[name]
        along = [(layout.timesteps, layout.chunk_timesteps, layout.shard_timesteps)] if name in states else []
        shape, chunks, shards = zip(
            *[(length, 1, length) for length in layout.lead],
            (layout.samples, layout.chunk_samples, layout.block),
            *along,
            *[(length, length, length) for length in layout.shape],
            strict=True,
        )
        bounds = {} if name == "log_variance" or valid_range is None else {"valid_range": list(valid_range)}
        found[name] = Variable(
            dims=(*FORK_DIMS[: len(layout.lead)], *said.dims, *dims),
            shape=shape,
            chunks=chunks,
            attributes={"long_name": said.long_name, "units": said.units, **bounds},
            dtype=layout.dtype if name in states else "float32",
            shards=shards,
        )
    return found


def _along_timestep(
    timestep: ArrayLike,
    signal: ArrayLike,
    noise_scale: ArrayLike,
    step: ArrayLike | None,
    model_time: ArrayLike | None,
    noise_sd: ArrayLike | None,
) -> dict[str, NDArray[Any]]:
    """Check the coordinates along timestep and derive the noise levels."""
    times = np.asarray(timestep, np.int64)
    if times.ndim != 1 or not len(times) or np.any(np.diff(times) >= 0):
        raise InputError("timestep must be a list of unique integers in descending order (high noise first)")
    floats = times.astype(np.float64)
    c, d = like(floats, signal, None, "signal"), like(floats, noise_scale, None, "noise_scale")
    if not (np.isfinite(c).all() and np.isfinite(d).all() and (c >= 0).all() and (d > 0).all()):
        raise InputError("signal must be 0 or more and noise_scale above 0, all of them finite")
    alpha_bar = levels.alpha_bar(c, d)
    return {
        "timestep": times,
        "step": like(times, step, np.arange(len(times)), "step"),
        "model_time": like(floats, model_time, times, "model_time"),
        "signal": c,
        "noise_scale": d,
        **({} if alpha_bar is None else {"alpha_bar": alpha_bar}),
        "sigma": levels.sigma(c, d),
        "log_snr": levels.log_snr(c, d),
        "noise_sd": like(floats, noise_sd, np.full(len(times), np.nan), "noise_sd"),
    }


def _of_variants(name: str, values: NDArray[Any]) -> Coord:
    """Take a coordinate of forks: one of the contract, or one that says of its own what was varied."""
    return Coord.known(name, values) if name in COORDINATES else Coord("variant", values, "1", name)
