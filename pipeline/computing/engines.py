"""What computes an analysis: threads of this process, processes of this machine, or a running Dask cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import dask.base
import dask.config
import dask.threaded
import xarray as xr
import zarr
from dask.callbacks import Callback
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from zarr.core.sync import sync

from traj.pipeline.parsing import is_whole, most_workers, whole
from traj.stores import InputError


@dataclass(frozen=True)
class Engine:
    """A way to compute lazy results: its name, tasks at a time, and processes of this machine beside this one."""

    name: str
    tasks: int
    processes: int
    compute: Callable[[Sequence[xr.Dataset]], Sequence[xr.Dataset]]


def start(scheduler: str, workers: int) -> AbstractContextManager[Engine]:
    """Start what `--scheduler` asks for: threads, a number of local processes, or a cluster at tcp://HOST:PORT.

    Processes stop when the context ends; `workers` is the number of threads.

    Raises InputError for another word, without the package distributed, and where no cluster answers.
    """
    if scheduler == "threads":
        return _here(workers)
    processes = whole(scheduler) if is_whole(scheduler) else 0
    if not 1 <= processes <= most_workers() and not scheduler.startswith("tcp://"):
        raise InputError(
            f"scheduler {scheduler!r} was given, expected threads, a number of local processes from 1 to "
            f"{most_workers()}, or the address of a running Dask cluster, tcp://HOST:PORT"
        )
    try:
        from traj.pipeline.computing import cluster
    except ModuleNotFoundError as error:
        if error.name != "distributed":
            raise
        raise InputError(
            f"scheduler {scheduler} needs the package distributed: pip install 'traj[distributed]', or leave "
            "--scheduler out to compute by threads"
        ) from None
    return cluster.local(processes) if processes else cluster.running(scheduler)


@contextmanager
def _here(workers: int) -> Iterator[Engine]:
    with by_threads():
        yield threads(workers)


def by_threads() -> AbstractContextManager[None]:
    """Have Dask compute by threads wherever nothing else is said.

    By itself it looks for a cluster first, also where threads are asked for by name, and imports distributed for that:
    more than a second.
    """
    chosen: AbstractContextManager[None] = dask.config.set(scheduler=dask.threaded.get)
    return chosen


def threads(workers: int) -> Engine:
    """Compute by threads of this process."""

    def compute(lazy: Sequence[xr.Dataset]) -> Sequence[xr.Dataset]:
        pin_decoding(workers, zarr.config.get("async.concurrency"))
        try:
            # products of matrices by several threads each, side by side, wait for one another
            with progress(), threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
                return together(lazy, lambda arrays: dask.base.compute(*arrays, scheduler=dask.threaded.get, pool=pool))
        except BaseException:
            # chunks still being read would complain on the screen when the interpreter ends
            sync(settled())
            raise

    return Engine(f"{workers} thread{'s' * (workers > 1)}", workers, 0, compute)


def together(
    lazy: Sequence[xr.Dataset], compute: Callable[[list[da.Array]], Sequence[NDArray[Any]]]
) -> Sequence[xr.Dataset]:
    """Compute the variables of several results in one pass, each a Dask collection of its own.

    A dataset as one collection fails where one variable is made from another: Dask fuses the first one away.
    """
    arrays = [array.data for result in lazy for array in result.data_vars.values() if array.chunks is not None]
    values = iter(compute(arrays))
    return [
        result.assign(
            {
                name: (array.dims, next(values), array.attrs)
                for name, array in result.data_vars.items()
                if array.chunks is not None
            }
        )
        for result in lazy
    ]


async def settled() -> None:
    """Wait until everything else on this event loop has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def pin_decoding(threads: int, concurrency: int) -> None:
    """Have Zarr decode on as many threads as compute, so that workers are what they are said to be."""
    zarr.config.set({"threading.max_workers": threads, "async.concurrency": concurrency})


@contextmanager
def progress() -> Iterator[None]:
    """Show finished tasks on stderr, silent without a terminal."""
    with bar() as shown:

        def started(dsk: Mapping[Any, Any], state: Mapping[str, Any]) -> None:
            shown.reset(total=sum(len(state[group]) for group in ("ready", "waiting", "running")))

        with Callback(start_state=started, posttask=lambda *_: shown.update()):
            yield


def bar() -> tqdm:
    """Make the bar that counts tasks."""
    return tqdm(unit="task", disable=None)
