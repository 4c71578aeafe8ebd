"""What a report is made of: runs and forks with their results, and sections that draw them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr

Kind = Literal["trajectories", "fork", "sweep"]

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """What is at hand of one run, or of the forks or edits of one.

    described is what `stores.describe` says of its store, empty where there is none; store the opened one, None
    where it can't be. results are by quantity; others are those this report has no section for. parent is what was
    forked, or what a further readout was made of, if it is at hand. time_removed says of each variant of a sweep which
    share of the run's network time it does not take, None where that was not measured.
    """

    name: str
    kind: Kind
    store: xr.Dataset | None
    described: dict[str, Any]
    results: dict[str, xr.Dataset]
    others: dict[str, xr.Dataset]
    remarks: list[str] = field(default_factory=list)
    parent: Run | None = None
    time_removed: np.ndarray | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The inputs the store was made from, empty where they are not at hand."""
        config: dict[str, Any] = self.described.get("config", {})
        return config

    @property
    def origin(self) -> Run:
        """The run at the beginning of it, as far as it is known."""
        return self if self.parent is None else self.parent.origin

    @property
    def is_readout(self) -> bool:
        """Whether it is but a further readout of its parent."""
        return self.parent is not None and self.parent.kind == self.kind


class Series(NamedTuple):
    """A curve for the csv files: its panel, and along it places, values and errors, `in_band` of them in half a band.

    In the place of errors there may be the low and high ends of bands, (2, place). Values that reach the cap stand for
    infinity and are left out.
    """

    on: str
    timestep: np.ndarray
    log_snr: np.ndarray
    value: np.ndarray
    error: np.ndarray
    cap: float = np.inf
    in_band: float = 2


def errors_of(*parts: np.ndarray) -> np.ndarray:
    """Take errors as they are, or put low and high ends together: (2, place)."""
    return parts[0] if len(parts) == 1 else np.stack(parts)


@dataclass(frozen=True)
class Material:
    """What a page is made of: all runs, all forks, all sweeps, their numbers by name, and training losses.

    Every name has a colour, and a marker where it shares that with another. remarks are those of no run.
    """

    runs: Sequence[Run]
    forks: Sequence[Run]
    sweeps: Sequence[Run]
    numbers: Mapping[Kind, Mapping[str, Numbers]]
    losses: Mapping[str, tuple[list[str], np.ndarray]]
    colours: Mapping[str, str]
    markers: Mapping[str, str]
    sections: Sequence[Section]
    remarks: Sequence[str] = ()

    @property
    def all(self) -> tuple[Run, ...]:
        """Runs, forks and sweeps."""
        return (*self.runs, *self.forks, *self.sweeps)

    def only(self, kept: Sequence[Run]) -> Material:
        """Leave out all other runs, forks and sweeps."""
        runs, forks, sweeps = (
            [run for run in group if any(run is one for one in kept)] for group in (self.runs, self.forks, self.sweeps)
        )
        return replace(self, runs=runs, forks=forks, sweeps=sweeps)

    def results(self, quantity: str, kind: Kind = "trajectories") -> dict[str, xr.Dataset]:
        """Gather the results of a quantity by name."""
        runs = {"trajectories": self.runs, "fork": self.forks, "sweep": self.sweeps}[kind]
        return {run.name: run.results[quantity] for run in runs if quantity in run.results}


@dataclass(frozen=True)
class Section:
    """A part of the page, and of the numbers and curves beside it.

    html gives what stands under the title, nothing where there is nothing to show. quantities are those it draws, of
    stores of a kind; missing ones are said on the page unless they are optional. numbers sums up one run of that kind
    by the keys of meanings, which say in words what they are; curves gives the series of each csv file.
    """

    anchor: str
    title: str
    html: Callable[[Material], str]
    kind: Kind = "trajectories"
    quantities: tuple[str, ...] = ()
    optional: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    numbers: Callable[[Run], Numbers] = lambda run: {}
    curves: Callable[[Run], Mapping[str, Sequence[Series]]] = lambda run: {}
