"""The shortcut of 002 against the run it shortens: time, multiply-adds, and what the images lose."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from benchmarks.generation import SCHEDULER
from benchmarks.timing import Row, Target, interleave, per_round, seconds_text
from traj import stores
from traj.analysis.ssim import ssim
from traj.pipeline.making import generate
from traj.pipeline.making.shortcut import shortcut
from traj.pipeline.models import surgery
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.process import plans, sampler
from traj.pipeline.process.device import inference
from traj.pipeline.process.plan import Plan
from traj.pipeline.process.schedule import Schedule

TITLE = "Shortcut inference (002 Figs 11 to 13) against all 100 steps; below 1 is less"

# as deep as GLIDE's, 16 + middle + 16 blocks, and as unequal, a sixth as wide
GLIDE_SMALL: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [32, 64, 96, 128],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 3,
    "norm_num_groups": 8,
    "attention_head_dim": 32,
}
TINY = {"sample_size": 8, "block_out_channels": [8, 16, 24, 32], "attention_head_dim": 8}
TRAINED = Path("models/digits")


def rows(tiny: bool) -> list[Row]:
    """Measure a network of GLIDE's proportions, and the trained digits network where there is one."""
    torch.manual_seed(0)
    schedule = Schedule.from_config(SCHEDULER)
    network = UNetDenoiser(
        UNet2DModel(**GLIDE_SMALL | (TINY if tiny else {})), schedule, identity={"name": "random weights"}
    )
    measured = _costs(
        "GLIDE's shape, a sixth as wide, 3x32x32", network, images=1 if tiny else 8, rounds=1 if tiny else 3
    )
    if not TRAINED.is_dir():
        return [*measured, Row("SSIM of the results, digits", "not trained here", "all 100 steps", "-", [])]
    return [*measured, *_costs("digits network", _digits(), images=32, rounds=1 if tiny else 5), _likeness()]


def _digits() -> Any:
    return generate.prepare(model=str(TRAINED), sampler_name="ddim", steps=100, eta=1.0, device="cpu").denoiser


def _costs(name: str, denoiser: Any, images: int, rounds: int) -> list[Row]:
    """Compare multiply-adds, which the network alone decides, and time on this machine."""
    whole = plans.ddim(denoiser.schedule, 100, 1.0)
    short = shortcut(whole, denoiser.network)
    adds = [_multiply_adds(denoiser, p) for p in (short, whole)]
    arms = {"short": lambda _: _run(denoiser, short, images), "whole": lambda _: _run(denoiser, whole, images)}
    seconds: Mapping[str, list[float]] = interleave(arms, rounds)
    return [
        Row(
            f"multiply-adds, {name}",
            f"{len(short.steps)} steps, {adds[0] / 1e9:.3g} G",
            "all 100 steps",
            f"{adds[1] / 1e9:.3g} G",
            [adds[0] / adds[1]],
        ),
        Row(
            f"time, {name}, {images} images",
            seconds_text(seconds["short"]),
            "all 100 steps",
            seconds_text(seconds["whole"]),
            per_round(seconds["short"], seconds["whole"]),
            Target("at most", 1.0),
        ),
    ]


def _multiply_adds(denoiser: Any, steps: Plan) -> int:
    """Count those of one image, from first to last step."""
    counted = surgery.count(denoiser.network)
    return sum(counted.under(step.cut) for step in steps.steps)


def _run(denoiser: Any, steps: Plan, images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (images, *denoiser.shape)
    with inference():
        sampler.reverse(
            denoiser,
            [steps],
            torch.full((images,), -1).repeat,
            start=lambda _: torch.randn(shape, generator=generator),
            noise=lambda *_: torch.randn(shape, generator=generator),
            keep=lambda *_: None,
        )


def _likeness() -> Row:
    """Compare what both make of the same noise."""
    options = {
        "model": str(TRAINED),
        "sampler_name": "ddim",
        "steps": 100,
        "eta": 1.0,
        "labels": "cycle",
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as folder:
        places = [Path(folder) / name for name in ("short.zarr", "whole.zarr")]
        for path, choice in zip(places, ("shortcut", "baseline"), strict=True):
            made = generate.prepare(samples=64, block=64, plan_name=choice, **options)
            with made.open(path) as store:
                made.run(store, bar=False)
        alike = (
            ssim(stores.open(places[0]), preset="window:5", against=stores.open(places[1]))["ssim"].to_numpy().ravel()
        )
    text = f"{np.mean(alike):.3f}, sd {np.std(alike):.3f}"
    return Row(
        "SSIM of the results, digits, 64 samples", text, "all 100 steps (the source: .795)", "1", [np.mean(alike)]
    )
