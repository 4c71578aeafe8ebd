"""An OpenAIUNet as a UNet2DModel of diffusers, where there is one that computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from traj.pipeline.models.openai.layers import NORM_GROUPS, Attention, Downsample, Residual, by_heads
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.models.unet import KEYS

_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_INNER = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "op": "conv",
    "conv": "conv",
}


def config(openai_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the whole config of the UNet2DModel that computes what an OpenAIUNet of these arguments does.

    None where there is none: a UNet2DModel reads no text, embeds the time in as many numbers as its first level has
    channels, and has heads of one width.
    """
    with torch.device("meta"):
        network = OpenAIUNet(**openai_config)
    given = network.config
    channels = [int(mult * given.model_channels) for mult in given.channel_mult]
    head_widths = {_width(layer) for layer in network.modules() if isinstance(layer, Attention)}
    if given.text_width is not None or channels[0] != given.model_channels or len(head_widths) > 1:
        return None
    first_blocks = network.input_blocks[1 :: given.num_res_blocks + 1]  # of each level
    plain = "Resnet{}sampleBlock2D" if given.resblock_updown else "{}Block2D"
    kinds = [
        "Attn{}Block2D" if any(isinstance(layer, Attention) for layer in block) else plain for block in first_blocks
    ]
    resizing = "resnet" if given.resblock_updown else "conv"
    told = {
        "sample_size": given.sample_size,
        "in_channels": given.in_channels,
        "out_channels": given.out_channels,
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
        "block_out_channels": channels,
        "layers_per_block": given.num_res_blocks,
        "downsample_type": resizing,
        "upsample_type": resizing,
        "attention_head_dim": head_widths.pop(),
        "norm_num_groups": NORM_GROUPS,
        "attn_norm_num_groups": NORM_GROUPS,  # else scale_shift leaves out the norm of the middle attention
        "resnet_time_scale_shift": "scale_shift" if given.use_scale_shift_norm else "default",
        "num_class_embeds": given.num_classes,
    }
    return KEYS.read(told, "the config of an OpenAIUNet")


def tensors(state: Mapping[str, Tensor], openai_config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the tensors of an OpenAIUNet the names and shapes they have in its UNet2DModel.

    ``state`` has all tensors of an OpenAIUNet of these arguments, for which ``config`` is not None.
    """
    with torch.device("meta"):
        network = OpenAIUNet(**openai_config)
    names = _layer_names(network)
    renamed = {}
    for name, tensor in state.items():
        layer = next(layer for layer in names if name.startswith(f"{layer}."))
        inner, _, kind = name.removeprefix(f"{layer}.").rpartition(".")
        match inner:
            case "qkv":
                for letter, rows in zip("qkv", _rows(network.get_submodule(layer)), strict=True):
                    renamed[f"{names[layer]}.to_{letter}.{kind}"] = tensor[rows].squeeze(-1)
            case "proj_out":
                renamed[f"{names[layer]}.to_out.0.{kind}"] = tensor.squeeze(-1)
            case "":
                renamed[f"{names[layer]}.{kind}"] = tensor
            case _:
                renamed[f"{names[layer]}.{_INNER[inner]}.{kind}"] = tensor
    return renamed


def _layer_names(network: OpenAIUNet) -> dict[str, str]:
    """Name the layers of an OpenAIUNet as in its UNet2DModel."""
    names = dict(_OUTER)
    per_level = network.config.num_res_blocks + 1
    for part, here, first in (("input_blocks", "down_blocks", 1), ("output_blocks", "up_blocks", 0)):
        for number, block in enumerate(getattr(network, part)[first:]):
            level, place = divmod(number, per_level)
            for i, layer in enumerate(block):
                names[f"{part}.{first + number}.{i}"] = f"{here}.{level}.{_layer_name(layer, place)}"
    return names


def _layer_name(layer: nn.Module, place: int) -> str:
    match layer:
        case Attention():
            return f"attentions.{place}"
        case Residual(resized=None):
            return f"resnets.{place}"
        case Residual(resized="down") | Downsample():
            return "downsamplers.0"
        case _:
            return "upsamplers.0"


def _width(layer: Attention) -> int:
    return layer.qkv.in_channels // layer.heads


def _rows(layer: Any) -> list[Tensor]:
    """Find the rows of the weight of qkv that give queries, keys and values, sorted by heads."""
    rows = torch.arange(layer.qkv.out_channels)[None, :, None]
    return [part.flatten() for part in by_heads(rows, 3, layer.heads, layer.split_first)]
