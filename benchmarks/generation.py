"""Generating with and without keeping every state."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from benchmarks.timing import Row, Target, interleave, per_round, seconds_text
from traj.pipeline.making.generate import Generation
from traj.pipeline.models.digits import RECIPES
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.process import plans, sampler
from traj.pipeline.process.device import inference
from traj.pipeline.process.noise import NoiseAhead, NoiseSource, Purpose
from traj.pipeline.process.plan import Step
from traj.pipeline.process.schedule import Schedule

TITLE = "Generation: storing every x_t and pred_x0 against storing nothing"

SCHEDULER = RECIPES["digits"].scheduler

SMALL_RGB: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}

# google/ddpm-cifar10-32
CIFAR10: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


def rows(tiny: bool) -> list[Row]:
    """Measure on the CPU, and at CIFAR size on a GPU where there is one."""
    digits = {**RECIPES["digits"].network, "num_class_embeds": None}
    if tiny:
        return [_row("digits", digits, "cpu", blocks=2, block=4, steps=5, rounds=2), _no_gpu()]
    measured = [
        _row("digits network, 8x8", digits, "cpu", blocks=2, block=64, steps=200, rounds=5),
        _row("small network, 3x32x32", SMALL_RGB, "cpu", blocks=2, block=16, steps=60, rounds=3),
    ]
    return [*measured, *(on_gpu() if torch.cuda.is_available() else [_no_gpu()])]


def on_gpu() -> list[Row]:
    """Measure at CIFAR size on a GPU."""
    name, card = "ddpm-cifar10-32 network", torch.cuda.get_device_name()
    return [
        _row(
            f"{name}, bf16, {card}",
            CIFAR10,
            "cuda",
            blocks=2,
            block=512,
            steps=100,
            rounds=3,
            autocast=True,
            target=1.02,
        ),
        _row(f"{name}, float32, {card}", CIFAR10, "cuda", blocks=2, block=256, steps=30, rounds=3, target=1.02),
    ]


def _no_gpu() -> Row:
    return Row("ddpm-cifar10-32 network, bf16, on a GPU", "no GPU here", "without storing", "-", [])


def _row(
    name: str,
    network: Mapping[str, Any],
    device: str,
    *,
    blocks: int,
    block: int,
    steps: int,
    rounds: int,
    autocast: bool = False,
    target: float = 1.05,
) -> Row:
    generation = _generation(network, device, blocks * block, block, steps, autocast)
    warm = _generation(network, device, block, block, min(steps, 3), autocast)
    arms = {
        "storing": lambda folder: with_storing(generation, folder / "run.zarr"),
        "without": lambda folder: without_storing(generation),
    }
    interleave({"storing": lambda folder: with_storing(warm, folder / "run.zarr")}, 1)
    seconds = interleave(arms, rounds)
    return Row(
        f"{name}, {blocks} blocks of {block}, {steps} steps",
        seconds_text(seconds["storing"]),
        "without storing",
        seconds_text(seconds["without"]),
        per_round(seconds["storing"], seconds["without"]),
        Target("at most", target),
    )


def _generation(
    network: Mapping[str, Any], device: str, samples: int, block: int, steps: int, autocast: bool
) -> Generation:
    torch.manual_seed(0)
    schedule = Schedule.from_config(SCHEDULER)
    model = UNet2DModel(**network).to(device)
    denoiser = UNetDenoiser(model, schedule, identity={"name": "random weights"}, autocast=autocast)
    return Generation(
        denoiser=denoiser,
        conditions=denoiser.conditions({"labels": "none"}),
        plan=plans.ddpm(schedule, steps),
        device=torch.device(device),
        samples=samples,
        block=block,
        seed=0,
        every=1,
        dtype="float32",
        round_bits=None,
        autocast=autocast,
    )


def with_storing(generation: Generation, path: Path) -> None:
    """Generate into a new store, from creating it until its last byte is on disk."""
    with generation.open(path) as store:
        generation.run(store, bar=False)


def without_storing(generation: Generation) -> None:
    """Generate the same samples from the same noise by the same loop, and keep nothing."""
    denoiser, schedule, device = generation.denoiser, generation.denoiser.schedule, generation.device
    timesteps = enumerate(generation.plan.timesteps)
    noisy = [(timestep, 0) for k, timestep in timesteps if sampler.adds_noise(schedule, generation.plan, k)]
    source = NoiseSource(generation.seed, denoiser.shape)
    with ThreadPoolExecutor(1) as pool, inference():
        for block in range(generation.layout.blocks):
            ids = range(block * generation.block, (block + 1) * generation.block)
            x_T = torch.from_numpy(source(Purpose.START, ids, 0)).to(device)
            ahead = NoiseAhead(source, ids, noisy, pool)

            def condition(times: int, ids: range = ids) -> Any:
                return generation.conditions.of([*ids] * times, device)

            def noise(_: int, step: Step, ahead: NoiseAhead = ahead) -> torch.Tensor:
                return torch.from_numpy(ahead(step.timestep)).to(device, non_blocking=True)

            (x_0,) = sampler.reverse(
                denoiser, [generation.plan], condition, start=lambda _, x_T=x_T: x_T, noise=noise, keep=lambda *_: None
            )
            x_0.cpu()
