"""Computing in other processes through dask.distributed; imported when `--scheduler` asks for it."""

from __future__ import annotations

import copyreg
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import dask
import dask.array as da
import zarr
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin
from distributed.client import FutureCancelledError
from distributed.diagnostics.progressbar import ProgressBar
from distributed.utils import silence_logging_cmgr
from numba.core import event
from numba.core.registry import CPUDispatcher
from numpy.typing import NDArray
from tqdm import tqdm

from traj.pipeline.computing import compiling
from traj.pipeline.computing.engines import Engine, bar, pin_decoding, together
from traj.stores import FailedRun, InputError

CONNECT_SECONDS = 5
TOPIC = "traj-compiling"

LOCAL_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "DASK_LOGGING__DISTRIBUTED": "critical",
}
"""What a local worker process starts with: one thread for every library, and nothing on the screen."""

PRELOADED = ["traj.pipeline.computing.cluster", "traj.analysis.psnr"]
"""Modules that import nearly all that a worker ever imports."""

# Numba would send a kernel's source, to be compiled by every worker; by its name, it comes from the cache on disk.
copyreg.pickle(CPUDispatcher, lambda kernel: kernel.__qualname__)


class Pinned(WorkerPlugin):
    """Brings this process's configuration to every worker, whenever it starts, and has it say when it compiles."""

    name = "traj-pinned"

    def __init__(self, local: bool) -> None:
        self.local = local
        self.concurrency = zarr.config.get("async.concurrency")

    def setup(self, worker: Worker) -> None:
        """Pin a worker's decoding threads; Ctrl-C is for the process that started it."""
        pin_decoding(worker.state.nthreads, self.concurrency)
        self.listener = compiling.First(lambda: worker.log_event(TOPIC, True))
        event.register(compiling.COMPILES, self.listener)
        if self.local:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: Worker) -> None:
        """Undo the changes to a worker that goes on."""
        event.unregister(compiling.COMPILES, self.listener)


class TaskBar(ProgressBar):
    """Shows a scheduler's finished tasks in a bar of ours."""

    def __init__(self, futures: Sequence[Any], client: Client, shown: tqdm) -> None:
        assert client.scheduler is not None  # it is connected
        super().__init__(futures, client.scheduler.address)  # type: ignore[no-untyped-call]
        self.shown = shown

    def _draw_bar(self, *, remaining: int, all: int, **_: Any) -> None:
        self.shown.total, self.shown.n = all, all - remaining
        self.shown.refresh()


def way_to_start() -> str:
    """Name how Dask starts local workers: forked from one process that has imported what they need, where that can be.

    That process is started here and ends with this one. It saves two seconds of processor time for each worker, also
    for those that take the place of dead ones. Elsewhere than on Linux libraries start threads, which no fork survives.
    """
    if sys.platform != "linux":
        return "spawn"
    os.environ.update(LOCAL_ENVIRONMENT)  # as Dask does itself when it starts a worker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process, from the start
    try:
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    except OSError:  # where temporary files lie has too long a name for a socket
        return "spawn"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return "forkserver"


@contextmanager
def local(processes: int) -> Iterator[Engine]:
    """Start processes of one thread each, and stop them at the end."""
    with (
        silence_logging_cmgr(logging.CRITICAL),
        tempfile.TemporaryDirectory(prefix="traj-", ignore_cleanup_errors=True) as folder,
        dask.config.set(
            {
                "temporary-directory": folder,
                "distributed.nanny.pre-spawn-environ": LOCAL_ENVIRONMENT,
                "distributed.worker.multiprocessing-method": way_to_start(),
            },
        ),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        ) as workers,
        Client(workers, set_as_default=False) as client,
    ):
        client.register_plugin(Pinned(local=True))
        client.subscribe_topic(TOPIC, lambda _: compiling.pass_on())
        name = f"{processes} process{'es' * (processes > 1)}"
        yield Engine(
            name, processes, processes, lambda lazy: together(lazy, lambda arrays: compute(client, arrays, name))
        )


@contextmanager
def running(address: str) -> Iterator[Engine]:
    """Use the cluster at tcp://HOST:PORT, and leave it running.

    Its workers need this package, and the stores under the same paths. Raises InputError where none answers.
    """
    with silence_logging_cmgr(logging.CRITICAL):
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask cluster answers at {address}: {error}; start one with `dask scheduler` and `dask worker`"
            ) from None
        with client:
            threads = sum(client.nthreads().values())
            if not threads:
                raise InputError(f"the cluster at {address} has no workers; start some with `dask worker {address}`")
            client.register_plugin(Pinned(local=False))
            client.subscribe_topic(TOPIC, lambda _: compiling.pass_on())
            try:
                name = f"{address}, {threads} thread{'s' * (threads > 1)}"
                yield Engine(
                    name, threads, 0, lambda lazy: together(lazy, lambda arrays: compute(client, arrays, address))
                )
            finally:
                client.unregister_worker_plugin(Pinned.name)


def compute(client: Client, arrays: Sequence[da.Array], name: str) -> Sequence[NDArray[Any]]:
    """Compute arrays together; a worker that dies is replaced and its tasks are done again.

    Raises FailedRun where the workers keep dying or the cluster is gone.
    """
    futures = client.compute(list(arrays))
    with bar() as shown:
        if not shown.disable:
            client.sync(TaskBar(futures, client, shown).listen)
    try:
        return list(client.gather(futures))
    except (KilledWorker, FutureCancelledError) as error:
        raise FailedRun(
            f"workers of {name} were lost, perhaps because memory ran out ({error}); run the same again with fewer"
        ) from None
