"""The transformer by which GLIDE reads a text."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from traj.pipeline.models.openai.layers import attention, by_heads
from traj.stores import InputError


class Read(NamedTuple):
    """What a network is told of texts: every token's embedding, and one of the whole text."""

    encoder_hidden_states: Tensor
    text_embeds: Tensor


class GlideTextEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' classes are untyped
    """The text transformer of Nichol et al. 2021, section 3.

    It reads ``text_ctx`` tokens out of ``n_vocab``. ``xf_padding`` has it learn an embedding for each place that a text
    leaves free, ``xf_final_ln`` normalise what its last layer gives. The embedding of a whole text is as wide as the
    time's in a U-Net of ``model_channels``. Arguments and tensors have the names of GLIDE's flags and checkpoints.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,  # diffusers takes what is given by position for a default
        n_vocab: int = 50257,
        text_ctx: int = 128,
        xf_width: int = 512,
        xf_layers: int = 16,
        xf_heads: int = 8,
        xf_final_ln: bool = True,
        xf_padding: bool = True,
        model_channels: int = 192,
    ) -> None:
        super().__init__()
        if xf_width % xf_heads:
            raise InputError(
                f"xf_width {xf_width} and xf_heads {xf_heads}; expected a width that is a multiple of them"
            )
        self.token_embedding = nn.Embedding(n_vocab, xf_width)
        self.positional_embedding = nn.Parameter(torch.zeros(text_ctx, xf_width))
        self.padding_embedding = nn.Parameter(torch.zeros(text_ctx, xf_width)) if xf_padding else None
        self.transformer = _Blocks(xf_width, xf_heads, xf_layers)
        self.final_ln = nn.LayerNorm(xf_width) if xf_final_ln else nn.Identity()
        self.transformer_proj = nn.Linear(xf_width, 4 * model_channels)

    def forward(self, tokens: Tensor, mask: Tensor) -> Read:
        """Read tokens int64 (sample, text_ctx), of which those where the bool ``mask`` is false are padding.

        Gives embeddings (sample, text_ctx, xf_width) and (sample, 4 model_channels).
        """
        hidden = self.token_embedding(tokens) + self.positional_embedding
        if self.padding_embedding is not None:
            hidden = torch.where(mask[..., None], hidden, self.padding_embedding)
        hidden = self.final_ln(self.transformer(hidden))
        return Read(hidden, self.transformer_proj(hidden[:, -1]))


class _Blocks(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.resblocks(hidden)
        return result


class _Block(nn.Module):
    """Attention over all places and then two layers on each, both after a normalisation and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = _Layers(width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.ln_1(hidden))
        result: Tensor = hidden + self.mlp(self.ln_2(hidden))
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        attended = attention(*by_heads(self.c_qkv(hidden).transpose(1, 2), 3, self.heads))
        result: Tensor = self.c_proj(attended.transpose(1, 2))
        return result


class _Layers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.c_proj(functional.gelu(self.c_fc(hidden)))
        return result
