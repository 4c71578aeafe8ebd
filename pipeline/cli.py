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
from traj.pipeline.options import (
    BLOCKS,
    DEVICE,
    DRY_RUN,
    STALE,
    LocalName,
    LocalPath,
    bounds,
    names,
    of_a_run,
    of_a_start,
    timestep_list,
)
from traj.pipeline.parsing import Whole
from traj.pipeline.quantity_options import QuantityGroup
from traj.pipeline.readout_options import ReadoutGroup

# analyses lay out their own graphs, whatever the user's Dask is configured to do
os.environ["DASK_ARRAY__QUERY_PLANNING"] = "False"

BUG = "; if `traj verify` finds nothing wrong with it, please report this as a bug of traj"
ALL_SAMPLES = "ask for these with --samples to complete it"
TRAINED = ("digits", "digits-iddpm", "digits-classifier", "digits-vae")
"""The networks `traj train` knows, named here because to ask it takes seconds."""


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


@main.command()
@click.argument("source", type=LocalName())
@click.argument("out", type=LocalPath())
@click.option("--samples", type=Whole(), help="Take only the first so many samples.  [default: all]")
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
    traj. FILE:NAME takes one array of several. Or it is digits, scikit-learn's; mixture:A,B,..., points in one pixel,
    each a class; or hf:NAME[@REVISION]/SPLIT[:COLUMN], which needs the package datasets of Hugging Face.

    Values of type uint8 are pixels and become x / 127.5 - 1; floats stay as they are. Nothing is held in memory but a
    block, where the format allows it.

    \b
    traj dataset digits data/datasets/digits.zarr
    traj dataset train-images-idx3-ubyte.gz data/datasets/mnist.zarr
    traj dataset cifar.npz:x_train data/datasets/cifar.zarr --labels y_train
    traj dataset photos/ data/datasets/photos.zarr --samples 10000
    traj dataset latents.npy data/datasets/latents.zarr --range=-20,20
    """
    from traj.pipeline.making.dataset import prepare

    carry_out(
        prepare(source, **options),
        out,
        stale=stale,
        blocks=None,
        dry_run=dry_run,
        smaller="--samples",
        complete=ALL_SAMPLES,
        following="traj info",
    )


@main.command()
@click.argument("name", type=click.Choice(TRAINED))
@click.option("-o", "--out", type=LocalPath(), help="Folder to save it in.  [default: models/NAME]")
@click.option("--steps", type=Whole(1, 10**9), help="Training steps.  [default: the network's own number]")
@click.option("--seed", type=Whole(0, 2**63 - 1), default=0, show_default=True, help="Of all that is random.")
@DEVICE
def train(name: str, out: Path | None, steps: int | None, seed: int, device: str) -> None:
    """Train a built-in network on scikit-learn's digits.

    \b
    traj train digits                  for traj generate
    traj train digits-iddpm            the same, and learns its variance: for --sampler iddpm
    traj train digits-classifier       for traj readout classifier
    traj train digits-vae              for traj generate --start vae:digits-vae
    """
    from traj.pipeline.models.train import train as train_model

    folder = out or Path(os.environ.get("TRAJ_MODELS", "models")) / name
    try:
        trained = train_model(name, folder, steps=steps, seed=seed, device=device)
    except KeyboardInterrupt:
        say("stopped; nothing was saved, training starts from the beginning next time")
        raise click.exceptions.Exit(INTERRUPTED) from None
    say(f"{folder} is ready" if trained else f"{folder} was trained before; nothing to do")
    model = name if out is None else out
    metrics = json.loads((folder / "metrics.json").read_text())
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


@main.command()
@click.argument("out", type=LocalPath())
@of_a_run
@of_a_start
def generate(
    out: Path, sampler: str, times: Path | None, blocks: range | None, stale: Any, dry_run: bool, **options: Any
) -> None:
    """Generate trajectories, and store all their states in OUT.

    Run the same command again to continue a run that was stopped. Ask for more --samples to extend a finished one.

    \b
    traj generate data/trajectories/ddpm.zarr --model digits --labels cycle
    traj generate data/trajectories/ddim.zarr --model digits --sampler ddim --steps 50 --samples 256
    traj generate data/trajectories/cifar.zarr --model google/ddpm-cifar10-32 --device cuda --block 512
    traj generate data/trajectories/short.zarr --model digits --sampler ddim --steps 100 --eta 1 --plan shortcut
    traj generate data/trajectories/edm.zarr --model dataset:digits --schedule edm --steps 18 --sampler heun
    traj generate data/trajectories/mine.zarr --model mine.py:flow --sampler ddim --steps 28
    traj generate data/trajectories/late.zarr --model digits --start vae:digits-vae --start-step 499
    """
    from traj.pipeline.making.generate import prepare
    from traj.stores import place, require_writable

    if times:
        require_writable(place(times))
    generation = prepare(sampler_name=sampler, **options)
    _make_run(generation, out, stale=stale, blocks=blocks, dry_run=dry_run)
    if times and not dry_run:
        from traj.pipeline.making.times import write_run_times

        write_run_times(generation, times)
        say(f"wrote {times}")


def _make_run(generation: Any, out: Path, **options: Any) -> None:
    carry_out(
        generation,
        out,
        smaller="--every or --dtype float16",
        complete=ALL_SAMPLES,
        following=f"traj analyze {'entropy' if generation.makes_pictures else 'psnr'}",
        **options,
    )


@main.command()
@click.argument("dataset", type=LocalName())
@click.argument("out", type=LocalPath())
@of_a_run
@click.option(
    "--inversion",
    is_flag=True,
    help="Add no noise, but let the model lead x_0 up, backwards through --sampler ddim. All states of a block wait in "
    "memory.",
)
def noise(
    dataset: str, out: Path, sampler: str, blocks: range | None, stale: Any, dry_run: bool, **options: Any
) -> None:
    """Noise the x_0 of DATASET, and store the states with what a model makes of them in OUT.

    DATASET is a dataset, or any store with x_0. OUT is a run like those of generate, but its states are x_0 noised to
    the timesteps of the plan that the sampling options choose, one Markov chain for each sample. Its x_0 and labels are
    those of DATASET; --labels is what the model is told. To go forward and backward, fork OUT: forks go on by that
    plan.

    \b
    traj noise data/datasets/digits.zarr data/trajectories/noised.zarr --model digits --every 50
    traj fork data/trajectories/noised.zarr data/forks/back.zarr --at 949,699,449,199 --replicas 4
    traj noise data/datasets/digits.zarr data/trajectories/up.zarr --model digits --sampler ddim --inversion
    """
    from traj.pipeline.making.generate import prepare

    generation = prepare(sampler_name=sampler, start=dataset, noised=True, **options)
    _make_run(generation, out, stale=stale, blocks=blocks, dry_run=dry_run)


@main.command()
@click.argument("store", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option("--at", callback=timestep_list, help="Stored timesteps to start from: 900,800,700.")
@click.option(
    "--sweep",
    "table",
    type=LocalName(),
    help="A table of edits, instead of --at: a YAML file, or FILE:KEY for one part of it.",
)
@click.option(
    "--replicas", type=Whole(), help="Forks of each sample from each timestep.  [default: 8; always 1 with --sweep]"
)
@click.option(
    "--noise",
    multiple=True,
    help="Noise below the start: independent, shared (the run's own) or zero. KIND:FIRST-LAST is for these timesteps "
    "only. May be repeated; the last one that covers a timestep counts.  [default: independent]",
)
@click.option(
    "--eta",
    multiple=True,
    help="Noise of ddim, as in generate. ETA:FIRST-LAST is for these timesteps only. May be repeated.  [default: the "
    "run's]",
)
@click.option("--model", type=LocalName(), help="The run's model, if it was moved.  [default: its name in STORE]")
@click.option("--samples", type=Whole(), help="Fork only the first so many samples.  [default: all of STORE]")
@click.option(
    "--block",
    type=Whole(),
    help="Samples forked together. To resume or extend forks, give the same number.  [default: that of STORE]",
)
@click.option(
    "--batch",
    type=Whole(),
    default=512,
    show_default=True,
    help="Most events in one network call. To resume or extend forks, give the same number.",
)
@click.option("--states", is_flag=True, help="Store x_t and pred_x0 of the forks too, not only x_0.")
@click.option(
    "--times",
    type=LocalPath(dir_okay=False),
    help="With --sweep: at the end, time the network with each cut on this machine, and write the share of a run's "
    "time that each variant saves to this CSV file. An older file is replaced.",
)
@DEVICE
@BLOCKS
@STALE
@DRY_RUN
def fork(
    store: Path, out: Path, times: Path | None, blocks: range | None, stale: Any, dry_run: bool, **options: Any
) -> None:
    """Continue the run STORE from its stored states, with other noise.

    Every replica goes through the same states as the run down to the timestep it starts from, and gets noise of its own
    below. --noise zero and --eta change how much noise is added at some timesteps: --eta keeps the spread of the states
    right, --noise zero does not. To compare runs with different numbers of steps, generate them with the same --seed.

    --sweep keeps the noise of the run, and changes its steps. Each edit is made once for every combination of its
    numbers:

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
    from traj.stores import place, require_writable

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
    """Read every event of a store with a network.

    \b
    traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model digits-classifier
    """


@main.group(cls=QuantityGroup)
@click.pass_context
def analyze(ctx: click.Context) -> None:
    """Compute quantities of stores, however large.

    NAME,NAME computes several in one pass over the store.

    \b
    traj analyze entropy
    traj analyze ssim data/trajectories/ddpm.zarr --preset window:5
    traj analyze entropy,ssim data/trajectories/ddpm.zarr --set entropy.bins=16
    """


@main.command()
@click.option("-o", "--out", type=LocalPath(), default="report", show_default=True, help="Folder of the page.")
@click.option(
    "--beside",
    type=LocalPath(exists=True, file_okay=False),
    help="Folder of another project, with data/ and results/: show its runs too.",
)
@click.option(
    "--axis",
    default="log_snr",
    show_default=True,
    metavar="log_snr|timestep|information[:NAME]",
    help="What figures lie over: log SNR; the timestep, for runs of one schedule; or the bits that a state holds, as "
    "measured by the quantity information in run NAME, which may be left out where there is one only.",
)
def report(out: Path, beside: Path | None, axis: str) -> None:
    """Draw everything under results/ into report/index.html.

    Anything that is damaged or cannot be drawn is left out, and named in the messages and on the page. The exit status
    is 1 then.

    \b
    traj report
    traj report --beside ../..
    traj report --axis information:ddpm -o report/bits
    """
    from traj.pipeline.report import report as write_report
    from traj.pipeline.report.failures import sentence
    from traj.stores import is_known

    failures: list[tuple[str, Exception]] = []
    page = write_report(out, beside=beside, axis=axis, failed=lambda where, error: failures.append((where, error)))
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
    """Describe a store or a model.

    \b
    traj info data/trajectories/ddpm.zarr
    traj info google/ddpm-cifar10-32
    """
    from traj.pipeline.info import describe_model, describe_store

    is_store = (what.endswith(".zarr") and not what.startswith("dataset:")) or (Path(what) / "zarr.json").exists()
    click.echo(describe_store(Path(what)) if is_store else describe_model(what))


@main.command()
@click.argument("store", type=LocalPath())
@click.option("--deep", is_flag=True, help="Also check that every stored value is finite.")
def verify(store: Path, deep: bool) -> None:
    """Check that every byte of STORE is there and is what was written.

    \b
    traj verify data/trajectories/ddpm.zarr --deep
    """
    from traj.stores import verify as verify_store
    from traj.stores import way_out

    problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(f"{store} has {len(problems)} problem(s), listed above. {way_out(store)}")
    click.echo(f"{store} is whole")
