"""Small random models of GLIDE's kind, and a tokenizer of GPT-2's with a small vocabulary."""

import gzip
import json

import torch

from traj.pipeline.models.openai import convert, flags
from traj.pipeline.models.openai.text import GlideTextEncoder
from traj.pipeline.models.openai.unet import OpenAIUNet

MERGES = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og"), ("Ã", "¶"), ("#", "#")]
"""Of "cat", " cat", " dog", "ö" and "##"; Ġ stands for a space."""


TINY = (
    "--image_size 8 --num_channels 32 --channel_mult 1,1 --num_res_blocks 1 --num_head_channels 16 "
    "--attention_resolutions 8,4 --text_ctx 6 --xf_width 24 --xf_layers 1 --xf_heads 3"
)


def state(text):
    """The state dict of a checkpoint with such flags, random numbers in every tensor."""
    torch.manual_seed(0)
    given = flags.read(text, ["transformer.resblocks.0.ln_1.weight"])
    of_text = {name: given[name] for name in ("text_ctx", "xf_width", "xf_layers", "xf_heads")}
    encoder = GlideTextEncoder(n_vocab=N_VOCAB, **of_text, model_channels=given["num_channels"])
    unet = OpenAIUNet(**given.unet(), text_width=given["xf_width"])
    found = {**unet.state_dict(), **encoder.state_dict()}
    return {
        name: tensor.normal_(std=tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.5)
        for name, tensor in found.items()
    }


def converted(folder, text=TINY, tokenizer=True):
    """Write the folder of a model with such flags, as `traj convert` does."""
    source = folder.with_name(f"{folder.name}.pt")
    torch.save(state(text), source)
    convert.convert(
        source, folder, text, tokenizer=write(folder.with_name(f"{folder.name}-bpe")) if tokenizer else None
    )
    return folder


class Tiny:
    """A model that is saved as a pipeline of diffusers is."""

    @staticmethod
    def save_pretrained(folder):
        converted(folder)


def letters():
    """The letter that stands for each byte, in GPT-2's order: bytes that can be printed first, as themselves."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return [*map(chr, printed), *(chr(256 + n) for n in range(len(others)))]


VOCABULARY = {token: n for n, token in enumerate([*letters(), *("".join(pair) for pair in MERGES)])}
N_VOCAB = len(VOCABULARY) + 1


def write(folder, names=("vocab.json", "merges.txt"), vocabulary=VOCABULARY):
    """Write the two files, compressed where their names say so."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES)
    for name, content in zip(names, (json.dumps(vocabulary), merges), strict=True):
        content = content.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder
