"""Networks from diffusers pipelines: which family one is of, by its parts."""

from __future__ import annotations

from types import ModuleType

from traj.pipeline.models import dit, ldm, pixels, stable_diffusion, stable_diffusion_3
from traj.pipeline.models.autoencoders import PARTS as AUTOENCODERS
from traj.pipeline.models.openai import family as openai
from traj.pipeline.models.openai import glide
from traj.pipeline.models.repository import NETWORKS, RECORD, Repository, listed
from traj.pipeline.process.denoiser import Denoiser
from traj.stores import InputError

FAMILIES: tuple[ModuleType, ...] = (pixels, ldm, dit, stable_diffusion, stable_diffusion_3, openai, glide)
"""One module each. Its PARTS says which classes the parts have that it needs, the denoising network first;
an autoencoder is called vae there. LEFT_OUT, where there is one, says of parts that it does not load what that means.
"""


def load(
    repository: Repository,
    device: str = "cpu",
    autocast: bool = False,
    *,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
) -> Denoiser:
    """Load the denoiser of a pipeline, without touching its network; ``steps`` is the size of a scheduler's grid.

    Raises
    ------
    MissingFile
        When a file that belongs to such a pipeline is missing.
    InputError
        When its parts are those of no family, or not supported, or the network cannot be loaded or run.
    """
    family = family_of(repository)
    try:
        found = family.load(repository, device=device, autocast=autocast, steps=steps, size=size)
    except InputError as error:
        raise type(error)(f"model {repository.name}: {error}") from None
    without = getattr(family, "LEFT_OUT", {})
    left_out = (f"{part} is left out: {without[part]}" for part in repository.parts if without.get(part))
    found.cautions = (*repository.cautions, *left_out)
    denoiser: Denoiser = found
    return denoiser


def family_of(repository: Repository) -> ModuleType:
    """Find the family whose parts a pipeline has, from its small files alone.

    Raises InputError where there is none.
    """
    network = str(repository.config(repository.network).get("_class_name"))
    indexed = repository.parts.get(repository.network, network)
    others = {part: kind for part, kind in repository.parts.items() if part not in ("scheduler", *NETWORKS)}
    told = {"vae" if part in AUTOENCODERS else part: kind for part, kind in others.items()}
    for family in FAMILIES:
        (_, networks), *beside = family.PARTS.items()
        fits = all(told.get(part) in kinds for part, kinds in beside)
        known = family.PARTS.keys() | getattr(family, "LEFT_OUT", {}).keys()
        if {network, indexed} <= set(networks) and fits and not told.keys() - known:
            return family
    named = repository.network or "network"
    says = "" if network == indexed else f", whose config.json is of a {network}"
    expected = "; or ".join(listed({part: "|".join(kinds) for part, kinds in one.PARTS.items()}) for one in FAMILIES)
    raise InputError(
        f"model {repository.name}: the pipeline has {listed({named: indexed, **told})}{says}; expected {expected}. "
        f"{RECORD}"
    )
