from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traj.pipeline.process.noise import NoiseAhead, NoiseSource, Purpose

GOLDEN = np.array(
    [[3213007447, 1065082134, 1039194870, 1059379459], [3196110118, 3208678587, 1070698391, 1027360630]], np.uint32
)


def test_bits_are_those_of_a_fresh_philox_at_the_address():
    drawn = NoiseSource(7, (1, 8, 8))(Purpose.STEP, [3], 500, replica=2)
    philox = np.random.Philox(key=[7, 3 << 32 | 2], counter=[0, 0, 2, 500])
    expected = np.random.Generator(philox).standard_normal((1, 8, 8), np.float32)
    np.testing.assert_array_equal(drawn[0], expected)


def test_golden_bits():
    drawn = NoiseSource(0, (4,))(Purpose.START, [0, 1], 0)
    np.testing.assert_array_equal(drawn.view(np.uint32), GOLDEN)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**40))
def test_a_sample_draws_the_same_noise_in_any_batch_and_order(order, timestep):
    together = NoiseSource(1, (2, 3))(Purpose.STEP, order, timestep)
    for row, sample in enumerate(order):
        np.testing.assert_array_equal(together[row], NoiseSource(1, (2, 3))(Purpose.STEP, [sample], timestep)[0])


def test_neighbouring_addresses_do_not_overlap():
    source = NoiseSource(0, (3, 32, 32))
    base = {"purpose": Purpose.STEP, "sample": 5, "timestep": 9, "replica": 0}
    neighbours = [{}, {"sample": 6}, {"timestep": 10}, {"replica": 1}, {"purpose": Purpose.RENOISE}]
    draws = [
        source(at["purpose"], [at["sample"]], at["timestep"], at["replica"]).ravel()
        for at in ({**base, **change} for change in neighbours)
    ]
    values = np.concatenate(draws)
    assert np.corrcoef(draws)[np.triu_indices(len(draws), 1)] == pytest.approx(0, abs=5 / np.sqrt(3072))
    # A shared stretch of the stream would repeat whole runs of values.
    pairs = np.stack([values[:-1], values[1:]], 1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_start_noise_is_uncorrelated_with_the_first_step_noise():
    source = NoiseSource(0, (4096,))
    start, step = source(Purpose.START, [0], 0)[0], source(Purpose.STEP, [0], 0)[0]
    assert abs(np.corrcoef(start, step)[0, 1]) < 5 / np.sqrt(4096)
    assert start.mean() == pytest.approx(0, abs=5 / np.sqrt(4096))
    assert start.std() == pytest.approx(1, abs=5 / np.sqrt(8192))


@pytest.mark.parametrize("bad", [{"timestep": 1.0}, {"samples": [0.0]}, {"replica": 0.5}])
def test_a_float_address_raises(bad):
    arguments = {"samples": [0], "timestep": 1, "replica": 0, **bad}
    with pytest.raises(TypeError):
        NoiseSource(0, (1,))(Purpose.STEP, **arguments)


def test_an_address_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="sample"):
        NoiseSource(0, (1,))(Purpose.STEP, [2**32], 0)
    with pytest.raises(ValueError, match="seed"):
        NoiseSource(-1, (1,))


def test_noise_drawn_ahead_is_that_of_its_address_and_may_be_asked_for_again():
    addresses = [(timestep, replica) for timestep in (30, 20, 10) for replica in (1, 2, 3)]
    source, samples = NoiseSource(3, (2, 2)), range(4, 6)
    with ThreadPoolExecutor(1) as pool:
        ahead = NoiseAhead(NoiseSource(3, (2, 2)), samples, addresses, pool)
        for timestep, replica in addresses:
            for _ in range(2):
                expected = source(Purpose.STEP, samples, timestep, replica)
                np.testing.assert_array_equal(ahead(timestep, replica), expected)


def test_noise_drawn_ahead_is_not_given_for_another_address():
    with ThreadPoolExecutor(1) as pool:
        ahead = NoiseAhead(NoiseSource(0, (1,)), [0], [(30, 0), (20, 0)], pool)
        with pytest.raises(ValueError, match=r"\(20, 0\) was asked for, \(30, 0\) is due"):
            ahead(20)
        ahead = NoiseAhead(NoiseSource(0, (1,)), [0], [(30, 0)], pool)
        ahead(30)
        with pytest.raises(ValueError, match=r"\(10, 0\) was asked for, None is due"):
            ahead(10)
