"""Analysing forks and readouts out of core, against reading them once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.analyzing import WORKERS, touched
from benchmarks.made_up import ALPHA_BAR, Trajectories
from benchmarks.timing import Row, interleave, per_round, rate_text
from traj import analysis, stores
from traj.pipeline.computing import engines
from traj.pipeline.computing.engines import Engine

TITLE = "Analysing ends of forks and logits of states out of core, from the page cache, against reading each byte once"

CLASSES = 10
REPLICAS = 8


def rows(tiny: bool) -> list[Row]:
    """Measure consistency on forks of CIFAR-10's shape, and label variance on the logits of 1000 timesteps.

    There is no target: work grows with the pairs of replicas, and logits are a hundredth of the images they are of.
    """
    variants, block, blocks, timesteps, rounds = (2, 4, 2, 6, 2) if tiny else (8, 50, 28, 1000, 3)
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder:
        forks = make_forks(Path(folder) / "forks.zarr", variants, block, blocks)
        logits = make_logits(Path(folder) / "logits.zarr", block, blocks, timesteps)
        return [
            measure(f"consistency, pairs of {REPLICAS} replicas", "consistency", "x_0", forks, rounds),
            measure("label_variance", "label_variance", "logits", logits, rounds),
        ]


def measure(what: str, name: str, variable: str, path: Path, rounds: int) -> Row:
    """Time a quantity and the reading of what it reads, both from opening the store."""
    engine, compute = engines.threads(WORKERS), analysis.load(name)
    engine.compute([compute(stores.open(path).isel(sample=slice(0, 2)))])  # compiles
    seconds = interleave(
        {
            "reading": lambda folder: _read(path, variable, engine),
            "analysing": lambda folder: engine.compute([compute(stores.open(path))]),
        },
        rounds,
    )
    megabytes = stores.open(path)[variable].nbytes / 1e6
    return Row(
        f"{what}, {WORKERS} threads, {megabytes / 1e3:.1f} GB",
        rate_text(megabytes, seconds["analysing"], "MB"),
        "reading",
        rate_text(megabytes, seconds["reading"], "MB"),
        per_round(seconds["analysing"], seconds["reading"]),
    )


def _read(path: Path, variable: str, engine: Engine) -> None:
    engine.compute([xr.Dataset({variable: touched(variable, stores.open(path)[variable].data)})])


def make_forks(path: Path, variants: int, block: int, blocks: int) -> Path:
    """Write the ends of made-up forks, each a mixture of one image that replicas share and one that they do not."""
    shape = 3, 32, 32
    at = np.linspace(900, 100, variants).round().astype(int)
    with stores.create_forks(
        path,
        variant={"at": at},
        replicas=REPLICAS,
        timestep=at,
        signal=np.sqrt(ALPHA_BAR[at]),
        noise_scale=np.sqrt(1 - ALPHA_BAR[at]),
        shape=shape,
        samples=block * blocks,
        block=block,
        config={"model": "made up"},
    ) as store:
        for number in range(blocks):
            shared, *own = (
                Trajectories(block, shape, 1, seed=number * (REPLICAS + 1) + k).x_0 for k in range(REPLICAS + 1)
            )
            kept = np.sqrt(ALPHA_BAR[at])[:, None, None, None, None, None]
            ends = kept * shared + (1 - kept) * np.stack(own)
            store.finish(number, ends.astype(np.float32))
    return path


def make_logits(path: Path, block: int, blocks: int, timesteps: int) -> Path:
    """Write made-up logits of states, surer as noise fades."""
    random = np.random.default_rng(0)
    timestep = np.linspace(999, 0, timesteps).round().astype(int)
    coords = {
        "on": ("on", ["x_t", "pred_x0"], "1", "variable that was read"),
        "timestep": ("timestep", timestep, "1", "index in the training schedule"),
        "class": ("class", np.arange(CLASSES), "1", "class"),
    }
    variables = {
        "logits": (("on", "sample", "timestep", "class"), "logits of the state or prediction", "1"),
        "x_0_logits": (("sample", "class"), "logits of the final sample", "1"),
    }
    with stores.create_readout(
        path,
        of="trajectories",
        variables=variables,
        coords=coords,
        samples=block * blocks,
        block=block,
        config={"model": "made up"},
    ) as store:
        for number in range(blocks):
            of_x_0 = 4 * random.standard_normal((block, CLASSES))
            noise = random.standard_normal((2, block, timesteps, CLASSES))
            store.write(
                number, {"x_0_logits": of_x_0, "logits": ALPHA_BAR[timestep][:, None] * of_x_0[:, None] + noise}
            )
    return path
