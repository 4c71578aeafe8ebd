"""Options that several verbs of the command line have, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.parsing import Whole, is_whole


class LocalPath(click.Path):
    """Reads a path on a local disk, and refuses a URL by name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a path."""
        return super().convert(refuse_url(value, param, ctx), param, ctx)


class LocalName(click.ParamType):
    """Reads a name that may be a path, of a model for example, and refuses a URL."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a name."""
        return refuse_url(value, param, ctx)


def refuse_url(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    """Give back what is no URL."""
    from traj.stores.places import is_url

    if is_url(value):
        raise click.BadParameter(
            f"{value} is a URL; expected a path on a local disk (copy it there first, or mount it)", ctx, param
        )
    return value


DEVICE = click.option(
    "--device", default="auto", show_default=True, envvar="TRAJ_DEVICE", help="auto, cpu, cuda or cuda:i."
)
TF32 = click.option(
    "--tf32",
    is_flag=True,
    help="Let a GPU keep 10 bits of float32 in convolutions and products: faster, an error of about 1e-3.",
)
STALE = click.option(
    "--stale",
    type=click.Choice(["refuse", "set-aside"]),
    default="refuse",
    show_default=True,
    help="What to do where OUT was made from other inputs: stop, or rename it and start afresh.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what it will cost, and stop.")
SEED = Whole(0, 2**64 - 1)


def block_range(ctx: click.Context, param: click.Parameter, value: str | None) -> range | None:
    """Read FIRST:END."""
    if value is None:
        return None
    first, colon, end = value.partition(":")
    if not (colon and is_whole(first) and is_whole(end) and int(first) < int(end)):
        raise click.BadParameter(f"{value!r} was given, expected FIRST:END, for example 0:4 for blocks 0 to 3")
    return range(int(first), int(end))


BLOCKS = click.option(
    "--blocks", callback=block_range, help="Only blocks FIRST:END, so that several processes share the work."
)


def timestep_list(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    """Read T,T,..., nothing where it is not given."""
    texts = [] if value is None else [text.strip() for text in value.split(",")]
    if not all(is_whole(text) for text in texts):
        raise click.BadParameter(f"{value!r} was given, expected timesteps, for example 900,800,700")
    return [int(text) for text in texts]
