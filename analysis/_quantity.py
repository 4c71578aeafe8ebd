"""What a quantity is: a function from a store to a result, and in the same file all else the house must know of it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._drawing import axis as _axis
from traj.stores import InputError, KindName

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Results = Mapping[str, xr.Dataset]
"""Results of one quantity, by the names of the runs they are of."""

Array = NDArray[Any]


RESERVED = {"store", "quantity", "numerics", "options"}
"""What the config of a saved result has beside its other stores, which are under the names of their options."""


class Look(NamedTuple):
    """How each run of a report is drawn: by name, a colour and a marker or none; and the axis all curves lie over."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]
    axis: _axis.Axis = _axis.LOG_SNR


@dataclass(frozen=True)
class Figure:
    """A figure of a quantity.

    draw gives None where these results have nothing for it; caption, in plain text, says what the figure shows to one
    who has not seen the code.
    """

    name: str
    title: str
    draw: Callable[[Results, Look], Drawing | None]
    caption: Callable[[Results], str]


@dataclass(frozen=True)
class Table:
    """A table of a quantity, in plain text: what a source reports beside what is seen here, for example."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    numbers: Sequence[int] = ()
    """Columns that are set to the right."""


class Times(NamedTuple):
    """Where a landmark lies in each sample: between two neighbouring states, as log SNR (sample,).

    after is minus infinity before the first state, by infinity at x_0 itself; both are NaN where it is not known.
    """

    sample: Array
    after: Array
    by: Array


@dataclass(frozen=True)
class Landmark:
    """A point on the time axis that answers "when": a timestep, its log SNR and an interval of 95 % of that.

    name is that of a metric, the same for all runs; meaning says it in words. Both places are NaN where the point is
    not there, both ends where it cannot be told how sure it is; an end that is infinite lies before the first step, or
    at x_0 itself. of says which curve or family of edits it belongs to. short is what a figure calls it, the name where
    there is none. times, where given, finds where it lies in each sample.
    """

    name: str
    meaning: str
    timestep: float
    log_snr: float
    low: float = np.nan
    high: float = np.nan
    of: str = ""
    short: str = ""
    times: Callable[[], Times] | None = field(default=None, compare=False, repr=False)

    def called(self, short: str, times: Callable[[], Times] | None = None) -> Landmark:
        """Give it a short name, and what finds it in each sample."""
        return replace(self, short=short, times=times)


@dataclass(frozen=True)
class Number:
    """A number that sums up one result: a metric of DVC. NaN for never."""

    name: str
    meaning: str
    value: float
    low: float = np.nan
    high: float = np.nan


class Series(NamedTuple):
    """A curve over the process, with the low and high ends of its band; on says what it was computed on."""

    on: str
    timestep: Array
    log_snr: Array
    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Curve:
    """Curves that are written to plots/NAME.csv, and what `dvc plots` says of them."""

    name: str
    title: str
    y_label: str
    of: Callable[[xr.Dataset], Sequence[Series]]


class Quantity:
    """A quantity: call it as the function it was made from.

    reads is the kind of store it takes, reads_also others that it takes when they are named, reads_with that which it
    takes instead when an option is given; needs are the
    variables that tell the stores it takes from others of their kind, * for any letters. numerics is raised by hand
    when its numbers change, so that saved results are known to be old.

    Raises InputError for an option that has a name in RESERVED.
    """

    def __init__(
        self,
        function: Callable[..., xr.Dataset],
        *,
        reads: KindName,
        numerics: int,
        title: str,
        source: str,
        reads_also: Sequence[KindName],
        reads_with: Mapping[str, KindName],
        needs: Sequence[str],
    ) -> None:
        update_wrapper(self, function)
        if taken := sorted(RESERVED & inspect.signature(function).parameters.keys()):
            raise InputError(
                f"quantity {function.__name__} has an option {taken[0]!r}; rename it: results have something else there"
            )
        self.function, self.name, self.needs, self.reads_also = function, function.__name__, needs, reads_also
        self.reads, self.reads_with, self.numerics, self.title, self.source = reads, reads_with, numerics, title, source
        self.figures: list[Figure] = []
        self.curves: list[Curve] = []
        self._landmarks: Callable[[xr.Dataset], Sequence[Landmark]] = lambda result: ()
        self._numbers: Callable[[xr.Dataset], Sequence[Number]] = lambda result: ()
        self._tables: Callable[[Results], Sequence[Table]] = lambda results: ()
        self._memory: Callable[..., int] = lambda ds, **options: 0

    def __call__(self, ds: xr.Dataset, **options: Any) -> xr.Dataset:
        """Lay out the computation; nothing is read yet."""
        return self.function(ds, **options)

    def fits(self, variables: Iterable[str]) -> bool:
        """Whether a store of the kind it reads has the variables that it needs."""
        there = list(variables)
        return all(fnmatch.filter(there, need) for need in self.needs)

    def landmarks(self, result: xr.Dataset) -> Sequence[Landmark]:
        """Give the points on the time axis that answer "when"."""
        return self._landmarks(result)

    def numbers(self, result: xr.Dataset) -> Sequence[Number]:
        """Sum up one result in a few numbers."""
        return self._numbers(result)

    def tables(self, results: Results) -> Sequence[Table]:
        """Say what these results show, beside what a source reports."""
        return self._tables(results)

    def memory(self, ds: xr.Dataset, **options: Any) -> int:
        """Estimate the bytes that stay in memory until all samples have gone by."""
        return self._memory(ds, **options)

    def plot(
        self, results: xr.Dataset | Results, figure: str = "", *, axis: str | xr.Dataset = "log_snr"
    ) -> Drawing | None:
        """Draw a figure of one result, or of several by name: the one called `figure`, or the first they have part in.

        axis is what curves of states and of forks lie over: log_snr; timestep, for runs of one schedule; or a result of
        the quantity information, over whose bits they are drawn. Gives None where these results have nothing for it.
        Raises InputError for a figure or an axis there is not.
        """
        named = {one.name: one for one in self.figures}
        if not named or figure not in ("", *named):
            raise InputError(
                f"{self.name} has no figure {figure!r}; expected one of {', '.join(named) or 'none at all'}"
            )
        from traj.analysis._drawing.style import look_of

        by_name = {self.name: results} if isinstance(results, xr.Dataset) else results
        over = _axis.named(axis)
        _axis.require_one_table(over, by_name.items())
        look = look_of(by_name)._replace(axis=over)
        drawn = (one.draw(by_name, look) for one in ([named[figure]] if figure else self.figures))
        return next((one for one in drawn if one is not None), None)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword options of the function, by name."""
        parameters = inspect.signature(self.function).parameters.items()
        return {name: one for name, one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}

    @property
    def stores(self) -> dict[str, bool]:
        """The options that are other stores, by name, and whether each takes several."""
        hints = get_type_hints(self.function)
        parts = {name: (hints[name], *get_args(hints[name])) for name in self.options}
        return {name: get_origin(hints[name]) is tuple for name, hint in parts.items() if xr.Dataset in hint}

    # What follows registers the rest of the file.

    def figure(self, name: str, *, title: str, caption: Callable[[Results], str]) -> Callable[..., Any]:
        """Register a function (results, look) -> matplotlib Figure or None; several are shown in their order."""

        def register(draw: Callable[[Results, Look], Drawing | None]) -> Callable[[Results, Look], Drawing | None]:
            self.figures.append(Figure(name, title, draw, caption))
            return draw

        return register

    def curve(self, name: str, *, title: str, y_label: str) -> Callable[..., Any]:
        """Register a function result -> Series, written to plots/NAME.csv."""

        def register(of: Callable[[xr.Dataset], Sequence[Series]]) -> Callable[[xr.Dataset], Sequence[Series]]:
            self.curves.append(Curve(name, title, y_label, of))
            return of

        return register

    def gives_landmarks(self, function: Callable[[xr.Dataset], Sequence[Landmark]]) -> Callable[..., Any]:
        """Register the function result -> landmarks."""
        self._landmarks = function
        return function

    def gives_numbers(self, function: Callable[[xr.Dataset], Sequence[Number]]) -> Callable[..., Any]:
        """Register the function result -> numbers."""
        self._numbers = function
        return function

    def gives_tables(self, function: Callable[[Results], Sequence[Table]]) -> Callable[..., Any]:
        """Register the function results -> tables."""
        self._tables = function
        return function

    def takes_memory(self, function: Callable[..., int]) -> Callable[..., Any]:
        """Register the function (ds, options) -> bytes that stay until all samples have gone by."""
        self._memory = function
        return function


def quantity(
    *,
    reads: KindName,
    numerics: int,
    title: str,
    source: str = "",
    reads_also: Sequence[KindName] = (),
    reads_with: Mapping[str, KindName] | None = None,
    needs: Sequence[str] = (),
) -> Callable[[Callable[..., xr.Dataset]], Quantity]:
    """Mark a function as a quantity; title heads its part of a page, source says where its figures are from."""

    def mark(function: Callable[..., xr.Dataset]) -> Quantity:
        return Quantity(
            function,
            reads=reads,
            numerics=numerics,
            title=title,
            source=source,
            reads_also=reads_also,
            reads_with=reads_with or {},
            needs=needs,
        )

    return mark
