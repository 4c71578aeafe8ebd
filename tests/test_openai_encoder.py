"""guided-diffusion's classifier against the equations of its layers."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.noisy_classifiers import NETWORK, POOLS, SHAPE, randomized, small
from traj.pipeline.models.openai import encoder


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The folder of a small classifier."""
    return small(tmp_path_factory.mktemp("models") / "noisy")


class Plain:
    """The classifier as the equations of Dhariwal and Nichol 2021 have it, over a state dict."""

    def __init__(self, state, *, split_first=False, scale_shift=True, updown=True):
        self.state, self.split_first, self.scale_shift, self.updown = state, split_first, scale_shift, updown

    def norm(self, name, x):
        groups = x.reshape(len(x), 32, -1)
        centred = groups - groups.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
        weight, bias = (self.state[f"{name}.{part}"].reshape(1, -1, *[1] * (x.ndim - 2)) for part in ("weight", "bias"))
        return normed * weight + bias

    def linear(self, name, x):
        return torch.einsum("oc,nc->no", self.state[f"{name}.weight"], x) + self.state[f"{name}.bias"]

    def places(self, name, x):
        weight, bias = self.state[f"{name}.weight"].flatten(1), self.state[f"{name}.bias"]
        return torch.einsum("oc,ncp->nop", weight, x) + bias[:, None]

    def convolution(self, name, x, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def attend(self, qkv, heads, split_first):
        n, channels, places = qkv.shape
        width = channels // 3 // heads
        if split_first:
            q, k, v = qkv.reshape(n, 3, heads, width, places).unbind(1)
        else:
            q, k, v = qkv.reshape(n, heads, 3, width, places).unbind(2)
        weights = torch.einsum("nhwp,nhws->nhps", q, k / math.sqrt(width)).exp()
        attended = torch.einsum("nhps,nhws->nhwp", weights / weights.sum(-1, keepdim=True), v)
        return attended.reshape(n, channels // 3, places)

    def residual(self, name, x, emb, halved=False):
        def half(x):
            n, c, y, x_ = x.shape
            return x.reshape(n, c, y // 2, 2, x_ // 2, 2).mean((3, 5)) if halved else x

        silu = functional.silu
        h = self.convolution(f"{name}.in_layers.2", half(silu(self.norm(f"{name}.in_layers.0", x))))
        told = self.linear(f"{name}.emb_layers.1", silu(emb))[..., None, None]
        if self.scale_shift:
            scale, shift = told[:, : h.shape[1]], told[:, h.shape[1] :]
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        skip = half(x)
        if f"{name}.skip_connection.weight" in self.state:
            skip = self.convolution(f"{name}.skip_connection", skip)
        return skip + self.convolution(f"{name}.out_layers.3", silu(h))

    def attention(self, name, x):
        flat = x.flatten(2)
        qkv = self.places(f"{name}.qkv", self.norm(f"{name}.norm", flat))
        attended = self.attend(qkv, x.shape[1] // 16, self.split_first)
        return x + self.places(f"{name}.proj_out", attended).reshape(x.shape)

    def logits(self, pool, x, time, **variant):
        angles = time[:, None] * 10_000.0 ** (-torch.arange(16) / 16)
        emb = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
        emb = self.linear("time_embed.2", functional.silu(emb))
        blocks = [self.convolution("input_blocks.0.0", x)]
        blocks.append(self.residual("input_blocks.1.0", blocks[-1], emb))
        if self.updown:
            blocks.append(self.residual("input_blocks.2.0", blocks[-1], emb, halved=True))
        else:
            blocks.append(self.convolution("input_blocks.2.0.op", blocks[-1], stride=2))
        blocks.append(self.attention("input_blocks.3.1", self.residual("input_blocks.3.0", blocks[-1], emb)))
        middle = self.attention("middle_block.1", self.residual("middle_block.0", blocks[-1], emb))
        blocks.append(self.residual("middle_block.2", middle, emb))
        return getattr(self, f"{pool}_pool")(blocks, **variant)

    def attention_pool(self, blocks, mean_first=True, split_first=True, positions=True):
        flat = functional.silu(self.norm("out.0", blocks[-1])).flatten(2)
        mean = flat.mean(2, keepdim=True)
        flat = torch.cat([mean, flat] if mean_first else [flat, mean], 2)
        if positions:
            flat = flat + self.state["out.2.positional_embedding"]
        attended = self.attend(self.places("out.2.qkv_proj", flat), flat.shape[1] // 16, split_first)
        return self.places("out.2.c_proj", attended)[:, :, 0 if mean_first else -1]

    def adaptive_pool(self, blocks):
        mean = functional.silu(self.norm("out.0", blocks[-1])).mean((2, 3))
        return self.places("out.3", mean[..., None])[..., 0]

    def spatial_pool(self, blocks):
        means = torch.cat([block.mean((2, 3)) for block in blocks], 1)
        return self.linear("out.2", self.linear("out.0", means).relu())

    def spatial_v2_pool(self, blocks):
        means = torch.cat([block.mean((2, 3)) for block in blocks], 1)
        return self.linear("out.3", functional.silu(self.norm("out.1", self.linear("out.0", means))))


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
    split_first, scale_shift, updown = bool(others), not others, not others
    plain = Plain(state, split_first=split_first, scale_shift=scale_shift, updown=updown)
    expected = plain.logits(pool, X_T, TIME)
    assert expected.shape == (6, 5)
    assert apart(network(X_T, TIME), expected) < 1e-5
    wrong = Plain(state, split_first=not split_first, scale_shift=scale_shift, updown=updown)
    assert apart(wrong.logits(pool, X_T, TIME), expected) > 1e-3
    assert apart(plain.logits(pool, X_T, TIME.flip(0)), expected) > 1e-2


@pytest.mark.parametrize("wrong", ["mean_first", "split_first", "positions"])
@torch.inference_mode()
def test_the_pool_has_its_own_order(noisy, wrong):
    """The mean before the places, positions added, channels by query, key and value first: else it is another pool."""
    plain = Plain(load_file(noisy / "model.safetensors"))
    other = plain.logits("attention", X_T, TIME, **{wrong: False})
    assert apart(other, plain.logits("attention", X_T, TIME)) > 1e-2
