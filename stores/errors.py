"""What can be wrong with a store, each with a message that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class StoreError(RuntimeError):
    """A store cannot be used as asked."""


class NotAStore(StoreError):
    """The path holds no store of ours."""


class IncompleteStore(StoreError):
    """Some blocks were never finished, or a finished block lost a file."""


class DamagedStore(StoreError):
    """Bytes on disk are not the bytes that were written."""


class StaleStore(StoreError):
    """The store was made from other inputs."""


class LockedStore(StoreError):
    """Another process is writing the same blocks."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of the system name what was being written, where they name nothing: those of a full disk do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
