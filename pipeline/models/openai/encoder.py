"""The classifier of guided-diffusion: half of a U-Net, which reads noisy images and their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from traj.pipeline.configs import Key, Keys, flag, number, one_of, several, whole
from traj.pipeline.folder import write_json
from traj.pipeline.models import weights
from traj.pipeline.models.openai import checkpoint, flags
from traj.pipeline.models.openai.flags import Flags
from traj.pipeline.models.openai.layers import (
    NORM_GROUPS,
    Attention,
    Residual,
    attended_levels,
    attention,
    by_heads,
    time_embedding,
    time_layers,
    way_down,
)
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

CHANNELS = 3
"""Of its images."""

HIDDEN = 2048
"""Width of the layer between the means of all blocks and the logits."""

MODEL_TYPE = "openai-classifier"
"""Of its config.json."""

_COUNT = whole(1, 1 << 16)
_NETWORK = {
    "sample_size": Key(64, _COUNT),
    "model_channels": Key(128, _COUNT),
    "channel_mult": Key((1, 2, 3, 4), several(number(0, 1000))),
    "num_res_blocks": Key(2, whole(1, 1000)),
    "attention_resolutions": Key((32, 16, 8), several(_COUNT)),
    "num_head_channels": Key(64, _COUNT),
    "use_scale_shift_norm": Key(True, flag),
    "resblock_updown": Key(True, flag),
    "use_new_attention_order": Key(False, flag),
    "num_classes": Key(1000, _COUNT),
    "pool": Key("attention", one_of("attention", "adaptive", "spatial", "spatial_v2")),
}
_DIFFUSION = {
    "diffusion_steps": Key(1000, whole(2, 1_000_000)),
    "noise_schedule": Key("linear", one_of("linear", "cosine")),
}
_KEYS = Keys({**_NETWORK, **_DIFFUSION}, {"model_type": "names the kind of model"})


class AttentionPool(nn.Module):
    """Attention that the mean of all places pays to itself and to them, with learned positions, in place of a mean."""

    def __init__(self, channels: int, places: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, 1 + places) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool hidden states (sample, channel, y, x): (sample, out_channels)."""
        places = hidden.flatten(2)
        places = torch.cat([places.mean(2, keepdim=True), places], dim=2) + self.positional_embedding
        queries, keys, values = by_heads(self.qkv_proj(places), 3, self.heads, split_first=True)
        pooled: Tensor = self.c_proj(attention(queries[:, :, :1], keys, values))
        return pooled[..., 0]


class OpenAIEncoder(nn.Module):
    """The classifier of Dhariwal and Nichol 2021, section 4: the way down of their U-Net, and a pool.

    Arguments are as for `OpenAIUNet`; heads have ``num_head_channels``. The ``pool`` makes logits of what the middle
    block gives, by "attention" or as a mean over places ("adaptive"), or of the means over places of what every block
    gives ("spatial", "spatial_v2").
    """

    def __init__(
        self,
        *,
        sample_size: int = 64,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        num_head_channels: int = 64,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        use_new_attention_order: bool = False,
        num_classes: int = 1000,
        pool: str = "attention",
    ) -> None:
        super().__init__()
        self.model_channels, self.num_classes, self.pool = model_channels, num_classes, pool
        self.shape = (CHANNELS, sample_size, sample_size)

        def residual(channels: int, out: int, resized: str | None = None) -> Residual:
            return Residual(channels, out, 4 * model_channels, use_scale_shift_norm, resized)

        def heads(channels: int) -> int:
            if channels % num_head_channels:
                raise InputError(
                    f"attention over {channels} channels, in heads of {num_head_channels}; expected a multiple of those"
                )
            return channels // num_head_channels

        def attend(channels: int) -> Attention:
            return Attention(channels, heads(channels), use_new_attention_order)

        self.time_embed = time_layers(model_channels)
        levels = [int(mult * model_channels) for mult in channel_mult]
        attended = attended_levels(sample_size, attention_resolutions, len(levels))
        self.input_blocks, self.middle_block, widths = way_down(
            CHANNELS, levels, num_res_blocks, attended, residual, attend, resblock_updown
        )
        channels, places = levels[-1], (sample_size // 2 ** (len(levels) - 1)) ** 2
        features = sum(widths) + channels
        layers: list[nn.Module]
        match pool:
            case "attention":
                pooling = AttentionPool(channels, places, heads(channels), num_classes)
                layers = [nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), pooling]
            case "adaptive":
                mean, convolution = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, num_classes, 1)
                layers = [nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), mean, convolution, nn.Flatten()]
            case "spatial":
                layers = [nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes)]
            case "spatial_v2":
                normed = [nn.Linear(features, HIDDEN), nn.GroupNorm(NORM_GROUPS, HIDDEN), nn.SiLU()]
                layers = [*normed, nn.Linear(HIDDEN, num_classes)]
        self.out = nn.Sequential(*layers)

    def forward(self, x_t: Tensor, time: Tensor) -> Tensor:
        """Classify states (sample, channel, y, x) of times (sample,): logits (sample, class)."""
        temb = self.time_embed(time_embedding(time, self.model_channels))
        hidden, means = x_t, []
        for block in (*self.input_blocks, self.middle_block):
            hidden = block(hidden, temb)
            means.append(hidden.mean((2, 3)))
        logits: Tensor = self.out(torch.cat(means, dim=1) if self.pool.startswith("spatial") else hidden)
        return logits


def load(config: Mapping[str, Any], file: Path) -> tuple[OpenAIEncoder, Schedule]:
    """Load a network from its config and a file of safetensors, and the schedule of the diffusion it was trained on.

    Raises InputError where the config is none of such a network, or the tensors are not its own, or not finite.
    """
    found = _KEYS.read(config, "its config.json")
    network = _network(found)
    state = weights.read(file)
    checkpoint.require(state, checkpoint.shapes(network), "its config.json")
    network.load_state_dict(state, assign=True)
    return network.float(), schedule(found)


def write(state: Mapping[str, Tensor], given: Flags, folder: Path) -> None:
    """Write the tensors of a checkpoint, and a config.json after the flags of its training, into a folder.

    Raises InputError where the two do not belong together.
    """
    config = {
        "sample_size": given["image_size"],
        "model_channels": given["classifier_width"],
        "channel_mult": given.channel_mult,
        "num_res_blocks": given["classifier_depth"],
        "attention_resolutions": given["classifier_attention_resolutions"],
        "use_scale_shift_norm": given["classifier_use_scale_shift_norm"],
        "resblock_updown": given["classifier_resblock_updown"],
        "pool": given["classifier_pool"],
        **{key: given[key] for key in _DIFFUSION},
    }
    config = _KEYS.read(config, "the flags")
    heads = {"heads of attention": config["num_head_channels"]}
    given.require_widths("classifier_width", config["attention_resolutions"], heads)
    checkpoint.require(state, checkpoint.shapes(_network(config)), "the classifier that the flags describe")
    write_json(folder / "config.json", {"model_type": MODEL_TYPE, **config})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")


def schedule(config: Mapping[str, Any]) -> Schedule:
    """Give the schedule of the diffusion that a classifier was trained on.

    Its training told it the timestep itself, whatever the flags say of rescale_timesteps.
    """
    betas = flags.betas(config["diffusion_steps"], config["noise_schedule"])
    return Schedule.from_config({**betas, "clip_sample": False})


def _network(config: Mapping[str, Any]) -> OpenAIEncoder:
    """Make the network of a config, its tensors on torch's device meta."""
    try:
        with torch.device("meta"):
            return OpenAIEncoder(**{key: config[key] for key in _NETWORK}).eval()
    except (ValueError, RuntimeError) as error:  # channels that cannot be normed in groups, or far too many
        raise InputError(f"there is no such classifier: {error}") from None
