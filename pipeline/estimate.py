"""What a run will cost, in words people read."""

from __future__ import annotations

import resource
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

MARGIN_BYTES = 128 << 20


@dataclass(frozen=True)
class Cost:
    """What finishing a run will take, known before it starts.

    `seconds` goes by the median of a few trials, of the network and of drawing noise, `disk` is before compression,
    `memory` the peak of the whole process. `note` says where the time is from, if not from whole calls.
    """

    evaluations: int
    seconds: float
    disk: int
    disk_free: int
    memory: int
    note: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.evaluations:,} network evaluations, about {duration(self.seconds)}{self.note}; disk at most "
            f"{size(self.disk)} of {size(self.disk_free)} free; memory {size(self.memory)}"
        )


def peak_memory() -> int:
    """Return the most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Write a time span."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def disk_free(path: Path) -> int:
    """Return the bytes free where a path is, or will be made."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
