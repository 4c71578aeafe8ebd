"""Numbers that a person typed: plain ASCII digits, since Python's own readers take more than people mean."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click

from traj.pipeline.configs import refusal, shown

MOST_SAMPLES = 2**32
"""Samples are numbered in 32 bits of the address of their noise."""


def most_workers() -> int:
    """Say how many threads or processes may be asked for on this machine; more would only slow each other down."""
    return max(64, 4 * (os.cpu_count() or 1))


def whole(text: str) -> int:
    """Read a whole number from 0 on. Raises InputError for anything but the digits 0 to 9, at most 20 of them."""
    if not is_whole(text):
        raise refusal(f"{shown(text)} was given, expected a whole number in digits")
    return int(text)


def number(text: str) -> float:
    """Read a number as Python writes it. Raises InputError for another."""
    try:
        if re.fullmatch("[!-~]+", text) and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise refusal(f"{shown(text)} was given, expected a number")


def is_whole(text: str) -> bool:
    """Tell whether ``whole`` reads a text."""
    return re.fullmatch("[0-9]{1,20}", text) is not None


def check_count(name: str, count: int) -> None:
    """Refuse a number of samples, replicas or images that cannot be: none, or more than noise has addresses for."""
    if not 1 <= count <= MOST_SAMPLES:
        expected = "at least 1" if count < 1 else f"at most {MOST_SAMPLES}"
        raise refusal(f"{name} {shown(count)} was given, expected {expected}")


class Whole(click.ParamType[int]):
    """A whole number of an option, in a range; without a range, the function that uses it checks it."""

    name = "integer"

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a value as typed."""
        digits = str(value).removeprefix("-")
        number = int(value) if re.fullmatch("[0-9]{1,4000}", digits) else None
        low = -math.inf if self.least is None else self.least
        if number is None or not low <= number <= (math.inf if self.most is None else self.most):
            least = "" if self.least is None else f" from {self.least}"
            most = "" if self.most is None else f" to {self.most}"
            self.fail(f"{shown(value)} was given, expected a whole number{least}{most}", param, ctx)
        return number


class Number(click.ParamType[float]):
    """A number of an option."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a value as typed."""
        try:
            return number(str(value))
        except ValueError:
            self.fail(f"{shown(value)} was given, expected a number", param, ctx)
