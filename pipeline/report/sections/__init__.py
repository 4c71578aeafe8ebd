"""The sections of the page, one file each, in their order. A new one is a new file and a line in this list."""

from traj.pipeline.report.contents import Section
from traj.pipeline.report.sections import (
    entropy,
    forks,
    interventions,
    labels,
    lengths,
    maps,
    montages,
    numbers,
    others,
    replicas,
    runs,
    savings,
    shortcut,
    similarity,
    training,
)

SECTIONS: tuple[Section, ...] = (
    runs.SECTION,
    numbers.SECTION,
    montages.SECTION,
    entropy.SECTION,
    maps.SECTION,
    similarity.SECTION,
    labels.SECTION,
    replicas.SECTION,
    forks.SECTION,
    interventions.SECTION,
    lengths.SECTION,
    savings.SECTION,
    shortcut.SECTION,
    training.SECTION,
    others.SECTION,
)
