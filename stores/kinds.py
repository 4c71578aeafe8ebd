"""The kinds of stores: what each holds, where it lies in a project, which command makes it. All others read it here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from traj.stores.vocabulary import EDIT, SAVED, STATES

KindName = Literal["dataset", "trajectories", "fork", "sweep", "readout", "result"]

RESULTS = Path("results")


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    `contents` is what people call its contents, `folder` where stores of it lie in a project, `command` what makes one.
    `variables` are those it may have; of readouts and results, they are named after what was read. `edits` are the
    coordinates along `variant` that it always has.
    """

    contents: str
    folder: Path
    command: str
    variables: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "dataset": Kind("datasets", Path("data/datasets"), "traj dataset", ("x_0",)),
    "trajectories": Kind("trajectories", Path("data/trajectories"), "traj generate", (*STATES, "log_variance", "x_0")),
    "fork": Kind("forks", Path("data/forks"), "traj fork", (*STATES, "x_0"), ("at",)),
    "sweep": Kind("sweeps", Path("data/sweeps"), "traj fork", (*STATES, "x_0"), (*EDIT, "unet_blocks", *SAVED)),
    "readout": Kind("readouts", Path("data/readouts"), "traj readout"),
    "result": Kind("results", RESULTS, "traj analyze"),
}
