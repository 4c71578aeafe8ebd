"""Configs that others wrote: every key is read and checked, is known to change no number, or is named in an error."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Read = Callable[[Any], Any]
"""Reads a JSON value; what is no such value raises Unfit, with what was expected."""


class Unfit(Exception):
    """A value that a key does not take; the text says what was expected."""


@dataclass(frozen=True)
class Key:
    """A key that is used: what is meant where it is absent, and how its value is read."""

    default: Any
    read: Read


@dataclass(frozen=True)
class Keys:
    """All keys a config may have.

    ``used`` are read. ``unused`` change no number, each for the reason given. ``renamed`` are older spellings: the
    key that is written today, and how the old value is said in it. Keys that begin with an underscore are the
    library's notes about itself.
    """

    used: Mapping[str, Key]
    unused: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, tuple[str, Read]] = field(default_factory=dict)

    def read(self, config: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Give every key that is used its value, or the default; ``what`` names the config in errors.

        Raises
        ------
        InputError
            For a key that is not known, a value that a key does not take, and two spellings that disagree.
        """
        unknown = sorted(key for key in config if not key.startswith("_") and not self._knows(key))
        if unknown:
            raise refusal(f"{what} has {', '.join(unknown)}, which is not known; expected {', '.join(self.used)} only")
        given = {key: _read(key, config[key], self.used[key].read, what) for key in self.used if key in config}
        for old, (key, read) in self.renamed.items():
            if old not in config:
                continue
            value = _read(key, _read(old, config[old], read, what), self.used[key].read, what)
            if given.setdefault(key, value) != value:
                raise refusal(
                    f"{what} has {old}: {config[old]!r}, the older spelling of {key}, and {key}: {config[key]!r}; "
                    f"leave out {old}"
                )
        return {key: given.get(key, known.default) for key, known in self.used.items()}

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """Hash what ``read`` gave, less the keys with their default values: writing one out changes no number."""
        unusual = {key: value for key, value in config.items() if value != self.used[key].default}
        return f"sha256:{hashlib.sha256(json.dumps(unusual, sort_keys=True).encode()).hexdigest()}"

    def _knows(self, key: str) -> bool:
        return key in self.used or key in self.unused or key in self.renamed


def whole(least: int, most: int) -> Read:
    """Read a whole number in a range, its ends included."""

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Unfit(f"a whole number from {least} to {most}")
        return value

    return read


def number(above: float = -math.inf, below: float = math.inf) -> Read:
    """Read a finite number between two others."""
    between = f"a number between {above:g} and {below:g}" if math.isfinite(below) else f"a number above {above:g}"
    expected = between if math.isfinite(above) else "a finite number"

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not above < value < below or abs(value) > sys.float_info.max:
            raise Unfit(expected)
        return float(value)

    return read


def flag(value: Any) -> bool:
    """Read true or false."""
    if type(value) is not bool:
        raise Unfit("true or false")
    return value


def off(value: Any) -> bool:
    """Read a switch of something that is not supported."""
    if value is not False and value is not None:
        raise Unfit("false: it is not supported")
    return False


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise Unfit("a text")
    return value


def one_of(*words: str) -> Read:
    """Read one of some words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Unfit(f"one of {', '.join(words)}")
        return value

    return read


def optional(read: Read) -> Read:
    """Read null, or what ``read`` does."""

    def read_or_null(value: Any) -> Any:
        try:
            return None if value is None else read(value)
        except Unfit as unfit:
            raise Unfit(f"null, or {unfit}") from None

    return read_or_null


def several(read: Read) -> Read:
    """Read a list, one or more of what ``read`` does."""

    def read_all(value: Any) -> tuple[Any, ...]:
        try:
            if isinstance(value, list | tuple) and value:
                return tuple(map(read, value))
        except Unfit as unfit:
            raise Unfit(f"a list, each of it {unfit}") from None
        raise Unfit("a list with something in it")

    return read_all


def refusal(message: str) -> Exception:
    """Make an InputError, whose module takes seconds to import: help needs none of it."""
    from traj.stores import InputError

    return InputError(message)


def shown(value: Any) -> str:
    """Write a value for an error, shortened where it is long or holds much."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong, brief.maxother = 2, 60, 60, 60
    return brief.repr(value)


def _read(key: str, value: Any, read: Read, what: str) -> Any:
    try:
        return read(value)
    except Unfit as unfit:
        raise refusal(f"{what} has {key}: {shown(value)}; expected {unfit}") from None
