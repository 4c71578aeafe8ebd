"""The kernels of the posterior against NumPy."""

import numpy as np
import pytest

from traj.analysis._kernels.powers import LEAST, exp, keep_largest, weigh


def test_powers_are_those_of_numpy_to_the_last_bit_or_two():
    exponents = np.concatenate([np.linspace(LEAST, 0, 50_000), -np.logspace(-320, 0, 1000), [0.0]])[None]
    powers, total, weighted = exponents.copy(), np.zeros(1), np.zeros(1)
    kept = weigh(powers, exponents.size, np.array([-np.inf]), np.zeros(1), total, weighted)
    np.testing.assert_allclose(powers, np.exp(exponents), rtol=4e-16, atol=0)
    assert powers[0, -1] == 1
    assert [exp(exponent) for exponent in exponents[0, ::1000]] == powers[0, ::1000].tolist()
    np.testing.assert_allclose(total, powers.sum(), rtol=1e-13)
    np.testing.assert_allclose(weighted, (powers * exponents).sum(), rtol=1e-13)
    assert kept[0] < 1e-300


def test_sums_in_two_parts_are_those_of_all():
    exponents = np.random.default_rng(0).normal(0, 9, (3, 40))
    total, weighted, before = np.zeros(3), np.zeros(3), np.full(3, -np.inf)
    for part in np.split(exponents.copy(), [25], axis=1):
        largest = np.maximum(before, part.max(axis=1))
        weigh(part, part.shape[1], before, largest, total, weighted)
        before = largest
    beside = exponents - exponents.max(axis=1, keepdims=True)
    np.testing.assert_allclose(total, np.exp(beside).sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(weighted, (np.exp(beside) * beside).sum(axis=1), rtol=1e-13)


def test_exponents_below_the_least_count_as_the_least_and_the_rest_is_left_alone():
    powers = np.array([[-1e300, -800.0, -np.inf, 3.0], [5.0, 5.0, 5.0, 5.0]])
    weigh(powers, 3, np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(powers[0, :3], np.exp(LEAST), rtol=4e-16)
    assert (powers[0, 3], powers[1].tolist()) == (3, [5] * 4)


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
