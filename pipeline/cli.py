"""`traj`: argument parsing and messages only. Heavy imports wait until a verb runs."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import click

from traj.pipeline.making.carry_out import carry_out, say
from traj.pipeline.mishaps import INTERRUPTED, Traj
from traj.pipeline.options import BLOCKS, DEVICE, DRY_RUN, SEED, STALE, TF32, LocalName, LocalPath, timestep_list
from traj.pipeline.parsing import Number, Whole
from traj.pipeline.quantity_options import QuantityGroup
from traj.pipeline.readout_options import ReadoutGroup

# whatever the user's Dask is told: analyses lay out their own graphs
os.environ["DASK_ARRAY__QUERY_PLANNING"] = "False"

BUG = "; if `traj verify` finds nothing wrong with it, please report this as a bug of traj"
ALL_SAMPLES = "ask for these with --samples to complete it"


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


@main.command()
@click.argument("name")
@click.option("-o", "--out", type=LocalPath(), help="Folder of the model.  [default: models/NAME]")
@click.option("--steps", type=Whole(1, 10**9), help="Training steps.  [default: the model's own]")
@click.option("--seed", type=Whole(0, 2**63 - 1), default=0, show_default=True)
@DEVICE
def train(name: str, out: Path | None, steps: int | None, seed: int, device: str) -> None:
    """Train a built-in network on scikit-learn's digits: NAME is digits, digits-iddpm or digits-classifier.

    \b
    traj train digits
    traj train digits-iddpm
    traj train digits-classifier                               for traj readout classifier
    """
    from traj.pipeline.models.train import train as train_model

    folder = out or Path(os.environ.get("TRAJ_MODELS", "models")) / name
    try:
        trained = train_model(name, folder, steps=steps, seed=seed, device=device)
    except KeyboardInterrupt:
        say("stopped; training begins anew next time")
        raise click.exceptions.Exit(INTERRUPTED) from None
    say(f"{folder} is ready" if trained else f"{folder} is there already, nothing to do")
    model = name if out is None else out
    if name == "digits-classifier":
        accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
        say(f"it names {accuracy:.1%} of the images held out from training rightly")
        say(f"next: traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model {model}")
        return
    sampler = " --sampler iddpm" if name == "digits-iddpm" else ""
    say(f"next: traj generate data/trajectories/{name}.zarr --model {model} --labels cycle{sampler}")


@main.command()
@click.argument("out", type=LocalPath())
@click.option(
    "--model",
    type=LocalName(),
    required=True,
    help="digits, digits-iddpm, a diffusers folder or hub id, gaussian:MEAN,VAR[,SHAPE], mixture:A,B,..., "
    "dataset:digits, or your own FILE.py:NAME.",
)
@click.option(
    "--schedule",
    help="Of an exact model: linear, cosine, edm[:MIN,MAX,RHO] or flow[:SHIFT].  [default: linear]",
)
@click.option("--sampler", default="ddpm", show_default=True, help="ddpm, ddim, iddpm or heun.")
@click.option(
    "--plan",
    "plan_name",
    type=click.Choice(["baseline", "shortcut"]),
    default="baseline",
    show_default=True,
    help="shortcut: 83 of 100 steps, blocks of the U-Net left out in some; with --steps 100.",
)
@click.option(
    "--steps",
    type=Whole(),
    help="Steps, one network evaluation each but two in heun; the size of the grid of edm and flow.  [default: all "
    "timesteps of the training schedule]",
)
@click.option(
    "--spacing",
    type=click.Choice(["leading", "linspace", "trailing", "openai"]),
    help="Which timesteps fewer --steps visit: diffusers' three ways, or improved-diffusion's rounding of "
    "linspace.  [default: what the model's scheduler says]",
)
@click.option("--timesteps", callback=timestep_list, help="Timesteps by hand, instead of --steps: 999,850,700,0.")
@click.option(
    "--eta", type=Number(), help="Noise of ddim: 0 none, 1 as much as ddpm, more where steps have room.  [default: 0]"
)
@click.option(
    "--variance",
    type=click.Choice(["large", "small"]),
    help="Variance of ddpm: beta, at the last steps more than the states hold, or beta tilde.  [default: what the "
    "model's scheduler says]",
)
@click.option(
    "--clip/--no-clip",
    default=None,
    help="Clip pred_x0 in the update, at the valid range of the model: what its scheduler clips at, 1 where that names "
    "none, its own of a closed form.  [default: ddpm, iddpm as the model says; ddim no]",
)
@click.option(
    "--eps",
    type=click.Choice(["kept", "rederived"]),
    help="With ddim or heun, and --clip: eps kept as the network says, like diffusers, or rederived from the clipped "
    "pred_x0, like improved-diffusion, guided-diffusion and GLIDE; then ddim of eta 1 is ddpm.  [default: kept]",
)
@click.option("--samples", type=Whole(), default=64, show_default=True, help="More than a finished run has extends it.")
@click.option(
    "--block", type=Whole(), default=32, show_default=True, help="Samples generated together; part of the run."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--labels", default="none", show_default=True, help="none, cycle through the classes, or one class.")
@click.option(
    "--guidance",
    type=Number(),
    default=1.0,
    show_default=True,
    help="How far towards the label: 0 not at all, 1 as the model does, above 1 further, with two predictions a step.",
)
@click.option("--every", type=Whole(), default=1, show_default=True, help="Store every k-th state, and the last.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--round-bits", type=Whole(), help="Round float32 to this many mantissa bits: smaller, 10 are plenty.")
@DEVICE
@click.option("--autocast", is_flag=True, help="Run the network in bfloat16.")
@TF32
@BLOCKS
@STALE
@DRY_RUN
def generate(out: Path, sampler: str, blocks: range | None, stale: Any, dry_run: bool, **options: Any) -> None:
    """Generate full reverse trajectories into the store OUT.

    Run the same command again to go on where it was stopped; ask for more samples to extend it.

    \b
    traj generate data/trajectories/ddpm.zarr --model digits --labels cycle
    traj generate data/trajectories/ddim.zarr --model digits --sampler ddim --steps 50 --samples 256
    traj generate data/trajectories/cifar.zarr --model google/ddpm-cifar10-32 --device cuda --block 512
    traj generate data/trajectories/short.zarr --model digits --sampler ddim --steps 100 --eta 1 --plan shortcut
    traj generate data/trajectories/edm.zarr --model dataset:digits --schedule edm --steps 18 --sampler heun
    traj generate data/trajectories/mine.zarr --model mine.py:flow --sampler ddim --steps 28
    """
    from traj.pipeline.making.generate import prepare

    carry_out(
        prepare(sampler_name=sampler, **options),
        out,
        stale=stale,
        blocks=blocks,
        dry_run=dry_run,
        smaller="--every or --dtype float16",
        complete=ALL_SAMPLES,
        following="traj analyze entropy",
    )


@main.command()
@click.argument("store", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option("--at", callback=timestep_list, help="Stored timesteps to start from: 900,800,700.")
@click.option(
    "--sweep", "table", type=LocalName(), help="A table of edits instead: a YAML file, or FILE:KEY for a place in one."
)
@click.option("--replicas", type=Whole(), help="Forks of each sample from each timestep.  [default: 8; 1 of a sweep]")
@click.option(
    "--noise",
    multiple=True,
    help="independent, shared (the run's own) or zero; KIND:FIRST-LAST for these timesteps only. Repeat it; later ones "
    "win.  [default: independent]",
)
@click.option("--eta", multiple=True, help="Noise of ddim as in generate, or ETA:FIRST-LAST.  [default: the run's]")
@click.option("--model", type=LocalName(), help="Where the run's model lies.  [default: its name when STORE was made]")
@click.option("--samples", type=Whole(), help="The first so many of STORE.  [default: all]")
@click.option("--block", type=Whole(), help="Samples forked together; part of the forks.  [default: that of STORE]")
@click.option(
    "--batch", type=Whole(), default=512, show_default=True, help="Images per network call at most; part of the forks."
)
@click.option("--states", is_flag=True, help="Store x_t and pred_x0 too.")
@click.option(
    "--times",
    type=LocalPath(dir_okay=False),
    help="With --sweep, time the network under each cut on this machine, after the forks, and write to this CSV file "
    "what share of a run's time each variant saves. A file from before is replaced; --dry-run writes none.",
)
@DEVICE
@BLOCKS
@STALE
@DRY_RUN
def fork(
    store: Path, out: Path, times: Path | None, blocks: range | None, stale: Any, dry_run: bool, **options: Any
) -> None:
    """Continue the run STORE from stored states with other noise, into the store OUT.

    Replicas share the run's noise down to the timestep they start from, and have noise of their own below it. With
    --noise zero or --eta, noise is switched off, or put in, on a part of the way: --eta keeps the spread of the states
    right, --noise zero does not. To compare runs of other step counts from the same start, generate them with one seed.

    A sweep keeps the run's noise and edits its plan, once for each combination of a family's numbers:

    \b
    - {edit: jump, n: 5, t_start: {every: 4}}             go on at the fifth timestep after t_start
    - {edit: blocks, nb: [2, 6], n: 5, t_start: [700]}    leave 2 or 6 of 16 output blocks out of 5 steps
    - {edit: skips, ns: 2, n: 7, r: [0, 10], t_start: 500}    leave 2 skips out of 7 steps, and r steps later again
    - {edit: shortcut}                                    83 of 100 steps, 21 of them without the lowest blocks

    \b
    traj fork data/trajectories/ddpm.zarr data/forks/ddpm_forks.zarr --at 900,700,500,300,100 --replicas 8
    traj fork data/trajectories/ddpm.zarr data/forks/quiet.zarr --at 999 --noise zero:999-500
    traj fork data/trajectories/ddim.zarr data/forks/late.zarr --at 980 --eta 0:980-500 --eta 1:499-0
    traj fork data/trajectories/ddim100_eta1.zarr data/sweeps/jumps.zarr --sweep params.yaml:sweeps.jumps
    traj fork data/trajectories/ddim100_eta1.zarr data/sweeps/edits.zarr --sweep edits.yaml --times times.csv
    """
    swept = options["table"] is not None
    if times and not swept:
        raise click.UsageError(f"--times {times} is what the edits of a sweep save; expected it with --sweep only")
    from traj.pipeline.making.fork import prepare
    from traj.stores.places import place, require_writable

    if times:
        require_writable(place(times))
    forks = prepare(store=store, **options)
    if swept:
        say(forks.saving())
    for caution in forks.cautions():
        say(caution)
    carry_out(
        forks,
        out,
        stale=stale,
        blocks=blocks,
        dry_run=dry_run,
        smaller="fewer --samples or --replicas",
        complete=ALL_SAMPLES,
        following=f"traj analyze intervention --baseline {store}" if swept else "traj analyze consistency",
    )
    if times and not dry_run:
        from traj.pipeline.making.times import write_times

        write_times(forks, times)
        say(f"wrote {times}")


@main.group(cls=ReadoutGroup)
def readout() -> None:
    """Read every stored event with a network.

    \b
    traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model digits-classifier
    """


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
@click.option("-o", "--out", type=LocalPath(), default="report", show_default=True)
@click.option(
    "--beside",
    type=LocalPath(exists=True, file_okay=False),
    help="Folder of another project (with data/ and results/), whose runs are shown too.",
)
def report(out: Path, beside: Path | None) -> None:
    """Draw everything under results/ into report/index.html.

    What is damaged or cannot be drawn is left out and named, on the page too; the exit status is 1 then.

    \b
    traj report
    traj report --beside ../..
    """
    from traj.pipeline.report import report as write_report
    from traj.pipeline.report.failures import sentence
    from traj.stores import is_known

    failures: list[tuple[str, Exception]] = []
    page = write_report(out, beside=beside, failed=lambda where, error: failures.append((where, error)))
    say(f"wrote {page}")
    for where, error in failures:
        if not is_known(error):
            traceback.print_exception(error)
        say(f"{where}: {sentence(error)}" + ("" if is_known(error) else BUG))
    if failures:
        raise click.ClickException(f"{len(failures)} thing(s) named above are left out of {page}")


@main.command()
@click.argument("what", type=LocalName(), metavar="STORE|MODEL")
def info(what: str) -> None:
    """Say what a store holds, or what a model is.

    \b
    traj info data/trajectories/ddpm.zarr
    traj info google/ddpm-cifar10-32
    """
    from traj.pipeline.info import describe_model, describe_store

    is_store = what.endswith(".zarr") or (Path(what) / "zarr.json").exists()
    click.echo(describe_store(Path(what)) if is_store else describe_model(what))


@main.command()
@click.argument("store", type=LocalPath())
@click.option("--deep", is_flag=True, help="Also check that every stored value is finite.")
def verify(store: Path, deep: bool) -> None:
    """Check that every byte of STORE is there and right.

    \b
    traj verify data/trajectories/ddpm.zarr --deep
    """
    from traj.stores import verify as verify_store
    from traj.stores.verify import way_out

    problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(f"{store}: {len(problems)} problem(s). {way_out(store)}")
    click.echo(f"{store} is whole")
