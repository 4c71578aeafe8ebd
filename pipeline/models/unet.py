"""The keys of the configs of U-Nets and what they default to, whatever a later diffusers does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traj.pipeline.configs import (
    Key,
    Keys,
    Read,
    Unfit,
    flag,
    number,
    off,
    one_of,
    optional,
    refusal,
    several,
    text,
    whole,
)

_WIDTH = whole(1, 1 << 16)


def _sides(value: Any) -> int | tuple[int, ...]:
    """Read the side of square images, or height and width."""
    if not isinstance(value, list | tuple):
        return int(_WIDTH(value))
    if len(value) != 2:
        raise Unfit("a number, or height and width")
    return tuple(map(_WIDTH, value))


def sides_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Give the height and width that a network's config says. Raises InputError where it says none."""
    size = config["sample_size"]
    if size is None:
        raise refusal("the network's config has no sample_size; expected the images' height and width: give --size")
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _each(read: Read) -> Read:
    """Read what ``read`` does, or a list of it, one for each level."""

    def read_or_list(value: Any) -> Any:
        return several(read)(value) if isinstance(value, list | tuple) else read(value)

    return read_or_list


KEYS = Keys(
    used={
        "sample_size": Key(None, optional(_sides)),
        "in_channels": Key(3, _WIDTH),
        "out_channels": Key(3, _WIDTH),
        "center_input_sample": Key(False, flag),
        "time_embedding_type": Key("positional", one_of("positional", "fourier", "learned")),
        "time_embedding_dim": Key(None, optional(_WIDTH)),
        "freq_shift": Key(0, number()),
        "flip_sin_to_cos": Key(True, flag),
        "down_block_types": Key(("DownBlock2D", *["AttnDownBlock2D"] * 3), several(text)),
        "mid_block_type": Key("UNetMidBlock2D", optional(one_of("UNetMidBlock2D"))),
        "up_block_types": Key((*["AttnUpBlock2D"] * 3, "UpBlock2D"), several(text)),
        "block_out_channels": Key((224, 448, 672, 896), several(_WIDTH)),
        "layers_per_block": Key(2, whole(1, 1000)),
        "mid_block_scale_factor": Key(1, number(above=0)),
        "downsample_padding": Key(1, whole(0, 1)),
        "downsample_type": Key("conv", one_of("conv", "resnet")),
        "upsample_type": Key("conv", one_of("conv", "resnet")),
        "act_fn": Key("silu", text),
        "attention_head_dim": Key(8, optional(_WIDTH)),
        "norm_num_groups": Key(32, _WIDTH),
        "attn_norm_num_groups": Key(None, optional(_WIDTH)),
        "norm_eps": Key(1e-5, number(above=0)),
        "resnet_time_scale_shift": Key("default", text),
        "add_attention": Key(True, flag),
        "class_embed_type": Key(None, optional(one_of("timestep", "identity"))),
        "num_class_embeds": Key(None, optional(whole(1, 10_000_000))),
        "num_train_timesteps": Key(None, optional(whole(1, 1_000_000))),
    },
    unused={"dropout": "of training; nothing is dropped when a network predicts"},
)

_UNSUPPORTED = optional(off)
CONDITION_KEYS = Keys(
    used={
        "sample_size": Key(None, optional(_sides)),
        "in_channels": Key(4, _WIDTH),
        "out_channels": Key(4, _WIDTH),
        "center_input_sample": Key(False, flag),
        "flip_sin_to_cos": Key(True, flag),
        "freq_shift": Key(0, number()),
        "down_block_types": Key((*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"), several(text)),
        "mid_block_type": Key("UNetMidBlock2DCrossAttn", optional(text)),
        "up_block_types": Key(("UpBlock2D", *["CrossAttnUpBlock2D"] * 3), several(text)),
        "only_cross_attention": Key(False, _each(flag)),
        "block_out_channels": Key((320, 640, 1280, 1280), several(_WIDTH)),
        "layers_per_block": Key(2, _each(whole(1, 1000))),
        "downsample_padding": Key(1, whole(0, 1)),
        "mid_block_scale_factor": Key(1, number(above=0)),
        "act_fn": Key("silu", text),
        "norm_num_groups": Key(32, optional(_WIDTH)),
        "norm_eps": Key(1e-5, number(above=0)),
        "cross_attention_dim": Key(1280, _WIDTH),
        "transformer_layers_per_block": Key(1, _each(whole(1, 1000))),
        "attention_head_dim": Key(8, _each(_WIDTH)),
        "dual_cross_attention": Key(False, flag),
        "use_linear_projection": Key(False, flag),
        "upcast_attention": Key(False, flag),
        "resnet_time_scale_shift": Key("default", text),
        "resnet_skip_time_act": Key(False, flag),
        "resnet_out_scale_factor": Key(1.0, number(above=0)),
        "time_embedding_type": Key("positional", one_of("positional", "fourier")),
        "time_embedding_dim": Key(None, optional(_WIDTH)),
        "time_embedding_act_fn": Key(None, optional(text)),
        "timestep_post_act": Key(None, optional(text)),
        "conv_in_kernel": Key(3, _WIDTH),
        "conv_out_kernel": Key(3, _WIDTH),
        "attention_type": Key("default", one_of("default")),
        "mid_block_only_cross_attention": Key(None, optional(flag)),
        "cross_attention_norm": Key(None, optional(text)),
        **{
            key: Key(None, _UNSUPPORTED)
            for key in (
                "reverse_transformer_layers_per_block",
                "encoder_hid_dim",
                "encoder_hid_dim_type",
                "num_attention_heads",
                "class_embed_type",
                "addition_embed_type",
                "addition_time_embed_dim",
                "num_class_embeds",
                "time_cond_proj_dim",
                "projection_class_embeddings_input_dim",
            )
        },
    },
    unused={
        "dropout": "of training; nothing is dropped when a network predicts",
        "class_embeddings_concat": "of classes, which are refused",
        "addition_embed_type_num_heads": "of addition_embed_type, which is refused",
    },
)
"""Those of networks that are told nothing but a text beside the state and the time."""
