"""U-Nets to test with: small random ones, any that hypothesis comes upon, GLIDE's without its weights."""

from functools import cache

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from hypothesis import strategies as st

from traj.pipeline.models.digits import RECIPES
from traj.pipeline.process.cut import Cut

TEXT_WIDTH = 12


def random_unet(**changes):
    """A U-Net with random weights, the same every time; of two levels unless the changes say otherwise."""
    torch.manual_seed(0)
    widths = changes.get("block_out_channels", (8, 16))
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": widths,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",) * len(widths),
        "up_block_types": ("UpBlock2D",) * len(widths),
        "add_attention": False,
    }
    return UNet2DModel(**{**config, **changes})


def digits():
    """The built-in network before any training."""
    torch.manual_seed(0)
    return UNet2DModel(**RECIPES["digits"].network).eval()


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


def output_layers(network):
    """(first layer, last layer) of every output block, from the bottom."""
    for level in network.up_blocks:
        attentions = getattr(level, "attentions", [])
        lasts = list(attentions or level.resnets)
        if level.upsamplers:
            lasts[-1] = level.upsamplers[0]
        yield from zip(level.resnets, lasts, strict=True)


def some_cut(data, network):
    count = len(list(output_layers(network)))
    return Cut(
        skips=data.draw(st.integers(0, count), "skips"), unet_blocks=data.draw(st.integers(0, count), "unet_blocks")
    )


def meta(kind, **config):
    with torch.device("meta"):
        return kind(**config)


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
    "attn_norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}


@cache
def glide():
    """The network of GLIDE in shapes alone."""
    return meta(UNet2DModel, **GLIDE)


def skipping():
    """The config of a network with a block that cannot be cut."""
    return {
        "sample_size": 8,
        "block_out_channels": (8, 8),
        "down_block_types": ("SkipDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "SkipUpBlock2D"),
        "norm_num_groups": 2,
        "attention_head_dim": 4,
    }
