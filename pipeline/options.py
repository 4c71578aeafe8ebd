"""Options that several verbs of the command line have, those of samplers, and how their values are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from traj.pipeline.parsing import Number, Whole, is_whole, number

FORM = re.compile("(dataset|gaussian|vae|hf):(?!//)")
"""What stands before a path in the name of a model or of data, and is no protocol: dataset:/data/a.zarr."""

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class LocalPath(click.Path):
    """Reads a path on a local disk, and refuses a URL by name, and an empty text, which Path takes for here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a path."""
        if value == "":
            raise click.BadParameter("an empty path was given; expected one on a local disk", ctx, param)
        return super().convert(refuse_url(value, param, ctx), param, ctx)


class LocalName(click.ParamType[str]):
    """Reads a name that may be a path, of a model for example, and refuses a URL."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a name."""
        return refuse_url(value, param, ctx)


def refuse_url(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    """Return a value that is no URL, and refuse one that is."""
    from traj.stores import is_url

    if is_url(FORM.sub("", value) if isinstance(value, str) else value):
        raise click.BadParameter(
            f"{value} is a URL; expected a path on a local disk (copy it there first, or mount it)", ctx, param
        )
    return value


DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    envvar="TRAJ_DEVICE",
    metavar="auto|cpu|cuda[:N]",
    help="Where networks run. auto takes a GPU if there is one.",
)
TF32 = click.option(
    "--tf32",
    is_flag=True,
    help="Let a GPU round to 10 mantissa bits in convolutions and matrix products: faster, with errors of about 1e-3.",
)
STALE = click.option(
    "--stale",
    type=click.Choice(["refuse", "set-aside"]),
    default="refuse",
    show_default=True,
    help="If OUT was made from other inputs: refuse stops; set-aside renames OUT and starts anew.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the estimated cost, and stop.")
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
    "--blocks",
    callback=block_range,
    metavar="FIRST:END",
    help="Make only these blocks, without END, so that several processes can share a run.",
)


def bounds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """Read LOW,HIGH."""
    if value is None:
        return None
    try:
        low, high = map(number, value.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"{value!r} was given, expected LOW,HIGH, two finite numbers, for example -1,1")
    return low, high


def sides(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read HEIGHTxWIDTH."""
    if value is None:
        return None
    height, x, width = value.partition("x")
    if not (x and is_whole(height) and is_whole(width) and int(height) and int(width)):
        raise click.BadParameter(f"{value!r} was given, expected HEIGHTxWIDTH, for example 64x96")
    return int(height), int(width)


SIZE = click.option(
    "--size",
    callback=sides,
    metavar="HEIGHTxWIDTH",
    help="Height and width of the images, where a network of diffusers is to make others than its config says.",
)
VARIANT = click.option(
    "--variant",
    help="Variant of the weights of a diffusers pipeline, such as fp16.  [default: the plain ones, or the only ones]",
)


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read NAME,NAME,..."""
    return None if value is None else tuple(name.strip() for name in value.split(","))


def timestep_list(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    """Read T,T,...; an empty list where the option is not given."""
    texts = [] if value is None else [text.strip() for text in value.split(",")]
    if not all(is_whole(text) for text in texts):
        raise click.BadParameter(f"{value!r} was given, expected timesteps, for example 900,800,700")
    return [int(text) for text in texts]


SAMPLING = (
    click.option(
        "--sampler",
        type=click.Choice(["ddpm", "ddim", "iddpm", "heun"]),
        default="ddpm",
        show_default=True,
        help="ddpm and iddpm add noise at every step; iddpm as much as the network says. ddim adds none without --eta, "
        "heun none.",
    ),
    click.option(
        "--plan",
        "plan_name",
        type=click.Choice(["baseline", "shortcut"]),
        default="baseline",
        show_default=True,
        help="shortcut takes 83 of 100 steps, 21 of them without the lowest blocks of the U-Net. It needs --steps 100.",
    ),
    click.option(
        "--steps",
        type=Whole(),
        help="Number of steps: each is one network evaluation, two with heun. Where the schedule is a grid, "
        "as edm and flow are, it is also the number of timesteps.  [default: every timestep of the schedule]",
    ),
    click.option(
        "--spacing",
        type=click.Choice(["leading", "linspace", "trailing", "openai"]),
        help="Which timesteps are visited when --steps are fewer. openai rounds linspace as improved-diffusion does; "
        "the others are those of diffusers.  [default: what the model's scheduler says]",
    ),
    click.option(
        "--timesteps", callback=timestep_list, help="The timesteps to visit, instead of --steps: 999,850,700,0."
    ),
    click.option(
        "--eta",
        type=Number(),
        help="Noise of ddim: 0 for none, 1 for as much as ddpm. More is refused where a state cannot hold it.  "
        "[default: 0]",
    ),
    click.option(
        "--variance",
        type=click.Choice(["large", "small"]),
        help="Variance of the noise of ddpm: large is beta, small is beta tilde.  [default: what the model's scheduler "
        "says]",
    ),
    click.option(
        "--clip/--no-clip",
        default=None,
        help="Clip pred_x0 to the model's valid range before each update. Stored predictions are never clipped.  "
        "[default: ddpm and iddpm as the model's scheduler says; ddim and heun do not]",
    ),
    click.option(
        "--eps",
        type=click.Choice(["kept", "rederived"]),
        help="What eps is after clipping, in ddim and heun with --clip. kept: what the network said, as in diffusers. "
        "rederived: recomputed from the clipped pred_x0, as in improved-diffusion, guided-diffusion and GLIDE; then "
        "ddim with --eta 1 is ddpm.  [default: kept]",
    ),
)
"""How a run is sampled."""


RUN = (
    click.option(
        "--model",
        type=LocalName(),
        required=True,
        help="digits or digits-iddpm, once trained; a folder of diffusers, or its ID, ID@REVISION or ID/FOLDER on the "
        "hub; an exact model: gaussian:MEAN,VAR[,SHAPE], mixture:A,B,..., dataset:DATA, which are digits or whatever "
        "traj dataset reads, or "
        "molrg:classes=3,dim=5,features=50,delta=.2 (all optional; also weights=.2:.3:.5, dim=10:5:2, basis=SEED, "
        "theta=60); or "
        "your own FILE.py:NAME.",
    ),
    click.option(
        "--schedule",
        help="Schedule of an exact model: linear, cosine, ve, edm[:MIN,MAX,RHO] or flow[:SHIFT]. ve is x_0 + sigma eps "
        "in 500 timesteps, sigma from 0.01 to 12.  [default: linear; ve for molrg]",
    ),
    SIZE,
    VARIANT,
    *SAMPLING,
    click.option(
        "--samples",
        type=Whole(),
        help="Number of samples. Ask for more later to extend a finished run.  [default: 64, or as many as there are "
        "to start from, if fewer]",
    ),
    click.option(
        "--block",
        type=Whole(),
        default=32,
        show_default=True,
        help="Samples generated together. To resume or extend a run, give the same number.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all noise."),
    click.option(
        "--labels",
        default="none",
        show_default=True,
        metavar="none|cycle|source|CLASS",
        help="Class of the samples: none; cycle, which gives them the classes in turn; source, that of the sample each "
        "starts from; or the number of one class.",
    ),
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        metavar="TEXT",
        help="Text that says what to make, for models that read texts. May be repeated: samples then take the texts in "
        'turn. "" is no text.',
    ),
    click.option(
        "--prompts",
        "prompt_file",
        type=LocalPath(exists=True, dir_okay=False),
        help="The same from a file with a text in each line.",
    ),
    click.option(
        "--negative-prompt",
        metavar="TEXT",
        help="Text that samples are led away from by --guidance.  [default: no text]",
    ),
    click.option(
        "--guidance",
        type=Number(),
        default=1.0,
        show_default=True,
        help="How strongly samples follow their label or text: 0 not at all, 1 as the model does by itself, above 1 "
        "more. All but 1 double the size of every network call.",
    ),
    click.option(
        "--every", type=Whole(), default=1, show_default=True, help="Store every k-th state only, and the last."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        show_default=True,
        help="Type of the stored states. float16 takes half the space.",
    ),
    click.option(
        "--round-bits",
        type=Whole(),
        help="Round stored float32 to this many mantissa bits, so that they compress better. 10 are as exact as "
        "float16.",
    ),
    DEVICE,
    click.option("--autocast", is_flag=True, help="Run the network in bfloat16."),
    TF32,
    BLOCKS,
    STALE,
    DRY_RUN,
)
"""What a run is made of, from noise or otherwise."""


START = (
    click.option(
        "--start",
        type=LocalName(),
        metavar="SOURCE",
        help="Start from samples instead of noise: a store with x_0, such as a dataset or a run; whatever traj dataset "
        "reads without options, such as a folder of images; vae:NAME, a VAE that traj train made; or gaussian:DATA, "
        "normal ones with the mean and covariance of data.",
    ),
    click.option(
        "--start-step",
        type=Whole(),
        metavar="TIMESTEP",
        help="With --start: noise the samples to this timestep, which the run visits, and go on from there.",
    ),
    click.option(
        "--times",
        type=LocalPath(dir_okay=False),
        help="At the end, time the network on this machine, and write the evaluations and the seconds that a sample "
        "takes to this CSV file. An older file is replaced.",
    ),
)
"""What a run starts from, and what that takes."""


def _with(options: Sequence[Decorator]) -> Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


of_a_run, of_a_start = _with(RUN), _with(START)
"""Give a command these options."""
