"""What a store holds, and what a model is, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import stores
from pipeline.estimate import size


def describe_store(path: Path) -> str:
    """Summarise a store in a few lines."""
    found = stores.describe(path)
    lines = [f"{path}: {found['kind']}, {size(found['bytes'])}"]
    if "blocks" in found:
        lines.append(f"blocks       {found['blocks_done']} of {found['blocks']} done")
    if found.get("saturated"):
        lines.append(f"saturated    {found['saturated']} values clipped to the range of float16")
    lines.append(f"fingerprint  {found['fingerprint']}")
    lines += _flat(
        "", {key: value for key, value in found["config"].items() if (found["kind"], key) != ("trajectories", "store")}
    )
    for name, array in found["arrays"].items():
        dims = ", ".join(f"{dim}: {length}" for dim, length in array["dims"].items())
        lines.append(f"{name:<34} {array['dtype']:<8} ({dims})")
    return "\n".join(lines)


def describe_model(name: str) -> str:
    """Summarise a model in a few lines.

    Raises ValueError or FileNotFoundError for a name that means nothing.
    """
    from pipeline import models

    denoiser = models.load(name)
    channels, height, width = denoiser.shape
    lines = [
        f"{name}: {channels} channel(s) of {height} x {width}, "
        + (f"{denoiser.num_classes} classes" if denoiser.num_classes else "no classes"),
        *_flat("", {"model": denoiser.identity, "schedule": denoiser.schedule.to_config()}),
    ]
    return "\n".join(lines)


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _flat(f"{prefix}.{key}" if prefix else key, item)]
    return [f"{prefix:<28} {value}"]
