"""`traj analyze NAME`: a command for every file in analysis/, its options read off the function's signature."""

from __future__ import annotations

import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from traj.pipeline.configs import refusal
from traj.pipeline.options import LocalPath
from traj.pipeline.parsing import Whole, most_workers, number, whole

if TYPE_CHECKING:
    from traj.analysis._quantity import Quantity


class QuantityGroup(click.Group):
    """Lists the quantities without importing them, and builds a command when one, or several, are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the quantities."""
        from traj import analysis

        return analysis.quantities()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show each quantity with the first line of its docstring, and those of other packages that are left out."""
        from traj import analysis

        names = self.list_commands(ctx)
        write_offered(formatter, "Quantities", {name: analysis.summary(name) for name in names}, analysis.clashes())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build the command of NAME or NAME,NAME."""
        from traj import analysis

        names = cmd_name.split(",")
        if unknown := [name for name in names if name not in analysis.quantities()]:
            raise click.UsageError(
                f"quantity {unknown[0]!r} is unknown; expected one of {', '.join(analysis.quantities())}"
            )
        return quantity_command(names)


def write_offered(
    formatter: click.HelpFormatter, title: str, summaries: Mapping[str, str], left_out: Sequence[str]
) -> None:
    """Write what can be asked for by name, with a line on each, and what other packages offer in vain."""
    with formatter.section(title):
        formatter.write_dl(list(summaries.items()))
    if left_out:
        with formatter.section("Left out"):
            formatter.write("".join(f"{' ' * formatter.current_indent}{line}\n" for line in left_out))


def quantity_command(names: Sequence[str]) -> click.Command:
    """Build the command that computes these quantities in one pass."""
    from traj import analysis, stores
    from traj.pipeline.computing.analyze import kind_of

    folder = stores.KINDS[kind_of({name: {} for name in names})].folder
    functions = {name: analysis.load(name) for name in names}
    own = {name: option_parameters(function) for name, function in functions.items()}
    shared = [option for option in own[names[0]] if all(option.name in {o.name for o in own[n]} for n in names)]

    def compute(
        paths: tuple[Path, ...],
        out: Path | None,
        scheduler: str,
        workers: int,
        sets: tuple[str, ...],
        **given: Any,
    ) -> None:
        from traj.pipeline.computing import analyze, engines

        def say(message: str) -> None:
            click.echo(message, err=True)

        chosen = {name: given | own_settings(name, functions, sets) for name in names}
        jobs = analyze.plan_jobs(paths or analyze.default_stores(chosen), chosen, out)
        if not (wanted := analyze.unfinished(jobs, say)):
            return
        with engines.start(scheduler, workers) as engine:
            for path in dict.fromkeys(job.store for job in wanted):
                analyze.run(path, [job for job in wanted if job.store == path], engine=engine, say=say)

    where = LocalPath()
    parameters: list[click.Parameter] = [
        click.Argument(["paths"], nargs=-1, type=where, metavar="[STORE]..."),
        click.Option(
            ["-o", "--out"], type=where, help="Folder, or .zarr for one result.  [default: results/RUN/QUANTITY.zarr]"
        ),
        *shared,
        click.Option(
            ["--workers"],
            type=Whole(1, most_workers()),
            default=os.cpu_count() or 1,
            envvar="TRAJ_WORKERS",
            help="Threads that compute.  [default: all cores]",
        ),
        click.Option(
            ["--scheduler"],
            default="threads",
            show_default=True,
            envvar="TRAJ_SCHEDULER",
            metavar="threads|N|tcp://HOST:PORT",
            help="Compute by --workers threads, by N local processes, or on a running Dask cluster.",
        ),
        click.Option(
            ["--set", "sets"],
            multiple=True,
            metavar="QUANTITY.OPTION=VALUE",
            hidden=len(names) == 1,
            help="An option of one of the quantities.",
        ),
    ]
    about = click.unstyle(inspect.getdoc(functions[names[0]]) or "").split("\n\nParameters\n")[0]
    text = about if len(names) == 1 else f"Compute {', '.join(names)} in one pass over each store."
    return click.Command(
        ",".join(names), params=parameters, callback=compute, help=text + USAGE.format(",".join(names), folder)
    )


USAGE = """

Without a STORE, takes every one under {1}.

\b
traj analyze {0}
traj analyze {0} {1}/NAME.zarr -o elsewhere
traj analyze {0} --scheduler 4
"""


def option_parameters(quantity: Quantity) -> list[click.Option]:
    """Turn the keyword options of a quantity into command-line options; other stores are given by their paths."""
    hints = typing.get_type_hints(quantity)
    texts = parameter_texts(inspect.getdoc(quantity) or "")
    paths = {
        name: (tuple[str, ...], "STORE,...") if several else (str, "STORE") for name, several in quantity.stores.items()
    }
    options = []
    for name, parameter in quantity.options.items():
        flag = "--" + name.replace("_", "-")
        hint, shown = paths.get(name, (hints[name], None))
        options.append(
            click.Option(
                [f"{flag}/--no-{flag[2:]}" if hint is bool else flag],
                type=None if hint is bool else OptionValue(hint),
                default=parameter.default,
                show_default=parameter.default not in (None, ()),
                metavar=shown,
                help=texts.get(name),
            )
        )
    return options


class OptionValue(click.ParamType[Any]):
    """Reads a value of a type hint: str, int, float, Literal, tuple (comma-separated) or optional."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.name = " | ".join(typing.get_args(hint)) if typing.get_origin(hint) is Literal else describe_hint(hint)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a value as typed."""
        if not isinstance(value, str):
            return value
        try:
            return read_value(self.hint, value)
        except ValueError:
            self.fail(f"{value!r} was given, expected {self.name}", param, ctx)


def read_value(hint: Any, text: str) -> Any:
    """Read a text as a type hint says. Raises InputError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return read_value(next(a for a in arguments if a is not type(None)), text)
    if origin is tuple:
        return tuple(read_value(arguments[0], part.strip()) for part in text.split(","))
    if origin is Literal:
        if text not in arguments:
            raise refusal(text)
        return text
    if hint is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse(text)
    readers: dict[Any, Callable[[str], Any]] = {int: whole, float: _finite, str: str}
    return readers[hint](text)


def _finite(text: str) -> float:
    """Read a number that JSON can hold, as the identity of a result must."""
    return found if math.isfinite(found := number(text)) else _refuse(text)


def _refuse(text: str) -> Any:
    raise refusal(text)


def describe_hint(hint: Any) -> str:
    """Name a type hint for --help."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return describe_hint(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return f"{describe_hint(arguments[0])},..."
    if origin is Literal:
        return "|".join(arguments)
    return {int: "integer", float: "number", str: "text", bool: "true|false"}[hint]


def parameter_texts(doc: str) -> dict[str, str]:
    """Read the Parameters section of a numpy-style docstring: name -> text."""
    texts: dict[str, str] = {}
    name = ""
    for line in doc.partition("\nParameters\n")[2].split("\n")[1:]:
        if line and not line.startswith(" "):
            if set(line) == {"-"} or line in ("Returns", "Raises", "Notes", "References"):
                break
            name = line.split(":")[0].strip()
            texts[name] = ""
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return texts


def own_settings(name: str, functions: Mapping[str, Quantity], sets: Sequence[str]) -> dict[str, Any]:
    """Read the --set QUANTITY.OPTION=VALUE that are meant for one quantity."""
    chosen = {}
    for text in sets:
        key, equals, value = text.partition("=")
        quantity, dot, option = key.partition(".")
        known = {o.name: o for o in option_parameters(functions[quantity])} if quantity in functions else {}
        if not (equals and dot and option.replace("-", "_") in known):
            raise click.UsageError(
                f"--set {text!r} was given, expected QUANTITY.OPTION=VALUE, the quantity one of {', '.join(functions)}"
                + (f" and an option out of {', '.join(known)}" if known else "")
            )
        if quantity == name:
            chosen[option.replace("-", "_")] = known[option.replace("-", "_")].type(value, None, None)
    return chosen
