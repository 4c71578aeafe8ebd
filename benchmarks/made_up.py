"""Trajectories made up from smooth images and fading noise: cheap to make, to codecs and histograms like real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traj import stores

KNOTS = 5
NOISES = 16

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


class Trajectories:
    """One block of reverse processes along a DDPM's schedule, `timesteps` states from noise to image."""

    def __init__(self, block: int, shape: tuple[int, int, int], timesteps: int, seed: int = 0) -> None:
        self.block, self.shape = block, shape
        random = np.random.default_rng(seed)
        self.timestep = np.linspace(999, 0, timesteps).round().astype(int)
        self.alpha_bar = ALPHA_BAR[self.timestep]
        low = random.standard_normal((block, shape[0], KNOTS, KNOTS)).astype(np.float32)
        self.x_0 = np.clip(_bumps(shape[1]) @ low @ _bumps(shape[2]).T, -1, 1)
        self._noises = random.standard_normal((NOISES, block, *shape), np.float32)

    def state(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Make x_t and pred_x0 of one step: float32 (sample, channel, y, x)."""
        abar = np.float32(self.alpha_bar[step])
        noise, error = self._noises[step % NOISES], self._noises[(step * 7 + 3) % NOISES]
        x_t = np.sqrt(abar) * self.x_0 + np.sqrt(1 - abar) * noise
        return x_t, abar * self.x_0 + np.float32(0.1) * np.sqrt(1 - abar) * error


def _bumps(size: int) -> np.ndarray:
    """Interpolate a few knots smoothly: (size, knot)."""
    distance = np.linspace(0, KNOTS - 1, size)[:, None] - np.arange(KNOTS)
    return np.exp(-(distance**2)).astype(np.float32)


def create(path: Path, like: Trajectories, blocks: int) -> stores.TrajectoryWriter:
    """Open a store for some blocks of such trajectories."""
    return stores.create(
        path,
        timestep=like.timestep,
        signal=np.sqrt(like.alpha_bar),
        noise_scale=np.sqrt(1 - like.alpha_bar),
        shape=like.shape,
        samples=blocks * like.block,
        block=like.block,
        config={"model": "made up"},
    )


def make_store(path: Path, *, block: int, blocks: int, shape: tuple[int, int, int], timesteps: int) -> Path:
    """Write a whole store of made-up trajectories."""
    with create(path, Trajectories(block, shape, timesteps), blocks) as store:
        for number in range(blocks):
            trajectories = Trajectories(block, shape, timesteps, seed=number)
            for step in range(timesteps):
                store.put(number, step, *trajectories.state(step))
            store.finish(number, trajectories.x_0)
    return path
