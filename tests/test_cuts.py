"""U-Net surgery: zeroed equals not run, blocks and skips counted as in METHODS 3.2, the network left as it was."""

import contextlib

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from hypothesis import HealthCheck, assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from pipeline.cuts import TEXT_TOKENS, Cut, blocks, check, forward, left_out, multiply_adds, scaled_blocks
from pipeline.models.analytic import GaussianDenoiser
from pipeline.models.digits import RECIPES

RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
TEXT_WIDTH = 12


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


# --- an oracle: diffusers' own forward, its layers hooked -------------------------------------------------------


def output_layers(network):
    """(first layer, last layer) of every output block, from the bottom."""
    for level in network.up_blocks:
        attentions = getattr(level, "attentions", [])
        lasts = list(attentions or level.resnets)
        if level.upsamplers:
            lasts[-1] = level.upsamplers[0]
        yield from zip(level.resnets, lasts, strict=True)


def zeroed(output):
    return tuple(map(torch.zeros_like, output)) if isinstance(output, tuple) else torch.zeros_like(output)


def skip_channels(network):
    """Channels of every skip, from the top."""
    yield network.conv_in.out_channels
    for level in network.down_blocks:
        yield from (resnet.out_channels for resnet in level.resnets)
        yield from (layer.out_channels for layer in level.downsamplers or [])


def zero_the_skip(channels):
    def hook(_, arguments):
        below_and_skip, *others = arguments
        below_and_skip = below_and_skip.clone()
        below_and_skip[:, -channels:] = 0
        return below_and_skip, *others

    return hook


@contextlib.contextmanager
def cut_by_hooks(network, cut):
    layers, channels = list(output_layers(network)), list(skip_channels(network))
    assert len(layers) == len(channels)
    hooks = [layers[-1 - k][0].register_forward_pre_hook(zero_the_skip(channels[k])) for k in range(cut.skips)]
    if cut.blocks:
        hooks.append(layers[cut.blocks - 1][1].register_forward_hook(lambda _, __, output: zeroed(output)))
    yield
    for hook in hooks:
        hook.remove()


def expected(network, cut, *given, **text):
    with cut_by_hooks(network, cut):
        return network(*given, **text).sample


# --- networks ---------------------------------------------------------------------------------------------------


@st.composite
def unconditional(draw):
    """A kind of network, its config, the sides of its images and their model time."""
    levels = draw(st.integers(1, 3))
    kinds = draw(st.lists(st.sampled_from(["", "Attn", "Resnet"]), min_size=levels, max_size=levels))
    time = draw(st.sampled_from(["positional", "fourier", "learned"]))
    classes = draw(st.sampled_from([{}, {"num_class_embeds": 5}, {"class_embed_type": "timestep"}]))
    config = {
        "sample_size": 8,
        "in_channels": draw(st.integers(1, 3)),
        "out_channels": 2,
        "block_out_channels": draw(st.permutations([4, 8, 12]))[:levels],
        "layers_per_block": draw(st.integers(1, 3)),
        "down_block_types": [f"{'ResnetDownsample' if kind == 'Resnet' else kind + 'Down'}Block2D" for kind in kinds],
        "up_block_types": [f"{'ResnetUpsample' if kind == 'Resnet' else kind + 'Up'}Block2D" for kind in kinds[::-1]],
        "mid_block_type": draw(st.sampled_from(["UNetMidBlock2D", None])),
        "add_attention": draw(st.booleans()),
        "downsample_type": draw(st.sampled_from(["conv", "resnet"])),
        "upsample_type": draw(st.sampled_from(["conv", "resnet"])),
        "downsample_padding": draw(st.sampled_from([0, 1])),
        "resnet_time_scale_shift": draw(st.sampled_from(["default", "scale_shift"])),
        "attention_head_dim": 4,
        "norm_num_groups": 2,
        "time_embedding_type": time,
        "num_train_timesteps": 1000,
        "freq_shift": draw(st.sampled_from([0, 1])),
        "flip_sin_to_cos": draw(st.booleans()),
        "center_input_sample": draw(st.booleans()),
    }
    # an embedding knows whole timesteps only, and has no embedding of classes made from numbers
    whole = time == "learned"
    config |= {} if whole and "class_embed_type" in classes else classes
    return UNet2DModel, config, (8, draw(st.sampled_from([8, 16]))), 7 if whole else draw(st.sampled_from([7, 6.5]))


@st.composite
def conditional(draw):
    """The same of networks that read text; where the upsampling is told what size to reach, sides may be odd."""
    levels = draw(st.integers(1, 3))
    attention = draw(st.sampled_from(["Attn", "CrossAttn", "SimpleCrossAttn"]))
    kinds = draw(st.lists(st.sampled_from(["", attention]), min_size=levels, max_size=levels))
    middles = [None, "UNetMidBlock2D", *([] if attention == "Attn" else [f"UNetMidBlock2D{attention}"])]
    config = {
        "sample_size": 8,
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": draw(st.permutations([8, 16, 24]))[:levels],
        "layers_per_block": draw(st.lists(st.integers(1, 2), min_size=levels, max_size=levels)),
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in kinds[::-1]],
        "mid_block_type": draw(st.sampled_from(middles)),
        "use_linear_projection": draw(st.booleans()),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 2,
        "num_class_embeds": draw(st.sampled_from([None, 5])),
    }
    height = draw(st.sampled_from([8, 10, 11])) if set(kinds) <= {"", "CrossAttn"} else 8
    return UNet2DConditionModel, config, (height, 8), 7


def built(case, batch=2, tokens=3):
    """The network of a case with random weights, and arguments to call it with."""
    kind, config, sides, time = case
    torch.manual_seed(0)
    network = kind(**config).eval()
    has_classes = config.get("num_class_embeds") or config.get("class_embed_type")
    arguments = {"class_labels": 1 + torch.arange(batch) if has_classes else None}
    if kind is UNet2DConditionModel:
        arguments["encoder_hidden_states"] = torch.randn(batch, tokens, TEXT_WIDTH)
    return network, (torch.randn(batch, config["in_channels"], *sides), torch.tensor(time)), arguments


def some_cut(data, network):
    count = len(list(output_layers(network)))
    return Cut(skips=data.draw(st.integers(0, count), "skips"), blocks=data.draw(st.integers(0, count), "blocks"))


def meta(kind, **config):
    with torch.device("meta"):
        return kind(**config)


def digits():
    torch.manual_seed(0)
    return UNet2DModel(**RECIPES["digits"].network).eval()


GLIDE = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (192, 384, 576, 768),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3),
    "up_block_types": (*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}


@pytest.fixture(scope="module")
def glide():
    return meta(UNet2DModel, **GLIDE)


# --- zeroed equals not run --------------------------------------------------------------------------------------


@RANDOM
@drawn(st.data())
def test_zeroed_equals_not_run(data):
    network, states, given = built(data.draw(st.one_of(unconditional(), conditional())))
    cut = some_cut(data, network)
    same = torch.equal(forward(network, cut, *states, **given), expected(network, cut, *states, **given))
    assert same


@pytest.mark.parametrize("cut", [Cut(skips=2), Cut(blocks=1), Cut(blocks=2), Cut(skips=1, blocks=3), Cut(4, 4)])
def test_zeroed_equals_not_run_in_bfloat16(cut):
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(forward(network, cut, *arguments), expected(network, cut, *arguments))


@pytest.mark.parametrize("cut", [Cut(), Cut(skips=1), Cut(blocks=1)])
def test_a_cut_changes_the_prediction_and_no_cut_does_not(cut):
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    same = torch.equal(forward(network, cut, *arguments), network(*arguments).sample)
    assert same == (cut == Cut())


def test_a_network_whose_blocks_cannot_be_cut_still_runs_without_a_cut():
    network = meta(UNet2DModel, **skipping())
    assert forward(network, Cut(), torch.zeros(1, 3, 8, 8, device="meta"), 5).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("cut", [Cut(blocks=1), Cut(blocks=2), Cut(skips=1, blocks=3)])
def test_the_halves_of_a_network_may_differ(cut):
    # diffusers' attention changes the layout in memory, and with it the last bits of the convolutions after it
    halves = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2}
    torch.manual_seed(0)
    network = UNet2DModel(**{**RECIPES["digits"].network, **halves}).eval()
    arguments = torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10])
    torch.testing.assert_close(forward(network, cut, *arguments), expected(network, cut, *arguments))


def left_out_names(cut):
    network, ran = digits(), set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, module in network.named_modules()
        if name
    ]
    forward(network, cut, torch.randn(1, 1, 8, 8), torch.tensor(5), torch.tensor([0]))
    for hook in hooks:
        hook.remove()
    parts = [block.name.split(" + ")[0].replace("downsampler", "downsamplers.0") for block in blocks(network)]
    return {part for part in parts if part not in ran}


def test_left_out_blocks_are_not_run():
    assert left_out_names(Cut(skips=4)) == set()
    assert left_out_names(Cut(blocks=1)) == {"mid_block", "up_blocks.0.resnets.0", "down_blocks.1.resnets.0"}
    assert left_out_names(Cut(blocks=2)) == left_out_names(Cut(blocks=1)) | {
        "up_blocks.0.resnets.1",
        "down_blocks.0.downsamplers.0",
    }
    assert len(left_out_names(Cut(blocks=4))) == 9


# --- the network is left as it was ------------------------------------------------------------------------------


def test_a_cut_leaves_no_trace_on_the_network_even_when_it_fails():
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    before, weights = network(*arguments).sample, {name: value.clone() for name, value in network.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    forward(network, Cut(skips=1, blocks=2), *arguments)
    with pytest.raises(RuntimeError):
        forward(network, Cut(skips=1), torch.randn(3, 2, 8, 8), *arguments[1:])
    assert torch.equal(network(*arguments).sample, before)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert {name: set(vars(module)) for name, module in network.named_modules()} == attributes


# --- counting ---------------------------------------------------------------------------------------------------


def test_the_network_of_glide_has_16_blocks_a_middle_and_16_blocks(glide):
    found = blocks(glide)
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
    found = blocks(digits())
    assert [(block.part, block.number, block.skip) for block in found] == [
        *(("input", n, n) for n in (1, 2, 3, 4)),
        ("middle", 1, None),
        *(("output", n, 5 - n) for n in (1, 2, 3, 4)),
    ]
    assert [block.shape for block in found[:4]] == [(32, 8, 8), (32, 8, 8), (32, 4, 4), (64, 4, 4)]
    assert [block.shape for block in found[5:]] == [(64, 4, 4), (64, 8, 8), (32, 8, 8), (32, 8, 8)]


def test_the_blocks_of_the_source_are_scaled_to_the_network(glide):
    assert [scaled_blocks(nb, glide) for nb in range(17)] == list(range(17))
    assert [scaled_blocks(nb, digits()) for nb in (0, 1, 2, 4, 6, 8, 10, 12, 16)] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


# --- multiply-adds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nb", "percent"), [(2, 5.6), (6, 20.7), (8, 33.5), (12, 75.8)])
def test_cuts_of_glides_network_save_what_methods_says(glide, nb, percent):
    assert 100 * (1 - multiply_adds(glide, Cut(blocks=nb)) / multiply_adds(glide)) == pytest.approx(percent, abs=2)


def test_glides_network_costs_what_methods_says(glide):
    # METHODS 3.5 counts attention to the text, too
    assert multiply_adds(glide) == pytest.approx(112.4e9, rel=0.03)


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


@settings(RANDOM, max_examples=8)
@drawn(st.data())
def test_multiply_adds_are_those_of_the_layers(data):
    kind, config, _, time = data.draw(st.one_of(unconditional(), conditional()))
    assume("class_embed_type" not in config)
    network, states, given = built((kind, config, (8, 8), time), batch=1, tokens=TEXT_TOKENS)
    cut = some_cut(data, network)
    found = blocks(network)
    rest = multiply_adds(network) - sum(block.multiply_adds for block in found)
    kept = sum(block.multiply_adds for block in found if not left_out(block, cut, found[-1].number))
    assert multiply_adds(network, cut) == kept + rest == counted_by_hand(network, cut, *states, **given)


# --- refusals ---------------------------------------------------------------------------------------------------


def skipping():
    return {
        "sample_size": 8,
        "block_out_channels": (8, 8),
        "down_block_types": ("SkipDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "SkipUpBlock2D"),
        "norm_num_groups": 2,
        "attention_head_dim": 4,
    }


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (Cut(blocks=5), "a cut of 5 blocks, but the network has 4 output blocks; expected 0 to 4"),
        (Cut(skips=5), "a cut of 5 skips, but the network has 4 skip connections; expected 0 to 4"),
    ],
)
def test_a_cut_larger_than_the_network_is_refused(cut, says):
    network = digits()
    with pytest.raises(ValueError, match=says):
        check(network, cut)
    with pytest.raises(ValueError, match=says):
        multiply_adds(network, cut)
    with pytest.raises(ValueError, match=says):
        forward(network, cut, torch.zeros(1, 1, 8, 8), torch.tensor(5), torch.tensor([0]))


@pytest.mark.parametrize("model", [GaussianDenoiser(0, 1), torch.nn.Identity()])
def test_a_model_without_a_unet_is_refused(model):
    check(model, Cut())
    with pytest.raises(ValueError, match=f"a cut needs a U-Net, and this model is a {type(model).__name__}"):
        check(model, Cut(blocks=1))


def test_blocks_that_cannot_be_cut_are_refused_by_name():
    network = meta(UNet2DModel, **skipping())
    for refused in (lambda: check(network, Cut(skips=1)), lambda: blocks(network)):
        with pytest.raises(ValueError, match="the network has a SkipDownBlock2D, which cannot be cut; expected AttnD"):
            refused()


@pytest.mark.parametrize("numbers", [{"skips": -1}, {"blocks": -2}])
def test_a_negative_cut_is_refused(numbers):
    with pytest.raises(ValueError, match="expected 0 or more"):
        Cut(**numbers)


@pytest.mark.parametrize("nb", [-1, 17])
def test_a_block_the_source_does_not_have_is_refused(nb):
    with pytest.raises(ValueError, match=f"nb {nb}; expected 0 to 16"):
        scaled_blocks(nb, digits())


def test_a_network_of_no_size_is_not_counted():
    with pytest.raises(ValueError, match="no sample_size"):
        blocks(meta(UNet2DModel, **{**RECIPES["digits"].network, "sample_size": None}))
