"""guided-diffusion's classifier against the equations of its layers."""

import pytest
import torch
from safetensors.torch import load_file

from tests.noisy_classifiers import NETWORK, POOLS, SHAPE, randomized, small
from tests.openai_networks import (
    attention,
    conv,
    halved,
    linear,
    norm,
    pointwise,
    residual,
    same,
    scale,
    silu,
    sinusoids,
    sorted_out,
)
from traj.pipeline.models.openai import encoder


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The folder of a small classifier."""
    return small(tmp_path_factory.mktemp("models") / "noisy")


def plain(state, pool, x, time, *, split_first=False, scale_shift=True, updown=True, pool_options=None):
    """The logits as the equations of Dhariwal and Nichol 2021 have them, over a state dict."""
    temb = linear(state, "time_embed.2", silu(linear(state, "time_embed.0", sinusoids(time, 32))))

    def res(name, hidden, resize=same):
        return residual(state, name, hidden, temb, scale_shift, resize)

    def att(name, hidden):
        return attention(state, name, hidden, hidden.shape[1] // 16, split_first, None)

    blocks = [conv(state, "input_blocks.0.0", x)]
    blocks.append(res("input_blocks.1.0", blocks[-1]))
    name = "input_blocks.2.0"
    blocks.append(res(name, blocks[-1], halved) if updown else conv(state, f"{name}.op", blocks[-1], stride=2))
    blocks.append(att("input_blocks.3.1", res("input_blocks.3.0", blocks[-1])))
    blocks.append(res("middle_block.2", att("middle_block.1", res("middle_block.0", blocks[-1]))))
    return {"attention": attended, "adaptive": adaptive, "spatial": spatial, "spatial_v2": spatial_v2}[pool](
        state, blocks, **(pool_options or {})
    )


def attended(state, blocks, mean_first=True, split_first=True, positions=True):
    flat = silu(norm(state, "out.0", blocks[-1])).flatten(2)
    mean = flat.mean(2, keepdim=True)
    flat = torch.cat([mean, flat] if mean_first else [flat, mean], 2)
    if positions:
        flat = flat + state["out.2.positional_embedding"]
    q, k, v = sorted_out(pointwise(state, "out.2.qkv_proj", flat), 3, flat.shape[1] // 16, split_first)
    weights = torch.softmax(torch.einsum("nhdq,nhdk->nhqk", q, k) * scale(16), -1)
    found = torch.einsum("nhqk,nhdk->nhdq", weights, v).flatten(1, 2)
    return pointwise(state, "out.2.c_proj", found)[:, :, 0 if mean_first else -1]


def adaptive(state, blocks):
    return conv(state, "out.3", silu(norm(state, "out.0", blocks[-1])).mean((2, 3), keepdim=True))[:, :, 0, 0]


def means(blocks):
    return torch.cat([block.mean((2, 3)) for block in blocks], 1)


def spatial(state, blocks):
    return linear(state, "out.2", linear(state, "out.0", means(blocks)).relu())


def spatial_v2(state, blocks):
    hidden = linear(state, "out.0", means(blocks))[:, :, None, None]
    return linear(state, "out.3", silu(norm(state, "out.1", hidden))[:, :, 0, 0])


X_T, TIME = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 1, 7, 40, 500, 999])


def apart(found, expected):
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "others",
    [{}, {"use_new_attention_order": True, "use_scale_shift_norm": False, "resblock_updown": False}],
    ids=["usual", "unusual"],
)
@torch.inference_mode()
def test_logits_are_those_of_the_equations(pool, others):
    network = encoder.OpenAIEncoder(**NETWORK, pool=pool, **others).eval()
    state = randomized(network)
    network.load_state_dict(state)
    usual = {"split_first": bool(others), "scale_shift": not others, "updown": not others}
    expected = plain(state, pool, X_T, TIME, **usual)
    assert expected.shape == (6, 5)
    assert apart(network(X_T, TIME), expected) < 1e-5
    wrong = {**usual, "split_first": not usual["split_first"]}
    assert apart(plain(state, pool, X_T, TIME, **wrong), expected) > 1e-3
    assert apart(plain(state, pool, X_T, TIME.flip(0), **usual), expected) > 1e-2


@pytest.mark.parametrize("wrong", ["mean_first", "split_first", "positions"])
@torch.inference_mode()
def test_the_pool_has_its_own_order(noisy, wrong):
    """The mean before the places, positions added, channels by query, key and value first: else it is another pool."""
    state = load_file(noisy / "model.safetensors")
    other = plain(state, "attention", X_T, TIME, pool_options={wrong: False})
    assert apart(other, plain(state, "attention", X_T, TIME)) > 1e-2
