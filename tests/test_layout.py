import time

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import runs
from traj.pipeline.making.carry_out import carry_out
from traj.pipeline.making.generate import prepare
from traj.stores.layout import CHUNK_BYTES_MAX, SHARD_BYTES, Layout, _largest_divisor, canonical_json, fingerprint


@settings(max_examples=200, deadline=None)
@given(
    block=st.integers(1, 512),
    timesteps=st.integers(1, 4000),
    side=st.sampled_from([1, 8, 32, 64, 256]),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_shards_are_whole_chunks_of_whole_images_within_the_limits(block, timesteps, side, channels, dtype):
    shape = (channels, side, side)
    layout = Layout.of(samples=block * 3, block=block, timesteps=timesteps, shape=shape, dtype=dtype)
    image = int(np.prod(shape)) * np.dtype(dtype).itemsize
    chunk = layout.chunk_samples * layout.chunk_timesteps * image
    assert layout.block % layout.chunk_samples == 0
    assert layout.shard_timesteps % layout.chunk_timesteps == 0
    assert chunk <= max(CHUNK_BYTES_MAX, 4 * image)
    assert layout.shard_bytes <= max(SHARD_BYTES, block * layout.chunk_timesteps * image)
    assert layout.shards * layout.shard_timesteps >= timesteps
    assert layout.chunk_timesteps >= min(4, timesteps)


@pytest.mark.parametrize(
    ("samples", "block", "message"),
    [
        (100_000_001, 1, "100,000,001 blocks; expected at most 100,000: ask for larger blocks"),
        (10**30, 64, "at most 100,000"),
        (64, 1_000_000_000, r"needs [\d,.]+ GiB of memory at least, this machine has [\d,.]+ GiB free"),
        (64, 10**30, "ask for smaller blocks"),
    ],
)
def test_what_no_machine_can_hold_is_refused_at_once(tmp_path, samples, block, message):
    begun = time.process_time()
    with pytest.raises(ValueError, match=message):
        Layout.of(samples=samples, block=block, timesteps=1000, shape=(1, 8, 8), dtype="float32", states=2)
    with pytest.raises(ValueError, match=message):
        runs.create(tmp_path / "run.zarr", samples, block=block)
    with pytest.raises(ValueError, match=f"{message}|at most {2**32}"):
        prepare(model="gaussian:0,1,1x8x8", samples=samples, block=block, device="cpu").open(tmp_path / "run.zarr")
    assert time.process_time() - begun < 5
    assert not list(tmp_path.iterdir())


def test_blocks_that_are_not_there_are_refused_at_once(tmp_path):
    begun = time.process_time()
    with pytest.raises(ValueError, match="0 to 3"):
        runs.create(tmp_path / "run.zarr", blocks=range(999_999_999_999))
    job = prepare(model="gaussian:0,1,1x8x8", device="cpu")
    for dry_run in (True, False):
        with pytest.raises((ValueError, click.UsageError), match="0 to 1"):
            carry_out(
                job,
                tmp_path / "run.zarr",
                stale="refuse",
                blocks=range(999_999_999_999),
                dry_run=dry_run,
                smaller="",
                complete="",
                following="",
            )
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("block", [1, 7, 360, 512, 10_007])
@pytest.mark.parametrize("limit", [0, 1, 5, 64, 1000])
def test_chunks_are_the_largest_part_of_a_block_within_the_limit(block, limit):
    expected = next(n for n in range(block, 0, -1) if block % n == 0 and (n <= limit or n == 1))
    assert _largest_divisor(block, limit) == expected


def test_sizes_of_the_runs_people_make():
    cifar = Layout.of(samples=1024, block=512, timesteps=1000, shape=(3, 32, 32), dtype="float32")
    assert (cifar.chunk_samples, cifar.chunk_timesteps, cifar.shard_timesteps) == (128, 4, 20)
    digits = Layout.of(samples=64, block=64, timesteps=1000, shape=(1, 8, 8), dtype="float32")
    assert (digits.chunk_samples, digits.chunk_timesteps, digits.shards) == (64, 64, 1)


def test_fingerprint_ignores_order_and_refuses_what_json_cannot_fix():
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})
