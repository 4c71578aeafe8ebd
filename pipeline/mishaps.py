"""What can go wrong in a verb of the command line, said in one message each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from traj.pipeline.making.carry_out import say
from traj.pipeline.threads import wait_briefly

INTERRUPTED = 130
OUT_OF_MEMORY = (
    "the memory does not suffice{}; ask for fewer --samples, a smaller --block or --batch, or fewer --workers"
)
WAYS_OUT = {
    errno.ENOSPC: "; free some space there, or choose a place on another disk, and run the same command again: what is "
    "finished is kept",
    errno.EROFS: "; choose a place that can be written",
    errno.EACCES: "; choose a place that you may read and write, or change its permissions",
}


@contextmanager
def notes_said() -> Iterator[None]:
    """Say the notes of whatever goes wrong: a store that was set aside before it did, and where it went."""
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            say(note)
        raise


class Traj(click.Group):
    """Turns what can go wrong into one message: exit 2 for what was asked, 1 for what failed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of use."""
        return list(self.commands)

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
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            if error.errno is None:
                raise click.UsageError(str(error)) from None
            place = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror}{place}{WAYS_OUT.get(error.errno, '')}") from None
        except ArithmeticError as error:
            raise click.ClickException(str(error)) from None
        except MemoryError as error:
            raise click.ClickException(OUT_OF_MEMORY.format(f" ({error})" if str(error) else "")) from None
        except RuntimeError as error:
            from traj.stores import NotAStore, StoreError

            if "out of memory" in str(error) or "can't allocate memory" in str(error):  # torch's, on GPU and CPU
                raise click.ClickException(OUT_OF_MEMORY.format("")) from None

            if isinstance(error, NotAStore):
                raise click.UsageError(str(error)) from None
            if isinstance(error, StoreError):
                raise click.ClickException(str(error)) from None
            raise
