"""Tell when and where features emerge in a diffusion model's reverse process."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traj.pipeline.making.record import record
    from traj.stores import create, open

__all__ = ["create", "open", "record"]

_MODULES = {"create": "traj.stores", "open": "traj.stores", "record": "traj.pipeline.making.record"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: `traj --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module traj has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
