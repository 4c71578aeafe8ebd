"""A network of OpenAI's becomes a UNet2DModel exactly where that computes the same."""

import pytest
import torch
from diffusers import UNet2DModel

from tests import openai_networks as oracle
from tests.networks import meta
from tests.test_openai_networks import CHANGES, FLOAT64, TINY, case, difference
from traj.pipeline.models.openai.to_diffusers import config, tensors
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.models.surgery import count

NONE = {"other heads on the way up", "half the channels first", "an odd width", "text", "three levels"}
SAME = sorted(set(CHANGES) - NONE)


@pytest.mark.parametrize("name", SAME)
def test_the_network_computes_what_the_papers_say(name):
    given, state, states, told, _ = case(name)
    network = meta(UNet2DModel, **config(given)).eval()
    network.load_state_dict(tensors(state, given), assign=True)  # strict: no name is missing, none is left over
    with torch.inference_mode():
        found = network(*states, class_labels=told.get("labels")).sample
    assert difference(found, oracle.unet(state, given, *states, **told)) < FLOAT64


@pytest.mark.parametrize("name", SAME)
def test_it_costs_the_same_and_is_cut_at_the_same_blocks(name):
    given = {**TINY, **CHANGES[name]}
    there, here = count(meta(OpenAIUNet, **given)), count(meta(UNet2DModel, **config(given)))
    assert there.whole == here.whole
    assert [block.multiply_adds for block in there.unet_blocks] == [block.multiply_adds for block in here.unet_blocks]


@pytest.mark.parametrize("name", sorted(NONE))
def test_there_is_none_for_what_diffusers_lacks(name):
    assert config({**TINY, **CHANGES[name]}) is None
