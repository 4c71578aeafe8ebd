"""What is being made lies beside its place, under a name of its own, until it is whole.

A partial file or folder is locked by the process that makes it. One without a lock was left by a process that is dead;
the next one that makes the same thing removes it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traj.stores.errors import naming

_MARK = re.compile(r"\.\d+-[0-9a-f]{8}\.partial")


@contextmanager
def making(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give an empty partial file, or folder, to be filled and renamed to its target; it is removed if it was not.

    Raises OSError that names the target, where something cannot be written.
    """
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(target)
        partial, fd = _begin(target, folder)
        try:
            yield partial
        finally:
            _remove(partial)
            os.close(fd)


def write_file(target: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; one that is there is replaced.

    Raises OSError that names the file, where it cannot be written.
    """
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "Not a file, and cannot be replaced by one", str(target))
    with making(target) as partial:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def _begin(target: Path, folder: bool) -> tuple[Path, int]:
    while True:
        partial = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        if folder:
            partial.mkdir()
        else:
            partial.touch(exist_ok=False)
        try:
            fd = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process found it before it was locked, and took it for one left behind
        _lock(fd, fcntl.LOCK_EX)
        if partial.exists():
            return partial, fd
        os.close(fd)


def _remove_dead(target: Path) -> None:
    for path in map(Path, glob.glob(f"{glob.escape(str(target))}.*.partial")):
        if not _MARK.fullmatch(path.name.removeprefix(target.name)):
            continue
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _remove(path)
        os.close(fd)


def _lock(fd: int, how: int) -> bool:
    """Lock an open file or folder. Where the file system has no locks, no partial file counts as left behind."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
