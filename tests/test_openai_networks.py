"""The U-Nets of OpenAI compute what their papers say, have the tensors of their checkpoints, and can be cut."""

import math
from functools import cache

import pytest
import torch

from tests import openai_networks as oracle
from tests.networks import meta
from traj.pipeline.models.openai.layers import time_embedding
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.models.surgery import count, forward
from traj.pipeline.process.cut import Cut

TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 6,  # eps and v
    "model_channels": 64,  # two in each group of a norm: one alone would hide what is added before it
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "num_heads": 2,
    "num_head_channels": None,
    "num_heads_upsample": None,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "num_classes": None,
    "text_width": None,
}
CHANGES = {
    "as improved-diffusion": {},
    "added time": {"use_scale_shift_norm": False},
    "fixed variance": {"out_channels": 3},
    "residual blocks that resize": {"resblock_updown": True},
    "heads by width": {"num_head_channels": 16, "attention_resolutions": (8, 4)},
    "new order of heads": {"use_new_attention_order": True},
    "other heads on the way up": {"num_heads_upsample": 4},
    "labels": {"num_classes": 5},
    "half the channels first": {"model_channels": 128, "channel_mult": (0.5, 1)},
    "an odd width": {"model_channels": 129, "channel_mult": (0.5, 0.5)},
    "three levels": {"channel_mult": (1, 1, 2), "num_res_blocks": 2, "attention_resolutions": (8, 2)},
    "no attention but in the middle": {"attention_resolutions": ()},
    "text": {"text_width": 12, "resblock_updown": True, "num_head_channels": 16},
}
FLOAT64 = 1e-12


@cache
def case(name, dtype=torch.float64):
    """The config, state dict, and arguments of a case, and the network that holds the state dict."""
    config = {**TINY, **CHANGES[name]}
    network = meta(OpenAIUNet, **config).eval().requires_grad_(False)
    state = oracle.random_tensors({name: tensor.shape for name, tensor in network.state_dict().items()}, dtype)
    network.load_state_dict(state, assign=True)
    generator = torch.Generator().manual_seed(1)
    x_t, tokens, text_embeds = (
        torch.randn(2, *shape, generator=generator, dtype=dtype)
        for shape in ((3, 8, 8), (7, 12), (4 * config["model_channels"],))
    )
    told = {}
    if config["num_classes"]:
        told = {"labels": torch.tensor([1, 4])}
    if config["text_width"]:
        told = {"tokens": tokens, "text_embeds": text_embeds}
    return config, state, (x_t, torch.tensor([999, 3.25])), told, network


def keywords(told):
    names = {"labels": "class_labels", "tokens": "encoder_hidden_states", "text_embeds": "text_embeds"}
    return {names[name]: value for name, value in told.items()}


def answer(network, states, told):
    return network(*states, **keywords(told)).sample


def difference(found, expected):
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    return float((found - expected).abs().max() / expected.abs().max())


# --- outputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, FLOAT64)])
def test_a_network_computes_what_the_papers_say(name, dtype, tolerance):
    config, state, states, told, network = case(name, dtype)
    assert difference(answer(network, states, told), oracle.unet(state, config, *states, **told)) < tolerance


@pytest.mark.parametrize("name", CHANGES)
def test_every_tensor_has_a_part_in_the_output(name):
    config, state, states, told, _ = case(name)
    state = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    output = oracle.unet(state, config, *states, **told)
    (output * torch.randn_like(output)).sum().backward()
    assert [name for name, tensor in state.items() if tensor.grad is None or tensor.grad.abs().max() < 1e-3] == []


def sines_first(times, width, right=oracle.sinusoids):
    cosines, sines = right(times, width).split(width // 2, 1)
    return torch.cat([sines, cosines], 1)


WRONG = {
    "scores divided by d": ("scale", lambda width: 1 / width),
    "scores not divided": ("scale", lambda width: 1),
    "eps 1e-6 in norms": ("EPS", 1e-6),
    "16 groups in norms": ("GROUPS", 16),
    "GELU": ("silu", torch.nn.functional.gelu),
    "shift before scale": ("adagn", lambda normed, scale, shift: (1 + shift) * normed + scale),
    "scale without 1": ("adagn", lambda normed, scale, shift: scale * normed + shift),
    "sines first": ("sinusoids", sines_first),
    "skip before what is below": ("joined", lambda hidden, skip: torch.cat([skip, hidden], 1)),
    "every second pixel": ("halved", lambda x: x[..., ::2, ::2]),
    "smooth doubling": ("doubled", lambda x: torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_equation_is_seen(wrong, monkeypatch):
    config, state, states, told, network = case("residual blocks that resize")
    monkeypatch.setattr(oracle, *WRONG[wrong])
    assert difference(answer(network, states, told), oracle.unet(state, config, *states, **told)) > 1e4 * FLOAT64


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("as improved-diffusion", {"use_new_attention_order": True}),
        ("new order of heads", {"use_new_attention_order": False}),
        ("as improved-diffusion", {"num_heads": 4}),
        ("heads by width", {"num_head_channels": None}),
        ("heads by width", {"num_head_channels": 32}),
        ("other heads on the way up", {"num_heads_upsample": None}),
        ("other heads on the way up", {"num_heads": 4}),
    ],
)
def test_other_heads_are_seen(name, change):
    config, state, states, told, network = case(name)
    assert difference(answer(network, states, told), oracle.unet(state, {**config, **change}, *states)) > 1e-3


@pytest.mark.parametrize(("name", "left_out"), [("labels", "labels"), ("text", "tokens"), ("text", "text_embeds")])
def test_what_a_network_is_told_is_seen(name, left_out):
    config, state, states, told, network = case(name)
    del (less := dict(told))[left_out]
    assert difference(answer(network, states, told), oracle.unet(state, config, *states, **less)) > 1e-3


def test_times_between_whole_ones_are_seen():
    config, state, (x_t, times), _, network = case("as improved-diffusion")
    assert difference(answer(network, (x_t, times), {}), oracle.unet(state, config, x_t, times.long())) > 1e-3


def test_times_are_embedded_as_cosines_and_sines():
    times, width = [0, 1, 3.25, 999], 9
    angles = [[t * 10_000 ** (-i / 4) for i in range(4)] for t in times]
    expected = [[*map(math.cos, row), *map(math.sin, row), 0] for row in angles]
    torch.testing.assert_close(time_embedding(torch.tensor(times), width), torch.tensor(expected), rtol=0, atol=1e-4)


# --- names, shapes, sizes ---------------------------------------------------------------------------------------

CIFAR10 = {
    "sample_size": 32,
    "out_channels": 6,
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_res_blocks": 3,
    "num_heads": 4,
}
OF_64 = {
    "out_channels": 6,
    "model_channels": 192,
    "num_res_blocks": 3,
    "attention_resolutions": (32, 16, 8),
    "num_head_channels": 64,
    "resblock_updown": True,
}


@pytest.mark.parametrize(
    ("config", "layers", "told", "millions"),
    [
        pytest.param(CIFAR10, oracle.CIFAR10, {"width": 128}, 52.5, id="CIFAR-10 of improved-diffusion"),
        pytest.param(
            {**OF_64, "num_classes": 1000, "use_new_attention_order": True},
            oracle.OF_64,
            {"width": 192, "classes": 1000},
            295.9,
            id="64x64 of guided-diffusion",
        ),
        pytest.param(
            {**OF_64, "text_width": 512}, oracle.OF_64, {"width": 192, "text_width": 512}, 308, id="base of GLIDE"
        ),
    ],
)
def test_names_and_shapes_are_those_of_the_checkpoints(config, layers, told, millions):
    found = {name: tuple(tensor.shape) for name, tensor in meta(OpenAIUNet, **config).state_dict().items()}
    expected = oracle.shapes_of(layers, **told)
    assert found == expected
    assert sum(map(math.prod, expected.values())) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_the_base_of_glide_costs_112_433_676_288_multiply_adds():
    found = count(meta(OpenAIUNet, **OF_64, text_width=512))
    assert [block.part for block in found.unet_blocks] == ["input"] * 16 + ["middle"] + ["output"] * 16
    assert found.whole == 112_433_676_288
    # beside its blocks it embeds the time and makes the output
    rest = found.whole - sum(block.multiply_adds for block in found.unet_blocks)
    assert rest == 192 * 768 + 768 * 768 + 64 * 64 * 9 * 192 * 6
    for nb, percent in ((2, 5.574), (6, 20.712), (8, 33.482), (12, 75.767)):
        removed = found.whole - found.under(Cut(unet_blocks=nb))
        assert 100 * removed / found.whole == pytest.approx(percent, abs=5e-4)


# --- cuts -------------------------------------------------------------------------------------------------------


def zero_the_skip(channels):
    def hook(_, given):
        (below_and_skip := given[0].clone())[:, -channels:] = 0
        return below_and_skip, *given[1:]

    return hook


@pytest.mark.parametrize("cut", [Cut(skips=2), Cut(unet_blocks=1), Cut(unet_blocks=3), Cut(skips=1, unet_blocks=2)])
@pytest.mark.parametrize("name", ["as improved-diffusion", "text"])
def test_a_cut_equals_zeros_bit_for_bit(name, cut):
    *_, states, told, network = case(name, torch.float32)
    found = forward(network, cut, *states, **keywords(told))
    blocks, channels = list(network.output_blocks), (64, 64, 64, 128)  # of skips, from the top
    hooks = [blocks[-1 - k].register_forward_pre_hook(zero_the_skip(channels[k])) for k in range(cut.skips)]
    if cut.unet_blocks:
        hooks.append(blocks[cut.unet_blocks - 1].register_forward_hook(lambda *called: torch.zeros_like(called[-1])))
    expected = answer(network, states, told)
    for hook in hooks:
        hook.remove()
    assert torch.equal(found, expected)
    assert difference(found, answer(network, states, told)) > 1e-3


@pytest.mark.parametrize(
    ("cut", "left_out"),
    [
        (Cut(skips=4), []),
        (Cut(unet_blocks=1), ["input_blocks.3", "middle_block", "output_blocks.0"]),
        (
            Cut(unet_blocks=2),
            ["input_blocks.2", "input_blocks.3", "middle_block", "output_blocks.0", "output_blocks.1"],
        ),
    ],
)
def test_blocks_that_are_left_out_are_not_run(cut, left_out):
    *_, states, told, network = case("text", torch.float32)
    run, hooks = set(), []
    names = [block.name for block in count(network).unet_blocks]
    for name in names:
        hooks.append(network.get_submodule(name).register_forward_hook(lambda *_, name=name: run.add(name)))
    forward(network, cut, *states, **keywords(told))
    for hook in hooks:
        hook.remove()
    assert sorted({*names} - run) == left_out
