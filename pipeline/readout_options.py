"""`traj readout NAME`: a command for every file in readouts/, its options read off the function's signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from traj.pipeline import readouts
from traj.pipeline.making.carry_out import carry_out, say
from traj.pipeline.options import BLOCKS, DEVICE, DRY_RUN, STALE, TF32, LocalPath, refuse_url, timestep_list
from traj.pipeline.parsing import Whole
from traj.pipeline.quantity_options import OptionValue, parameter_texts, write_offered


class ReadoutGroup(click.Group):
    """Lists the readouts, and builds a command when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the readouts."""
        return readouts.names()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show each readout with the first line of its docstring, and those of other packages that are left out."""
        summaries = {name: readouts.summary(name) for name in self.list_commands(ctx)}
        write_offered(formatter, "Readouts", summaries, readouts.clashes())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build the command of a readout."""
        if cmd_name not in readouts.names():
            raise click.UsageError(f"readout {cmd_name!r} is unknown; expected one of {', '.join(readouts.names())}")
        return readout_command(cmd_name)


def readout_command(name: str) -> click.Command:
    """Build the command that reads a store with one readout."""
    function = readouts.load(name)

    @DEVICE
    @TF32
    @EVERY
    @TIMESTEPS
    @BLOCKS
    @STALE
    @DRY_RUN
    def read(store: Path, out: Path, blocks: range | None, stale: Any, dry_run: bool, **options: Any) -> None:
        from traj.pipeline.making.readout import prepare

        reading = prepare(name, store=store, **options)
        for caution in reading.readout.cautions:
            say(caution)
        carry_out(
            reading,
            out,
            stale=stale,
            blocks=blocks,
            dry_run=dry_run,
            smaller=reading.readout.smaller,
            complete=f"and {store} has fewer now; extend that first",
            following=f"{reading.readout.following} {out}",
            fills_disk=reading.readout.fills_disk,
        )

    about = (inspect.getdoc(function) or "").split("\n\nParameters\n")[0]
    command = click.command(name, help=f"{about}\n\n{AGAIN}")(read)
    arguments = [click.Argument([name], type=LocalPath()) for name in ("store", "out")]
    command.params = [*arguments, *_options(function), *command.params]
    return command


EVERY = click.option(
    "--every", type=Whole(), default=1, show_default=True, help="Read every k-th stored timestep only, and the last."
)
TIMESTEPS = click.option(
    "--timesteps", callback=timestep_list, help="Read these stored timesteps only: 900,500,100.", metavar="T,..."
)
AGAIN = "Run the same command again to go on where it was stopped, or when STORE was extended."


def _options(function: Callable[..., Any]) -> list[click.Option]:
    """Turn the keyword parameters of a readout into command-line options; those without a default are required."""
    hints, texts = typing.get_type_hints(function), parameter_texts(inspect.getdoc(function) or "")
    options = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        settings: dict[str, Any] = {"required": True}
        if parameter.default is not parameter.empty:
            settings = {"default": parameter.default, "show_default": parameter.default is not None}
        flag, kind = "--" + name.replace("_", "-"), OptionValue(hints[name])
        options.append(click.Option([flag], type=kind, callback=_no_url, help=texts.get(name), **settings))
    return options


def _no_url(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    return refuse_url(value, param, ctx) if isinstance(value, str) else value
