"""Converting checkpoints of OpenAI's programs, on small random networks."""

import json

import pytest
import torch

from traj.pipeline.models.openai import convert, flags
from traj.pipeline.models.openai.unet import OpenAIUNet

FLAGS = (
    "--image_size 32 --num_channels 32 --num_res_blocks 1 --learn_sigma True --dropout 0.3 --diffusion_steps 4000 "
    "--noise_schedule cosine"
)


def random_state(**config):
    """A state dict with random numbers in every tensor."""
    torch.manual_seed(0)
    network = OpenAIUNet(**config)
    return {name: torch.randn_like(tensor) / 20 for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of improved-diffusion."""
    path = tmp_path_factory.mktemp("openai") / "model.pt"
    torch.save(random_state(**flags.read(FLAGS, ["output_blocks.0"]).unet()), path)
    return path


def test_a_checkpoint_becomes_a_folder(checkpoint, tmp_path):
    convert.convert(checkpoint, tmp_path / "out", FLAGS)
    assert json.loads((tmp_path / "out/traj.json").read_text()) == {"time_scale": 0.25, "spacing": "openai"}
