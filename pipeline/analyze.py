"""Compute quantities from stores, several in one pass, and save each as a result."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.callbacks import Callback
from tqdm import tqdm

import analysis
import stores
from pipeline.estimate import peak_memory, size
from stores.layout import read_root
from stores.reader import arrays_of

RUNS = Path("data/trajectories")
RESULTS = Path("results")
MARGIN_BYTES = 128 << 20

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One quantity of one store: where it goes, what defines it, and the function that makes it."""

    quantity: str
    store: Path
    out: Path
    options: Options
    config: dict[str, Any]

    def build(self, ds: xr.Dataset) -> xr.Dataset:
        """Lay out the computation; nothing is read yet."""
        return analysis.load(self.quantity)(ds, **self.options)


def default_stores() -> list[Path]:
    """List every run under data/trajectories, without those set aside.

    Raises FileNotFoundError where there is none.
    """
    found = sorted(path for path in RUNS.glob("*.zarr") if ".stale-" not in path.name)
    if not found:
        raise FileNotFoundError(
            f"no store was given and there is none under {RUNS}; name one, or run `dvc repro` or `traj generate`"
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

    options maps each quantity to its options. Raises what `stores.open` raises for a store that cannot be used.
    """
    jobs = []
    for path in paths:
        source = identity(path)
        for quantity, chosen in options.items():
            signature = inspect.signature(analysis.load(quantity)).parameters
            full = {name: chosen.get(name, p.default) for name, p in signature.items() if name != "ds"}
            config = {
                "numerics": analysis.NUMERICS,
                "quantity": quantity,
                "options": json.loads(json.dumps(full)),
                "store": source,
            }
            if full.get("against"):
                config["against"] = identity(Path(full["against"]))
                config["options"] = {**config["options"], "against": None}
            target = result_path(path, quantity, out, len(paths) > 1)
            jobs.append(Job(quantity, path, target, full, config))
    if len({job.out for job in jobs}) < len(jobs):
        raise ValueError(f"{out} would have to hold several results; give -o a folder, not a .zarr")
    return jobs


def identity(path: Path) -> dict[str, Any]:
    """Tell a store's contents apart from any other's: a run may have been extended since."""
    root = read_root(path)
    arrays = arrays_of(root)
    samples = arrays["sample"]["shape"][0] if "sample" in arrays else None
    return {"fingerprint": root["attributes"]["fingerprint"], "samples": samples}


def run(store: Path, jobs: Sequence[Job], *, workers: int, say: Callable[[str], None]) -> None:
    """Compute the results of one store that are not there yet, reading each shard once.

    Raises StaleStore where another result is in the way, DamagedStore where the store's bytes are wrong.
    """
    wanted = [job for job in jobs if stores.would_keep(job.out, job.config) is stores.Kept.ABSENT]
    for job in jobs:
        if job not in wanted:
            say(f"{job.out} is there already, nothing to do")
    if not wanted:
        return
    ds = stores.open(store)
    lazy = [job.build(ds) for job in wanted]
    names = ", ".join(job.quantity for job in wanted)
    say(f"{names} of {store}: {workers} workers, memory {size(memory(ds, wanted, lazy, workers))}")
    with dask.config.set(scheduler="threads", num_workers=workers), progress():
        try:
            computed = dask.compute(*lazy)
        except ValueError as error:
            if "checksum" in str(error):
                raise stores.DamagedStore(f"{store} is damaged: {error}; run `traj verify {store}`") from None
            raise
    if identity(store) != wanted[0].config["store"]:
        raise stores.StaleStore(f"{store} was changed while it was analysed; nothing is saved, run the same again")
    for job, result in zip(wanted, computed, strict=True):
        stores.save(result, job.out, job.config)
        say(f"wrote {job.out}")


def memory(ds: xr.Dataset, jobs: Sequence[Job], lazy: Sequence[xr.Dataset], workers: int) -> int:
    """Estimate the peak memory of an analysis in bytes.

    Each worker holds the decoded chunks of one task, their encoded bytes and a copy in progress; what a quantity
    pools stays until all samples have gone by, and the results until they are saved.
    """
    task = sum(
        int(np.prod([sizes[0] for sizes in array.chunks])) * array.dtype.itemsize
        for array in ds.data_vars.values()
        if array.chunks is not None
    )
    pooled = sum(
        module.working_bytes(ds, **job.options)
        for job in jobs
        if hasattr(module := sys.modules[f"analysis.{job.quantity}"], "working_bytes")
    )
    results = sum(result.nbytes for result in lazy)
    return peak_memory() + 3 * workers * task + pooled + 2 * results + MARGIN_BYTES


@contextmanager
def progress() -> Iterator[None]:
    """Show finished tasks on stderr, silent without a terminal."""
    with tqdm(unit="task", disable=None) as bar:

        def started(dsk: Mapping[Any, Any], state: Mapping[str, Any]) -> None:
            bar.reset(total=sum(len(state[group]) for group in ("ready", "waiting", "running")))

        with Callback(start_state=started, posttask=lambda *_: bar.update()):
            yield
