"""What runs and the edits of sweeps take on this machine: measured, so it lies beside the store and never in it."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from traj.pipeline.making.sweep import cuts_of, removed
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.device import inference, timed_call
from traj.stores import EDIT, write_file

if TYPE_CHECKING:
    import torch

    from traj.pipeline.making.fork import Fork
    from traj.pipeline.making.generate import Generation
    from traj.pipeline.process.denoiser import Denoiser
    from traj.pipeline.process.plan import Step

ROUNDS = 5, 25
"""Calls that are timed under each cut, at least and at most."""
SECONDS = 2.0
"""After so long, only the rounds that must be are made."""


def write_times(forks: Fork, path: Path) -> None:
    """Time the network under each cut of a sweep's plans, and write what each variant saves of a run's network time.

    A table in CSV: variant, edit, at, ns, nb, n, r, and ``time_removed``, the share of the time of all evaluations of
    the run, from noise on, that the variant does not take; where it saves nothing, this is 0 up to the scatter of the
    times, and may be negative. Calls have the largest batch of the forks.

    Raises OSError where the file cannot be written.
    """
    whole = forks.parent.plan
    with inference(forks.tf32):
        x_t, condition = forks.trial()
        cuts = cuts_of([whole, *forks.variants])
        seconds = call_medians(forks.denoiser, cuts, x_t, whole.timesteps[0], condition)
    columns = {"at": forks.at, **forks.edits}
    rows: list[list[Any]] = []
    for variant, plan in enumerate(forks.variants):
        edit = (columns[name][variant] for name in EDIT)
        rows.append([variant, *edit, f"{removed(whole, plan, seconds):.6f}"])
    _write(path, ["variant", *EDIT, "time_removed"], rows)


def write_run_times(generation: Generation, path: Path) -> None:
    """Time the network and the source of a run, and write what one of its samples takes.

    A table in CSV of one row: ``evaluations`` of the network; ``network_seconds``, the median time of a call with a
    whole block times the evaluations, over the samples of a block; ``start_seconds``, the same of the source it starts
    from, 0 for noise; ``seconds``, their sum; ``whole_evaluations`` and ``whole_seconds``, what the plan takes from
    noise on, by the same calls, so that the two compare; and ``measured``, how. Drawing noise and writing are left out.

    Raises OSError where the file cannot be written.
    """
    plan, block = generation.plan, generation.block
    with inference(generation.tf32):
        x_t, condition = generation.trial()
        cuts = [*dict.fromkeys(step.cut for step in (*generation.skipped, *plan.steps))]
        seconds = call_medians(generation.denoiser, cuts, x_t, plan.timesteps[0], condition)

    def network_seconds(steps: Sequence[Step]) -> float:
        return sum(seconds[step.cut] * step.evaluations for step in steps) / block

    network, skipped = network_seconds(plan.steps), network_seconds(generation.skipped)
    start = generation.start_seconds / block
    least, most = ROUNDS
    row = {
        "evaluations": plan.evaluations,
        "network_seconds": f"{network:.6g}",
        "start_seconds": f"{start:.6g}",
        "seconds": f"{network + start:.6g}",
        "whole_evaluations": plan.evaluations + sum(step.evaluations for step in generation.skipped),
        "whole_seconds": f"{network + skipped:.6g}",
        "measured": f"medians of {least} to {most} network calls with {block} samples, device {x_t.device.type}",
    }
    _write(path, [*row], [[*row.values()]])


def _write(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_file(path, text.getvalue())


def call_medians(
    denoiser: Denoiser, cuts: Sequence[Cut], x_t: torch.Tensor, timestep: int, condition: Any
) -> dict[Cut, float]:
    """Time network calls with these states: the median seconds under each cut.

    Rounds go through all cuts in turn, so that other work of the machine slows all of them alike.
    """
    least, most = ROUNDS

    def timed() -> dict[Cut, float]:
        return {cut: timed_call(denoiser, x_t, timestep, condition, cut) for cut in cuts}

    timed()  # warms up
    found: list[dict[Cut, float]] = []
    begun = time.perf_counter()
    while len(found) < least or (len(found) < most and time.perf_counter() - begun < SECONDS):
        found.append(timed())
    return {cut: median(seconds[cut] for seconds in found) for cut in cuts}
