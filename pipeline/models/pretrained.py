"""Networks from diffusers pipelines: which family one is of, by its parts."""

from __future__ import annotations

from types import ModuleType

from traj.pipeline.models import pixels
from traj.pipeline.models.repository import NETWORKS, Repository
from traj.pipeline.process.denoiser import Denoiser
from traj.stores import InputError

FAMILIES: tuple[ModuleType, ...] = (pixels,)
"""One module each. Its PARTS says which classes the parts have that it needs, the denoising network first."""


def load(
    repository: Repository, device: str = "cpu", autocast: bool = False, size: tuple[int, int] | None = None
) -> Denoiser:
    """Load the denoiser of a pipeline, without touching its network.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When its parts are those of no family, or not supported, or the network cannot be loaded or run.
    """
    family = family_of(repository)
    try:
        denoiser: Denoiser = family.load(repository, device=device, autocast=autocast, size=size)
    except InputError as error:
        raise type(error)(f"model {repository.name}: {error}") from None
    return denoiser


def family_of(repository: Repository) -> ModuleType:
    """Find the family whose parts a pipeline has, from its small files alone.

    Raises InputError where there is none.
    """
    network = str(repository.config(repository.network).get("_class_name"))
    listed = repository.parts.get(repository.network, network)
    told = {part: kind for part, kind in repository.parts.items() if part not in ("scheduler", *NETWORKS)}
    for family in FAMILIES:
        (_, networks), *others = family.PARTS.items()
        fits = all(told.get(part) in kinds for part, kinds in others)
        if {network, listed} <= set(networks) and fits and not told.keys() - family.PARTS.keys():
            return family
    raise InputError(
        f"model {repository.name}: the pipeline has {_listed({'network': listed, 'config': network, **told})}; "
        "expected "
        + "; or ".join(_listed({part: "|".join(kinds) for part, kinds in family.PARTS.items()}) for family in FAMILIES)
    )


def _listed(parts: dict[str, str]) -> str:
    return ", ".join(f"{part} ({kind})" for part, kind in parts.items())
