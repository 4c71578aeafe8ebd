"""Powers of many exponents beside the largest of them, and which ones these are: what a softmax is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled, compiled_freely

Array = NDArray[Any]

LEAST = -700.0
"""Exponents are cut here: beside the largest, 0, their powers count for nothing, and are still normal numbers."""

LOG2_E, LN_2, LN_2_REST = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
"""1 / ln 2, and ln 2 as a number of few bits, so that its whole multiples are exact, and what is left of it."""

WHOLE = 1.5 * 2.0**52
"""A number to which this was added is rounded to a whole one, which the last bits of the sum spell."""


@compiled
def keep_largest(exponents: Array, rows: int, images: int, first: int, largest: Array, index: Array) -> None:
    """Merge exponents (row, image) of the images from `first` on into the largest so far (row, rank), falling.

    Of equal ones the image that comes first stays before the other. Only the first `rows` and `images` are looked at.
    """
    last = largest.shape[1] - 1
    for row in range(rows):
        for image in range(images):
            value = exponents[row, image]
            if value > largest[row, last]:
                rank = last
                while rank > 0 and value > largest[row, rank - 1]:
                    largest[row, rank], index[row, rank] = largest[row, rank - 1], index[row, rank - 1]
                    rank -= 1
                largest[row, rank], index[row, rank] = value, first + image


@compiled_freely("reassoc", "nsz", "contract")
def weigh(exponents: Array, images: int, before: Array, largest: Array, total: Array, weighted: Array) -> Array:
    """Put powers in the place of the first `images` exponents (row, image), beside the `largest` of each row (row,).

    Adds their sum to `total` (row,), and that of power times exponent to `weighted` (row,), both of which were beside
    the largest `before`. Gives the factor (row,) by which powers of then are smaller now. Rows that `largest` does not
    have are left alone.
    """
    kept = np.empty(len(largest))
    for row in range(len(largest)):
        moved = max(before[row] - largest[row], LEAST)
        kept[row] = exp(moved)
        sum_of_powers = sum_of_products = 0.0
        for image in range(images):
            exponent = exponents[row, image] - largest[row]
            exponent = exponent if exponent > LEAST else LEAST
            power = exp(exponent)
            exponents[row, image] = power
            sum_of_powers += power
            sum_of_products += power * exponent
        weighted[row] = kept[row] * (weighted[row] + moved * total[row]) + sum_of_products
        total[row] = kept[row] * total[row] + sum_of_powers
    return kept


@compiled_freely("contract")
def exp(exponent: float) -> Any:
    """Take e^exponent of one from LEAST to 0, within a last bit: as NumPy's, but within a loop over many.

    e^(k ln 2 + rest) is 2^k times the Taylor series of e^rest to the 13th power, with rest at most (ln 2) / 2; 2^k is a
    matter of adding k to the bits of the series' exponent.
    """
    shifted = exponent * LOG2_E + WHOLE
    k = shifted - WHOLE
    rest = (exponent - k * LN_2) - k * LN_2_REST
    series = 1 / 6227020800
    series = series * rest + 1 / 479001600
    series = series * rest + 1 / 39916800
    series = series * rest + 1 / 3628800
    series = series * rest + 1 / 362880
    series = series * rest + 1 / 40320
    series = series * rest + 1 / 5040
    series = series * rest + 1 / 720
    series = series * rest + 1 / 120
    series = series * rest + 1 / 24
    series = series * rest + 1 / 6
    series = series * rest + 1 / 2
    series = series * rest + 1
    series = series * rest + 1
    bits = np.float64(series).view(np.int64) + (np.float64(shifted).view(np.int64) << 52)
    return np.int64(bits).view(np.float64)
