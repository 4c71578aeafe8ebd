"""`traj`: argument parsing and messages only. Heavy imports wait until a verb runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pipeline.quantity_options import QuantityGroup

DEVICE = click.option(
    "--device", default="auto", show_default=True, envvar="TRAJ_DEVICE", help="auto, cpu, cuda or cuda:i."
)
STALE = click.option(
    "--stale",
    type=click.Choice(["refuse", "set-aside"]),
    default="refuse",
    show_default=True,
    help="What to do where OUT was made from other inputs: stop, or rename it and start afresh.",
)
SEED = click.IntRange(0, 2**64 - 1)
INTERRUPTED = 130
OUT_OF_MEMORY = "the memory does not suffice; ask for a smaller --block, or fewer --workers"


def say(message: str) -> None:
    """Tell the person something, without mixing it into output that may be piped."""
    click.echo(message, err=True)


class Traj(click.Group):
    """Turns what can go wrong into one message: exit 2 for what was asked, 1 for what failed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except KeyboardInterrupt:
            say("stopped; what is finished is kept, run the same command again to go on")
            ctx.exit(INTERRUPTED)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            if error.errno is None:
                raise click.UsageError(str(error)) from None
            place = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror}{place}") from None
        except ArithmeticError as error:
            raise click.ClickException(str(error)) from None
        except MemoryError:
            raise click.ClickException(OUT_OF_MEMORY) from None
        except RuntimeError as error:
            from stores import NotAStore, StoreError

            if "out of memory" in str(error) or "can't allocate memory" in str(error):  # torch's, on GPU and CPU
                raise click.ClickException(OUT_OF_MEMORY) from None

            if isinstance(error, NotAStore):
                raise click.UsageError(str(error)) from None
            if isinstance(error, StoreError):
                raise click.ClickException(str(error)) from None
            raise


@click.group(cls=Traj, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="traj", prog_name="traj")
def main() -> None:
    """Tell when and where features emerge in a diffusion model's reverse process.

    Generate once, keep every x_t and pred_x0, ask any question later.

    \b
    traj train digits                                          a small network to start with
    traj generate data/trajectories/a.zarr --model digits      every state of 64 samples
    traj analyze entropy data/trajectories/a.zarr              a quantity, into results/a/
    """


def block_range(ctx: click.Context, param: click.Parameter, value: str | None) -> range | None:
    """Read FIRST:END."""
    if value is None:
        return None
    first, colon, end = value.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise click.BadParameter(f"{value!r} was given, expected FIRST:END, for example 0:4 for blocks 0 to 3")
    return range(int(first), int(end))


@main.command()
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the model.  [default: models/NAME]")
@click.option("--steps", type=click.IntRange(1), help="Training steps.  [default: the model's own]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@DEVICE
def train(name: str, out: Path | None, steps: int | None, seed: int, device: str) -> None:
    """Train a built-in network on scikit-learn's digits: NAME is digits or digits-iddpm.

    \b
    traj train digits
    traj train digits-iddpm
    """
    from pipeline.train import train as train_model

    folder = out or Path(os.environ.get("TRAJ_MODELS", "models")) / name
    try:
        trained = train_model(name, folder, steps=steps, seed=seed, device=device)
    except KeyboardInterrupt:
        say("stopped; training begins anew next time")
        raise click.exceptions.Exit(INTERRUPTED) from None
    say(f"{folder} is ready" if trained else f"{folder} is there already, nothing to do")
    model = name if out is None else out
    sampler = " --sampler iddpm" if name == "digits-iddpm" else ""
    say(f"next: traj generate data/trajectories/{name}.zarr --model {model} --labels cycle{sampler}")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="digits, digits-iddpm, a diffusers folder or hub id, gaussian:MEAN,VAR[,CxHxW], mixture:A,B,... or "
    "dataset:digits.",
)
@click.option("--sampler", default="ddpm", show_default=True, help="ddpm, ddim or iddpm.")
@click.option("--steps", type=int, help="Network evaluations.  [default: all timesteps of the training schedule]")
@click.option("--eta", type=float, help="Noise of ddim: 0 none, 1 as much as ddpm.  [default: 0]")
@click.option(
    "--variance",
    type=click.Choice(["large", "small"]),
    help="Variance of ddpm.  [default: what the model's scheduler says]",
)
@click.option(
    "--clip/--no-clip", default=None, help="Clip pred_x0 in the update.  [default: ddpm, iddpm as the model says]"
)
@click.option("--samples", type=int, default=64, show_default=True, help="More than a finished run has extends it.")
@click.option("--block", type=int, default=32, show_default=True, help="Samples generated together; part of the run.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--labels", default="none", show_default=True, help="none, cycle through the classes, or one class.")
@click.option("--every", type=int, default=1, show_default=True, help="Store every k-th state, and the last.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--round-bits", type=int, help="Round float32 to this many mantissa bits: smaller, 10 are plenty.")
@DEVICE
@click.option("--autocast", is_flag=True, help="Run the network in bfloat16.")
@click.option("--blocks", callback=block_range, help="Only blocks FIRST:END, so that several processes share a run.")
@STALE
@click.option("--dry-run", is_flag=True, help="Say what it will cost, and stop.")
def generate(out: Path, sampler: str, blocks: range | None, stale: Any, dry_run: bool, **options: Any) -> None:
    """Generate full reverse trajectories into the store OUT.

    Run the same command again to go on where it was stopped; ask for more samples to extend it.

    \b
    traj generate data/trajectories/ddpm.zarr --model digits --labels cycle
    traj generate data/trajectories/ddim.zarr --model digits --sampler ddim --steps 50 --samples 256
    traj generate data/trajectories/cifar.zarr --model google/ddpm-cifar10-32 --device cuda --block 512
    """
    from pipeline.generate import prepare
    from stores import describe

    generation = prepare(sampler_name=sampler, **options)
    if dry_run:
        wanted = range(generation.layout.blocks) if blocks is None else blocks
        click.echo(f"{out}: {generation.cost(out, len(wanted[: generation.layout.blocks]))}")
        return
    with generation.open(out, stale=stale, blocks=blocks) as store:
        if store.set_aside:
            say(f"{out} was made from other inputs; it is kept as {store.set_aside}")
        if idle := not store.pending:
            say(f"{out}: nothing to do")
        else:
            cost = generation.cost(out, len(store.pending))
            say(f"{out}: {len(store.pending)} of {store.layout.blocks} blocks to do; {cost}")
            if cost.disk > cost.disk_free:
                say("the disk may fill up: it is safe to go on later, or to store less with --every or --dtype float16")
            generation.run(store)
    found = describe(out)
    if clipped := found.get("saturated"):
        say(f"{clipped} values were clipped to the range of float16")
    if found["blocks_done"] == found["blocks"]:
        say(f"{out} is complete" + ("" if idle else f"; next: traj analyze entropy {out}"))
        return
    samples = found["arrays"]["sample"]["dims"]["sample"]
    state = f"{out}: the blocks asked for are done, {found['blocks_done']} of all {found['blocks']}"
    if blocks is None:
        raise click.ClickException(
            f"{state}; the store was begun with --samples {samples}, ask for these to complete it"
        )
    say(state)


@main.group(cls=QuantityGroup)
@click.pass_context
def analyze(ctx: click.Context) -> None:
    """Compute quantities from stores, out of core.

    Several at once, NAME,NAME, share one pass over the store.

    \b
    traj analyze entropy
    traj analyze ssim data/trajectories/ddpm.zarr --preset window:5
    traj analyze entropy,ssim data/trajectories/ddpm.zarr --set entropy.bins=16
    """


@main.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("report"), show_default=True)
def report(out: Path) -> None:
    """Draw everything under results/ into report/index.html.

    \b
    traj report
    """
    from pipeline.report import report as write_report

    say(f"wrote {write_report(out)}")


@main.command()
@click.argument("what", metavar="STORE|MODEL")
def info(what: str) -> None:
    """Say what a store holds, or what a model is.

    \b
    traj info data/trajectories/ddpm.zarr
    traj info google/ddpm-cifar10-32
    """
    from pipeline.info import describe_model, describe_store

    is_store = what.endswith(".zarr") or (Path(what) / "zarr.json").exists()
    click.echo(describe_store(Path(what)) if is_store else describe_model(what))


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Also check that every stored value is finite.")
def verify(store: Path, deep: bool) -> None:
    """Check that every byte of STORE is there and right.

    \b
    traj verify data/trajectories/ddpm.zarr --deep
    """
    from stores import verify as verify_store

    problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(
            f"{store}: {len(problems)} problem(s). Restore the files from a copy; or make a bad block again: "
            "delete its flag, done/c/BLOCK, and run the same `traj generate`; or delete a bad result and analyse again"
        )
    click.echo(f"{store} is whole")
