"""Readouts: one public file, one function of the file's name, which makes a `Readout`.

Other packages offer theirs as entry points of the group `traj.readouts`, each named NAME = module:NAME.

These files import nothing heavy before the function is called: the command line reads its options off it.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from traj.analysis._offered import Offered

if TYPE_CHECKING:
    import torch
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

    Function = Callable[["Events"], tuple[torch.Tensor, ...]]


RESERVED = {"name", "store", "out", "every", "timesteps", "device", "tf32", "blocks", "stale", "dry_run"}
"""What `traj readout` takes itself."""


@dataclass(frozen=True)
class Source:
    """The store that is read, one with x_0, and the device the network runs on."""

    path: Path
    ds: xr.Dataset
    device: torch.device


@dataclass(frozen=True)
class Events:
    """Events that are read in one call, on the source's device; a tensor has one row for each.

    ``values`` holds a float32 tensor (event, *event dims) for each variable that is read. ``timestep`` is int64
    (event,), None for events that have none, as x_0. ``condition`` holds the coordinates along the samples as they are
    stored, an array (event,) each: sample, label, and whatever else there is. ``next_x_t`` (event, *event dims) is the
    stored state that x_t leads to, and ``next_timestep`` (event,) its timestep: NaN and -1 after the last one, None
    where the pass doesn't ask for them.
    """

    values: Mapping[str, torch.Tensor]
    timestep: torch.Tensor | None
    condition: Mapping[str, NDArray[Any]]
    next_x_t: torch.Tensor | None = None
    next_timestep: torch.Tensor | None = None


@dataclass(frozen=True)
class Output:
    """One variable of a readout's store.

    ``dims`` are those of one value. The variable has them after the dims that count the events that are read: sample,
    and timestep, variant and replica where there are any. ``attributes`` go beside its long_name and units. Values of
    float16 are clipped to its range and counted; uint8 has none for events that are NaN, which it refuses.
    """

    name: str
    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    dtype: Literal["float32", "float64", "float16", "uint8"] = "float32"
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """Variables of the source that are read together, the outputs made from them, and the function between the two.

    ``function(events)`` gives a float tensor (event, *dims) for each of ``outputs``. Events that are NaN throughout
    were never made: they are not handed over, and their values are NaN.

    A call gets an event of each variable in ``reads``, all of the same sample and timestep. With ``on``, each variable
    is read in calls of its own, and the values go along a first dim ``on``. ``next_state`` gives the stored state that
    x_t leads to as well. ``same_timestep`` makes calls whose events all have one timestep, as denoisers need.
    """

    reads: tuple[str, ...]
    outputs: tuple[Output, ...]
    function: Function
    on: bool = False
    next_state: bool = False
    same_timestep: bool = False

    @property
    def calls(self) -> tuple[tuple[str, ...], ...]:
        """The variables that are read together, each time the store is gone through."""
        return tuple((name,) for name in self.reads) if self.on else (self.reads,)


@dataclass(frozen=True)
class Readout:
    """The passes over the store that is read, and what is said of them.

    ``coords`` maps a name to (dim, values, units, long_name), and gives every dim of the outputs its length.
    ``identity`` holds the JSON values that define the functions' numbers, and ``numerics`` is raised by hand when they
    change for equal inputs. ``batch`` is the most events of a call. ``environment`` holds what else the last bits may
    depend on, names of models and versions of packages. A person is told of ``cautions`` before it begins, of
    ``smaller`` where the disk may fill up, and of ``following``, the command that goes on, at the end.

    ``derived`` are arrays made of the source's that passes read as if they lay there: a dask array (*lead, *event dims)
    each. ``fills_disk`` says that values hardly compress, so that more than the free disk holds is refused. ``images``
    is the shape (channel, y, x) of the outputs where they are images, each named after what it was made from: they make
    a store that is read as the source's kind. ``block`` samples go into a block, a divisor of the source's, by default
    as many.
    """

    passes: tuple[Pass, ...]
    coords: Mapping[str, tuple[str, ArrayLike, str, str]]
    identity: Mapping[str, Any]
    batch: int
    numerics: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()
    smaller: str = "fewer samples in the store that is read"
    following: str = "traj info"
    derived: Mapping[str, xr.DataArray] = field(default_factory=dict)
    fills_disk: bool = False
    images: tuple[int, int, int] | None = None
    block: int | None = None


def names() -> list[str]:
    """List the readouts, none of them imported: the public files of this folder, and those of other packages."""
    return sorted({*_ours(), *OFFERED.names()})


def clashes() -> list[str]:
    """Say which readouts of other packages are left out because ours have their names, a line each."""
    return OFFERED.clashes(_ours())


def summary(name: str) -> str:
    """Read the first line of a readout's docstring; one of another package is not imported for it."""
    return OFFERED.summary(name) if name not in _ours() else (load(name).__doc__ or "").split("\n")[0]


def load(name: str) -> Callable[..., Readout]:
    """Import one readout and return its function, of a `Source` and keyword options.

    Raises InputError for an unknown name, and where another package's readout cannot be used, or has an option that has
    a name in RESERVED or no type hint.
    """
    if name not in names():
        from traj.stores import InputError  # takes seconds to import, and help needs none of it

        raise InputError(f"readout {name!r} is unknown; expected one of {', '.join(names())}")
    readout: Callable[..., Readout]
    readout = getattr(import_module(f"{__name__}.{name}"), name) if name in _ours() else OFFERED.load(name)
    _check_options(name, readout)
    return readout


def _check_options(name: str, readout: Callable[..., Readout]) -> None:
    from traj.stores import InputError

    options = {one.name: one for one in inspect.signature(readout).parameters.values() if one.kind is one.KEYWORD_ONLY}
    if taken := sorted(RESERVED & options.keys()):
        raise InputError(
            f"readout {name!r} cannot be used: `traj readout` has an option {taken[0]!r} of its own, give that of the "
            "readout another name"
        )
    if bare := [option for option, one in options.items() if one.annotation is one.empty]:
        raise InputError(
            f"readout {name!r} cannot be used: its option {bare[0]!r} has no type hint, expected one, as in "
            f"{bare[0]}: int"
        )


def _ours() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


OFFERED = Offered("traj.readouts", "readout", inspect.isfunction, "no function")
