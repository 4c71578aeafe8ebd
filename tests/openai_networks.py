"""The U-Nets of improved-diffusion, guided-diffusion and GLIDE as the equations of their papers, over state dicts.

Nothing of the package is used. Every equation is one function, so that a test can put a wrong one in its place.
"""

import math

import torch
from torch.nn import functional

GROUPS, EPS = 32, 1e-5


def unet(state, config, x_t, times, labels=None, tokens=None, text_embeds=None):
    """Predict from states (sample, channel, y, x) at times (sample,), by the arguments of OpenAIUNet, all given."""
    levels = len(config["channel_mult"])
    temb = linear(
        state,
        "time_embed.2",
        silu(linear(state, "time_embed.0", sinusoids(times, config["model_channels"]).to(x_t.dtype))),
    )
    if labels is not None:
        temb = temb + state["label_emb.weight"][labels]
    if text_embeds is not None:
        temb = temb + text_embeds

    def res(name, hidden, resize=same):
        return residual(state, name, hidden, temb, config["use_scale_shift_norm"], resize)

    def att(name, hidden, heads):
        if config["num_head_channels"] is not None:
            heads = hidden.shape[1] // config["num_head_channels"]
        return attention(state, name, hidden, heads, config["use_new_attention_order"], tokens)

    def attends(level):
        return config["sample_size"] // 2**level in config["attention_resolutions"]

    hidden = conv(state, "input_blocks.0.0", x_t)
    skips = [hidden]
    for level in range(levels):
        for _ in range(config["num_res_blocks"]):
            name = f"input_blocks.{len(skips)}"
            hidden = res(f"{name}.0", hidden)
            hidden = att(f"{name}.1", hidden, config["num_heads"]) if attends(level) else hidden
            skips.append(hidden)
        if level < levels - 1:
            name = f"input_blocks.{len(skips)}.0"
            resized = config["resblock_updown"]
            hidden = res(name, hidden, halved) if resized else conv(state, f"{name}.op", hidden, stride=2)
            skips.append(hidden)

    hidden = res("middle_block.0", hidden)
    hidden = att("middle_block.1", hidden, config["num_heads"])
    hidden = res("middle_block.2", hidden)

    count = len(skips)
    for level in reversed(range(levels)):
        for number in range(config["num_res_blocks"] + 1):
            name = f"output_blocks.{count - len(skips)}"
            hidden = res(f"{name}.0", joined(hidden, skips.pop()))
            if attends(level):
                hidden = att(f"{name}.1", hidden, config["num_heads_upsample"] or config["num_heads"])
            if level and number == config["num_res_blocks"]:
                name = f"{name}.{1 + attends(level)}"
                resized = config["resblock_updown"]
                hidden = res(name, hidden, doubled) if resized else conv(state, f"{name}.conv", doubled(hidden))
    return conv(state, "out.2", silu(norm(state, "out.0", hidden)))


def residual(state, name, hidden, temb, scale_shift, resize):
    """h + F(h), Dhariwal and Nichol 2021, appendix A; AdaGN(h, y) = y_s GroupNorm(h) + y_b with y_s = 1 + scale."""
    inner = conv(state, f"{name}.in_layers.2", resize(silu(norm(state, f"{name}.in_layers.0", hidden))))
    told = linear(state, f"{name}.emb_layers.1", silu(temb))[:, :, None, None]
    if scale_shift:
        inner = adagn(norm(state, f"{name}.out_layers.0", inner), *halves(told))
    else:
        inner = norm(state, f"{name}.out_layers.0", inner + told)
    inner = conv(state, f"{name}.out_layers.3", silu(inner))
    skip = resize(hidden)
    return inner + (skip if skip.shape == inner.shape else conv(state, f"{name}.skip_connection", skip))


def attention(state, name, hidden, heads, new_order, tokens):
    """h + W softmax(Q^T K / sqrt(d)) V over places, and over tokens where there are some."""
    places = norm(state, f"{name}.norm", hidden).flatten(2)
    queries, keys, values = sorted_out(pointwise(state, f"{name}.qkv", places), 3, heads, new_order)
    if tokens is not None:
        told = pointwise(state, f"{name}.encoder_kv", tokens.transpose(1, 2))
        text_keys, text_values = sorted_out(told, 2, heads, False)
        keys, values = torch.cat([text_keys, keys], -1), torch.cat([text_values, values], -1)
    scores = torch.einsum("nhdq,nhdk->nhqk", queries, keys) * scale(queries.shape[2])
    attended = torch.einsum("nhqk,nhdk->nhdq", torch.softmax(scores, -1), values)
    return hidden + pointwise(state, f"{name}.proj_out", attended.flatten(1, 2)).reshape(hidden.shape)


def sorted_out(channels, parts, heads, new_order):
    """Channels by part and head: head h has part p at rows (h parts + p) d, or in the new order (p heads + h) d."""
    width = channels.shape[1] // parts // heads
    starts = [[(p * heads + h if new_order else h * parts + p) * width for h in range(heads)] for p in range(parts)]
    return [torch.stack([channels[:, row : row + width] for row in rows], 1) for rows in starts]


def scale(width):
    return 1 / math.sqrt(width)


def silu(x):
    return x * torch.sigmoid(x)


def adagn(normed, told_scale, told_shift):
    return (1 + told_scale) * normed + told_shift


def halves(channels):
    """The first and the second half of the channels."""
    count = channels.shape[1] // 2
    return channels[:, :count], channels[:, count:]


def norm(state, name, x):
    groups = x.reshape(len(x), GROUPS, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    normed = (centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + EPS)).reshape(x.shape)
    return normed * per_channel(state[f"{name}.weight"]) + per_channel(state[f"{name}.bias"])


def per_channel(values):
    return values[:, None, None]


def sinusoids(times, width):
    """cos(t w_i), then sin(t w_i), w_i = 10000^(-2i / width), i < width // 2; an odd width ends with 0. In float32."""
    count = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(count, dtype=torch.float32) / count)
    angles = times.to(torch.float32)[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles), torch.zeros(len(times), width % 2)], 1)


def same(x):
    return x


def halved(x):
    """The mean of every 2 x 2 pixels."""
    *lead, height, width = x.shape
    return x.reshape(*lead, height // 2, 2, width // 2, 2).mean((-3, -1))


def doubled(x):
    """Every pixel 2 x 2 times."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def joined(hidden, skip):
    return torch.cat([hidden, skip], 1)


def conv(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)


def linear(state, name, x):
    return torch.einsum("oi,ni->no", state[f"{name}.weight"], x) + state[f"{name}.bias"]


def pointwise(state, name, x):
    return torch.einsum("oi,nip->nop", state[f"{name}.weight"][:, :, 0], x) + state[f"{name}.bias"][:, None]


# --- state dicts ------------------------------------------------------------------------------------------------


def random_tensors(shapes, dtype=torch.float32, seed=0):
    """Tensors of some shapes by name, all of them random, such that hidden states stay of one size."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape):
        drawn = torch.randn(shape, generator=generator, dtype=dtype)
        return drawn / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else drawn / 2

    return {name: drawn(shape) for name, shape in shapes.items()}


def shapes_of(layers, *, width, text_width=None, classes=None):
    """Names and shapes of all tensors of a network of layers by name, each as "residual 128 256" or alike.

    ``width`` is that of the first layer of the time's embedding; scale and shift are told to residual blocks.
    """
    names = {
        **_named("time_embed.0", {"": (4 * width, width)}),
        **_named("time_embed.2", {"": (4 * width, 4 * width)}),
    }
    if classes:
        names["label_emb.weight"] = (classes, 4 * width)
    for name, layer in layers.items():
        kind, *channels = layer.split()
        names |= _named(name, _WEIGHTS[kind](*map(int, channels), temb=4 * width, text=text_width))
    return names


def _named(layer, weights):
    """Weights and biases of a layer, which has as many biases as its weight has rows."""
    names = {}
    for inner, shape in weights.items():
        name = f"{layer}.{inner}".removesuffix(".")
        names |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return names


def _residual(channels, out, temb, text):
    skip = {"skip_connection": (out, channels, 1, 1)} if channels != out else {}
    return {
        "in_layers.0": (channels,),
        "in_layers.2": (out, channels, 3, 3),
        "emb_layers.1": (2 * out, temb),
        "out_layers.0": (out,),
        "out_layers.3": (out, out, 3, 3),
        **skip,
    }


def _attention(channels, temb, text):
    told = {"encoder_kv": (2 * channels, text, 1)} if text else {}
    return {"norm": (channels,), "qkv": (3 * channels, channels, 1), **told, "proj_out": (channels, channels, 1)}


_WEIGHTS = {
    "norm": lambda channels, **_: {"": (channels,)},
    "conv": lambda channels, out, **_: {"": (out, channels, 3, 3)},
    "residual": _residual,
    "attention": _attention,
    "down": lambda channels, **_: {"op": (channels, channels, 3, 3)},
    "up": lambda channels, **_: {"conv": (channels, channels, 3, 3)},
}


def layers(inputs, middle, outputs, out):
    """Layers by name, of blocks written as layers with + between them."""
    blocks = {
        **{f"input_blocks.{i}": block for i, block in enumerate(inputs)},
        "middle_block": middle,
        **{f"output_blocks.{i}": block for i, block in enumerate(outputs)},
    }
    by_name = {f"{name}.{i}": each for name, block in blocks.items() for i, each in enumerate(block.split(" + "))}
    return {**by_name, "out.0": out[0], "out.2": out[1]}


CIFAR10 = layers(
    [
        "conv 3 128",
        *["residual 128 128"] * 3,
        "down 128",
        "residual 128 256 + attention 256",
        *["residual 256 256 + attention 256"] * 2,
        "down 256",
        *["residual 256 256 + attention 256"] * 3,
        "down 256",
        *["residual 256 256"] * 3,
    ],
    "residual 256 256 + attention 256 + residual 256 256",
    [
        *["residual 512 256"] * 3,
        "residual 512 256 + up 256",
        *["residual 512 256 + attention 256"] * 3,
        "residual 512 256 + attention 256 + up 256",
        *["residual 512 256 + attention 256"] * 3,
        "residual 384 256 + attention 256 + up 256",
        "residual 384 128",
        *["residual 256 128"] * 3,
    ],
    ("norm 128", "conv 128 6"),
)
"""improved-diffusion on CIFAR-10: 128 channels times 1, 2, 2, 2, three residual blocks, attention at 16 and 8."""
OF_64 = layers(
    [
        "conv 3 192",
        *["residual 192 192"] * 3,
        "residual 192 192",
        "residual 192 384 + attention 384",
        *["residual 384 384 + attention 384"] * 2,
        "residual 384 384",
        "residual 384 576 + attention 576",
        *["residual 576 576 + attention 576"] * 2,
        "residual 576 576",
        "residual 576 768 + attention 768",
        *["residual 768 768 + attention 768"] * 2,
    ],
    "residual 768 768 + attention 768 + residual 768 768",
    [
        *["residual 1536 768 + attention 768"] * 3,
        "residual 1344 768 + attention 768 + residual 768 768",
        "residual 1344 576 + attention 576",
        *["residual 1152 576 + attention 576"] * 2,
        "residual 960 576 + attention 576 + residual 576 576",
        "residual 960 384 + attention 384",
        *["residual 768 384 + attention 384"] * 2,
        "residual 576 384 + attention 384 + residual 384 384",
        "residual 576 192",
        *["residual 384 192"] * 3,
    ],
    ("norm 192", "conv 192 6"),
)
"""guided-diffusion at 64 x 64, and GLIDE: 192 channels times 1, 2, 3, 4, three residual blocks, attention from 32."""
