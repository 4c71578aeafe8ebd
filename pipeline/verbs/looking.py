"""`traj info` and `traj verify`: looking at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.options import SIZE, VARIANT, LocalName, LocalPath
from traj.pipeline.parsing import Whole


@click.command()
@click.argument("what", type=LocalName(), metavar="STORE|MODEL")
@click.option("--steps", type=Whole(1), help="Number of timesteps, of a model that is sampled on a grid.")
@SIZE
@VARIANT
def info(what: str, **options: Any) -> None:
    """Describe a store or a model.

    \b
    traj info data/trajectories/ddpm.zarr
    traj info google/ddpm-cifar10-32
    traj info mine.py:edm --steps 18
    traj info google/ddpm-cifar10-32@main --size 64x64
    """
    from traj.pipeline.info import describe_model, describe_store

    is_store = (what.endswith(".zarr") and not what.startswith("dataset:")) or (Path(what) / "zarr.json").exists()
    click.echo(describe_store(Path(what)) if is_store else describe_model(what, **options))


@click.command()
@click.argument("store", type=LocalPath())
@click.option("--deep", is_flag=True, help="Also check that every stored value is finite.")
def verify(store: Path, deep: bool) -> None:
    """Check that every byte of STORE is there and is what was written.

    \b
    traj verify data/trajectories/ddpm.zarr --deep
    """
    from traj.stores import verify as verify_store
    from traj.stores import way_out

    problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(f"{store} has {len(problems)} problem(s), listed above. {way_out(store)}")
    click.echo(f"{store} is whole")
