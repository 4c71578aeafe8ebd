"""Data that come with the house: scikit-learn's digits, and points in one pixel."""

from __future__ import annotations

from traj.pipeline.models import analytic, digits
from traj.pipeline.sources.source import Source, in_memory
from traj.stores import InputError

PARTS = {"digits:train": lambda: digits.training_images(digits.LEARNT), "digits:test": digits.held_out_images}
"""The digits that --images of `traj train` takes the first of, and those that it never takes."""


def read(name: str) -> Source:
    """Give the points of ``digits``, a part of them, or ``mixture:A,B,...``, each with its class.

    Raises InputError for another name.
    """
    if name in PARTS:
        return in_memory(*PARTS[name](), valid_range=(-1.0, 1.0))
    points = analytic.load("dataset:digits" if name == "digits" else name)
    if not isinstance(points, analytic.PointsDenoiser):
        raise InputError(
            f"source {name!r} has no points; expected digits, digits:train, digits:test or mixture:A,B,..."
        )
    return in_memory(
        points.points.numpy().reshape(-1, *points.shape), points.classes.numpy(), valid_range=points.valid_range
    )
