"""`traj fork`: forks and sweeps of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traj.pipeline.making.carry_out import carry_out, say
from traj.pipeline.options import BLOCKS, DEVICE, DRY_RUN, STALE, LocalName, LocalPath, timestep_list
from traj.pipeline.parsing import Whole


@click.command()
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
@click.option("--samples", type=Whole(), help="How many samples to fork, from the first on.  [default: all of STORE]")
@click.option(
    "--block",
    type=Whole(),
    help="Samples forked together, a whole block at a time: where --samples are fewer, give their number here too. To "
    "resume or extend forks, give the same number.  [default: that of STORE]",
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
    from traj.stores import how_to_decode, place, require_writable

    if times:
        require_writable(place(times))
    forks = prepare(store=store, **options)
    if swept:
        say(forks.saving())
    for caution in forks.cautions():
        say(caution)
    analysis = f"traj analyze intervention --baseline {store} {out}" if swept else f"traj analyze consistency {out}"
    decoding = f"{how_to_decode(out, forks.kind)} --model {forks.denoiser.name}"
    carry_out(
        forks,
        out,
        stale=stale,
        blocks=blocks,
        dry_run=dry_run,
        smaller="fewer --samples or --replicas",
        following=analysis if forks.denoiser.valid_range else decoding,
    )
    if times and not dry_run:
        from traj.pipeline.making.times import write_times

        write_times(forks, times)
        say(f"wrote {times}")
