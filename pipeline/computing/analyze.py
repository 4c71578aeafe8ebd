"""Compute quantities from stores, several in one pass, and save each as a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj import analysis, stores
from traj.pipeline.computing import compiling
from traj.pipeline.computing.engines import Engine
from traj.pipeline.estimate import MARGIN_BYTES, peak_memory, size
from traj.pipeline.garbage import search_as_usual
from traj.stores import KINDS, RESULTS, InputError, KindName, MissingFile, attributes, local, stands_for

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One quantity of one store: where it goes, and what defines it. Other stores are paths in its options."""

    quantity: str
    store: Path
    out: Path
    options: Options
    config: dict[str, Any]

    def opened(self) -> dict[str, Any]:
        """Give the options with the other stores opened."""
        paths = {name: self.options[name] for name in analysis.load(self.quantity).stores}
        return {**self.options, **{name: opened(there) for name, there in paths.items()}}

    @property
    def others(self) -> list[str]:
        """Paths of the other stores it reads."""
        given = [self.options[name] for name in analysis.load(self.quantity).stores if self.options[name]]
        return [path for paths in given for path in ([paths] if isinstance(paths, str) else paths)]

    def require_unchanged(self) -> None:
        """Raise StaleStore where a store it reads holds something else than when it was planned."""
        taken = analysis.load(self.quantity).stores
        others = {self.options[name]: self.config[name] for name in taken if name in self.config}
        for path, planned in {str(self.store): self.config["store"], **others}.items():
            if identities(path) != planned:
                raise stores.StaleStore(
                    f"{path if isinstance(path, str) else ', '.join(path)} was changed while it was analysed; nothing "
                    "is saved, run the same again"
                )


def kind_of(options: Mapping[str, Options]) -> KindName:
    """Say which kind of store these quantities read with these options.

    Raises InputError where they read different kinds.
    """
    kinds: dict[str, KindName] = {}
    for name, chosen in options.items():
        quantity = analysis.load(name)
        given = (kind for option, kind in quantity.reads_with.items() if chosen.get(option))
        kinds[name] = next(given, quantity.reads)
    if len(set(kinds.values())) > 1:
        each = ", ".join(f"{name} reads {kind}" for name, kind in kinds.items())
        raise InputError(f"{', '.join(kinds)} cannot share a pass, they read different kinds of stores: {each}")
    return next(iter(kinds.values()))


def default_stores(options: Mapping[str, Options]) -> list[Path]:
    """List every store that these quantities read with these options under its folder, without those set aside.

    Raises MissingFile where there is none, InputError where they read different kinds.
    """
    kind = kind_of(options)
    needing = [quantity for name in options if (quantity := analysis.load(name)).needs]
    found = sorted(path for path in KINDS[kind].folder.glob("*.zarr") if ".stale-" not in path.name)
    if needing:
        there = {path: list(stores.describe(path)["arrays"]) for path in found}
        found = [path for path in found if all(quantity.fits(there[path]) for quantity in needing)]
    if not found:
        raise MissingFile(
            f"no store was given and there is none under {KINDS[kind].folder}; name one, or run `dvc repro` or "
            f"`{KINDS[kind].command}`"
        )
    return found


def result_path(store: Path, quantity: str, out: Path | None, several_stores: bool) -> Path:
    """Say where a result goes: results/RUN/QUANTITY.zarr, or under `out`, or `out` itself if it ends in .zarr."""
    run = store.name.removesuffix(".zarr")
    if out is None:
        return RESULTS / run / f"{quantity}.zarr"
    if out.suffix == ".zarr":
        return out
    return out / run / f"{quantity}.zarr" if several_stores else out / f"{quantity}.zarr"


def plan_jobs(paths: Sequence[Path], options: Mapping[str, Options], out: Path | None) -> list[Job]:
    """Name the results to be computed: every quantity of every store.

    options maps each quantity to its options. Raises what `stores.open` raises for a store that cannot be used, and
    InputError for one of another kind than the quantities read.
    """
    kind = kind_of(options)
    taken = {kind}.union(set.intersection(*(set(analysis.load(name).reads_also) for name in options)))
    jobs = []
    for path in paths:
        here = stands_for(attributes(path))
        if here not in taken:
            raise InputError(
                f"{path} is a store of kind {here}; {', '.join(options)} needs one of kind {kind}, which "
                f"`{KINDS[kind].command}` makes"
            )
        source = stores.identity(path)
        for quantity, chosen in options.items():
            found = analysis.load(quantity)
            full = {name: chosen.get(name, option.default) for name, option in found.options.items()}
            others = {name: identities(full[name]) for name in found.stores if full[name]}
            config = {
                "numerics": found.numerics,
                "quantity": quantity,
                "options": json.loads(json.dumps({**full, **dict.fromkeys(others)})),
                "store": source,
                **others,
            }
            full |= {name: absolute(full[name]) for name in others}
            target = result_path(path, quantity, out, len(paths) > 1)
            jobs.append(Job(quantity, path, target, full, config))
    _require_places_of_their_own(jobs, out)
    return jobs


def _require_places_of_their_own(jobs: Sequence[Job], out: Path | None) -> None:
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.out, job)
        if other is job:
            continue
        if job.out == out:
            raise InputError(f"{out} would have to hold several results; give -o a folder, not a .zarr")
        raise InputError(
            f"{other.store} and {job.store} were given, whose results would both be {job.out}; give each store once, "
            "and stores of one name in commands of their own, each with another folder: -o FOLDER"
        )


def identities(paths: str | tuple[str, ...]) -> Any:
    """Tell the contents of another store apart, or those of several."""
    return stores.identity(local(paths)) if isinstance(paths, str) else [stores.identity(local(path)) for path in paths]


def absolute(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Name stores so that processes in other folders find them."""
    return str(Path(paths).absolute()) if isinstance(paths, str) else tuple(str(Path(p).absolute()) for p in paths)


def opened(paths: str | tuple[str, ...] | None) -> xr.Dataset | tuple[xr.Dataset, ...] | None:
    """Open another store, or several, or none."""
    if not paths:
        return () if isinstance(paths, tuple) else None
    return stores.open(paths) if isinstance(paths, str) else tuple(stores.open(path) for path in paths)


def unfinished(jobs: Sequence[Job], say: Callable[[str], None]) -> list[Job]:
    """Leave out the results that are there already.

    Raises StaleStore where another result is in the way.
    """
    wanted = [job for job in jobs if stores.would_keep(job.out, job.config) is stores.Kept.ABSENT]
    for job in jobs:
        if job not in wanted:
            say(f"{job.out} is there already, nothing to do")
    return wanted


def run(store: Path, jobs: Sequence[Job], *, engine: Engine, say: Callable[[str], None]) -> None:
    """Compute results of one store, reading each shard once, and save them.

    Raises DamagedStore where the bytes of a store that is read are wrong, StaleStore where one changed meanwhile or
    another result is in the way.
    """
    ds = stores.open(store.absolute())
    of = ds.attrs.get("of", ds.attrs["kind"])
    given = [job.opened() for job in jobs]
    names = ", ".join(job.quantity for job in jobs)
    with stores.reading(*(path for job in jobs for path in job.others), store):
        lazy = [
            analysis.load(job.quantity)(ds, **options).assign_attrs(of=of)
            for job, options in zip(jobs, given, strict=True)
        ]
        pooled = sum(
            analysis.load(job.quantity).memory(ds, **options) for job, options in zip(jobs, given, strict=True)
        )
        say(f"{names} of {store}: {engine.name}, memory {size(memory(ds, pooled, lazy, engine))}")
        search_as_usual()
        with compiling.said(say):
            computed = engine.compute(lazy)
    for job in jobs:
        job.require_unchanged()
    for job, result in zip(jobs, computed, strict=True):
        saved = stores.save(result, job.out, job.config)
        say(f"wrote {job.out}" if saved else f"{job.out} is there already, another process wrote it")


def memory(ds: xr.Dataset, pooled: int, lazy: Sequence[xr.Dataset], engine: Engine) -> int:
    """Estimate the peak memory of an analysis in bytes, in all its processes.

    Each worker holds the decoded chunks of one task, their encoded bytes and a copy in progress; what the quantities
    pool stays until all samples have gone by, and the results until they are saved.
    """
    task = sum(
        int(np.prod([sizes[0] for sizes in array.chunks])) * array.dtype.itemsize
        for array in ds.data_vars.values()
        if array.chunks is not None
    )
    results = sum(result.nbytes for result in lazy)
    processes = (1 + engine.processes) * (peak_memory() + MARGIN_BYTES)
    return processes + 3 * engine.tasks * task + pooled + 2 * results
