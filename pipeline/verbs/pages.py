"""`traj report`: the pages."""

from __future__ import annotations

import traceback
from pathlib import Path

import click

from traj.pipeline.garbage import search_as_usual
from traj.pipeline.making.carry_out import say
from traj.pipeline.options import LocalPath

BUG = "; if `traj verify` finds nothing wrong with it, please report this as a bug of traj"


@click.command()
@click.option("-o", "--out", type=LocalPath(), default="report", show_default=True, help="Folder of the pages.")
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
    help="What figures lie over: log SNR; the timestep, for runs of one schedule; or the bits that a state tells of "
    "the image, as the quantity information measured them in run NAME. Where it measured one run only, leave out NAME.",
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
    from traj.pipeline.computing.engines import by_threads
    from traj.pipeline.report import report as write_report
    from traj.pipeline.report.failures import sentence
    from traj.stores import is_known

    failures: list[tuple[str, Exception]] = []
    search_as_usual()
    with by_threads():
        page = write_report(out, beside=beside, axis=axis, failed=lambda where, error: failures.append((where, error)))
    say(f"wrote {page}")
    for where, error in failures:
        if not is_known(error):
            traceback.print_exception(error)
        say(f"{where}: {sentence(error)}" + ("" if is_known(error) else BUG))
    if failures:
        raise click.ClickException(f"{len(failures)} thing(s) named above are left out of {page}")
