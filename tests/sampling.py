"""One run of the sampling loop: a small network, noise that depends on the timestep alone, and what comes of it."""

import math

import numpy as np
import torch

from tests.networks import random_unet
from traj.pipeline.models import analytic
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.process.plans import ddim, ddpm, iddpm
from traj.pipeline.process.sampler import reverse
from traj.pipeline.process.schedule import Schedule

LINEAR = Schedule.from_config({"clip_sample": False})
LEARNED = Schedule.from_config({"variance_type": "learned_range", "clip_sample": False})
NO_LABEL = torch.full((4,), -1)
PLANS = [ddpm(LINEAR, 12), ddim(LINEAR, 12), ddim(LINEAR, 12, eta=1.0, clip=1.0), iddpm(LEARNED, 12)]


def network(schedule):
    unet = random_unet(out_channels=2 if schedule.learned_range else 1)
    return UNetDenoiser(unet, schedule, identity={"name": "random"})


def betas(schedule):
    """Variance that each timestep adds to the one before it."""
    alpha_bar = schedule.alpha_bar
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


def noise_for(shape, dtype=torch.float32, seed=1):
    """Noise addressed by timestep, as a function of the step."""

    def noise(step):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 10_000 + step.timestep)).to(dtype)

    return noise


def start(shape=(4, 1, 8, 8), dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def run(denoiser, plan, x_t, noise=None, label=NO_LABEL):
    """Return the states given to the network, the predictions made, the log variances and x_0."""
    kept = []
    noise = noise or noise_for(x_t.shape, x_t.dtype)
    (x_0,) = reverse(
        denoiser,
        [plan],
        label.repeat,
        start=lambda _: x_t,
        noise=lambda _, step: noise(step),
        keep=lambda _, k, *arrays: kept.append((k, *arrays)),
    )
    steps, states, predictions, log_variances = zip(*kept, strict=True)
    assert steps == tuple(range(len(plan.steps)))
    return states, predictions, log_variances, x_0


def bits(trajectory):
    states, predictions, log_variances, x_0 = trajectory
    return [x.numpy().tobytes() for x in [*states, *predictions, *log_variances, x_0] if x is not None]


def asked(plan, schedule=LINEAR):
    """Return the timesteps whose noise the loop asks for."""
    timesteps = []

    def noise(step):
        timesteps.append(step.timestep)
        return torch.zeros(4, 1, 1, 1)

    denoiser = analytic.GaussianDenoiser(0.0, 1.0)
    denoiser.schedule = schedule
    run(denoiser, plan, start((4, 1, 1, 1)), noise=noise)
    return timesteps


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def gain(abar_t, abar_s, variance):
    """The factor of a deterministic step on Gaussian data."""
    v = abar_t * variance + 1 - abar_t
    return math.sqrt(abar_s * abar_t) * variance / v + math.sqrt((1 - abar_s) * (1 - abar_t)) / v
