"""The kinds of stores: what each holds, where it lies in a project, which command makes it. All others read it here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KindName = Literal["trajectories", "fork", "sweep", "readout", "result"]

RESULTS = Path("results")


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    `contents` is what people call that which is in it, `folder` where stores of it lie in a project, `command` what
    makes one. `variables` are those it may have; of readouts and results, they are named after what was read. `edits`
    are the coordinates along `variant` that it has in any case.
    """

    contents: str
    folder: Path
    command: str
    variables: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()


EDIT = ("edit", "at", "ns", "nb", "n", "r")
"""What tells the edits of a sweep apart."""

FAMILY = tuple(name for name in EDIT if name != "at")
"""What edits that differ in where they start only have in common."""

SAVED = ("evaluations_saved", "evaluations_cut", "multiply_adds_removed")
"""What the edits of a sweep save; it follows from them."""

SHORTCUT = "shortcut"
"""The edit with a schedule of its own, of which no number says anything."""

ONCE = -1
"""The `r` of a cut that is not made again."""

FORKED = ("x_t", "pred_x0", "x_0")

KINDS: dict[str, Kind] = {
    "trajectories": Kind(
        "trajectories", Path("data/trajectories"), "traj generate", ("x_t", "pred_x0", "log_variance", "x_0")
    ),
    "fork": Kind("forks", Path("data/forks"), "traj fork", FORKED, ("at",)),
    "sweep": Kind("sweeps", Path("data/sweeps"), "traj fork", FORKED, (*EDIT, "unet_blocks", *SAVED)),
    "readout": Kind("readouts", Path("data/readouts"), "traj readout"),
    "result": Kind("results", RESULTS, "traj analyze"),
}
