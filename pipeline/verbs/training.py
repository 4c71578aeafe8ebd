"""`traj train`: the built-in networks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from traj.pipeline.making.carry_out import say
from traj.pipeline.mishaps import INTERRUPTED
from traj.pipeline.options import DEVICE, LocalPath
from traj.pipeline.parsing import Whole

MOLRG = "molrg"
TRAINED = ("digits", "digits-iddpm", "digits-classifier", "digits-vae")
"""The networks of the digits that `traj train` knows, named here because to ask it takes seconds."""


class Trained(click.Choice[str]):
    """One of TRAINED, or molrg with or without its keys."""

    def __init__(self) -> None:
        super().__init__((*TRAINED, MOLRG))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read a name."""
        return str(value) if str(value).startswith(f"{MOLRG}:") else super().convert(value, param, ctx)


@click.command()
@click.argument("name", type=Trained(), metavar=f"[{'|'.join((*TRAINED, MOLRG))}[:KEY=VALUE,...]]")
@click.option("-o", "--out", type=LocalPath(), help="Folder to save it in.  [default: models/NAME]")
@click.option("--steps", type=Whole(1, 10**9), help="Training steps.  [default: the network's own number]")
@click.option(
    "--images",
    type=Whole(),
    help="How many images of digits:train to learn from, from the first on: 10 to 1437. All of digits:test are then "
    "new to the network.  [default: 1437; digits and digits-iddpm then also learn from digits:test]",
)
@click.option("--samples", type=Whole(), help="With molrg: how many samples to draw and learn from.  [default: 12000]")
@click.option("--seed", type=Whole(0, 2**63 - 1), default=0, show_default=True, help="Seed of all that is random.")
@DEVICE
def train(
    name: str, out: Path | None, steps: int | None, images: int | None, samples: int | None, seed: int, device: str
) -> None:
    """Train a built-in network, on digits or samples of a mixture.

    The digits are scikit-learn's; the mixture is one of low-rank Gaussians.

    \b
    traj train digits                  for traj generate
    traj train digits-iddpm            the same, and learns its variance: for --sampler iddpm
    traj train digits-classifier       for traj readout classifier
    traj train digits-vae              for traj generate --start vae:digits-vae
    traj train digits --images 32 -o models/digits-32
    traj train molrg:classes=2 --samples 30000 -o models/molrg-2      keys as in traj generate --model
    """
    kind = name.partition(":")[0]
    if images is not None and kind == MOLRG:
        raise click.UsageError(f"--images {images} are digits, which {MOLRG} does not learn; expected --samples")
    if samples is not None and kind != MOLRG:
        raise click.UsageError(f"--samples {samples} are drawn for {MOLRG} only; expected --images")
    folder = out or Path(os.environ.get("TRAJ_MODELS", "models")) / kind
    try:
        if kind == MOLRG:
            from traj.pipeline.models.molrg_train import SAMPLES, train_bases

            samples = SAMPLES if samples is None else samples
            trained = train_bases(name, folder, samples=samples, steps=steps, seed=seed, device=device)
        else:
            from traj.pipeline.models.train import train as train_model

            trained = train_model(name, folder, steps=steps, images=images, seed=seed, device=device)
    except KeyboardInterrupt:
        say("stopped; nothing was saved, training starts from the beginning next time")
        raise click.exceptions.Exit(INTERRUPTED) from None
    say(f"{folder} is ready" if trained else f"{folder} was trained before; nothing to do")
    if images is not None:
        say(f"it has learned from: traj dataset digits:train data/datasets/digits-{images}.zarr --samples {images}")
    model = name if out is None else out
    metrics = json.loads((folder / "metrics.json").read_text())
    if kind == MOLRG:
        ratio = metrics["loss"] / metrics["exact_loss"]
        source = name if ":" in name else f"{name}:"
        say(f"on samples it has not seen, its loss is {ratio:.3f} times that of the exact denoiser")
        say(
            f"it has learned from: traj dataset {source} data/datasets/molrg.zarr --samples {samples} --seed {seed}; "
            "another --seed gives other samples"
        )
        say(f"next: traj noise data/datasets/molrg.zarr data/trajectories/molrg.zarr --model {folder}")
        return
    if name == "digits-vae":
        say(
            f"it redraws held-out images with a squared error of {metrics['reconstruction_error']:.3f} per pixel; KL "
            f"{metrics['kl']:.1f} nats"
        )
        say(
            "next: traj generate data/trajectories/late.zarr --model digits "
            f"--start vae:{name if out is None else out} --start-step 499"
        )
        return
    if name == "digits-classifier":
        say(f"it classifies {metrics['accuracy']:.1%} of the held-out images correctly")
        say(f"next: traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model {model}")
        return
    sampler = " --sampler iddpm" if name == "digits-iddpm" else ""
    say(f"next: traj generate data/trajectories/{name}.zarr --model {model} --labels cycle{sampler}")
