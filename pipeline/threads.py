"""How the threads of torch wait for one another: said before torch is imported, which is when OpenMP reads it."""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Spin for some microseconds, then sleep. GNU's OpenMP goes by the second, others by the first and sleep at once."""


def wait_briefly() -> None:
    """Have waiting threads leave the processor to others, unless the environment says how they wait.

    By default they spin for milliseconds: on two cores beside other work, a call of the digits network then took 7 to
    19 times as long.
    """
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)
