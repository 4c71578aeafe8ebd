"""`traj dataset`: what is stored of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.making.carry_out import carry_out
from traj.pipeline.options import DRY_RUN, SEED, STALE, LocalName, LocalPath, bounds, names
from traj.pipeline.parsing import Whole


@click.command()
@click.argument("source", type=LocalName())
@click.argument("out", type=LocalPath())
@click.option("--samples", type=Whole(), help="How many samples to take, from the first on.  [default: all]")
@click.option("--seed", type=SEED, help="Seed of the samples, with molrg:... only.  [default: 0]")
@click.option(
    "--block",
    type=Whole(),
    help="Samples in one chunk. To resume, give the same number.  [default: as many as take about 4 MiB]",
)
@click.option(
    "--labels",
    type=LocalName(),
    metavar="FILE|NAME",
    help="Classes of the samples, whole numbers from 0, -1 for none: a file (.npy, idx, or a number on each line), or "
    "the name of an array or column in SOURCE.  [default: y, labels or label in SOURCE; the file beside an idx file; "
    "the subfolders of a folder]",
)
@click.option(
    "--axes",
    callback=names,
    metavar="NAME,...",
    help="What the axes of one sample are in SOURCE, in their order: y,x,channel for example. channel is put first.  "
    "[default: y,x for two, channel,y,x or y,x,channel for three, whichever has 1, 3 or 4 channels]",
)
@click.option(
    "--range",
    "valid_range",
    callback=bounds,
    metavar="LOW,HIGH",
    help="Range that all values lie in.  [default: what SOURCE says, or -1,1]",
)
@STALE
@DRY_RUN
def dataset(source: str, out: Path, stale: Any, dry_run: bool, **options: Any) -> None:
    """Store the data SOURCE in OUT, as x_0 and its classes.

    SOURCE is the path of a .npy or .npz file, an idx file (MNIST's format, perhaps .gz), a folder of images (subfolders
    are classes, counted from 0 in the order of their names), a Zarr array or group, or a dataset or trajectories of
    traj. FILE:NAME takes one array of several. Or SOURCE is one of these:

    \b
    digits                  scikit-learn's
    digits:train            those a classifier learns from, in the order of traj train --images
    digits:test             the others
    mixture:A,B,...         points in one pixel, each a class
    molrg:KEY=VALUE,...     --samples drawn from a mixture of low-rank Gaussians, see traj generate --model
    hf:NAME[@REVISION]/SPLIT[:COLUMN]    of Hugging Face; needs its package datasets

    Values of type uint8 are pixels and become x / 127.5 - 1; floats stay as they are. Nothing is held in memory but a
    block, where the format allows it.

    \b
    traj dataset digits data/datasets/digits.zarr
    traj dataset digits:train data/datasets/digits-32.zarr --samples 32
    traj dataset train-images-idx3-ubyte.gz data/datasets/mnist.zarr
    traj dataset cifar.npz:x_train data/datasets/cifar.zarr --labels y_train
    traj dataset photos/ data/datasets/photos.zarr --samples 10000
    traj dataset latents.npy data/datasets/latents.zarr --range=-20,20
    traj dataset molrg:classes=3,delta=.2 data/datasets/molrg.zarr --samples 12000
    """
    from traj.pipeline.making.dataset import prepare

    carry_out(
        prepare(source, **options),
        out,
        stale=stale,
        blocks=None,
        dry_run=dry_run,
        smaller="--samples",
        following=f"traj info {out}",
    )
