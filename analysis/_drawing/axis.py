"""What figures lie over: log SNR, the timestep, or the information that a state holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Places = Callable[[Any], Array]

STATE, START = "$x_t$", "the start"
"""Whose place an axis shows: of states, or of the states that forks start from."""

APART = 1e-6
"""Log SNR of one timestep may differ so much between runs of one table."""


@dataclass(frozen=True)
class Axis:
    """What figures lie over: its name, its label with {} for whose place it is, and what captions say of it.

    places, of the timesteps and log SNR of a run's states, is a function from log SNR to places. These never fall from
    noise, at the left, to images, at the right: a timestep is drawn at minus its number.
    """

    name: str
    words: str
    places: Callable[[Array, Array], Places]
    note: str = ""

    def label(self, of: str = STATE) -> str:
        """Say what the axis shows, and which way the process runs."""
        return f"{self.words.format(of)}   (denoising →)"

    def write_numbers(self, axis: Axes) -> None:
        """Write timesteps without the sign of their places."""
        if self is TIMESTEP:
            axis.xaxis.set_major_formatter(lambda x, _: f"{0 - x:g}" if x <= 0 else "")

    def is_of(self, figure: Figure) -> bool:
        """Whether anything in a figure lies over it."""
        return any(axis.get_xlabel() in (self.label(STATE), self.label(START)) for axis in figure.axes)


def _of_log_snr(timestep: Array, log_snr: Array) -> Places:
    return lambda x: np.asarray(x, np.float64)


def _of_timesteps(timestep: Array, log_snr: Array) -> Places:
    return partial(_between, log_snr, -np.asarray(timestep, np.float64))


def _between(known: Array, places: Array, log_snr: Any) -> Array:
    """Lay log SNR between the places of known ones, both rising; what is infinite, or beyond them, at the ends."""
    x, finite = np.asarray(log_snr, np.float64), np.isfinite(known)
    if not len(known):
        return np.full(x.shape, np.nan)
    inner = np.interp(x, known[finite], places[finite]) if finite.any() else np.full(x.shape, np.nan)
    return np.where(np.isneginf(x), places[0], np.where(np.isposinf(x), places[-1], inner))


LOG_SNR = Axis("log SNR", "log SNR of {}", _of_log_snr)
TIMESTEP = Axis("timestep", "timestep of {}", _of_timesteps, "Drawn over the timestep in place of log SNR.")


def of_information(result: xr.Dataset, run: str = "") -> Axis:
    """Make an axis of bits: the mean information of a result of the quantity information, between its stored states.

    Equal widths are equal information. Log SNR beyond the result's lies at its ends.

    Raises InputError where the result is one of another quantity, or holds no information.
    """
    if "information_mean" not in result:
        given = result.attrs.get("quantity", "?")
        raise InputError(f"a result of {given} was given as axis; expected one of the quantity information")
    if result.attrs["flaw"]:
        raise InputError(
            f"{run or 'the result'} is of a run whose errors are no measure of information; expected noised data, or "
            "a run with all its noise and the finite dataset that it is from"
        )
    log_snr, bits = result["log_snr"].to_numpy(), result["information_mean"].isel(on=0).to_numpy()
    known = ~np.isnan(bits)
    if not known.any() or not bits[known][-1] > bits[known][0]:
        raise InputError(f"{run or 'the result'} holds no information that grows; expected some, of finite states")
    measured = f", as measured in {run}" if run else ""
    return Axis(
        "information",
        f"information of {{}} on $x_0$, bit{f' ({run})' if run else ''}",
        lambda *_: partial(_between, log_snr[known], bits[known]),
        f"Drawn over the bits of information that x_t holds on x_0{measured}, in place of log SNR: equal widths are "
        "equal information.",
    )


def named(axis: str | xr.Dataset) -> Axis:
    """Find an axis: log_snr, timestep, or a result of the quantity information.

    Raises InputError for anything else.
    """
    if isinstance(axis, xr.Dataset):
        return of_information(axis)
    if axis not in AXES:
        raise InputError(
            f"unknown axis {axis!r}; expected {', '.join(AXES)}, or a result of the quantity information for its bits"
        )
    return AXES[axis]


AXES = {"log_snr": LOG_SNR, "timestep": TIMESTEP}


def table(result: xr.Dataset) -> tuple[Array, Array]:
    """Read timesteps and log SNR off a result: of all states, or of those that forks start from, each once."""
    for timestep, log_snr in (("timestep", "log_snr"), ("at", "at_log_snr")):
        if {timestep, log_snr} <= set(result.coords):
            timesteps, first = np.unique(-result[timestep].to_numpy(), return_index=True)
            return -timesteps, result[log_snr].to_numpy()[first]
    return np.empty(0), np.empty(0)


def require_one_table(axis: Axis, results: Iterable[tuple[str, xr.Dataset]]) -> None:
    """Refuse to set results, by the names of their runs, side by side over timesteps that mean other noise in each.

    Raises InputError naming two of them.
    """
    seen: dict[int, tuple[float, str]] = {}
    for run, result in results if axis is TIMESTEP else ():
        for timestep, log_snr in zip(*(values.tolist() for values in table(result)), strict=True):
            other, first = seen.setdefault(timestep, (log_snr, run))
            if log_snr != other and not abs(log_snr - other) < APART:
                raise InputError(
                    f"timestep {timestep} has log SNR {other:.3g} in {first} and {log_snr:.3g} in {run}; only runs of "
                    "one schedule compare over timesteps, expected log_snr or information as axis"
                )
