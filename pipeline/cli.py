"""`traj`: the list of its verbs. Heavy imports wait until a verb runs."""

from __future__ import annotations

import os

import click

from traj.pipeline.mishaps import Traj
from traj.pipeline.quantity_options import QuantityGroup
from traj.pipeline.readout_options import ReadoutGroup
from traj.pipeline.verbs.convert import convert
from traj.pipeline.verbs.data import dataset
from traj.pipeline.verbs.forks import fork
from traj.pipeline.verbs.looking import info, verify
from traj.pipeline.verbs.pages import report
from traj.pipeline.verbs.records import record
from traj.pipeline.verbs.runs import generate, noise
from traj.pipeline.verbs.training import train

# analyses lay out their own graphs, whatever the user's Dask is configured to do
os.environ["DASK_ARRAY__QUERY_PLANNING"] = "False"
os.environ["DASK_ARRAY__RECHUNK__METHOD"] = "tasks"  # or Dask looks for a cluster, and imports distributed for that


@click.group(cls=Traj, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="traj", prog_name="traj")
def main() -> None:
    """Tell when and where features emerge in a diffusion model's reverse process.

    Generate once, keep every x_t and pred_x0, ask any question later.

    \b
    traj train digits                                                   a small network to start with
    traj generate data/trajectories/a.zarr --model digits               64 samples with all their states
    traj fork data/trajectories/a.zarr data/forks/a.zarr --at 900,500   other ends of the same states
    traj train digits-classifier
    traj readout classifier data/forks/a.zarr data/readouts/a.zarr --model digits-classifier
    traj analyze entropy data/trajectories/a.zarr                       writes results/a/entropy.zarr
    traj report                                                         writes report/index.html
    """


@click.group(cls=ReadoutGroup)
def readout() -> None:
    """Read every event of a store with a network.

    \b
    traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model digits-classifier
    """


@click.group(cls=QuantityGroup)
@click.pass_context
def analyze(ctx: click.Context) -> None:
    """Compute quantities of stores, however large.

    NAME,NAME computes several in one pass over the store.

    \b
    traj analyze entropy
    traj analyze ssim data/trajectories/ddpm.zarr --preset window:5
    traj analyze entropy,ssim data/trajectories/ddpm.zarr --set entropy.bins=16
    """


for verb in (dataset, train, convert, generate, noise, record, fork, readout, analyze, report, info, verify):
    main.add_command(verb)
