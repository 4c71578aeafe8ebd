"""What a store holds, and what a model is, for people."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traj import stores
from traj.pipeline.estimate import size
from traj.stores import InputError, checked_event, ranges

if TYPE_CHECKING:
    from traj.pipeline.models.surgery import Count, UnetBlock
    from traj.pipeline.process.denoiser import Denoiser


def describe_store(path: Path) -> str:
    """Summarise a store in a few lines."""
    found = stores.describe(path)
    lines = [f"{path}: {found['kind']}, {size(found['bytes'])}"]
    if "blocks" in found:
        lines.append(f"blocks       {found['blocks_done']} of {found['blocks']} done")
    if found.get("saturated"):
        lines.append(f"saturated    {found['saturated']} values clipped to the range of float16")
    if found.get("not_finite"):
        lines.append(f"not finite   {_counts(found['not_finite'])}")
    for made in found.get("environments", ()):
        where = " ".join(f"{key}={value}" for key, value in made["environment"].items() if key != "parent")
        lines.append(f"made in      {where or 'an environment that was not given'}: block {ranges(made['blocks'])}")
    lines.append(f"fingerprint  {found['fingerprint']}")
    lines += _flat(
        "", {key: value for key, value in found["config"].items() if (found["kind"], key) != ("trajectories", "store")}
    )
    for name, array in found["arrays"].items():
        dims = ", ".join(f"{dim}: {length}" for dim, length in array["dims"].items())
        lines.append(f"{name:<34} {array['dtype']:<8} ({dims})")
    return "\n".join(lines)


def _counts(not_finite: dict[str, int]) -> str:
    return ", ".join(f"{count} value(s) of {name}" for name, count in not_finite.items())


def describe_model(
    name: str, steps: int | None = None, size: tuple[int, int] | None = None, variant: str | None = None
) -> str:
    """Summarise a model in a few lines, list the numbered blocks and skips of a U-Net, and the parts of a network.

    ``steps`` is the number of timesteps of a grid, ``size`` the height and width of images, and ``variant`` that of the
    weights.

    Raises InputError or MissingFile for a name that means nothing.
    """
    from traj.pipeline import models
    from traj.pipeline.process.denoiser import dims_of

    denoiser = models.load(name, steps=steps, size=size, variant=variant)
    shape, dims = checked_event(denoiser.shape, dims_of(denoiser))
    lines = [
        f"{name}: {_event(shape, dims)}, {_told(denoiser)}",
        *_flat(
            "", {"model": denoiser.identity, "schedule": {**denoiser.schedule.identity, **denoiser.schedule.habits}}
        ),
    ]
    lines += getattr(denoiser, "cautions", ())
    if hasattr(denoiser, "network"):
        lines += ["", *_describe_unet_blocks(denoiser.network, denoiser.shape[1:])]
    return "\n".join([*lines, *_describe_parts(denoiser)])


def _told(denoiser: Denoiser) -> str:
    """Say what a model can be told."""
    from traj.pipeline.models.labels import NUMBERS

    if getattr(denoiser, "reads_texts", False):
        return "reads texts"
    count = getattr(denoiser, "num_classes", 0)
    return "any whole number as label" if count == NUMBERS else f"{count or 'no'} classes"


def _event(shape: tuple[int, ...], dims: tuple[str, ...]) -> str:
    if dims == stores.IMAGE_DIMS:
        return "{} channel(s) of {} x {}".format(*shape)
    return ", ".join(f"{dim} {length}" for dim, length in zip(dims, shape, strict=True))


def _describe_parts(denoiser: Denoiser) -> list[str]:
    """Name the parts that a readout of features takes; a closed form has none."""
    from traj.pipeline.models import parts

    if (network := parts.modules_of(denoiser)) is None:
        return []
    return [
        "",
        "Parts that traj readout features can read, and any module within them by its path, as in parent.0.child:",
        *textwrap.wrap(", ".join(parts.listed(network)), width=110, break_on_hyphens=False),
    ]


def _describe_unet_blocks(network: Any, sides: tuple[int, ...]) -> list[str]:
    from traj.pipeline.models import surgery

    try:
        found = surgery.count(network, sides)
    except InputError as error:
        return [f"no cuts: {error}"]
    total, unet_blocks = found.whole, found.unet_blocks
    count = unet_blocks[-1].number
    rest = total - sum(unet_block.multiply_adds for unet_block in unet_blocks)
    rows = [
        ("block", "skip", "channels", "image", "share", "saves", ""),
        *(_row(unet_block, total, _saved(found, unet_block)) for unet_block in unet_blocks),
        ("rest", "", "", "", _percent(rest, total), "", "time embedding, last convolution"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        f"U-Net: {count} input blocks, {'a' if len(unet_blocks) > 2 * count else 'no'} middle block, "
        f"{count} output blocks; {total:,} multiply-adds for one image",
        "A cut of N skips sets skips 1 to N, the topmost, to zero. A cut of N blocks leaves out output blocks 1 to N,",
        "the bottom ones, with the middle and all that only they read, and saves what stands at output block N.",
        "A row ends with the modules of its block; the last one gives what the block gives, and is a part to be read.",
        *(
            "  ".join([*map(str.ljust, row[:4], widths), *map(str.rjust, row[4:6], widths[4:]), row[6]]).rstrip()
            for row in rows
        ),
    ]


def _row(unet_block: UnetBlock, total: int, saved: int | None) -> tuple[str, ...]:
    channels, height, width = unet_block.shape
    return (
        unet_block.part if unet_block.part == "middle" else f"{unet_block.part} {unet_block.number}",
        "" if unet_block.skip is None else f"{'to' if unet_block.part == 'input' else 'from'} {unet_block.skip}",
        f"{unet_block.channels_in} -> {channels}",
        f"{height} x {width}",
        _percent(unet_block.multiply_adds, total),
        "" if saved is None else _percent(saved, total),
        unet_block.name,
    )


def _saved(count: Count, unet_block: UnetBlock) -> int | None:
    """Multiply-adds that a cut up to an output block saves."""
    from traj.pipeline.process.cut import Cut

    return count.whole - count.under(Cut(unet_blocks=unet_block.number)) if unet_block.part == "output" else None


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %"


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _flat(f"{prefix}.{key}" if prefix else key, item)]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = json.dumps(value, ensure_ascii=False)[1:-1]
    return [f"{prefix:<28} {value}"]
