"""The layers that the networks of improved-diffusion, guided-diffusion and GLIDE are built of.

Attributes have the names of the tensors in their checkpoints, so that a state dict is loaded as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_GROUPS = 32


class Block(nn.Sequential):
    """Layers that run one after another, some told the time or a text; ``in_channels`` is how many they read."""

    def __init__(self, in_channels: int, layers: Iterable[nn.Module]) -> None:
        super().__init__(*layers)
        self.in_channels = in_channels

    def forward(  # type: ignore[override]
        self, hidden: Tensor, temb: Tensor, text: Tensor | None = None
    ) -> Tensor:
        """Run on hidden states (sample, channel, y, x), the time's embedding (sample, width), and a text's."""
        for layer in self:
            match layer:
                case Residual():
                    hidden = layer(hidden, temb)
                case Attention():
                    hidden = layer(hidden, text)
                case _:
                    hidden = layer(hidden)
        return hidden


class Residual(nn.Module):
    """Two convolutions between which the time enters, beside a skip (Dhariwal and Nichol 2021, appendix A).

    With ``scale_shift`` the time scales and shifts what was normalised (their AdaGN), else it is added before that.
    ``resized``, "up" or "down", doubles or halves both sides after the first activation, and in the skip.
    """

    def __init__(
        self, channels: int, out_channels: int, temb_width: int, scale_shift: bool, resized: str | None = None
    ) -> None:
        super().__init__()
        self.scale_shift, self.resized = scale_shift, resized
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(temb_width, out_channels * (2 if scale_shift else 1)))
        # the third place is the dropout of training
        self.out_layers = nn.Sequential(
            _norm(out_channels), nn.SiLU(), nn.Identity(), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
        """Run on hidden states (sample, channel, y, x) and the time's embedding (sample, width)."""
        norm, activation, convolution = self.in_layers
        inner = convolution(self._resize(activation(norm(hidden))))
        told = self.emb_layers(temb)[..., None, None]
        norm, activation, _, convolution = self.out_layers
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            inner = norm(inner) * (1 + scale) + shift
        else:
            inner = norm(inner + told)
        result: Tensor = self.skip_connection(self._resize(hidden)) + convolution(activation(inner))
        return result

    def _resize(self, hidden: Tensor) -> Tensor:
        match self.resized:
            case "up":
                return functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
            case "down":
                return functional.avg_pool2d(hidden, 2)
        return hidden


class Attention(nn.Module):
    """Self-attention over places beside a skip; with a ``text_width``, over a text's tokens too, as in GLIDE.

    The channels of ``qkv`` are sorted by heads first and then by query, key and value; ``split_first`` has them by
    query, key and value first (guided-diffusion's new order).
    """

    def __init__(self, channels: int, heads: int, split_first: bool = False, text_width: int | None = None) -> None:
        super().__init__()
        self.heads, self.split_first = heads, split_first
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        if text_width is not None:
            self.encoder_kv = nn.Conv1d(text_width, 2 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, hidden: Tensor, text: Tensor | None = None) -> Tensor:
        """Run on hidden states (sample, channel, y, x) and perhaps the embeddings of tokens (sample, token, width)."""
        queries, keys, values = by_heads(self.qkv(self.norm(hidden).flatten(2)), 3, self.heads, self.split_first)
        if text is not None:
            of_text = by_heads(self.encoder_kv(text.transpose(1, 2)), 2, self.heads)
            keys, values = (torch.cat(pair, dim=2) for pair in zip(of_text, (keys, values), strict=True))
        result: Tensor = hidden + self.proj_out(attention(queries, keys, values)).view_as(hidden)
        return result


class Downsample(nn.Module):
    """A convolution that halves both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Run on hidden states (sample, channel, y, x)."""
        halved: Tensor = self.op(hidden)
        return halved


class Upsample(nn.Module):
    """Every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Run on hidden states (sample, channel, y, x)."""
        doubled: Tensor = self.conv(functional.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return doubled


def way_down(
    in_channels: int,
    channels: Sequence[int],
    num_res_blocks: int,
    attended: Collection[int],
    residual: Callable[..., Residual],
    attention: Callable[[int], Attention],
    resblock_updown: bool,
) -> tuple[nn.ModuleList, Block, list[int]]:
    """Make the blocks from the image down, the middle block, and the list of how many channels each of the first gives.

    A level has so many of ``channels`` and ``num_res_blocks`` residual blocks, each followed by attention where
    ``attended`` has its number; what halves the sides leads to the next one.
    """
    here = channels[0]
    blocks, widths = [Block(in_channels, [nn.Conv2d(in_channels, here, 3, padding=1)])], [here]
    for level, wanted in enumerate(channels):
        for _ in range(num_res_blocks):
            after = [attention(wanted)] if level in attended else []
            blocks.append(Block(here, [residual(here, wanted), *after]))
            widths.append(wanted)
            here = wanted
        if level < len(channels) - 1:
            halving = residual(here, here, "down") if resblock_updown else Downsample(here)
            blocks.append(Block(here, [halving]))
            widths.append(here)
    middle = Block(here, [residual(here, here), attention(here), residual(here, here)])
    return nn.ModuleList(blocks), middle, widths


def attended_levels(sample_size: int, sides: Iterable[int], levels: int) -> set[int]:
    """List the levels with attention: those at which an image of ``sample_size`` has one of these sides."""
    return {level for level in range(levels) if 2**level in {sample_size // side for side in sides}}


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Embed times (sample,) as cosines and then sines of frequencies from 1 down to nearly 1/10000: (sample, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device, dtype=torch.float32) / half)
    angles = time[:, None].float() * frequencies
    return functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def time_layers(width: int) -> nn.Sequential:
    """Make the layers that follow ``time_embedding``: from (sample, width) to (sample, 4 width)."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))


def by_heads(channels: Tensor, parts: int, heads: int, split_first: bool = False) -> list[Tensor]:
    """Sort channels (sample, parts * heads * width, place) into as many parts: (sample, head, place, width) each."""
    shape, at = ((parts, heads), 1) if split_first else ((heads, parts), 2)
    sorted_out = channels.unflatten(1, (*shape, -1)).transpose(-1, -2)
    return list(sorted_out.unbind(at))


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with queries to keys and values (sample, head, place, width): (sample, head * width, place)."""
    found: Any = functional.scaled_dot_product_attention(queries, keys, values)
    attended: Tensor = found.transpose(-1, -2).flatten(1, 2)
    return attended


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels)
