"""Data by name: what a person has becomes events and their classes, read piece by piece. One file, one format."""

from __future__ import annotations

from traj.pipeline.sources.source import Source
from traj.stores import InputError

KNOWN = "expected digits or mixture:A,B,..."


def load(name: str, labels: str | None = None) -> Source:
    """Find the data of a name.

    Raises
    ------
    MissingFile
        When there is nothing there.
    InputError
        When it is of no known format, or not what its format says.
    """
    if name == "digits" or name.startswith("mixture:"):
        from traj.pipeline.sources import builtin  # brings in torch, which takes seconds

        return builtin.read(name)
    raise InputError(f"source {name!r} is unknown; {KNOWN}")
