"""The keys of a UNet2DModel's config and what they default to, whatever a later diffusers does."""

from __future__ import annotations

from typing import Any

from traj.pipeline.configs import Key, Keys, Unfit, flag, number, one_of, optional, several, text, whole

_WIDTH = whole(1, 1 << 16)


def _sides(value: Any) -> int | tuple[int, ...]:
    """Read the side of square images, or height and width."""
    if not isinstance(value, list | tuple):
        return int(_WIDTH(value))
    if len(value) != 2:
        raise Unfit("a number, or height and width")
    return tuple(map(_WIDTH, value))


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
