"""Compile kernels when they are first called, and keep them on disk for as long as nothing they are made from changes.

Numba watches the file of the kernel alone, but a kernel holds the code and the constants of every kernel it calls. So
compiled code lies in a folder named by a hash of all files of this package and of the compiler's version.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

PACKAGE = Path(__file__).parents[1]
NAME = "traj-kernels"
FOLDERS_KEPT = 4
"""Folders of compiled code that stay: the one in use, and those of versions that one may come back to."""


def compiled(kernel: Kernel) -> Kernel:
    """Compile a kernel on its first call, free of the interpreter lock; division by zero is as in NumPy."""
    return compiled_freely()(kernel)


def compiled_freely(*liberties: str) -> Callable[[Kernel], Kernel]:
    """Do what `compiled` does, with LLVM's liberties with floats: reassoc, nsz, contract, ..."""

    def compile_lazily(kernel: Kernel) -> Kernel:
        dispatcher: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(liberties))(kernel)
        if folder() is not None and not config.DISABLE_JIT:
            dispatcher._cache = _Cache(kernel)
        return cast(Kernel, dispatcher)

    return compile_lazily


def sources() -> str:
    """Hash what kernels are compiled from and by."""
    digest = sha256(repr((numba.__version__, np.__version__)).encode())
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:20]


IMPORTED = sources()


@cache
def folder() -> Path | None:
    """Make the folder of compiled code: where Numba is told to, beside the package, or among the user's caches.

    None where nothing can be written; kernels are then compiled by every process anew.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    told = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    for place in (*told, PACKAGE / "__pycache__", user):
        own = place / NAME / IMPORTED
        try:
            own.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=own):
                pass
        except OSError:
            continue
        _clear(own)
        return own
    return None


def _clear(own: Path) -> None:
    """Remove the folders of compiled code that were longest out of use; processes that use one go on without it."""
    with suppress(OSError):
        os.utime(own)
        by_age = sorted((path for path in own.parent.iterdir() if path != own), key=lambda path: path.stat().st_mtime)
        for path in by_age[: max(0, len(by_age) + 1 - FOLDERS_KEPT)]:
            shutil.rmtree(path, ignore_errors=True)


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Tells Numba where a kernel's compiled code lies."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        """Serve any kernel."""
        return cls(py_func)

    def get_cache_path(self) -> str:
        """Give the folder."""
        return str(folder())

    def get_source_stamp(self) -> str:
        """Say what the code was compiled from."""
        return IMPORTED

    def get_disambiguator(self) -> str:
        """Tell kernels of one name apart."""
        return str(self._line)


class _Files(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Neither reads nor writes compiled code while the files differ from those that were imported."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load a kernel's code for some types of arguments, if it is there."""
        return super().load_overload(sig, target_context) if sources() == IMPORTED else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a kernel's code."""
        if sources() == IMPORTED:
            super().save_overload(sig, data)
