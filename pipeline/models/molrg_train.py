"""Train the bases U of a MoLRG denoiser on samples of the mixture (004; METHODS 5.2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from traj.analysis._molrg.model import Molrg
from traj.pipeline.estimate import size
from traj.pipeline.folder import write_json
from traj.pipeline.models import molrg, train
from traj.pipeline.process import tables
from traj.pipeline.process.device import choose_device, within_memory
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError, memory_free

# Raise when a change of this module changes the trained weights.
NUMERICS = 1
SAMPLES, STEPS, BATCH = 12_000, 6_000, 128
LEARNING_RATE = 0.1
"""Adam's, and 200 times that of 004. With less, training ends in local minima: bases that mix directions of classes."""
TESTED = 9_000


def train_bases(
    name: str,
    out: str | os.PathLike[str],
    *,
    samples: int = SAMPLES,
    steps: int | None = None,
    batch: int = BATCH,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> bool:
    """Train the bases of a mixture, ``molrg`` or ``molrg:KEY=VALUE,...``, and save them in a folder.

    They begin as random orthonormal columns, and learn from the first ``samples`` that are drawn with the ``seed``, as
    `traj dataset` draws them; ``steps`` is STEPS unless given. The folder holds config.json and model.safetensors, and
    what ``train.train`` writes beside them. metrics.json has the loss on 9,000 samples of another seed, and that of the
    exact denoiser on the same. Returns False when the folder already holds a model of these very settings.

    Raises
    ------
    InputError
        When the name or a number is not valid, subspaces are not orthogonal, or the folder exists and holds something
        else.
    """
    mixture = molrg.parse(name.partition(":")[2])
    if not mixture.orthogonal:
        raise InputError(
            f"theta {mixture.theta:g}; a network of this form knows orthogonal subspaces only: expected theta 90, or "
            f"the exact denoiser, --model {molrg.name_of(mixture)}"
        )
    steps = STEPS if steps is None else steps
    for key, value, least in (("samples", samples, 1), ("steps", steps, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{key} is {value}; expected at least {least}")
    needed, there = (
        16 * samples * (mixture.features + sum(mixture.dims)),
        memory_free(),
    )  # noise and x_0, both also in float64
    if needed > there:
        raise InputError(
            f"samples is {samples:,}, which take {size(needed)} to draw; this machine has {size(there)} free: ask for "
            "fewer"
        )
    schedule = tables.named("ve")
    settings = {
        "numerics": NUMERICS,
        "model": molrg.KIND,
        **mixture.identity,
        "schedule": schedule.identity,
        "samples": samples,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "learning_rate": LEARNING_RATE,
        "warm_up": train.WARM_UP,
        "gradient_norm": train.GRADIENT_NORM,
        "ema_decay": train.EMA_DECAY,
    }
    where = choose_device(device)

    def write(folder: Path) -> None:
        network, curve = fit(
            mixture, schedule, samples=samples, steps=steps, batch=batch, seed=seed, device=where, progress=progress
        )
        save_file(network.state_dict(), folder / "model.safetensors")
        write_json(folder / "config.json", {"model_type": molrg.KIND, **mixture.identity})
        train.record(folder, settings, network, curve, held_out_metrics(network, mixture, schedule, seed + 1))

    return train.keep(out, settings, write)


@within_memory()
def fit(
    mixture: Molrg,
    schedule: Schedule,
    *,
    samples: int,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device = train.CPU,
    progress: bool = False,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Train a network on drawn samples; returns it, ``in_order``, and the curve of its loss, as ``train.fit`` does."""
    network = molrg.MolrgNetwork(mixture, schedule).float()
    generator = torch.Generator().manual_seed(seed)
    nn.init.orthogonal_(network.hidden.U, generator=generator)
    x_0 = torch.from_numpy(molrg.draw(mixture, seed, range(samples))[0])
    _, curve = train.learn(
        network,
        Objective(mixture, schedule, device),
        batches(x_0, batch, schedule.T, generator),
        steps=steps,
        learning_rate=LEARNING_RATE,
        device=device,
        progress=progress,
    )
    network.hidden.U.data = in_order(network.hidden.U.data, mixture)
    return network, curve


def in_order(U: Tensor, mixture: Molrg) -> Tensor:
    """Put learnt bases where the classes are that they are nearest to, among classes of equal dims and weights.

    The denoiser stays the same: which of such bases is which class is nothing that can be learnt from x_0.
    """
    of = [np.flatnonzero(mixture.class_of == k) for k in range(len(mixture.dims))]
    overlap = (mixture.U.T @ U.double().numpy()) ** 2
    alike = list(zip(mixture.dims, mixture.weights, strict=True))
    near = [
        [overlap[np.ix_(of[k], of[j])].sum() if one == other else -len(overlap) for j, other in enumerate(alike)]
        for k, one in enumerate(alike)
    ]
    _, places = linear_sum_assignment(near, maximize=True)
    return U[:, np.concatenate([of[j] for j in places])]


class Objective:
    """The loss of one step: E |x_hat - x_0|^2 / (sigma^2 + delta^2) over samples and timesteps.

    The weight keeps the loss alike over noise levels: U is told apart from its complement where there is little noise,
    and one class from the others where there is some.
    """

    def __init__(self, mixture: Molrg, schedule: Schedule, device: torch.device = train.CPU) -> None:
        self.sigma = torch.from_numpy(schedule.sigma.astype(np.float32)).to(device)
        self.delta = mixture.delta

    def __call__(self, network: nn.Module, x_0: Tensor, timestep: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Compute the loss of x_0 and eps (sample, feature) at timesteps (sample,)."""
        sigma = self.sigma[timestep]
        x_hat = network(x_0 + sigma[:, None] * eps, timestep)
        return {"loss": ((x_hat - x_0).square().sum(1) / (sigma**2 + self.delta**2)).mean()}


def batches(x_0: Tensor, batch: int, T: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Draw batches without end: x_0, each once before any comes again; timesteps, uniform; and eps."""
    for chosen in train.epochs(len(x_0), batch, generator):
        timestep = torch.randint(T, (batch,), generator=generator)
        yield x_0[chosen], timestep, torch.randn(batch, x_0.shape[1], generator=generator)


@torch.no_grad()
def held_out_metrics(network: nn.Module, mixture: Molrg, schedule: Schedule, seed: int) -> dict[str, float]:
    """Compare the loss on samples of a seed with that of the exact denoiser, on the same noise."""
    x_0 = torch.from_numpy(molrg.draw(mixture, seed, range(TESTED))[0])
    drawn = next(batches(x_0, TESTED, schedule.T, torch.Generator().manual_seed(seed)))
    objective, exact = Objective(mixture, schedule), molrg.MolrgNetwork(mixture, schedule).float()
    return {name: objective(net, *drawn)["loss"].item() for name, net in (("loss", network), ("exact_loss", exact))}
