"""What the edits of a sweep save in time on this machine: measured, so it lies beside the store and never in it."""

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
    from traj.pipeline.process.denoiser import Denoiser

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
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", *EDIT, "time_removed"])
    for variant, plan in enumerate(forks.variants):
        edit = (columns[name][variant] for name in EDIT)
        table.writerow([variant, *edit, f"{removed(whole, plan, seconds):.6f}"])
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
