"""Data that come with the house: scikit-learn's digits, and points in one pixel."""

from __future__ import annotations

from traj.pipeline.models import analytic
from traj.pipeline.sources.source import Source, in_memory
from traj.stores import InputError


def read(name: str) -> Source:
    """Give the points of ``digits`` or ``mixture:A,B,...``, each with its class. Raises InputError for another name."""
    points = analytic.load("dataset:digits" if name == "digits" else name)
    if not isinstance(points, analytic.PointsDenoiser):
        raise InputError(f"source {name!r} has no points; expected digits or mixture:A,B,...")
    return in_memory(
        points.points.numpy().reshape(-1, *points.shape), points.classes.numpy(), valid_range=points.valid_range
    )
