"""How often Python searches for garbage: hardly ever during imports, which make a million objects that stay."""

from __future__ import annotations

import atexit
import gc

FEW = 200_000
"""New objects before a search: some ten searches for all that torch and diffusers make.

To switch it off instead would be for good: Dask notes, when it is imported, whether it is on, and restores that.
"""
USUAL = gc.get_threshold()


def search_rarely() -> None:
    """Search rarely until ``search_as_usual``, and not at the end: 2 s of 6 for a verb with a network."""
    gc.set_threshold(FEW)
    atexit.register(gc.freeze)


def search_as_usual() -> None:
    """Search as often as Python does where the work begins, and leave out what was imported."""
    if gc.get_threshold()[0] == FEW:
        gc.freeze()
        gc.set_threshold(*USUAL)
