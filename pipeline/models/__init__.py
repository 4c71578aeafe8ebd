"""Models by name: a name becomes a denoiser."""

from __future__ import annotations

import os
from pathlib import Path

from traj.pipeline.models import analytic, molrg, own
from traj.pipeline.process import tables
from traj.pipeline.process.denoiser import Denoiser
from traj.pipeline.process.device import within_memory
from traj.stores import InputError, MissingFile

TRAINED = ("digits", "digits-iddpm")
_KNOWN = (
    f"expected one of {', '.join((*TRAINED, *analytic.FORMS))}, a diffusers pipeline folder, "
    "a hub id like google/ddpm-cifar10-32 or ID@REVISION, or your own FILE.py:NAME"
)


@within_memory()
def load(
    name: str,
    device: str = "cpu",
    autocast: bool = False,
    *,
    schedule: str | None = None,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    variant: str | None = None,
) -> Denoiser:
    """Load the denoiser of a name.

    A name is digits or digits-iddpm (folders under ``models``, or under the folder TRAJ_MODELS names), a diffusers
    pipeline folder (also one under ``models`` by its last name, which is all that stores keep), that of a trained
    MoLRG, a hub id, ID@REVISION or ID/FOLDER, an exact denoiser: gaussian:MEAN,VAR[,SHAPE], mixture:A,B,...,
    dataset:DATA or molrg:KEY=VALUE,..., or a function that returns one: FILE.py:NAME, or registered by a package.
    ``autocast`` runs networks in bfloat16; exact denoisers have no use for it. ``schedule`` names that of an exact
    denoiser, and ``steps`` is the number of timesteps of a grid. ``size`` is the height and width of the images that
    come out in the end, where they are not what the config of a network says, and ``variant`` that of the weights of a
    pipeline, such as fp16.

    Raises
    ------
    MissingFile
        When the model is not there: not trained yet, no such folder, or not to be had from the hub.
    InputError
        When the name means nothing, the model is of a kind that is not supported, or brings a schedule of its own.
    """
    if not name.strip():
        raise InputError(f"an empty model name was given; {_KNOWN}")
    if is_exact(name) or own.is_own(name) or molrg.is_trained(Path(name)):
        if size is not None:
            raise InputError(
                f"size {size[0]}x{size[1]} was given, but model {name} has a shape of its own; leave it out"
            )
        if variant is not None:
            raise InputError(f"variant {variant} was given, but model {name} has none; leave it out")
    if is_exact(name):
        return analytic.load(name, device, None if schedule is None else tables.named(schedule, steps))
    if schedule is not None:
        raise InputError(f"schedule {schedule} was given, but model {name} has its own; leave it out")
    if own.is_own(name):
        return own.load(name, device, autocast, steps)
    if molrg.is_trained(Path(name)):
        return molrg.trained(Path(name), name, device)
    from traj.pipeline.models import pretrained, repository  # bring in diffusers, which takes seconds

    folder = Path(os.environ.get("TRAJ_MODELS", "models")) / name
    if name in TRAINED and not folder.is_dir():
        raise MissingFile(f"model {name} is not trained yet (no folder {folder}): run traj train {name}")
    if name not in TRAINED and (there := repository.named(name, variant)):
        found = there
    elif folder.is_dir():
        found = repository.local(folder, name, variant)
    elif "/" in name or os.sep in name:
        raise MissingFile(f"model {name!r}: no such folder; {_KNOWN}")
    else:
        raise InputError(f"model {name!r} is unknown; {_KNOWN}")
    return pretrained.load(found, device, autocast, steps=steps, size=size)


def is_exact(name: str) -> bool:
    """Whether a name is spelled like an exact denoiser's, which takes any schedule."""
    return ":" in name and not own.is_own(name) and not Path(name).exists()
