"""U-Net surgery: zeroed equals not run, the network is left as it was, and cuts that cannot be are refused."""

import contextlib

import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.networks import built, conditional, digits, meta, output_layers, skipping, some_cut, unconditional
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.models.digits import RECIPES
from traj.pipeline.models.surgery import check, count, forward, scaled_unet_blocks
from traj.pipeline.process.cut import Cut

RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


# --- an oracle: diffusers' own forward, its layers hooked -------------------------------------------------------


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
    if cut.unet_blocks:
        hooks.append(layers[cut.unet_blocks - 1][1].register_forward_hook(lambda _, __, output: zeroed(output)))
    yield
    for hook in hooks:
        hook.remove()


def expected(network, cut, *given, **text):
    with cut_by_hooks(network, cut):
        return network(*given, **text).sample


# --- zeroed equals not run --------------------------------------------------------------------------------------


@RANDOM
@drawn(st.data())
def test_zeroed_equals_not_run(data):
    network, states, given = built(data.draw(st.one_of(unconditional(), conditional())))
    cut = some_cut(data, network)
    same = torch.equal(forward(network, cut, *states, **given), expected(network, cut, *states, **given))
    assert same


@pytest.mark.parametrize(
    "cut", [Cut(skips=2), Cut(unet_blocks=1), Cut(unet_blocks=2), Cut(skips=1, unet_blocks=3), Cut(4, 4)]
)
def test_zeroed_equals_not_run_in_bfloat16(cut):
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(forward(network, cut, *arguments), expected(network, cut, *arguments))


@pytest.mark.parametrize("cut", [Cut(), Cut(skips=1), Cut(unet_blocks=1)])
def test_a_cut_changes_the_prediction_and_no_cut_does_not(cut):
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    same = torch.equal(forward(network, cut, *arguments), network(*arguments).sample)
    assert same == (cut == Cut())


def test_a_network_whose_blocks_cannot_be_cut_still_runs_without_a_cut():
    network = meta(UNet2DModel, **skipping())
    assert forward(network, Cut(), torch.zeros(1, 3, 8, 8, device="meta"), 5).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("cut", [Cut(unet_blocks=1), Cut(unet_blocks=2), Cut(skips=1, unet_blocks=3)])
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
    parts = [block.name.split(" + ")[0] for block in count(network).unet_blocks]
    return {part for part in parts if part not in ran}


def test_left_out_blocks_are_not_run():
    assert left_out_names(Cut(skips=4)) == set()
    assert left_out_names(Cut(unet_blocks=1)) == {"mid_block", "up_blocks.0.resnets.0", "down_blocks.1.resnets.0"}
    assert left_out_names(Cut(unet_blocks=2)) == left_out_names(Cut(unet_blocks=1)) | {
        "up_blocks.0.resnets.1",
        "down_blocks.0.downsamplers.0",
    }
    assert len(left_out_names(Cut(unet_blocks=4))) == 9


# --- the network is left as it was ------------------------------------------------------------------------------


def test_a_cut_leaves_no_trace_on_the_network_even_when_it_fails():
    network, arguments = digits(), (torch.randn(3, 1, 8, 8), torch.tensor(500), torch.tensor([0, 3, 10]))
    before, weights = network(*arguments).sample, {name: value.clone() for name, value in network.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    forward(network, Cut(skips=1, unet_blocks=2), *arguments)
    with pytest.raises(RuntimeError):
        forward(network, Cut(skips=1), torch.randn(3, 2, 8, 8), *arguments[1:])
    assert torch.equal(network(*arguments).sample, before)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert {name: set(vars(module)) for name, module in network.named_modules()} == attributes


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (Cut(unet_blocks=5), "a cut of 5 output blocks, but the network has 4; expected 0 to 4"),
        (Cut(skips=5), "a cut of 5 skip connections, but the network has 4; expected 0 to 4"),
    ],
)
def test_a_cut_larger_than_the_network_is_refused(cut, says):
    network = digits()
    with pytest.raises(ValueError, match=says):
        check(network, cut)
    with pytest.raises(ValueError, match=says):
        forward(network, cut, torch.zeros(1, 1, 8, 8), torch.tensor(5), torch.tensor([0]))


@pytest.mark.parametrize("model", [GaussianDenoiser(0, 1), torch.nn.Identity()])
def test_a_model_without_a_unet_is_refused(model):
    check(model, Cut())
    with pytest.raises(ValueError, match=f"a cut needs a U-Net, and this model is a {type(model).__name__}"):
        check(model, Cut(unet_blocks=1))


def test_blocks_that_cannot_be_cut_are_refused_by_name():
    network = meta(UNet2DModel, **skipping())
    for refused in (lambda: check(network, Cut(skips=1)), lambda: count(network)):
        with pytest.raises(ValueError, match="the network has a SkipDownBlock2D, which cannot be cut; expected AttnD"):
            refused()


@pytest.mark.parametrize("numbers", [{"skips": -1}, {"unet_blocks": -2}])
def test_a_negative_cut_is_refused(numbers):
    with pytest.raises(ValueError, match="expected 0 or more"):
        Cut(**numbers)


@pytest.mark.parametrize("nb", [-1, 17])
def test_a_block_the_source_does_not_have_is_refused(nb):
    with pytest.raises(ValueError, match=f"nb {nb}; expected 0 to 16"):
        scaled_unet_blocks(nb, digits())


def test_a_network_of_no_size_is_not_counted():
    with pytest.raises(ValueError, match="no sample_size"):
        count(meta(UNet2DModel, **{**RECIPES["digits"].network, "sample_size": None}))
