import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.layout import CHUNK_BYTES_MAX, SHARD_BYTES, Layout, canonical_json, fingerprint


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
