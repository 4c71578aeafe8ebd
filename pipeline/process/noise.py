"""Standard normal noise, addressed: a pure function of integers, the same bits wherever it is drawn."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from itertools import islice

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from traj.stores import InputError


class Purpose(IntEnum):
    """What noise is for, part of its address."""

    START = 1
    STEP = 2
    RENOISE = 3  # of an x_0 that is noised to a timestep
    BRIDGE = 4  # between the states of a noised x_0
    SOURCE = 5  # that an x_0 itself is made of
    NOISED = 6  # of the noisiest state of a noised x_0


class NoiseSource:
    """Draws standard normal events of any shape by address.

    One Philox stream per (seed, sample, replica, purpose, timestep): key [seed, sample << 32 | replica], counter
    [0, 0, purpose, timestep]. The lower counter words count along the event, so neighbouring addresses never overlap.
    """

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        self.seed = _word(seed, "seed", 64)
        self.shape = tuple(shape)
        self._bits = Philox(key=0)
        self._generator = Generator(self._bits)

    def __call__(
        self, purpose: Purpose, samples: Iterable[int], timestep: int, replica: int = 0
    ) -> NDArray[np.float32]:
        """Draw the noise of several samples: float32 (sample, *shape).

        Start noise carries timestep 0. Replica 0 is the parent run.

        Raises TypeError where an address is not a whole number, InputError where it does not fit.
        """
        ids = [_word(sample, "sample", 32) for sample in samples]
        time, branch = _word(timestep, "timestep", 64), _word(replica, "replica", 32)
        out = np.empty((len(ids), *self.shape), np.float32)
        for row, sample in zip(out, ids, strict=True):
            # Setting the state is far cheaper than building a new bit generator.
            self._bits.state = {
                "bit_generator": "Philox",
                "state": {
                    "counter": np.array([0, 0, purpose, time], np.uint64),
                    "key": np.array([self.seed, sample << 32 | branch], np.uint64),
                },
                "buffer": np.zeros(4, np.uint64),
                "buffer_pos": 4,
                "has_uint32": 0,
                "uinteger": 0,
            }
            self._generator.standard_normal(dtype=np.float32, out=row)
        return out


def _word(value: int, name: str, bits: int) -> int:
    whole = operator.index(value)
    if not 0 <= whole < 1 << bits:
        raise InputError(f"{name}={whole} was given, expected 0 to 2**{bits} - 1")
    return whole


class NoiseAhead:
    """Draws the noise of the steps of one group of samples a few addresses ahead, on a thread of its own.

    Addresses are (timestep, replica). They must be asked for in the order given, each once or several times in a row.
    """

    def __init__(
        self,
        source: NoiseSource,
        samples: Sequence[int],
        addresses: Iterable[tuple[int, int]],
        pool: ThreadPoolExecutor,
        purpose: Purpose = Purpose.STEP,
        ahead: int = 4,
    ) -> None:
        self._draw: Callable[[tuple[int, int]], Future[NDArray[np.float32]]] = lambda address: pool.submit(
            source, purpose, samples, *address
        )
        self._coming = iter(addresses)
        self._drawn = deque((address, self._draw(address)) for address in islice(self._coming, ahead))
        self._current: tuple[tuple[int, int], NDArray[np.float32]] | None = None

    def __call__(self, timestep: int, replica: int = 0) -> NDArray[np.float32]:
        """Return the noise of the next address, or of the last one again: float32 (sample, *shape)."""
        address = timestep, replica
        if self._current is None or self._current[0] != address:
            due, drawn = self._drawn.popleft() if self._drawn else (None, None)
            if drawn is None or due != address:
                raise ValueError(f"noise of timestep, replica {address} was asked for, {due} is due")
            if (following := next(self._coming, None)) is not None:
                self._drawn.append((following, self._draw(following)))
            self._current = address, drawn.result()
        return self._current[1]
