"""Run a pipeline so many times, and record each call: what that costs, and the rest of a record begun earlier."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
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
from traj.stores import ForeignError, InputError, Layout, is_known


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

    Raises InputError or MissingFile for what cannot be recorded, ForeignError where the pipeline itself fails, and what
    writing a store may raise.
    """
    stores.place(out)
    pipe = whole.load(name, choose_device(device))
    _, *parameters = inspect.signature(type(pipe).__call__).parameters.values()
    accepted = [parameter.name for parameter in parameters]
    if unknown := [given for given in arguments if given not in accepted or given == "generator"]:
        raise InputError(
            f"a call of {type(pipe).__name__} takes no {', '.join(unknown)} here; expected any of "
            f"{', '.join(given for given in accepted if given != 'generator')}"
        )

    needed = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if missing := [name for name in needed if name not in arguments]:
        raise InputError(
            f"a call of {type(pipe).__name__} needs {', '.join(missing)}; expected a value for each, as in --call "
            f'"{{{missing[0]}: VALUE}}"'
        )

    def run(call: int) -> None:
        torch.manual_seed(seed + call)  # for what is drawn without a generator
        generator = torch.Generator().manual_seed(seed + call)
        try:
            pipe(**arguments, **({"generator": generator} if "generator" in accepted else {}))
        except Exception as error:
            if is_known(error) or not _is_pipelines(error):
                raise
            raise ForeignError(
                f"the lines above are of {type(pipe).__name__}, the pipeline that is recorded, which fails in its own "
                "code; check what it is called with (--call)"
            ) from _without_ours(error)

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


def _is_pipelines(error: Exception) -> bool:
    """Tell whether an error was raised by a pipeline, or beneath it, rather than by what watches its steps."""
    packages = [_package(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((one for one in reversed(packages) if one in ("traj", *whole.LIBRARIES)), "traj") != "traj"


def _without_ours(error: Exception) -> Exception:
    """Begin an error's traceback where the pipeline begins."""
    trace = error.__traceback__
    while trace and trace.tb_next and _package(trace.tb_frame) == "traj":
        trace = trace.tb_next
    return error.with_traceback(trace)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


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
