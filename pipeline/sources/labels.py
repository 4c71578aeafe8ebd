"""Classes in a file of their own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from traj.pipeline.sources import arrays, idx
from traj.pipeline.sources.source import Source, in_memory
from traj.stores import InputError


def read(path: Path) -> Source:
    """Read a .npy, an idx file, or a text with one whole number on each line. Raises InputError for anything else."""
    if arrays.is_npy(path):
        return arrays.read_npy(path)
    if idx.is_idx(path):
        return idx.read_array(path)
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError:
        raise InputError(
            f"labels {path} are of no known format; expected .npy, idx, or a number on each line"
        ) from None
    texts = [line.strip() for line in lines]
    while texts and not texts[-1]:
        texts.pop()
    for number, text in enumerate(texts, 1):
        if not re.fullmatch("-?[0-9]{1,9}", text):
            raise InputError(f"labels {path}, line {number}: {text[:40]!r} is no whole number")
    return in_memory(np.array(texts, np.int64))
