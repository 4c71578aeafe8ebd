"""Small random classifiers of guided-diffusion, and noise levels like those they were trained at."""

import json
import math

import numpy as np
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from traj.pipeline.cli import main
from traj.pipeline.models.openai import encoder
from traj.pipeline.process import tables

SHAPE = (3, 8, 8)
NETWORK = {
    "sample_size": 8,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "num_head_channels": 16,
    "num_classes": 5,
}
TIMESTEPS = np.array([999, 500, 40, 0])
LINEAR = tables.named("linear")
POOLS = ("attention", "adaptive", "spatial", "spatial_v2")


def levels(schedule=LINEAR, timesteps=TIMESTEPS):
    return {"signal": schedule.signal[timesteps], "noise_scale": schedule.noise_scale[timesteps]}


def randomized(network, seed=0):
    """A state dict with random numbers in every tensor, which keep what is normed near 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) / math.sqrt(math.prod(tensor.shape[1:]))
        for name, tensor in network.state_dict().items()
    }


def write(folder, state, **config):
    folder.mkdir(exist_ok=True)
    described = {"model_type": "openai-classifier", **config, "diffusion_steps": 1000, "noise_schedule": "linear"}
    (folder / "config.json").write_text(json.dumps(described))
    save_file(state, folder / "model.safetensors")
    return folder


def small(folder):
    """Write the folder of a small classifier."""
    return write(folder, randomized(encoder.OpenAIEncoder(**NETWORK)), **NETWORK)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())
