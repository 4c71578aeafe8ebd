"""Who writes which block: byte-range locks on one file beside the store, freed by death."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from traj.stores.errors import LockedStore

# fcntl locks belong to the process, so a second writer in this process would not be held off by them.
_open_here: set[Path] = set()


class BlockLocks:
    """Byte k of `STORE.lock` belongs to whoever writes block k; all bytes to whoever makes or moves the store."""

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".lock")
        self._key = self.path.resolve()
        if self._key in _open_here:
            raise LockedStore(f"{store} is already being written by this process; close the first writer")
        self._fd: int | None = None  # opened with the first lock: a whole store in a read-only folder needs none
        self._closed = False
        _open_here.add(self._key)

    def try_all(self) -> bool:
        """Take every block, or none."""
        return self._try(0, 0)

    def keep_only(self, blocks: Iterable[int]) -> None:
        """After `try_all`: give back every block but these."""
        assert self._fd is not None
        start = 0
        for block in sorted(blocks):
            if block > start:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, block - start, start)
            start = block + 1
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 0, start)

    def take(self, blocks: Iterable[int]) -> list[int]:
        """Take these blocks; return the ones another process holds, in which case none is kept."""
        blocks = list(blocks)
        held = [block for block in blocks if not self._try(block, 1)]
        if held and self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 0, 0)
        return held

    def close(self) -> None:
        """Give everything back. A second call does nothing, even if others use the path or the descriptor by then."""
        if not self._closed:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
            _open_here.discard(self._key)

    def _try(self, start: int, length: int) -> bool:
        if self._fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            return False
        return True
