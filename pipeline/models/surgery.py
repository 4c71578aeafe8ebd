"""U-Net surgery: skip connections set to zero, and blocks left out from the bottom (002).

A U-Net is a row of input blocks, a middle block and as many output blocks. The first input block is the first
convolution; each other one is a residual block with its attention, or a downsampling. Each output block is a residual
block with its attention and, at the end of a level, the upsampling; it reads the block below it and one skip, the
output of an input block. Skips are counted from the top: skip n is what input block n hands over. Output blocks are
counted from the bottom: output block n of B takes skip B + 1 - n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from traj.pipeline.process.cut import WHOLE, Cut
from traj.stores import InputError

if TYPE_CHECKING:  # plans hold cuts, and need neither torch nor diffusers
    import torch
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from traj.pipeline.models.openai.unet import OpenAIUNet

SOURCE_BLOCKS = 16  # of the network of 002, GLIDE's
# what reads a text is counted with as many tokens as its encoder gives
CLIP_TOKENS = 77

_PLAIN = {f"{kind}{way}Block2D" for kind in ("", "Attn", "CrossAttn", "SimpleCrossAttn") for way in ("Down", "Up")}
_CUTTABLE = _PLAIN | {"ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"}


@dataclass(frozen=True)
class UnetBlock:
    """A block of a U-Net: where it stands, what it takes and gives, and its multiply-adds for one image.

    ``part`` is input, middle or output; ``number`` counts input blocks from the top and output blocks from the bottom,
    from 1. ``name`` joins the paths of its modules, the last of which gives its output. ``skip`` is the number of the
    skip it hands over or takes. ``shape`` of its output is (channel, y, x).
    """

    part: str
    number: int
    name: str
    skip: int | None
    channels_in: int
    shape: tuple[int, int, int]
    multiply_adds: int


@dataclass(frozen=True)
class Count:
    """The multiply-adds of one evaluation of one image: all of them, and those of each block in the order they run."""

    whole: int
    unet_blocks: list[UnetBlock]

    def under(self, cut: Cut) -> int:
        """Leave out those of the blocks that a cut leaves out. Raises InputError where there are fewer than those."""
        outputs = self.unet_blocks[-1].number
        _require_within(cut, outputs)
        return self.whole - sum(block.multiply_adds for block in self.unet_blocks if left_out(block, cut, outputs))


def forward(
    network: nn.Module,
    cut: Cut,
    x_t: Tensor,
    model_time: Tensor | float,
    class_labels: Tensor | None = None,
    **told: Tensor | None,
) -> Tensor:
    """Run a U-Net under a cut; the network itself is not touched (002, section 3.2).

    ``told`` is what else its ``forward`` takes, such as encoder_hidden_states.

    The output is, bit for bit, that of the network with the top ``cut.skips`` skips and the output of output block
    ``cut.unet_blocks`` set to zeros. Output blocks up to that one, the middle block and the input blocks that only they
    read are not run. (Bit for bit where both halves have attention of the same kind at the same levels; elsewhere
    within rounding.) States x_t are (sample, channel, y, x), and so is the output.

    Raises
    ------
    InputError
        When the network cannot be cut so, see ``check``.
    """
    if cut == WHOLE:
        return network(x_t, model_time, class_labels=class_labels, **told).sample
    stand_in = _StandIn(network, _Trunk(_allowed(network, cut), cut))
    return type(network).forward(stand_in, x_t, model_time, class_labels=class_labels, **told).sample


def check(network: Any, cut: Cut) -> None:
    """Refuse a cut that a network does not allow; no cut at all suits every model.

    Raises
    ------
    InputError
        When the model is not a U-Net, has blocks that cannot be cut, or has fewer blocks or skips than the cut.
    """
    if cut != WHOLE:
        _allowed(network, cut)


def scaled_unet_blocks(nb: int, network: nn.Module) -> int:
    """Scale a number of blocks of the network of 002 to this one's: nb B / 16, rounded, a half upwards.

    Raises
    ------
    InputError
        When nb is not in 0..16, or the network cannot be cut.
    """
    if not 0 <= nb <= SOURCE_BLOCKS:
        raise InputError(f"nb {nb}; expected 0 to {SOURCE_BLOCKS}, the output blocks of the source's network")
    return (2 * nb * len(_stages(network).outputs) + SOURCE_BLOCKS) // (2 * SOURCE_BLOCKS)


def count(network: nn.Module, sides: Sequence[int] | None = None) -> Count:
    """Count a U-Net's multiply-adds for one image, block by block.

    Convolutions, linear layers and attention are counted; nothing is computed. ``sides`` are the height and width of
    what the network is given, by default its config's sample_size.

    Raises
    ------
    InputError
        When the network cannot be cut, or neither its config nor ``sides`` say what it is given.
    """
    _stages(network)  # refuses before anything is built
    counter, found = _counter(), []
    sketch, states, told = _sketch(network, sides)
    stages = _stages(sketch)
    outputs = len(stages.outputs)

    def counted(unet_block: _Stage, part: str, number: int, skip: int | None) -> _Stage:
        def run(hidden: Tensor, *context: Any) -> Tensor:
            before = counter.get_total_flops()
            out = unet_block.run(hidden, *context)
            multiply_adds = (counter.get_total_flops() - before) // 2
            channels, height, width = out.shape[1:]
            shape = channels, height, width
            found.append(UnetBlock(part, number, unet_block.name, skip, hidden.shape[1], shape, multiply_adds))
            return out

        return unet_block._replace(run=run)

    watched = stages._replace(
        inputs=[counted(unet_block, "input", n, n) for n, unet_block in enumerate(stages.inputs, 1)],
        middle=stages.middle and counted(stages.middle, "middle", 1, None),
        outputs=[counted(unet_block, "output", n, outputs + 1 - n) for n, unet_block in enumerate(stages.outputs, 1)],
    )
    with counter:
        type(sketch).forward(_StandIn(sketch, _Trunk(watched, WHOLE)), *states, **told)
    return Count(counter.get_total_flops() // 2, found)


def left_out(unet_block: UnetBlock, cut: Cut, count: int) -> bool:
    """Tell whether a cut leaves a block out of a U-Net with ``count`` output blocks."""
    match unet_block.part:
        case "input":
            return unet_block.number > count - cut.unet_blocks
        case "output":
            return unet_block.number <= cut.unet_blocks
        case _:
            return cut.unet_blocks > 0


class _Stage(NamedTuple):
    """A block as it runs: from (hidden states, time embedding, text, size to upsample to) to hidden states."""

    name: str
    channels: int
    run: Callable[[Tensor, Tensor, Tensor | None, torch.Size | None], Tensor]


class _Stages(NamedTuple):
    inputs: list[_Stage]
    middle: _Stage | None
    outputs: list[_Stage]
    channels_out: int


@dataclass
class _Trunk:
    """All blocks of a U-Net under a cut, in the shape of one downsampling block of diffusers."""

    stages: _Stages
    cut: Cut
    has_cross_attention: bool = field(default=True, init=False)  # asks UNet2DConditionModel for the text

    def __call__(
        self, hidden_states: Tensor, temb: Tensor, encoder_hidden_states: Tensor | None = None, **_masks: None
    ) -> tuple[Tensor, tuple[()]]:
        import torch

        inputs, middle, outputs, channels_out = self.stages
        hidden, text = hidden_states, encoder_hidden_states
        kept = len(outputs) - self.cut.unet_blocks
        if not kept:
            return hidden.new_zeros(len(hidden), channels_out, *hidden.shape[2:]), ()
        skips: list[Tensor] = []
        for unet_block in inputs[:kept]:
            hidden = unet_block.run(hidden, temb, text, None)
            skips.append(hidden)
        if self.cut.unet_blocks:
            below = outputs[self.cut.unet_blocks].channels - hidden.shape[1]
            # laid out in memory as its skip, as it would be; another layout changes the last bits of convolutions
            channels_last = hidden.is_contiguous(memory_format=torch.channels_last)
            hidden = hidden.new_zeros(len(hidden), below, *hidden.shape[2:])
            hidden = hidden.contiguous(memory_format=torch.channels_last) if channels_last else hidden
        elif middle:
            hidden = middle.run(hidden, temb, text, None)
        for unet_block in outputs[self.cut.unet_blocks :]:
            skip = skips.pop()
            if len(skips) < self.cut.skips:
                skip = torch.zeros_like(skip)
            size = skips[-1].shape[2:] if skips else None
            hidden = unet_block.run(torch.cat([hidden, skip], dim=1), temb, text, size)
        return hidden, ()


class _StandIn:
    """A network as its own ``forward`` sees it, which embeds the time and gives the output, with a trunk inside."""

    mid_block = None
    up_blocks = ()

    def __init__(self, network: nn.Module, trunk: _Trunk) -> None:
        self._network, self._trunk = network, trunk
        self.down_blocks = (trunk,)

    def trunk(self, hidden: Tensor, temb: Tensor, text: Tensor | None) -> Tensor:
        """Run the blocks of an OpenAIUNet."""
        return self._trunk(hidden, temb, text)[0]

    @staticmethod
    def conv_in(sample: Tensor) -> Tensor:
        """Leave the first convolution to the trunk, whose first input block it is."""
        return sample

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def _allowed(network: Any, cut: Cut) -> _Stages:
    stages = _stages(network)
    _require_within(cut, len(stages.outputs))
    return stages


def _require_within(cut: Cut, count: int) -> None:
    """Raise InputError where a cut is larger than a network of so many output blocks, each of which takes a skip."""
    for number, parts in ((cut.unet_blocks, "output blocks"), (cut.skips, "skip connections")):
        if number > count:
            raise InputError(
                f"a cut of {number} {parts}, but the network has {count}; expected 0 to {count} "
                "(traj info MODEL lists them)"
            )


def _stages(network: Any) -> _Stages:
    from diffusers import UNet2DConditionModel, UNet2DModel

    from traj.pipeline.models.openai.unet import OpenAIUNet

    if isinstance(network, OpenAIUNet):
        return _openai_stages(network)
    if not isinstance(network, UNet2DModel | UNet2DConditionModel):
        raise InputError(
            f"a cut needs a U-Net, and this model is a {type(network).__name__}; expected UNet2DModel, "
            "UNet2DConditionModel or OpenAIUNet"
        )
    for level in (*network.down_blocks, *network.up_blocks):
        if type(level).__name__ not in _CUTTABLE:
            raise InputError(
                f"the network has a {type(level).__name__}, which cannot be cut; expected "
                f"{', '.join(sorted(_CUTTABLE))}"
            )
    inputs = [_stage("conv_in", network.conv_in)]
    outputs = []
    for i, level in enumerate(network.down_blocks):
        inputs += _residual_stages(f"down_blocks.{i}", level)
        inputs += [_stage(f"down_blocks.{i}.downsamplers.0", *level.downsamplers)] if level.downsamplers else []
    for i, level in enumerate(network.up_blocks):
        *others, last = _residual_stages(f"up_blocks.{i}", level)
        if level.upsamplers:
            last = _followed_by(last, _stage(f"up_blocks.{i}.upsamplers.0", *level.upsamplers))
        outputs += [*others, last]
    middle = network.mid_block
    return _Stages(
        inputs,
        middle and _stage("mid_block", middle, getattr(middle, "has_cross_attention", False)),
        outputs,
        network.conv_out.in_channels,
    )


def _openai_stages(network: OpenAIUNet) -> _Stages:
    def stage(name: str, block: Any) -> _Stage:
        return _Stage(name, block.in_channels, lambda hidden, temb, text, _size: block(hidden, temb, text))

    inputs, outputs = (
        [stage(f"{part}.{i}", block) for i, block in enumerate(getattr(network, part))]
        for part in ("input_blocks", "output_blocks")
    )
    norm: Any = network.out[0]
    return _Stages(inputs, stage("middle_block", network.middle_block), outputs, norm.num_channels)


def _residual_stages(name: str, level: Any) -> list[_Stage]:
    stages = [_stage(f"{name}.resnets.{j}", resnet) for j, resnet in enumerate(level.resnets)]
    if not hasattr(level, "attentions"):
        return stages
    reads_text = getattr(level, "has_cross_attention", False)
    attentions = [
        _stage(f"{name}.attentions.{j}", attention, reads_text) for j, attention in enumerate(level.attentions)
    ]
    return [_followed_by(stage, attention) for stage, attention in zip(stages, attentions, strict=True)]


def _followed_by(first: _Stage, then: _Stage) -> _Stage:
    def run(hidden: Tensor, temb: Tensor, text: Tensor | None, size: torch.Size | None) -> Tensor:
        return then.run(first.run(hidden, temb, text, size), temb, text, size)

    return _Stage(f"{first.name} + {then.name}", first.channels, run)


def _stage(name: str, module: Any, reads_text: bool = False) -> _Stage:
    """Wrap a layer of diffusers, each of which is called in its own way."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from diffusers.models.upsampling import Upsample2D

    def run(hidden: Tensor, temb: Tensor, text: Tensor | None, size: torch.Size | None) -> Tensor:
        match module:
            case Upsample2D():
                return module(hidden, size)
            case ResnetBlock2D():
                return module(hidden, temb)
            case Transformer2DModel() | DualTransformer2DModel():
                return module(hidden, encoder_hidden_states=text, return_dict=False)[0]
            case Attention() if reads_text:
                return module(hidden, encoder_hidden_states=text)
            case _ if name == "mid_block":
                return module(hidden, temb, encoder_hidden_states=text) if reads_text else module(hidden, temb)
            case _:
                return module(hidden)

    return _Stage(name, getattr(module, "in_channels", 0), run)


def _sketch(network: Any, sides: Sequence[int] | None) -> tuple[Any, tuple[Tensor, Tensor], dict[str, Tensor]]:
    """Build the network again without memory, with the state, time, label and text of one evaluation."""
    import torch

    config = network.config
    size = config.sample_size if sides is None else sides
    if size is None:
        raise InputError("the network's config has no sample_size; expected the images' height and width")
    size = (size,) * 2 if isinstance(size, int) else size
    with torch.device("meta"):
        # looking a class up multiplies nothing, and without classes there is no label to give
        classes = {name: None for name in ("num_class_embeds", "num_classes") if name in config}
        lookup = {} if config.get("class_embed_type") else classes
        sketch = type(network).from_config({**config, **lookup}).eval().requires_grad_(False)
        states = torch.zeros(1, config.in_channels, *size), torch.zeros((), dtype=torch.int64)
        return sketch, states, _told(network)


def _told(network: Any) -> dict[str, Tensor]:
    """Make what a U-Net is told of a label and a text in one evaluation."""
    import torch

    config = network.config
    if config.get("text_width"):
        return {
            "encoder_hidden_states": torch.zeros(1, network.text_tokens, config.text_width),
            "text_embeds": torch.zeros(1, 4 * config.model_channels),
        }
    told = {}
    if config.get("class_embed_type") == "timestep":
        told["class_labels"] = torch.zeros(1, dtype=torch.int64)
    elif config.get("class_embed_type") == "identity":
        told["class_labels"] = torch.zeros(1, 1)
    if "cross_attention_dim" in config:
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]
        told["encoder_hidden_states"] = torch.zeros(1, CLIP_TOKENS, width)
    return told


def _counter() -> FlopCounterMode:
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)
