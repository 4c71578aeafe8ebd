"""Data that are drawn, as many as are asked for: of a mixture of low-rank Gaussians (004)."""

from __future__ import annotations

from traj.pipeline.models import molrg
from traj.pipeline.parsing import check_count
from traj.pipeline.sources.source import Source, in_memory
from traj.stores import InputError


def read(name: str, samples: int | None, seed: int) -> Source:
    """Draw samples of ``molrg:KEY=VALUE,...``, each with its class; sample k is the same however many are drawn.

    Raises InputError for another name, and where nobody says how many.
    """
    try:
        mixture = molrg.parse(name.partition(":")[2])
    except InputError as error:
        raise InputError(f"source {name!r}: {error}; expected one like {molrg.FORM}") from None
    if samples is None:
        raise InputError(f"source {name} has as many samples as are drawn; say how many: --samples 12000")
    check_count("samples", samples)
    return in_memory(*molrg.draw(mixture, seed, range(samples)), valid_range=molrg.VALID_RANGE)
