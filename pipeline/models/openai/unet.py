"""The U-Net of improved-diffusion, guided-diffusion and GLIDE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from traj.pipeline.models.openai.layers import (
    NORM_GROUPS,
    Attention,
    Block,
    Residual,
    Upsample,
    attended_levels,
    time_embedding,
    time_layers,
    way_down,
)


class OpenAIUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' classes are untyped
    """The U-Net of Nichol and Dhariwal 2021, Dhariwal and Nichol 2021, and Nichol et al. 2021 (GLIDE).

    Levels have ``channel_mult`` times ``model_channels`` channels and ``num_res_blocks`` residual blocks on the way
    down, one more on the way up. At images of a side in ``attention_resolutions`` each is followed by attention, with
    ``num_heads`` heads, or as many as have ``num_head_channels`` channels; ``num_heads_upsample`` on the way up.
    ``num_classes`` is the number of labels; ``text_width`` that of the embeddings of tokens it attends to.
    """

    config_name = "config.json"
    text_tokens = 128
    """Tokens of a text: GLIDE's, unless the encoder that was loaded beside the network has another number."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,  # diffusers takes what is given by position for a default
        sample_size: int = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16, 8),
        num_heads: int = 4,
        num_head_channels: int | None = None,
        num_heads_upsample: int | None = None,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        num_classes: int | None = None,
        text_width: int | None = None,
    ) -> None:
        super().__init__()
        width = 4 * model_channels

        def residual(channels: int, out: int, resized: str | None = None) -> Residual:
            return Residual(channels, out, width, use_scale_shift_norm, resized)

        def attention(channels: int, heads: int = num_heads) -> Attention:
            heads = heads if num_head_channels is None else channels // num_head_channels
            return Attention(channels, heads, use_new_attention_order, text_width)

        self.time_embed = time_layers(model_channels)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, width)

        widths = [int(mult * model_channels) for mult in channel_mult]
        attended = attended_levels(sample_size, attention_resolutions, len(widths))
        self.input_blocks, self.middle_block, skips = way_down(
            in_channels, widths, num_res_blocks, attended, residual, attention, resblock_updown
        )
        channels = widths[-1]
        outputs = []
        for level, out in reversed([*enumerate(widths)]):
            for number in range(num_res_blocks + 1):
                read = channels + skips.pop()
                layers: list[nn.Module] = [residual(read, out)]
                if level in attended:
                    layers.append(attention(out, num_heads_upsample or num_heads))
                if level and number == num_res_blocks:
                    layers.append(residual(out, out, "up") if resblock_updown else Upsample(out))
                outputs.append(Block(read, layers))
                channels = out
        self.output_blocks = nn.ModuleList(outputs)
        self.out = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )

    def forward(
        self,
        x_t: Tensor,
        time: Tensor,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> UNet2DOutput:
        """Predict from states (sample, channel, y, x) at a time, or at times (sample,).

        ``class_labels`` are int64 (sample,). Of a text, ``encoder_hidden_states`` (sample, token, text_width) are
        attended to, and ``text_embeds`` (sample, 4 model_channels) are added to the embedding of the time.
        """
        temb = self.time_embed(time_embedding(time.expand(len(x_t)), self.config.model_channels).to(x_t.dtype))
        if class_labels is not None:
            temb = temb + self.label_emb(class_labels)
        if text_embeds is not None:
            temb = temb + text_embeds
        return UNet2DOutput(sample=self.out(self.trunk(x_t, temb, encoder_hidden_states)))

    def trunk(self, hidden: Tensor, temb: Tensor, text: Tensor | None) -> Tensor:
        """Run all blocks, from the states to what the last layers read."""
        skips = []
        for block in self.input_blocks:
            hidden = block(hidden, temb, text)
            skips.append(hidden)
        hidden = self.middle_block(hidden, temb, text)
        for block in self.output_blocks:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), temb, text)
        return hidden
