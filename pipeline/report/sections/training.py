"""How the networks were trained: their losses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from traj.analysis._drawing import STYLE, WIDTH, legible
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Section

TERMS = (("#222222", "-"), ("#777777", "--"), ("#777777", ":"))
"""Lines of training losses, which are no run's."""

CAPTION = (
    "Training losses, each point the mean over the steps since the one before. “simple” is the mean squared error "
    "of the predicted noise, “vlb” the variational bound (bits per pixel of a timestep) that trains a learned "
    "variance, “loss” what was minimised."
)


def html(material: Material) -> str:
    """Show the losses of every model."""
    if not material.losses:
        return ""
    return markup.figure(training_losses(material.losses), CAPTION, "Training losses")


def training_losses(losses: Mapping[str, tuple[list[str], np.ndarray]]) -> Figure:
    """Draw the loss terms of each model's training, on a logarithmic scale."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots(1, len(losses), squeeze=False)[0]
        for axis, (model, (columns, rows)) in zip(axes, losses.items(), strict=True):
            for term, values, (colour, line) in zip(columns[1:], rows[:, 1:].T, cycle(TERMS), strict=False):
                axis.plot(rows[:, 0], values, line, label=legible(term), color=colour)
            axis.set(yscale="log", xlabel="training step", ylabel="loss")
            axis.set_title(legible(model), loc="left")
            axis.legend()
    return figure


SECTION = Section("training", "How the networks were trained", html)
