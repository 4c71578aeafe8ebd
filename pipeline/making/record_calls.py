"""Run a pipeline so many times, and record each call: what that costs, and the rest of a record begun earlier."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from traj import stores
from traj.pipeline.estimate import Cost, disk_free, peak_memory
from traj.pipeline.garbage import search_as_usual
from traj.pipeline.making.call import Call
from traj.pipeline.making.carry_out import say
from traj.pipeline.making.record import Recorder
from traj.pipeline.models import whole
from traj.pipeline.process.device import choose_device, repeatable
from traj.stores import InputError, Layout


def record_calls(
    name: str,
    out: Path,
    *,
    arguments: Mapping[str, Any],
    calls: int,
    seed: int,
    every: int,
    device: str,
    stale: stores.Stale,
    dry_run: bool,
) -> None:
    """Load a pipeline, say what its calls cost, and record those that OUT does not hold yet.

    Call k draws all its noise from generators seeded with ``seed`` + k, so that a run can be repeated and continued.

    Raises InputError or MissingFile for what cannot be recorded, and what writing a store may raise.
    """
    stores.place(out)
    pipe = whole.load(name, choose_device(device))
    accepted = [*inspect.signature(type(pipe).__call__).parameters][1:]
    if unknown := [given for given in arguments if given not in accepted or given == "generator"]:
        raise InputError(
            f"a call of {type(pipe).__name__} takes no {', '.join(unknown)} here; expected any of "
            f"{', '.join(given for given in accepted if given != 'generator')}"
        )

    def run(call: int) -> None:
        torch.manual_seed(seed + call)  # for what is drawn without a generator
        generator = torch.Generator().manual_seed(seed + call)
        pipe(**arguments, **({"generator": generator} if "generator" in accepted else {}))

    recorder = Recorder(pipe, out, every, stale=stale, inputs={"seed": seed})
    with repeatable():
        tried, seconds = recorder.trial(lambda: run(recorder.calls))
        to_do = range(recorder.calls, calls)
        cost = _cost(tried, seconds, len(to_do), out)
        if dry_run:
            click.echo(f"{out}: {cost}")
            return
        say(f"{out}: {len(to_do)} of {calls} calls to do; {cost}" if to_do else f"{out}: nothing to do")
        search_as_usual()
        with recorder:
            for call in tqdm(to_do, unit="call", disable=None):
                run(call)
    stores.require_complete(out)
    say(f"{out} is complete; next: traj analyze geometry {out}")


def _cost(tried: Call, seconds: float, calls: int, out: Path) -> Cost:
    """Estimate what so many calls take, each like one that was tried; one waits in memory while another is made."""
    batch, *event = tried.shape
    layout = Layout.of(
        samples=max(calls, 1) * batch, block=batch, timesteps=len(tried.kept), shape=tuple(event), dtype="float32"
    )
    held = 4 * math.prod(tried.shape) * (2 * len(tried.kept) + 1)
    evaluations = calls * (int(tried.steps.call[-1]) + 1)
    return Cost(
        evaluations=evaluations,
        seconds=evaluations * seconds,
        disk=calls * held,
        disk_free=disk_free(out),
        memory=peak_memory() + 2 * held + stores.writer_bytes(layout, 2),
    )
