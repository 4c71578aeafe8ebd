"""Blocks, skips and multiply-adds are counted as METHODS 3.2 and 3.5 do, and as a count by hand does."""

from functools import cache

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import HealthCheck, assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.networks import built, conditional, digits, glide, some_cut, unconditional
from traj.pipeline.models.surgery import CLIP_TOKENS, count, forward, scaled_unet_blocks
from traj.pipeline.process.cut import Cut
from traj.stores import InputError

GLIDE_MULTIPLY_ADDS = 109_678_018_560

RANDOM = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@cache
def count_of_glides():
    return count(glide())


# --- counting ---------------------------------------------------------------------------------------------------


def test_the_network_of_glide_has_16_blocks_a_middle_and_16_blocks():
    found = count_of_glides().unet_blocks
    assert [block.part for block in found] == ["input"] * 16 + ["middle"] + ["output"] * 16
    assert [block.number for block in found] == [*range(1, 17), 1, *range(1, 17)]
    outputs = found[17:]
    assert [block.skip for block in found] == [*range(1, 17), None, *range(16, 0, -1)]
    # METHODS counts output blocks from 0: j takes skip hs[15 - j], and 3, 7, 11 upsample
    assert [j for j, block in enumerate(outputs) if "upsampler" in block.name] == [3, 7, 11]
    shapes = {2: (768, 8), 4: (768, 16), 6: (576, 16), 8: (576, 32), 10: (384, 32), 12: (384, 64)}
    assert {nb: outputs[nb - 1].shape[:2] for nb in shapes} == shapes
    below = [found[16], *outputs]
    for block, under in zip(outputs, below, strict=False):
        assert block.channels_in == under.shape[0] + found[block.skip - 1].shape[0]
        assert found[block.skip - 1].shape[1:] == under.shape[1:]


def test_the_digits_network_has_4_blocks_a_middle_and_4_blocks():
    found = count(digits()).unet_blocks
    assert [(block.part, block.number, block.skip) for block in found] == [
        *(("input", n, n) for n in (1, 2, 3, 4)),
        ("middle", 1, None),
        *(("output", n, 5 - n) for n in (1, 2, 3, 4)),
    ]
    assert [block.shape for block in found[:4]] == [(32, 8, 8), (32, 8, 8), (32, 4, 4), (64, 4, 4)]
    assert [block.shape for block in found[5:]] == [(64, 4, 4), (64, 8, 8), (32, 8, 8), (32, 8, 8)]


def test_the_blocks_of_the_source_are_scaled_to_the_network():
    assert [scaled_unet_blocks(nb, glide()) for nb in range(17)] == list(range(17))
    assert [scaled_unet_blocks(nb, digits()) for nb in (0, 1, 2, 4, 6, 8, 10, 12, 16)] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


# --- multiply-adds ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nb", "percent", "with_text"),
    [(2, 5.20, 5.6), (4, 10.94, None), (6, 19.99, 20.7), (8, 32.77, 33.5), (10, 51.55, None), (12, 75.16, 75.8)],
)
def test_cuts_of_glides_network_save_exact_shares(nb, percent, with_text):
    found = 100 * (1 - count_of_glides().under(Cut(unet_blocks=nb)) / GLIDE_MULTIPLY_ADDS)
    assert found == pytest.approx(percent, abs=0.005)
    # METHODS 3.5 counts attention to the text, too, which lies mostly in the lowest blocks
    assert with_text is None or 0 < with_text - found < 1


def test_glides_network_costs_109_678_018_560_multiply_adds():
    # METHODS 3.5 has 112.4e9, with the attention to the text
    assert count_of_glides().whole == GLIDE_MULTIPLY_ADDS


def test_the_middle_attention_of_glides_network_is_normalised():
    attention = glide().mid_block.attentions[0]
    assert attention.group_norm.num_groups == 32


def counted_by_hand(network, cut, *arguments, **text):
    """Multiply-adds of every layer that runs, from its formula, for a batch of one."""
    total = 0

    def convolution(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    def linear(layer, _, output):
        nonlocal total
        total += output.numel() * layer.in_features

    def attention(layer, arguments, named, _):
        nonlocal total
        states, seen = arguments[0], named.get("encoder_hidden_states")
        queries = states.shape[2:].numel() if states.ndim == 4 else states.shape[1]
        keys = queries if seen is None else seen.shape[1]
        if layer.added_kv_proj_dim and not layer.only_cross_attention:
            keys += queries
        total += 2 * queries * keys * layer.inner_dim

    for layer in network.modules():
        match layer:
            case torch.nn.Conv2d():
                layer.register_forward_hook(convolution)
            case torch.nn.Linear():
                layer.register_forward_hook(linear)
            case Attention():
                layer.register_forward_hook(attention, with_kwargs=True)
    forward(network, cut, *arguments, **text)
    return total


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (Cut(unet_blocks=5), "a cut of 5 output blocks, but the network has 4; expected 0 to 4"),
        (Cut(skips=5), "a cut of 5 skip connections, but the network has 4; expected 0 to 4"),
    ],
)
def test_a_cut_larger_than_the_network_saves_nothing_that_could_be_told(cut, says):
    with pytest.raises(InputError, match=says):
        count(digits()).under(cut)


@pytest.mark.slow
@RANDOM
@drawn(st.data())
def test_multiply_adds_are_those_of_the_layers(data):
    kind, config, _, time = data.draw(st.one_of(unconditional(), conditional()))
    assume("class_embed_type" not in config)
    network, states, given = built((kind, config, (8, 8), time), batch=1, tokens=CLIP_TOKENS)
    cut = some_cut(data, network)
    assert count(network).under(cut) == counted_by_hand(network, cut, *states, **given)
