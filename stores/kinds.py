"""The kinds of stores: what each holds, where it lies in a project, which command makes it. All others read it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from traj.stores.vocabulary import EDIT, SAVED, STATES

KindName = Literal["dataset", "trajectories", "fork", "sweep", "decoded", "readout", "result"]

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
    "decoded": Kind("decoded images", Path("data/decoded"), "traj readout decode", (*STATES, "x_0")),
    "readout": Kind("readouts", Path("data/readouts"), "traj readout"),
    "result": Kind("results", RESULTS, "traj analyze"),
}


def how_to_decode(store: Path, kind: str) -> str:
    """Give the command that decodes a store of latents of a kind.

    Results are named after stores: what it makes is called like no store of latents, nor like the images of another
    kind's store of the same name.
    """
    decoded = KINDS["decoded"]
    images = "images" if kind == "trajectories" else f"images_of_{kind}"
    return f"{decoded.command} {store} {decoded.folder / store.name.removesuffix('.zarr')}_{images}.zarr"


def stands_for(attributes: Mapping[Any, Any]) -> str:
    """Say which kind of store one can be read as: decoded images as what they were decoded from, others as their own.

    `attributes` are those of a store; "" for a dataset of another origin.
    """
    return str(attributes.get("of" if attributes.get("kind") == "decoded" else "kind", ""))
