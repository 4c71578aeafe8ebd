"""A network of OpenAI's becomes a UNet2DModel exactly where that computes the same."""

import pytest
import torch
from diffusers import UNet2DModel

from traj.pipeline.models.openai.to_diffusers import config, tensors
from traj.pipeline.models.openai.unet import OpenAIUNet

TINY = {
    "sample_size": 8,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "num_heads": 2,
    "out_channels": 6,
}


def test_the_network_computes_the_same():
    torch.manual_seed(0)
    network = OpenAIUNet(**TINY).eval()
    same = UNet2DModel(**config(TINY)).eval()
    same.load_state_dict(tensors(network.state_dict(), TINY))
    x_t, times = torch.randn(2, 3, 8, 8), torch.tensor([3.25, 700])
    with torch.inference_mode():
        torch.testing.assert_close(same(x_t, times).sample, network(x_t, times).sample)


@pytest.mark.parametrize("change", [{"num_heads_upsample": 4}, {"attention_resolutions": (8, 4)}, {"text_width": 8}])
def test_there_is_none_for_what_diffusers_lacks(change):
    assert config({**TINY, **change}) is None
