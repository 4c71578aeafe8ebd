"""GLIDE's base model: an OpenAIUNet on images of 64 x 64 that reads a text through a transformer of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from traj.pipeline.configs import Key, Keys, flag, whole
from traj.pipeline.folder import write_json
from traj.pipeline.models import loading, surgery
from traj.pipeline.models.openai import checkpoint, family, tokens
from traj.pipeline.models.openai.checkpoint import State
from traj.pipeline.models.openai.flags import Flags
from traj.pipeline.models.openai.text import GlideTextEncoder, Read
from traj.pipeline.models.openai.tokens import Tokens
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.models.repository import Repository
from traj.pipeline.models.text_denoiser import TextDenoiser
from traj.pipeline.process.cut import Cut
from traj.stores import InputError, MissingFile

PARTS = {"unet": (OpenAIUNet.__name__,), "text_encoder": (GlideTextEncoder.__name__,)}
"""What a model of this family has beside its scheduler, and perhaps a tokenizer."""

_WIDTH = whole(1, 1 << 16)
TEXT_KEYS = Keys(
    {
        "n_vocab": Key(50257, whole(1, 10_000_000)),
        "text_ctx": Key(128, _WIDTH),
        "xf_width": Key(512, _WIDTH),
        "xf_layers": Key(16, whole(1, 1000)),
        "xf_heads": Key(8, _WIDTH),
        "xf_final_ln": Key(True, flag),
        "xf_padding": Key(True, flag),
        "model_channels": Key(192, _WIDTH),
    }
)
"""The keys of a GlideTextEncoder's config."""


def load(
    repository: Repository, *, device: str, autocast: bool, steps: int | None, size: tuple[int, int] | None
) -> GlideDenoiser:
    """Load the U-Net with its scheduler and text transformer; a tokenizer comes when the first text is read.

    Raises
    ------
    MissingFile
        When a file that belongs to such a model is missing.
    InputError
        When a part is not supported, parts do not fit, a size was asked for, or the network cannot be loaded or run.
    """
    config = family.KEYS.read(repository.config(repository.network), "the network's config.json")
    of_text = TEXT_KEYS.read(repository.config("text_encoder"), "the config.json of text_encoder")
    family.refuse_size(size, config)
    needed, given = (
        (one["model_channels"], one[width]) for one, width in ((config, "text_width"), (of_text, "xf_width"))
    )
    if needed != given:
        raise InputError(
            f"the network has model_channels and text_width {needed}, and its text encoder model_channels and xf_width "
            f"{given}; they do not belong together"
        )
    own = loading.own(repository)
    network, sha256 = loading.load(OpenAIUNet, config, repository, repository.network)
    network.text_tokens = of_text["text_ctx"]
    encoder, text_sha256 = loading.load(GlideTextEncoder, of_text, repository, "text_encoder")
    texts = GlideTexts(encoder, Tokens(of_text["text_ctx"], of_text["n_vocab"], _tokenizer(repository)))
    denoiser = GlideDenoiser(
        network.to(device),
        loading.schedule(repository, steps, own),
        texts=texts,
        sides=(config["sample_size"],) * 2,
        valid_range=(-1.0, 1.0),
        name=repository.name,
        identity={
            "weights": sha256,
            "network": family.KEYS.fingerprint(config),
            "time_scale": own["time_scale"],
            "text_encoder": {"weights": text_sha256, "network": TEXT_KEYS.fingerprint(of_text)},
            "tokenizer": texts.tokens.sha256,
        },
        autocast=autocast,
    )
    condition = Read(*(embedded[None] for embedded in texts.encode("", torch.device(device))))
    given_to = "an image of {} x {} x {}, the size that its config.json says".format(*denoiser.shape)
    loading.attempt(denoiser, condition, device, given_to)
    return denoiser


class GlideTexts:
    """Reads texts by their tokens, with a text transformer."""

    def __init__(self, encoder: GlideTextEncoder, tokens: Tokens) -> None:
        self._encoder, self.tokens, self.lost = encoder.eval().requires_grad_(False), tokens, tokens.lost

    def encode(self, text: str, device: torch.device) -> Read:
        """Give the embeddings of a text's tokens (token, width) and of the whole (4 model_channels,)."""
        padded = (each[None].to(device) for each in self.tokens.padded(text))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return Read(*(each[0] for each in self._encoder.to(device)(*padded)))


class GlideDenoiser(TextDenoiser):
    """GLIDE's OpenAIUNet."""

    network: OpenAIUNet

    def answer(
        self, x_t: torch.Tensor, time: torch.Tensor, condition: tuple[torch.Tensor, ...], cut: Cut
    ) -> torch.Tensor:
        """Run the network; condition is the embeddings of tokens and of the whole texts."""
        return surgery.forward(self.network, cut, x_t, time, **Read(*condition)._asdict())


def write(state: State, given: Flags, folder: Path, tokenizer: Path | None = None) -> None:
    """Write the tensors of a checkpoint into a folder, as U-Net and text encoder, and perhaps the files of a tokenizer.

    Raises
    ------
    MissingFile
        When ``tokenizer`` is a folder without one.
    InputError
        When the tensors are not those of the flags, or the tokenizer is not the model's.
    """
    of_text = {name: given[name] for name in TEXT_KEYS.used if name in given.values}
    n_vocab = len(state["token_embedding.weight"]) if "token_embedding.weight" in state else 1
    with torch.device("meta"):
        unet = OpenAIUNet(**given.unet(), text_width=given["xf_width"])
        encoder = GlideTextEncoder(n_vocab=n_vocab, **of_text, model_channels=given["num_channels"])
    expected = {**checkpoint.shapes(unet), **checkpoint.shapes(encoder)}
    checkpoint.require(state, expected, "the model that the flags describe")
    for part, network in (("unet", unet), ("text_encoder", encoder)):
        network.load_state_dict({name: state[name] for name in network.state_dict()}, assign=True)
        network.save_pretrained(folder / part)
    write_json(
        folder / "model_index.json",
        {
            "unet": ["traj", OpenAIUNet.__name__],
            "text_encoder": ["traj", GlideTextEncoder.__name__],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
    )
    if tokenizer is not None:
        tokens.copy(tokenizer, folder / "tokenizer")
        files = folder / "tokenizer" / tokens.VOCABULARY, folder / "tokenizer" / tokens.MERGES
        Tokens(given["text_ctx"], n_vocab, files).padded("a cat")  # refuses what is not the model's


def _tokenizer(repository: Repository) -> tuple[Path, Path] | None:
    """Find the files of a tokenizer, None where there is none. Raises MissingFile where there is one of two."""
    found = {name: repository.file(f"tokenizer/{name}") for name in tokens.NAMES}
    there = tuple(path for path in found.values() if path)
    if len(there) == 1:
        raise MissingFile(f"tokenizer holds {there[0].name} only; expected {' and '.join(tokens.NAMES)}, or neither")
    return (there[0], there[1]) if there else None
