"""Open a store for writing: make it, resume it, extend it, refuse it or set it aside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traj.stores import levels
from traj.stores.blocks import BlockWriter
from traj.stores.claim import Claim, Stale, claim
from traj.stores.description import Description, ReadVariable, Variable
from traj.stores.errors import InputError
from traj.stores.events import USUAL_DIMS, checked_event
from traj.stores.kinds import KINDS, KindName
from traj.stores.layout import Coord, Layout, fingerprint
from traj.stores.locks import BlockLocks
from traj.stores.places import place
from traj.stores.vocabulary import COORDINATES, DERIVED, FORK_DIMS, STATES, VARIABLES
from traj.stores.writer import TrajectoryWriter

Writer = TypeVar("Writer")


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
    valid_range: tuple[float, float] = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> TrajectoryWriter:
    """Open a trajectory store for writing: make it, resume it, or extend it.

    timestep is the descending list of stored timesteps; signal and noise_scale (x_t = signal x_0 + noise_scale eps),
    step, model_time and noise_sd go along it. label (-1 for none) and, where there are texts, prompt go along the
    samples. shape is that of one event and dims name its axes; by default they go by its length: feature; channel,
    position; channel, y, x; channel, frame, y, x. config names every input the numbers depend on: a store with another
    config, or with other labels or prompts, is refused, or set aside. keepbits rounds float32 mantissas to that many
    bits. blocks limits this writer to some blocks, so that several processes can share a run.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype {dtype!r} was given, expected float32 or float16")
    if keepbits is not None and (dtype != "float32" or not 1 <= keepbits <= 22):
        raise InputError(f"keepbits={keepbits} with {dtype} was given; it needs float32 and 1 to 22 bits")
    _at_least_one(samples=samples, block=block)
    along_timestep = _along_timestep(timestep, signal, noise_scale, step, model_time, noise_sd)
    event, names = checked_event(shape, dims)
    states = (*STATES, *(["log_variance"] if log_variance else []))
    timesteps = len(along_timestep["timestep"])
    layout = Layout.of(samples=samples, block=block, timesteps=timesteps, shape=event, dtype=dtype, states=len(states))
    store = {
        **_inputs(layout, names, valid_range, along_timestep),
        "keepbits": keepbits,
        "log_variance": log_variance,
    }
    description = Description(
        kind="trajectories",
        layout=layout,
        variables=_variables(layout, names, states, valid_range),
        coords={**_coords(along_timestep), **_of_samples(samples, label, prompt)},
        config={**config, "store": store},
        environment=environment or {},
        keepbits=keepbits,
    )
    return _open(TrajectoryWriter, path, description, stale, blocks)


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
    valid_range: tuple[float, float] = (-1.0, 1.0),
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
    _at_least_one(samples=samples, block=block, replicas=replicas)
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
        **_inputs(layout, names, valid_range, along_timestep),
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
            **_coords(numbers),
            **{name: _of_variants(name, values) for name, values in along_variant.items()},
            **_coords(along_timestep),
            **_of_samples(samples, label, prompt),
        },
        config={**config, "store": store},
        environment=environment or {},
    )
    return _open(TrajectoryWriter, path, description, stale, blocks)


def create_dataset(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    label: ArrayLike | None = None,
    dims: Sequence[str] | None = None,
    valid_range: tuple[float, float] = (-1.0, 1.0),
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> BlockWriter:
    """Open a dataset for writing, a store of x_0 alone: make it, resume it, or extend it.

    Its one variable is written as `x_0`, float32 (sample, *event), a block at a time, and each block is one chunk. All
    else is as for `create`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    _at_least_one(samples=samples, block=block)
    event, names = checked_event(shape, dims)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=event, dtype="float32")
    said = VARIABLES["x_0"]
    x_0 = Variable(
        dims=(*said.dims, *names),
        shape=(samples, *event),
        chunks=(block, *event),
        attributes={"long_name": said.long_name, "units": said.units, "valid_range": list(valid_range)},
    )
    description = Description(
        kind="dataset",
        layout=layout,
        variables={"x_0": x_0},
        coords=_of_samples(samples, label, None),
        config={**config, "store": _inputs(layout, names, valid_range)},
        environment=environment or {},
    )
    return _open(BlockWriter, path, description, stale, blocks)


def create_readout(
    path: str | os.PathLike[str],
    *,
    of: KindName,
    variables: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, tuple[str, ArrayLike, str, str]],
    samples: int,
    block: int,
    config: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
    stale: Stale = "refuse",
    blocks: Iterable[int] | None = None,
) -> BlockWriter:
    """Open a readout store for writing: make it, resume it, or extend it.

    of is the kind of the store that is read. variables maps a name to (dims, long_name, units), the
    first fields of a `ReadVariable`, or to all of them; coords a name to (dim, values, units, long_name), and gives
    every dim its length. All else is as for `create`.

    Raises StaleStore, LockedStore, NotAStore, DamagedStore, InputError.
    """
    _at_least_one(samples=samples, block=block)
    layout = Layout.of(samples=samples, block=block, timesteps=1, shape=(1, 1, 1), dtype="float32")
    numbers = np.arange(samples, dtype="int64")
    described = {
        "sample": Coord.known("sample", numbers),
        **{
            name: Coord(dim, np.asarray(values), units, long_name)
            for name, (dim, values, units, long_name) in coords.items()
            if name != "sample"
        },
    }
    if "label" not in described:
        described["label"] = Coord.known("label", np.full(samples, -1))
    lengths = {coord.dim: len(coord.values) for coord in described.values()}
    read_off = {name: ReadVariable(*given) for name, given in variables.items()}
    for name, read in read_off.items():
        dims = read.dims
        if "sample" not in dims or (unknown := [dim for dim in dims if dim not in lengths]):
            raise InputError(
                f"{name} has dims {', '.join(dims)}; expected `sample` among them, and a coordinate along each"
                + (f" ({', '.join(unknown)} has none)" if "sample" in dims else "")
            )
    fixed = {name: coord.values for name, coord in described.items() if coord.dim != "sample"}
    dtypes = {name: read.dtype for name, read in read_off.items() if read.dtype != "float32"}
    store = {
        "block": block,
        "of": of,
        "variables": {name: list(read.dims) for name, read in read_off.items()},
        **({"dtypes": dtypes} if dtypes else {}),
        "coordinates": _digest(fixed),
    }
    description = Description(
        kind="readout",
        layout=layout,
        variables={name: read.cut(block, tuple(lengths[dim] for dim in read.dims)) for name, read in read_off.items()},
        coords=described,
        config={**config, "store": store},
        environment=environment or {},
        attributes={"of": of},
    )
    return _open(BlockWriter, path, description, stale, blocks)


def _open(
    writer: Callable[[Claim], Writer],
    path: str | os.PathLike[str],
    description: Description,
    stale: Stale,
    blocks: Iterable[int] | None,
) -> Writer:
    """Bring the store to the asked state, hold the blocks to be written, and open a writer on them."""
    target, wanted = place(path), _wanted(description.layout, blocks)
    locks = BlockLocks(target)
    try:
        return writer(claim(target, description, stale, wanted, locks))
    except BaseException:
        locks.close()
        raise


def _variables(
    layout: Layout, dims: Sequence[str], states: Sequence[str], valid_range: tuple[float, float]
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
        bounds = {} if name == "log_variance" else {"valid_range": list(valid_range)}
        found[name] = Variable(
            dims=(*FORK_DIMS[: len(layout.lead)], *said.dims, *dims),
            shape=shape,
            chunks=chunks,
            attributes={"long_name": said.long_name, "units": said.units, **bounds},
            dtype=layout.dtype if name in states else "float32",
            shards=shards,
        )
    return found


def _inputs(
    layout: Layout,
    dims: tuple[str, ...],
    valid_range: tuple[float, float],
    along_timestep: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Name what numbers of events depend on in a store of them."""
    given = {name: values for name, values in (along_timestep or {}).items() if name not in DERIVED}
    return {
        "block": layout.block,
        "shape": list(layout.shape),
        **({} if dims == USUAL_DIMS.get(len(dims)) else {"dims": list(dims)}),
        "dtype": layout.dtype,
        "valid_range": list(valid_range),
        **({"coordinates": _digest(given)} if given else {}),
    }


def _coords(values: Mapping[str, NDArray[Any]]) -> dict[str, Coord]:
    return {name: Coord.known(name, along) for name, along in values.items()}


def _of_samples(samples: int, label: ArrayLike | None, prompt: ArrayLike | None) -> dict[str, Coord]:
    """Describe the coordinates along the samples: their numbers, and what they are made under."""
    numbers = np.arange(samples, dtype="int64")
    along = {"sample": numbers, "label": _like(numbers, label, np.full(samples, -1), "label")}
    if prompt is not None:
        along["prompt"] = _like(numbers.astype(object), np.asarray(prompt, np.str_), None, "prompt")
    return _coords(along)


def _wanted(layout: Layout, blocks: Iterable[int] | None) -> list[int]:
    """List the blocks that were asked for, all by default."""
    wanted = set()
    for block in range(layout.blocks) if blocks is None else blocks:
        if not 0 <= block < layout.blocks:
            raise InputError(
                f"block {block} was asked for; {layout.samples} samples in blocks of {layout.block} have 0 to "
                f"{layout.blocks - 1}"
            )
        wanted.add(block)
    if not wanted:
        raise InputError(f"no block was asked for; expected some of 0 to {layout.blocks - 1}")
    return sorted(wanted)


def _digest(coordinates: Mapping[str, NDArray[Any]]) -> str:
    """Hash coordinates by 9 digits: the last bits of a cosine or a logarithm differ between machines.

    What is left of a signal near 1, noise_scale^2 = 1 - signal^2, has fewer of them than a cosine.
    """
    return fingerprint({name: list(map(_steady, values.tolist())) for name, values in coordinates.items()})


def _steady(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


def _at_least_one(**counts: int) -> None:
    if min(counts.values()) < 1:
        given = " and ".join(f"{name}={count}" for name, count in counts.items())
        raise InputError(f"{given} were given, each must be at least 1")


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
    c, d = _like(floats, signal, None, "signal"), _like(floats, noise_scale, None, "noise_scale")
    if not (np.isfinite(c).all() and np.isfinite(d).all() and (c >= 0).all() and (d > 0).all()):
        raise InputError("signal must be 0 or more and noise_scale above 0, all of them finite")
    alpha_bar = levels.alpha_bar(c, d)
    return {
        "timestep": times,
        "step": _like(times, step, np.arange(len(times)), "step"),
        "model_time": _like(floats, model_time, times, "model_time"),
        "signal": c,
        "noise_scale": d,
        **({} if alpha_bar is None else {"alpha_bar": alpha_bar}),
        "sigma": levels.sigma(c, d),
        "log_snr": levels.log_snr(c, d),
        "noise_sd": _like(floats, noise_sd, np.full(len(times), np.nan), "noise_sd"),
    }


def _of_variants(name: str, values: NDArray[Any]) -> Coord:
    """Take a coordinate of forks: one of the contract, or one that says of its own what was varied."""
    return Coord.known(name, values) if name in COORDINATES else Coord("variant", values, "1", name)


def _like(pattern: NDArray[Any], values: ArrayLike | None, default: ArrayLike | None, name: str) -> NDArray[Any]:
    """Read values, or a default, as an array of a pattern's type and shape."""
    array = np.asarray(default if values is None else values, pattern.dtype)
    if array.shape != pattern.shape:
        raise InputError(f"{name} has shape {array.shape}, expected {pattern.shape}")
    return array
