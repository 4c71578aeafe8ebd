"""Errors of our own: each says what was given, what was expected and what to do. Any other error is a bug of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class TrajError(Exception):
    """Something a person can put right. The command line shows it without a traceback, and ends with status 1."""


class InputError(TrajError, ValueError):
    """What was given is not what is expected; the command line ends with status 2."""


class MissingFile(FileNotFoundError, InputError):
    """A file, folder or store that was named, or is needed, is not there."""


class FailedRun(TrajError):
    """The request was right, but it could not be carried out."""


class ForeignError(FailedRun):
    """Code that traj was given to run failed; its own error is the cause, and its traceback is worth reading."""


class NotFinite(FloatingPointError, FailedRun):
    """A network made values that are infinite or NaN."""


class OutOfMemory(MemoryError, FailedRun):
    """There is not enough memory."""


class StoreError(TrajError, RuntimeError):
    """A store cannot be used as asked."""


class NotAStore(StoreError, InputError):
    """The path holds no store of ours, or one of another kind."""


class IncompleteStore(StoreError):
    """Some blocks were never finished, or a finished block lost a file."""


class DamagedStore(StoreError):
    """Bytes on disk are not the bytes that were written."""


class StaleStore(StoreError):
    """The store was made from other inputs."""


class LockedStore(StoreError):
    """Another process is writing the same blocks."""


def is_known(error: BaseException) -> bool:
    """Say whether an error is one of ours or of the system, such as a full disk, rather than a bug of ours."""
    return isinstance(error, TrajError | MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def is_damage(error: BaseException) -> bool:
    """Say whether Zarr found bytes that are not what was written; it has no class of its own for that."""
    return type(error) is ValueError and "checksum" in str(error)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path that was being written to errors of the system that name none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise
