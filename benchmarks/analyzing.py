"""Analysing a store against merely reading it with the same engine, and how both grow with workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import dask
import dask.array as da
import numpy as np
import xarray as xr
from zarr.core.sync import cleanup_resources

from benchmarks.decoding import decode_scaling
from benchmarks.made_up import make_store
from benchmarks.memory import estimate_and_peak
from benchmarks.timing import Arm, Row, Target, interleave, per_round, rate_text
from traj import analysis, stores
from traj.pipeline.computing import cluster, engines
from traj.pipeline.computing.engines import Engine
from traj.pipeline.estimate import size

TITLE = "Analysing x_t and pred_x0 out of core, from the page cache, against reading each byte once"

QUANTITIES = ("entropy", "ssim", "psnr")
WORKERS = 2
MEMORY = 2 << 30
TASKS_PER_SHARD = 15 * len(QUANTITIES)


def rows(tiny: bool) -> list[Row]:
    """Measure on a store in the shape of CIFAR-10, 350 samples by 1000 timesteps."""
    if tiny:
        return measure(blocks=2, block=4, timesteps=12, rounds=1, workers=1, decoded=1 << 20)
    return measure(blocks=7, block=50, timesteps=1000, rounds=3, workers=WORKERS, decoded=1 << 30)


def measure(*, blocks: int, block: int, timesteps: int, rounds: int, workers: int, decoded: int) -> list[Row]:
    """Measure each quantity, all in one pass, other engines, other numbers of workers, memory and tasks.

    Plain processes decode so many bytes each.
    """
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder, ExitStack() as running:
        path = make_store(Path(folder) / "run.zarr", block=block, blocks=blocks, shape=(3, 32, 32), timesteps=timesteps)
        clusters = {processes: running.enter_context(cluster.local(processes)) for processes in {1, workers}}
        ways = {
            "threads": engines.threads(workers),
            "one thread": engines.threads(1),
            "processes": clusters[workers],
            "one process": clusters[1],
        }
        for engine in ways.values():
            _warm_up(path, engine)
        quantities = {
            "reading": _reading(path, ways["threads"]),
            **{name: _analysing(path, ways["threads"], [name]) for name in QUANTITIES},
            "all": _analysing(path, ways["threads"], QUANTITIES),
            "all in processes": _analysing(path, ways["processes"], QUANTITIES),
        }
        seconds = interleave(quantities, rounds)
        cleanup_resources()  # Zarr keeps its threads for the process's life, and one engine has fewer
        alone = interleave(
            {name: _analysing(path, ways[name], QUANTITIES) for name in ("one thread", "one process")}, rounds
        )
        scaling = [decode_scaling(path, workers, decoded) for _ in range(rounds)]
        tasks, shards = count_tasks(path)
        estimate, peak = estimate_and_peak(
            ["analyze", ",".join(QUANTITIES), str(path), "-o", folder, "--workers", str(workers)]
        )
        ds = stores.open(path)
        megabytes = (ds.x_t.nbytes + ds.pred_x0.nbytes) / 1e6
    stored = f"{megabytes / 1e3:.1f} GB"

    def compared(what: str, ours: str, against: str, theirs: str, target: Target | None) -> Row:
        return Row(
            f"{what}, {stored}",
            rate_text(megabytes, seconds[ours], "MB"),
            against,
            rate_text(megabytes, seconds[theirs], "MB"),
            per_round(seconds[ours], seconds[theirs]),
            target,
        )

    def speed_up(what: str, one: str, two: str) -> Row:
        faster = per_round(alone[one], seconds[two])
        return Row(
            f"{', '.join(QUANTITIES)}: {what}",
            f"{median(faster):.2f} times",
            f"decoding alone, one process to {workers} side by side",
            f"{median(scaling):.2f} times",
            per_round(faster, scaling),
            Target("at least", 0.8),
        )

    together = f"{', '.join(QUANTITIES)} in one pass"
    return [
        *(
            compared(f"{name}, {workers} threads", name, "reading", "reading", Target("at most", 1.5))
            for name in QUANTITIES
        ),
        compared(f"{together}, {workers} threads", "all", "reading", "reading", None),
        compared(f"{together}, {workers} processes", "all in processes", f"{workers} threads", "all", None),
        speed_up(f"1 thread to {workers}", "one thread", "all"),
        speed_up(f"1 process to {workers}", "one process", "all in processes"),
        Row(
            f"traj analyze {','.join(QUANTITIES)}, {stored}, peak memory",
            size(peak),
            "the most it may take",
            size(MEMORY),
            [peak / MEMORY],
            Target("at most", 1.0),
        ),
        Row(
            "the same, peak memory",
            size(peak),
            "the estimate it prints",
            size(estimate),
            [peak / estimate],
            Target("at most", 1.0),
        ),
        Row(
            f"{together}, tasks",
            f"{tasks:,} tasks",
            "shards of x_t and pred_x0",
            f"{shards} shards",
            [tasks / shards],
            Target("at most", TASKS_PER_SHARD),
        ),
    ]


def _reading(path: Path, engine: Engine) -> Arm:
    def read(folder: Path) -> None:
        ds = stores.open(path)
        engine.compute([xr.Dataset({name: touched(name, ds[name].data) for name in ("x_t", "pred_x0", "x_0")})])

    return read


def touched(name: str, array: da.Array) -> xr.Variable:
    """Reduce every block to one number that depends on all of it."""
    reduced = array.map_blocks(lambda block: np.max(block, keepdims=True), chunks=(1,) * array.ndim, dtype=array.dtype)
    return xr.Variable([f"{name}_{axis}" for axis in range(array.ndim)], reduced)


def _analysing(path: Path, engine: Engine, names: Sequence[str]) -> Arm:
    def analyse(folder: Path) -> None:
        ds = stores.open(path)
        engine.compute([analysis.load(name)(ds) for name in names])

    return analyse


def _warm_up(path: Path, engine: Engine) -> None:
    """Run every kernel once in every process, so that compiling is not timed."""
    ds = stores.open(path).isel(timestep=slice(0, 2))
    engine.compute([analysis.load(name)(ds) for name in QUANTITIES])


def count_tasks(path: Path) -> tuple[int, int]:
    """Count the tasks of all quantities in one pass, and the shards of states."""
    ds = stores.open(path)
    results = [analysis.load(name)(ds) for name in QUANTITIES]
    arrays = [array.data for result in results for array in result.data_vars.values() if array.chunks is not None]
    tasks = {key for array in dask.optimize(*arrays) for key in array.__dask_graph__()}
    return len(tasks), ds.x_t.data.npartitions + ds.pred_x0.data.npartitions
