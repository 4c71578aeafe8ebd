"""What to type for the samples that a program's flags ask for: --timestep_respacing, --use_ddim, --clip_denoised."""

from __future__ import annotations

import shlex
from pathlib import Path

from traj.pipeline.models.openai.flags import GLIDE, Flags
from traj.pipeline.process.spacing import spread
from traj.stores import InputError


def command(given: Flags, folder: Path, texts: bool = True) -> str:
    """Write the command that samples a converted model as the program would.

    ``texts`` tells whether GLIDE's has a tokenizer, without which it takes tokens only.

    Raises InputError where the timesteps cannot be respaced so.
    """
    run = f"traj generate {shlex.quote(f'data/trajectories/{folder.name}.zarr')} --model {shlex.quote(str(folder))}"
    if given.code == GLIDE:
        told = [f' --prompt "{"a cat" if texts else "tokens:64,3797"}" --guidance 3']
    else:
        told = [" --labels cycle"] if given["class_cond"] else []
    return run + "".join([*told, _sampler(given), _visits(given["diffusion_steps"], given["timestep_respacing"])])


def respaced(T: int, respacing: str) -> list[int]:
    """Give the timesteps of a --timestep_respacing, from low to high.

    "ddimN" takes every k-th of T, where that makes N of them; numbers are how many each of as many equal sections has,
    spread from its first to its last timestep.

    Raises InputError where that cannot be.
    """
    if respacing.startswith("ddim"):
        count = int(respacing.removeprefix("ddim"))
        strided = (range(0, T, stride) for stride in range(1, T))
        if found := next((visits for visits in strided if len(visits) == count), None):
            return [*found]
        raise InputError(f"timestep_respacing {respacing} of {T} steps; expected a number that a whole stride leads to")
    counts = [int(count) for count in respacing.split(",")]
    short, longer = divmod(T, len(counts))  # the first ones have what is left over
    sizes = [short + (section < longer) for section in range(len(counts))]
    timesteps: list[int] = []
    first = 0
    for size, count in zip(sizes, counts, strict=True):
        if count > size:
            raise InputError(f"timestep_respacing {respacing} of {T} steps; expected at most {size} in each section")
        timesteps += [first + place for place in spread(size, count)]
        first += size
    return timesteps


def _sampler(given: Flags) -> str:
    clipped = given.values.get("clip_denoised", True)
    if _is_ddim(given):
        return " --sampler ddim" + (" --clip --eps rederived" if clipped else "")
    return (" --sampler iddpm" if given.learns_variance else "") + ("" if clipped else " --no-clip")


def _is_ddim(given: Flags) -> bool:
    """Whether --use_ddim says so, or where it is not given, the timesteps are those of DDIM."""
    asked = given.values.get("use_ddim")
    return given["timestep_respacing"].startswith("ddim") if asked is None else bool(asked)


def _visits(T: int, respacing: str) -> str:
    if not respacing:
        return ""
    visits = respaced(T, respacing)
    if "," not in respacing:
        if not respacing.startswith("ddim"):
            return f" --steps {len(visits)}"
        if visits[1] == T // len(visits):
            return f" --steps {len(visits)} --spacing leading"
    return f" --timesteps {','.join(map(str, reversed(visits)))}"
