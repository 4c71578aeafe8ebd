"""`traj generate` and `traj noise`: runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.making.carry_out import carry_out, say
from traj.pipeline.options import LocalName, LocalPath, of_a_run, of_a_start


@click.command()
@click.argument("out", type=LocalPath())
@of_a_run
@of_a_start
def generate(
    out: Path, sampler: str, times: Path | None, blocks: range | None, stale: Any, dry_run: bool, **options: Any
) -> None:
    """Generate trajectories, and store all their states in OUT.

    Run the same command again to continue a run that was stopped. Ask for more --samples to extend a finished one.
    With --start, samples are noised and the model goes on from there; to let it lead them up to noise, see traj noise
    --inversion.

    \b
    traj generate data/trajectories/ddpm.zarr --model digits --labels cycle
    traj generate data/trajectories/ddim.zarr --model digits --sampler ddim --steps 50 --samples 256
    traj generate data/trajectories/cifar.zarr --model google/ddpm-cifar10-32 --device cuda --block 512
    traj generate data/trajectories/short.zarr --model digits --sampler ddim --steps 100 --eta 1 --plan shortcut
    traj generate data/trajectories/edm.zarr --model dataset:digits --schedule edm --steps 18 --sampler heun
    traj generate data/trajectories/mine.zarr --model mine.py:flow --sampler ddim --steps 28
    traj generate data/trajectories/cats.zarr --model sd15/ --prompt "a cat" --guidance 7.5 --sampler ddim --steps 50
    traj generate data/trajectories/late.zarr --model digits --start vae:digits-vae --start-step 499
    traj generate data/trajectories/photos.zarr --model models/photos --start photos/ --start-step 499
    """
    from traj.stores import place, require_writable

    if times:
        require_writable(place(times))
    generation = _prepare(sampler_name=sampler, **options)
    _make_run(generation, out, stale=stale, blocks=blocks, dry_run=dry_run)
    if times and not dry_run:
        from traj.pipeline.making.times import write_run_times

        write_run_times(generation, times)
        say(f"wrote {times}")


@click.command()
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
    """Noise the x_0 of DATASET, and store the states in OUT.

    DATASET is a dataset, any store with x_0, or whatever traj dataset reads without options, such as a folder of
    images. OUT is a run like those of generate, with each state and what a model predicts from it. But its states are
    x_0 with noise, one Markov chain for each sample, at the timesteps that the sampling options choose. Its x_0 and
    labels are those of DATASET; --labels is what the model is told. To go forward and backward again, fork OUT: forks
    continue with the sampler that the options name.

    \b
    traj noise data/datasets/digits.zarr data/trajectories/noised.zarr --model digits --every 50
    traj fork data/trajectories/noised.zarr data/forks/back.zarr --at 949,699,449,199 --replicas 4
    traj noise data/datasets/digits.zarr data/trajectories/up.zarr --model digits --sampler ddim --inversion
    """
    generation = _prepare(sampler_name=sampler, start=dataset, noised=True, **options)
    _make_run(generation, out, stale=stale, blocks=blocks, dry_run=dry_run)


def _prepare(*, prompts: tuple[str, ...], prompt_file: Path | None, **options: Any) -> Any:
    from traj.pipeline.making.generate import prepare

    if prompts and prompt_file:
        raise click.UsageError("--prompt and --prompts were given, expected one of them")
    return prepare(prompts=_lines(prompt_file) if prompt_file else prompts, **options)


def _lines(file: Path) -> list[str]:
    """Read a file of prompts, one in each line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # with a mark before the text, or none
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is no text in UTF-8; expected a prompt in each line") from None
    if not lines or not all(line.strip() for line in lines):
        empty = next((n for n, line in enumerate(lines, 1) if not line.strip()), 1)
        raise click.UsageError(f"line {empty} of {file} is empty; expected a prompt in each line")
    return lines


def _make_run(generation: Any, out: Path, **options: Any) -> None:
    for caution in generation.cautions:
        say(caution)
    carry_out(
        generation,
        out,
        smaller="--every or --dtype float16",
        following=generation.following(out),
        **options,
    )
