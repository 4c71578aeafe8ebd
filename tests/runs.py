"""Small trajectory stores made through the public writer, for tests of what reads them."""

import hashlib
from pathlib import Path

import numpy as np

from traj import stores

SHAPE = (1, 8, 8)
TIMESTEPS = np.arange(6)[::-1] * 10


def preserving(alpha_bar):
    """Signal and noise of a process that preserves variance, as `stores.create` takes them."""
    return {"signal": np.sqrt(alpha_bar), "noise_scale": np.sqrt(1 - np.asarray(alpha_bar))}


def states(block, step, size=4, shape=SHAPE):
    """The states of one step: a pure function of the samples' absolute numbers."""
    ids = range(block * size, (block + 1) * size)
    x_t = np.stack([np.random.default_rng([k, step]).standard_normal(shape) for k in ids]).astype("f4")
    return x_t, np.tanh(x_t)


def create(
    path,
    samples=16,
    *,
    block=4,
    shape=SHAPE,
    timesteps=TIMESTEPS,
    alpha_bar=None,
    levels=None,
    seed=0,
    config=None,
    **options,
):
    alpha_bar = np.linspace(0.01, 0.99, len(timesteps)) if alpha_bar is None else alpha_bar
    return stores.create(
        path,
        timestep=timesteps,
        **(levels or preserving(alpha_bar)),
        shape=shape,
        samples=samples,
        block=block,
        config={"model": "made up", "seed": seed, **(config or {})},
        **options,
    )


def fill(store, blocks=None):
    for block in list(store.pending) if blocks is None else blocks:
        for step in range(store.layout.timesteps):
            store.put(block, step, *states(block, step, store.layout.block, store.layout.shape))
        store.finish(block, states(block, 99, store.layout.block, store.layout.shape)[1])


def make(path, samples=16, **options):
    with create(path, samples, **options) as store:
        fill(store)
    return Path(path)


def digest(path):
    """Every file of a store and the hash of its bytes."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file()
    }


def dataset(path, x_0, *, label=None, valid_range=(-1.0, 1.0), block=None, config=None):
    """A dataset of one block, or more: x_0 (sample, *event)."""
    x_0 = np.asarray(x_0, "f4")
    block = block or len(x_0)
    described = {"shape": x_0.shape[1:], "samples": len(x_0), "block": block, "config": config or {}}
    with stores.create_dataset(path, label=label, valid_range=valid_range, **described) as store:
        for number in store.pending:
            store.write(number, {"x_0": x_0[number * block : (number + 1) * block]})
    return Path(path)
