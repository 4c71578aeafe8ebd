"""In numbers: a table of what every section sums up, and how good generated digits are."""

from __future__ import annotations

from html import escape

import numpy as np

from traj.pipeline.report import markup
from traj.pipeline.report.contents import Kind, Material, Numbers, Run, Section
from traj.pipeline.report.quality import digit_quality
from traj.pipeline.report.sections.runs import model_name

CLASSIFIER = (
    "<p>The classifier has seen real digits only; confidence is the probability it gives to the most probable "
    "class. Real digits it has not seen get 0.95, noise 0.4.</p>"
)


def html(material: Material) -> str:
    """Show a table of runs, one of forks and one of sweeps."""
    text = _table(material, "trajectories", "mean over samples")
    if any("confidence" in of_run for of_run in material.numbers["trajectories"].values()):
        text += CLASSIFIER
    text += _table(material, "fork", "of forks, mean over samples")
    return text + _table(material, "sweep", "of sweeps, mean over samples")


def _table(material: Material, kind: Kind, corner: str) -> str:
    numbers = {run: of_run for run, of_run in material.numbers[kind].items() if of_run or kind == "trajectories"}
    known = {key for of_run in numbers.values() for key in of_run}
    if not known:
        return ""
    rows = [
        [escape(meaning), *(markup.number(of_run.get(key)) for of_run in numbers.values())]
        for section in material.sections
        if section.kind == kind
        for key, meaning in section.meanings.items()
        if key in known
    ]
    head = [corner, *(markup.named(run, material.colours) for run in numbers)]
    return markup.table(head, rows, numbers=range(1, len(head)))


def numbers(run: Run) -> Numbers:
    """Judge the digits of a network trained on digits."""
    ds = run.store
    if ds is None or run.is_readout or not model_name(run).startswith("digits"):
        return {}
    x_0 = ds["x_0"].to_numpy()
    judged = x_0.shape[1:] == (1, 8, 8) and np.isfinite(x_0).all()
    return digit_quality(x_0, ds["label"].to_numpy()) if judged else {}


SECTION = Section(
    "numbers",
    "In numbers",
    html,
    meanings={
        "confidence": "confidence of a classifier of digits in x_0",
        "classes": "digits that occur, of 10",
        "label_agreement": "share classified as the digit asked for",
    },
    numbers=numbers,
)
