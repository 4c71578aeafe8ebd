"""Analysing a store against merely reading it with the same engine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr

import analysis
import stores
from benchmarks.made_up import make_store
from benchmarks.timing import Arm, Row, Target, interleave, per_round, rate_text

TITLE = "Analysing x_t and pred_x0 out of core, from the page cache, against reading each byte once (Dask threads)"

QUANTITIES = (["entropy"], ["ssim"], ["psnr"], ["entropy", "ssim", "psnr"])


def rows(tiny: bool) -> list[Row]:
    """Measure each quantity, and all of them in one pass."""
    blocks, block, timesteps, rounds = (2, 4, 12, 2) if tiny else (3, 30, 1000, 5)
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder:
        path = Path(folder) / "run.zarr"
        make_store(path, block=block, blocks=blocks, shape=(3, 32, 32), timesteps=timesteps)
        ds = stores.open(path)
        megabytes = (ds.x_t.nbytes + ds.pred_x0.nbytes) / 1e6
        arms = {"reading": _reading(path), **{",".join(names): _analysing(path, names) for names in QUANTITIES}}
        workers = os.cpu_count() or 1
        with dask.config.set(scheduler="threads", num_workers=workers):
            _compile(ds)
            seconds = interleave(arms, rounds)
    return [
        Row(
            f"{', '.join(names)}, {megabytes / 1e3:.1f} GB, {workers} workers",
            rate_text(megabytes, seconds[",".join(names)], "MB"),
            "reading",
            rate_text(megabytes, seconds["reading"], "MB"),
            per_round(seconds[",".join(names)], seconds["reading"]),
            Target("at most", 1.5),
        )
        for names in QUANTITIES
    ]


def _reading(path: Path) -> Arm:
    def read(folder: Path) -> None:
        ds = stores.open(path)
        dask.compute(*[_touched(ds[name].data) for name in ("x_t", "pred_x0", "x_0")])

    return read


def _touched(array: da.Array) -> da.Array:
    """Reduce every block to one number that depends on all of it."""
    return array.map_blocks(lambda block: np.max(block, keepdims=True), chunks=(1,) * array.ndim, dtype=array.dtype)


def _analysing(path: Path, names: Sequence[str]) -> Arm:
    def analyse(folder: Path) -> None:
        ds = stores.open(path)
        dask.compute(*[analysis.load(name)(ds) for name in names])

    return analyse


def _compile(ds: xr.Dataset) -> None:
    """Run every kernel once, so that compiling is not timed."""
    few = ds.isel(sample=slice(0, 2), timestep=slice(0, 2))
    dask.compute(*[analysis.load(name)(few) for name in QUANTITIES[-1]])
