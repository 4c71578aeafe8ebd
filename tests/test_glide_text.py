"""GLIDE's text transformer against the equations of its paper, written here over its state dict."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from tests.sampling import relative
from traj.pipeline.models.openai import checkpoint
from traj.pipeline.models.openai.text import GlideTextEncoder

SIZES = {"n_vocab": 50, "text_ctx": 7, "xf_width": 24, "xf_layers": 2, "xf_heads": 3, "model_channels": 5}
TOKENS = torch.tensor([[3, 49, 0, 7, 49, 49, 49], [1, 2, 3, 4, 5, 6, 7], [49] * 7])
MASK = torch.arange(7) < torch.tensor([[4], [7], [0]])
TOLERANCE = 1e-5


def random(**changes):
    """A transformer with random numbers in every tensor, the same every time."""
    torch.manual_seed(0)
    encoder = GlideTextEncoder(**{**SIZES, **changes}).eval().requires_grad_(False)
    for tensor in encoder.state_dict().values():
        tensor.normal_(std=0.5)
    return encoder


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x):
    """x times the normal distribution function of x."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def tanh_gelu(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def heads_first(qkv, heads):
    """Query, key and value of each head lie side by side."""
    sample, place, _ = qkv.shape
    return np.split(qkv.reshape(sample, place, heads, -1), 3, axis=-1)


def queries_first(qkv, heads):
    """All queries lie before all keys and values."""
    sample, place, _ = qkv.shape
    return [part.reshape(sample, place, heads, -1) for part in np.split(qkv, 3, axis=-1)]


def attended(q, k, v):
    """softmax(q k / sqrt(width)) v over all places, for each head."""
    scores = np.einsum("snhc,smhc->shnm", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("shnm,smhc->snhc", weights, v).reshape(*q.shape[:2], -1)


def expected(encoder, tokens=TOKENS, mask=MASK, activation=gelu, order=heads_first):
    """What the transformer gives, in float64."""
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = state["token_embedding.weight"][tokens.numpy()] + state["positional_embedding"]
    if "padding_embedding" in state:
        x = np.where(mask.numpy()[..., None], x, state["padding_embedding"])
    for number in range(encoder.config.xf_layers):
        block = f"transformer.resblocks.{number}"
        qkv = order(linear(f"{block}.attn.c_qkv", norm(f"{block}.ln_1", x)), encoder.config.xf_heads)
        x = x + linear(f"{block}.attn.c_proj", attended(*qkv))
        x = x + linear(f"{block}.mlp.c_proj", activation(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
    if "final_ln.weight" in state:
        x = norm("final_ln", x)
    return x, linear("transformer_proj", x[:, -1])


def distance(found, x):
    return max(relative(one, torch.from_numpy(other)) for one, other in zip(found, x, strict=True))


@pytest.mark.parametrize("changes", [{}, {"xf_final_ln": False}, {"xf_padding": False}, {"xf_heads": 1}])
def test_it_computes_what_the_paper_says(changes):
    encoder = random(**changes)
    found = encoder(TOKENS, MASK)
    assert found.encoder_hidden_states.shape == (3, 7, 24)
    assert found.text_embeds.shape == (3, 20)
    assert distance(found, expected(encoder)) < TOLERANCE


@pytest.mark.parametrize(
    "wrong", [{"activation": tanh_gelu}, {"order": queries_first}, {"mask": ~MASK}, {"mask": torch.ones_like(MASK)}]
)
def test_the_comparison_would_notice_another_transformer(wrong):
    encoder = random()
    assert distance(encoder(TOKENS, MASK), expected(encoder, **wrong)) > 5 * TOLERANCE


def test_every_tensor_matters():
    encoder = random()
    found = encoder(TOKENS, MASK)
    for tensor in encoder.state_dict().values():
        kept = tensor.clone()
        tensor.normal_()
        changed = encoder(TOKENS, MASK)
        tensor.copy_(kept)
        assert not all(map(torch.equal, found, changed))


def test_tokens_behind_the_mask_do_not_matter():
    encoder = random()
    other = TOKENS.where(MASK, 11)
    assert not torch.equal(TOKENS, other)
    assert all(map(torch.equal, encoder(TOKENS, MASK), encoder(other, MASK)))


def test_the_published_transformer_has_the_names_and_shapes_of_its_checkpoint():
    with torch.device("meta"):
        found = checkpoint.shapes(GlideTextEncoder(n_vocab=50_257))
    of_block = {
        "ln_1.weight": (512,),
        "ln_1.bias": (512,),
        "attn.c_qkv.weight": (1536, 512),
        "attn.c_qkv.bias": (1536,),
        "attn.c_proj.weight": (512, 512),
        "attn.c_proj.bias": (512,),
        "ln_2.weight": (512,),
        "ln_2.bias": (512,),
        "mlp.c_fc.weight": (2048, 512),
        "mlp.c_fc.bias": (2048,),
        "mlp.c_proj.weight": (512, 2048),
        "mlp.c_proj.bias": (512,),
    }
    assert found == {
        "token_embedding.weight": (50_257, 512),
        "positional_embedding": (128, 512),
        "padding_embedding": (128, 512),
        **{f"transformer.resblocks.{n}.{name}": shape for n in range(16) for name, shape in of_block.items()},
        "final_ln.weight": (512,),
        "final_ln.bias": (512,),
        "transformer_proj.weight": (768, 512),
        "transformer_proj.bias": (768,),
    }
