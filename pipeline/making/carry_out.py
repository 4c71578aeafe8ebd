"""How every verb that fills a store carries out its job, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import click

from traj.pipeline.garbage import search_as_usual

if TYPE_CHECKING:
    from traj.pipeline.estimate import Cost
    from traj.stores import BlockWriter, Layout, Stale, TrajectoryWriter

Writer = TypeVar("Writer", bound="TrajectoryWriter | BlockWriter")


class Job(Protocol[Writer]):
    """What fills one store: how large it will be, what that costs, and the run itself."""

    @property
    def layout(self) -> Layout:
        """The blocks of the store."""
        ...

    def cost(self, out: Path, blocks: int | None = None) -> Cost:
        """Estimate what a number of blocks will take, all by default."""
        ...

    def open(
        self, out: Path, *, stale: Stale = "refuse", blocks: Sequence[int] | None = None
    ) -> AbstractContextManager[Writer]:
        """Make the store, or go on with it."""
        ...

    def run(self, store: Writer) -> None:
        """Fill the store's pending blocks."""
        ...


def say(message: str) -> None:
    """Tell the person something, without mixing it into output that may be piped."""
    click.echo(message, err=True)


def carry_out(
    job: Job[Writer],
    out: Path,
    *,
    stale: Stale,
    blocks: range | None,
    dry_run: bool,
    smaller: str,
    complete: str = "ask for these with --samples to complete it",
    following: str,
    fills_disk: bool = False,
) -> None:
    """Say what a run costs, make its store or what is missing of it, and say what to type next.

    ``fills_disk`` refuses what takes more than the free disk, for values that hardly compress.
    """
    from traj.stores import describe, place, require_complete, require_writable

    place(out)
    layout = job.layout
    wanted = range(layout.blocks) if blocks is None else blocks
    if wanted[-1] >= layout.blocks:
        raise click.UsageError(
            f"block {max(wanted[0], layout.blocks)} was asked for; {layout.samples} samples in blocks of "
            f"{layout.block} have 0 to {layout.blocks - 1}"
        )
    if dry_run:
        click.echo(f"{out}: {job.cost(out, len(wanted))}")
        return
    # before there is a store: a network that fails, or does not fit into memory, leaves none behind
    tried = None if _is_made(job, out) else job.cost(out, len(wanted))
    if fills_disk and tried and not out.exists():
        _require_disk(out, tried, smaller)
    with _opened(job, out, stale, blocks) as store:
        if store.set_aside:
            say(f"{out} was made from other inputs; it is kept as {store.set_aside}")
        if idle := not store.pending:
            say(f"{out}: nothing to do")
        else:
            cost = tried if tried and len(store.pending) == len(wanted) else job.cost(out, len(store.pending))
            say(f"{out}: {len(store.pending)} of {store.layout.blocks} blocks to do; {cost}")
            if fills_disk:
                _require_disk(out, cost, smaller)
            elif cost.disk > cost.disk_free:
                say(f"the disk may fill up: it is safe to go on later, or to store less with {smaller}")
            require_writable(out / "zarr.json")
            search_as_usual()
            job.run(store)
    found = describe(out)
    if clipped := found.get("saturated"):
        say(f"{clipped} values were clipped to the range of float16")
    if found.get("not_finite"):
        say("there are values that are not finite: " + ", ".join(f"{n} of {v}" for v, n in found["not_finite"].items()))
    # where a model or data lie changes no number
    made_in = [{**made["environment"], "model": "", "classifier": "", "source": ""} for made in found["environments"]]
    if any(other != made_in[0] for other in made_in):
        say(
            f"blocks of {out} were made in different environments, so the last bits of their numbers may differ; see "
            f"`traj info {out}`"
        )
    if found["blocks_done"] == found["blocks"]:
        require_complete(out)
        say(f"{out} is complete; " + (f"`traj verify {out}` reads every byte" if idle else f"next: {following}"))
        return
    samples = found["arrays"]["sample"]["dims"]["sample"]
    state = f"{out}: the blocks asked for are done, {found['blocks_done']} of all {found['blocks']}"
    if blocks is None:
        raise click.ClickException(f"{state}; the store was begun with {samples} samples, {complete}")
    say(state)


def _require_disk(out: Path, cost: Cost, smaller: str) -> None:
    from traj.pipeline.estimate import size
    from traj.stores import InputError

    if cost.disk > cost.disk_free:
        raise InputError(
            f"{out} takes {size(cost.disk)}, and its disk has {size(cost.disk_free)} free; store less with {smaller}, "
            "or choose another disk"
        )


def _opened(job: Job[Writer], out: Path, stale: Stale, blocks: range | None) -> AbstractContextManager[Writer]:
    from traj.stores import StaleStore

    try:
        return job.open(out, stale=stale, blocks=blocks)
    except StaleStore as error:
        raise StaleStore(f"{error} That is --stale set-aside.") from None


def _is_made(job: Job[Writer], out: Path) -> bool:
    """Say, without trying the network, whether the job's own store is there and complete."""
    from traj.stores import StoreError, describe

    if not out.exists():
        return False
    try:
        found = describe(out)
        done = "blocks" in found and found["blocks_done"] == found["blocks"]
        if not done or found["arrays"]["sample"]["dims"]["sample"] < job.layout.samples:
            return False  # opening it to write would extend it
        with job.open(out) as store:
            return not store.pending
    except StoreError:
        return False
