"""Saying that kernels are being compiled, in whichever process that happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba.core import event
from tqdm import tqdm

COMPILES = "numba:compile"
"""Numba's event: a kernel is compiled, because its code was not found on disk."""


class First(event.Listener):  # type: ignore[misc]
    """Calls a function when the first kernel is compiled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.over = False

    def on_start(self, event: event.Event) -> None:
        """Call it, the first time."""
        if not self.over:
            self.over = True
            self.call()

    def on_end(self, event: event.Event) -> None:
        """Do nothing."""


@contextmanager
def said(say: Callable[[str], None]) -> Iterator[None]:
    """Say within the context that kernels are compiled, if they are."""
    from traj.analysis._kernels import compiling

    message = (
        "compiling, once: the next analysis finds the compiled code on disk"
        if compiling.folder()
        else "compiling, as every time: no folder for compiled code can be written; name one by NUMBA_CACHE_DIR"
    )

    def tell() -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            say(message)

    with event.install_listener(COMPILES, First(tell)):
        yield


def pass_on() -> None:
    """Tell the listeners of this process that another process compiles."""
    with event.trigger_event(COMPILES):
        pass
