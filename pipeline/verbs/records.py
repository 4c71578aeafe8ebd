"""`traj record`: pipelines of diffusers that run their own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.options import DEVICE, DRY_RUN, STALE, LocalName, LocalPath
from traj.pipeline.parsing import Whole


def mapping(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, Any]:
    """Read the arguments of a call, a mapping in YAML."""
    import yaml

    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{value!r} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        raise click.BadParameter(f"{value!r} was given, expected names and values, for example {{prompt: a cat}}")
    return read


@click.command()
@click.argument("pipeline", type=LocalName())
@click.argument("out", type=LocalPath())
@click.option(
    "--call",
    "arguments",
    callback=mapping,
    default="{}",
    metavar="YAML",
    help="What the pipeline is called with: names and values, as in {prompt: a cat, num_inference_steps: 28}.",
)
@click.option(
    "--calls",
    type=Whole(1),
    default=1,
    show_default=True,
    help="How often it is called. Ask for more later to go on with a record.",
)
@click.option(
    "--seed",
    type=Whole(0, 2**63),
    default=0,
    show_default=True,
    help="Call k draws its noise from a generator seeded with this number + k.",
)
@click.option("--every", type=Whole(1), default=1, show_default=True, help="Store every k-th step only, and the last.")
@DEVICE
@STALE
@DRY_RUN
def record(pipeline: str, out: Path, **options: Any) -> None:
    """Call PIPELINE, and store in OUT what its scheduler goes through.

    PIPELINE is any pipeline of diffusers, a folder or a hub id, that steps by a scheduler with a table of noise levels:
    images, latents, films or sounds. It runs its own loop, and no code but that of diffusers and transformers. OUT is a
    run like those of generate, which every analysis of such events takes; it cannot be forked, as it has no plan.

    \b
    traj record google/ddpm-cifar10-32 data/trajectories/cifar.zarr --call "{batch_size: 16}"
    traj record sd-folder data/trajectories/cat.zarr --call "{prompt: a cat, num_inference_steps: 28}" --calls 8
    """
    from traj.pipeline.making.record_calls import record_calls

    record_calls(pipeline, out, **options)
