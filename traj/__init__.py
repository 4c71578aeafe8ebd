"""Tell when and where features emerge in a diffusion model's reverse process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traj.stores import create, open

__all__ = ["create", "open"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: `traj --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module traj has no attribute {name!r}")
    from traj import stores

    return getattr(stores, name)
