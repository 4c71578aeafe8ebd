"""The kernels of the posterior against NumPy."""

from itertools import pairwise

import numpy as np
import pytest

from traj.analysis._kernels.powers import LEAST, exp, keep_largest, take_in, weigh


def test_powers_are_those_of_numpy_to_the_last_bit_or_two():
    exponents = np.concatenate([np.linspace(LEAST, 0, 50_000), -np.logspace(-320, 0, 1000), [0.0]])
    powers = exponents.copy()
    total, weighted = weigh(powers, 0.0)
    np.testing.assert_allclose(powers, np.exp(exponents), rtol=4e-16, atol=0)
    assert powers[-1] == 1
    assert [exp(exponent) for exponent in exponents[::1000]] == powers[::1000].tolist()
    assert total == pytest.approx(powers.sum(), rel=1e-13)
    assert weighted == pytest.approx((powers * exponents).sum(), rel=1e-13)


def test_exponents_below_the_least_count_as_the_least():
    powers = np.array([-1e300, -800.0, -np.inf])
    weigh(powers, 0.0)
    np.testing.assert_allclose(powers, np.exp(LEAST), rtol=4e-16)


def sums_of(exponents, values, cuts, height, reach):
    """Take exponents (row, image) in, some images after others: the largest, whose, and sums beside the largest."""
    rows, ranks = len(exponents), 3
    largest, index = np.full((rows, ranks), -np.inf), np.full((rows, ranks), -1)
    total, weighted, sums = np.zeros(rows), np.zeros(rows), np.zeros((rows, values.shape[1]))
    states = np.zeros((-(-rows // height) * height, rows))
    states[:rows] = np.eye(rows)  # so that products are the exponents themselves
    for first, last in pairwise([0, *cuts, exponents.shape[1]]):
        padded = np.zeros((rows, last - first + 5))
        padded[:, : last - first] = exponents[:, first:last]
        summed = np.full((padded.shape[1], values.shape[1]), 9.0)  # what is past the images must not count
        summed[: last - first] = values[first:last]
        take_in(states, padded, summed, first, last - first, height, reach, largest, index, total, weighted, sums)
    return largest, index, total, weighted, sums


@pytest.mark.parametrize("spread", [0, 1, 9, 40, 1e6])
@pytest.mark.parametrize("cuts", [[], [60], [1, 70, 71]])
@pytest.mark.parametrize("height", [4, 64])
def test_sums_are_those_of_numpy_however_many_images_count(spread, cuts, height):
    rng = np.random.default_rng(0)
    spreads = np.linspace(0, spread, 21)[:, None]  # of every tile some rows have few images, some many
    exponents, values = spreads * rng.normal(0, 1, (21, 90)), rng.normal(0, 1, (90, 7))
    largest, index, total, weighted, sums = sums_of(exponents, values, cuts, height, 42 + np.log(90))
    order = np.argsort(-exponents, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(largest, np.take_along_axis(exponents, order, 1))
    beside = exponents - exponents.max(axis=1, keepdims=True)
    powers = np.exp(beside)
    np.testing.assert_allclose(total, powers.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(weighted, (powers * beside).sum(axis=1), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(sums, powers @ values, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("images", [1, 5, 16, 17, 100])
def test_the_largest_are_those_of_a_stable_sort_however_images_come(images):
    rng = np.random.default_rng(images)
    exponents = rng.integers(-9, 0, (6, images)).astype(float)  # many are equal
    order = np.argsort(-exponents, axis=1, kind="stable")[:, :3]
    for cut in {1, images // 2, images}:
        largest, index = np.full((6, 3), -np.inf), np.full((6, 3), -1)
        for first in range(0, images, max(1, cut)):
            part = exponents[:, first : first + max(1, cut)]
            keep_largest(np.pad(part, ((0, 1), (0, 1))), 6, part.shape[1], first, largest, index)
        ranks = order.shape[1]
        np.testing.assert_array_equal(index[:, :ranks], order)
        np.testing.assert_array_equal(largest[:, :ranks], np.take_along_axis(exponents, order, 1))
