"""The sections of the page, one file each, in their order. A new one is a new file and a line in this list."""

from traj.pipeline.report.contents import Section
from traj.pipeline.report.sections import (
    curves,
    interventions,
    lengths,
    montages,
    numbers,
    others,
    replicas,
    runs,
    savings,
    shortcut,
    training,
)

SECTIONS: tuple[Section, ...] = (
    runs.SECTION,
    numbers.SECTION,
    montages.SECTION,
    *(curves.section(name) for name in ("entropy", "ssim", "psnr")),
    curves.section("label_variance", optional=True),
    replicas.SECTION,
    *(curves.section(name, "fork") for name in ("consistency", "label_variance")),
    interventions.SECTION,
    lengths.SECTION,
    savings.SECTION,
    shortcut.SECTION,
    training.SECTION,
    others.SECTION,
)
