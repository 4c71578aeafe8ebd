"""Losses of networks in training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from traj.analysis._drawing.style import STYLE, WIDTH, legible

Losses = tuple[list[str], np.ndarray]
"""Column names, the first of them step, and rows of numbers."""

TERMS = (("#222222", "-"), ("#777777", "--"), ("#777777", ":"))
"""Lines of training losses, which are no run's."""

BESIDE = 4
"""Most models drawn side by side."""


def training_losses(losses: Mapping[str, Losses]) -> Figure:
    """Draw the loss terms of each model's training, on a logarithmic scale."""
    with mpl.rc_context(STYLE):
        lines = -(-len(losses) // BESIDE)
        figure = Figure(figsize=(WIDTH, 3.2 * lines), layout="constrained")
        axes = figure.subplots(lines, min(len(losses), BESIDE), squeeze=False).ravel()
        for axis in axes[len(losses) :]:
            axis.set_visible(False)
        for axis, (model, (columns, rows)) in zip(axes, losses.items(), strict=False):
            for term, values, (colour, line) in zip(columns[1:], rows[:, 1:].T, cycle(TERMS), strict=False):
                axis.plot(rows[:, 0], values, line, label=legible(term), color=colour)
            axis.set(yscale="log", xlabel="training step", ylabel="loss")
            axis.set_title(legible(model), loc="left")
            axis.legend()
    return figure
