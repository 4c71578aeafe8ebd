"""What can go wrong in a verb of the command line, said in one message each."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from traj.pipeline.garbage import search_rarely
from traj.pipeline.making.carry_out import say
from traj.pipeline.threads import wait_briefly

INTERRUPTED = 130
BUG = (
    "this is a bug of traj, unless the lines above end in code of your own: please report it, with these lines and the "
    "command you typed"
)
OUT_OF_MEMORY = (
    "there is not enough memory{}; ask for fewer --samples, a smaller --block or --batch, or fewer --workers, where "
    "the command has them"
)
WAYS_OUT = {
    errno.ENOSPC: "; free some space there, or choose a place on another disk, and run the same command again: what is "
    "finished is kept",
    errno.EROFS: "; choose a place that can be written",
    errno.EACCES: "; choose a place that you may read and write, or change its permissions",
}


@contextmanager
def notes_said() -> Iterator[None]:
    """Print the notes of an error: for example, that a store was set aside before, and where it went."""
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            say(note)
        raise


class Traj(click.Group):
    """Turns what can go wrong into one message: exit 2 for what was given, 1 for what failed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of use."""
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Read the command line, or the arguments of a caller, who has a process of its own to care for."""
        if args is None:
            search_rarely()
        return super().main(args, *more, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb."""
        wait_briefly()
        try:
            with notes_said():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except KeyboardInterrupt:
            say("stopped; what is finished is kept, run the same command again to go on")
            ctx.exit(INTERRUPTED)
        except Exception as error:
            raise told(error) from None


def told(error: Exception) -> click.ClickException:
    """Say what went wrong in one message. Any error that is not ours is a bug of ours, and shows its traceback.

    So does one of code that was given to traj, but not as ours.
    """
    from traj.stores import ForeignError, InputError, is_known

    if not is_known(error):
        traceback.print_exception(error)
        return click.ClickException(BUG)
    if isinstance(error, ForeignError) and error.__cause__:
        traceback.print_exception(error.__cause__)
    if isinstance(error, InputError):
        return click.UsageError(str(error))
    if isinstance(error, MemoryError):
        return click.ClickException(OUT_OF_MEMORY.format(f" ({error})" if str(error) else ""))
    if isinstance(error, OSError) and error.errno is not None:
        place = f": {error.filename}" if error.filename else ""
        return click.ClickException(f"{error.strerror}{place}{WAYS_OUT.get(error.errno, '')}")
    return click.ClickException(str(error))
