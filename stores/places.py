"""Where things may lie: on a local disk, where one may write, and never inside a store."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from traj.stores.errors import InputError, NotAStore

_URL = re.compile(r"[A-Za-z][\w+.-]+(?:::.*|:/.*)", re.DOTALL)
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray")


def is_url(text: str | os.PathLike[str]) -> bool:
    """Tell s3://bucket/a.zarr from a path; pathlib has made s3:/bucket/a.zarr of it."""
    return _URL.fullmatch(os.fspath(text)) is not None


def local(path: str | os.PathLike[str]) -> Path:
    """Take a path on a local disk. Raises NotAStore for a URL."""
    if is_url(path):
        raise NotAStore(
            f"{os.fspath(path)} is a URL; stores, results and models lie on local disks, expected a path (copy it here "
            "first, or mount it)"
        )
    return Path(path)


def place(path: str | os.PathLike[str], *, folder: bool = False) -> Path:
    """Take a path that will be written, by its real name where it is a link.

    `folder` says that files are put into it, so that it must not be a store itself.

    Raises NotAStore for a URL, a path without a name and a place inside a store, InputError for one below a file, and
    OSError where nothing can be written.
    """
    target = local(path)
    if not folder and target.name in ("", ".."):
        raise NotAStore(f"{str(path)!r} is no name for what is to be made; expected a path such as data/NAME.zarr")
    if target.is_symlink():
        target = target.resolve()
    real = target.resolve()
    for above in (*([real] if folder else []), *real.parents):
        if any((above / name).is_file() for name in _ZARR_METADATA):
            raise NotAStore(f"{target} would lie inside the store {above}, and damage it; choose a place outside of it")
        if above.exists() and not above.is_dir():
            needs = "a folder was expected" if above == real else f"{target} would lie in it"
            raise InputError(f"{above} is a file, and {needs}; choose another path, or move the file away")
    return target


def require_writable(path: Path) -> None:
    """Find out, before work begins, whether something can be written at a place.

    Raises OSError, naming the place, where not.
    """
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
