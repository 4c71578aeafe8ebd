"""Powers of many exponents beside the largest of them, and which ones these are: what a softmax is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401 - compiled np.dot calls its BLAS: it must be there when threads of BLAS are limited
from numpy.typing import NDArray

from traj.analysis._kernels.compiling import compiled, compiled_freely

Array = NDArray[Any]

LEAST = -700.0
"""Exponents are cut here: beside the largest, 0, their powers count for nothing, and are still normal numbers."""

LOG2_E, LN_2, LN_2_REST = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
"""1 / ln 2, and ln 2 as a number of few bits, so that its whole multiples are exact, and what is left of it."""

FEW = 8
"""Up to one in so many images are added one by one, more are a product of matrices."""

TOGETHER = 32
"""So many exponents are compared at once."""

WHOLE = 1.5 * 2.0**52
"""A number to which this was added is rounded to a whole one, which the last bits of the sum spell."""


@compiled
def take_in(
    states: Array,
    images: Array,
    summed: Array,
    first: int,
    count: int,
    height: int,
    reach: float,
    largest: Array,
    index: Array,
    total: Array,
    weighted: Array,
    sums: Array,
) -> None:
    """Take a block of images into the sums of all states, `height` of them at a time.

    Exponents are `states` (row, value) times `images` (value, image), of which the first `count` are images, numbered
    from `first` on; `summed` (image, column) is what is summed with the powers as weights. Kept for each row are the
    `largest` exponents and whose they are, `index` (row, rank); and, beside the largest, the `total` of powers, that of
    power times exponent, `weighted`, and `sums` (row, column).

    Where few of a row's exponents are within `reach` of the largest, the others are left out.
    """
    exponents, products = np.empty((height, images.shape[1])), np.empty((height, summed.shape[1]))
    which = np.empty(images.shape[1], np.int64)
    for start in range(0, len(total), height):
        np.dot(states[start : start + height], images, exponents)
        end = min(start + height, len(total))
        before = largest[start:end, 0].copy()
        keep_largest(exponents, end - start, count, first, largest[start:end], index[start:end])
        many = False
        for row in range(start, end):
            here = exponents[row - start, :count]
            now = largest[row, 0]
            moved = max(before[row - start] - now, LEAST)
            kept = exp(moved)
            weighted[row] = kept * (weighted[row] + moved * total[row])
            total[row] *= kept
            for column in range(sums.shape[1]):
                sums[row, column] *= kept
            few = within(here, now - reach) * FEW <= count
            if few:
                here = pick(here, now - reach, which)
            of_powers, of_products = weigh(here, now)
            total[row] += of_powers
            weighted[row] += of_products
            if few:
                for place in range(len(here)):
                    add(sums[row], here[place], summed[which[place]])
                exponents[row - start] = 0
            many |= not few
        if many:
            np.dot(exponents, summed, products)
            for row in range(start, end):
                add(sums[row], 1.0, products[row - start])


@compiled
def keep_largest(exponents: Array, rows: int, images: int, first: int, largest: Array, index: Array) -> None:
    """Merge exponents (row, image) of the images from `first` on into the largest so far (row, rank), falling.

    Of equal ones the image that comes first stays before the other. Only the first `rows` and `images` are looked at.
    """
    last = largest.shape[1] - 1
    for row in range(rows):
        for start in range(0, images, TOGETHER):
            end = min(start + TOGETHER, images)
            if not within(exponents[row, start:end], largest[row, last]):
                continue
            for image in range(start, end):
                value = exponents[row, image]
                if value > largest[row, last]:
                    rank = last
                    while rank > 0 and value > largest[row, rank - 1]:
                        largest[row, rank], index[row, rank] = largest[row, rank - 1], index[row, rank - 1]
                        rank -= 1
                    largest[row, rank], index[row, rank] = value, first + image


@compiled
def within(exponents: Array, least: float) -> int:
    """Count the exponents of a row that are the least or above."""
    count = 0
    for image in range(len(exponents)):
        count += exponents[image] >= least
    return count


@compiled
def pick(exponents: Array, least: float, which: Array) -> Array:
    """Move the exponents of a row that are the least or above to its beginning, and note `which` they are."""
    count = 0
    for image in range(len(exponents)):
        exponent = exponents[image]
        exponents[count], which[count] = exponent, image
        count += exponent >= least
    return exponents[:count]


@compiled_freely("contract")
def add(sums: Array, power: float, values: Array) -> None:
    """Add a power times values to sums."""
    for column in range(len(sums)):
        sums[column] += power * values[column]


@compiled_freely("reassoc", "nsz", "contract")
def weigh(exponents: Array, largest: float) -> tuple[float, float]:
    """Put powers in the place of the exponents of a row, beside the largest; give their sum, and that of both."""
    sum_of_powers = sum_of_products = 0.0
    for image in range(len(exponents)):
        exponent = exponents[image] - largest
        exponent = exponent if exponent > LEAST else LEAST
        power = exp(exponent)
        exponents[image] = power
        sum_of_powers += power
        sum_of_products += power * exponent
    return sum_of_powers, sum_of_products


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
