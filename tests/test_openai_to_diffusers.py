"""A network of OpenAI's becomes a UNet2DModel exactly where that computes the same."""

from itertools import product

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


# --- every combination of flags -------------------------------------------------------------------------------

GRID = {
    "channel_mult": [(1, 1), (1, 2), (0.5, 1)],
    "attention_resolutions": [(), (4,), (8,)],
    "num_head_channels": [None, 16],
    "num_heads_upsample": [None, 4],
    "use_scale_shift_norm": [True, False],
    "resblock_updown": [True, False],
    "use_new_attention_order": [True, False],
    "num_classes": [None, 5],
    "text_width": [None, 12],
}
"""The flags that decide whether there is a network, or how its tensors are named or sorted."""


def lacking(given):
    """What diffusers lacks for a network of these flags, by the flags alone; "" where there is nothing."""
    widths = [int(mult * given["model_channels"]) for mult in given["channel_mult"]]
    attended = [width for width, side in zip(widths, (8, 4), strict=True) if side in given["attention_resolutions"]]
    down, up = given["num_heads"], given["num_heads_upsample"] or given["num_heads"]
    heads = {width // down for width in (*attended, widths[-1])} | {width // up for width in attended}
    if given["text_width"]:
        return "a text beside the state"
    if widths[0] != given["model_channels"]:
        return "an embedding of time of another width than the first level's"
    return "heads of several widths" if not given["num_head_channels"] and len(heads) > 1 else ""


@torch.inference_mode()
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_the_flags_there_is_one_that_computes_the_same_or_a_reason_why_not(every):
    """Of every 13th combination, those with a network hold each pair of values of two flags that any of them can."""
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([999, 3.25])
    reasons = set()
    for values in [*product(*GRID.values())][::every]:
        changes = dict(zip(GRID, values, strict=True))
        given, found = {**TINY, **changes}, config({**TINY, **changes})
        reasons.add(lacking(given))
        assert (found is None) == bool(lacking(given)), changes
        if found is not None:
            ours, theirs = meta(OpenAIUNet, **given).eval(), meta(UNet2DModel, **found).eval()
            shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
            state = oracle.random_tensors(shapes, torch.float64)
            ours.load_state_dict(state, assign=True)
            theirs.load_state_dict(tensors(state, given), assign=True)
            told = {"class_labels": torch.tensor([1, 4])} if given["num_classes"] else {}
            assert difference(theirs(*states, **told).sample, ours(*states, **told).sample) < FLOAT64, changes
    assert len(reasons) == 4  # "" and each of three
