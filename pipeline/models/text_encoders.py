"""CLIP text encoders of pipelines: from a text to what a network is told of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from traj.pipeline.configs import Key, Keys, number, off, optional, shown, text, whole
from traj.pipeline.folder import json_object
from traj.pipeline.models import weights
from traj.pipeline.models.repository import Repository
from traj.pipeline.models.silence import silenced
from traj.stores import InputError, MissingFile

_WIDTH = whole(1, 1 << 16)
_TOKEN = whole(0, 10_000_000)
TEXT_KEYS = Keys(
    used={
        "vocab_size": Key(49408, whole(1, 10_000_000)),
        "hidden_size": Key(512, _WIDTH),
        "intermediate_size": Key(2048, _WIDTH),
        "projection_dim": Key(512, _WIDTH),
        "num_hidden_layers": Key(12, whole(1, 1000)),
        "num_attention_heads": Key(8, _WIDTH),
        "max_position_embeddings": Key(77, whole(3, 1_000_000)),
        "hidden_act": Key("quick_gelu", text),
        "layer_norm_eps": Key(1e-5, number(above=0)),
        "eos_token_id": Key(49407, _TOKEN),
        "use_attention_mask": Key(None, optional(off)),
    },
    unused={
        "bos_token_id": "the tokenizer's",
        "pad_token_id": "the tokenizer's",
        "attention_dropout": "of training",
        "dropout": "of training",
        "initializer_factor": "of training",
        "initializer_range": "of training",
        "architectures": "named by the pipeline",
        "model_type": "named by the pipeline",
        "dtype": "texts are read in float32",
        "torch_dtype": "texts are read in float32",
        "transformers_version": "of the file",
    },
)
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Files that hold a vocabulary; the first that are there are used."""
_SPECIAL = ("special_tokens_map.json", "added_tokens.json")
_NOTES = ("is_local", "local_files_only", "name_or_path", "special_tokens_map_file", "transformers_version", "backend")
"""What a tokenizer's config says of its file alone."""


class ClipText:
    """A CLIP text encoder with its tokenizer, by the parts of a pipeline; loaded when the first text is read.

    ``width`` is that of a token's embedding, ``tokens`` the most that are read, and ``projection`` the width of the
    embedding of a whole text, of encoders with a projection. ``identity`` holds what the embeddings depend on.

    Raises
    ------
    MissingFile
        When a file of them is missing.
    InputError
        When a config asks for something that is not supported.
    """

    def __init__(self, repository: Repository, encoder: str = "text_encoder", tokenizer: str = "tokenizer") -> None:
        self._repository, self._part = repository, encoder
        self._config = repository.config(encoder)
        read = TEXT_KEYS.read(self._config, f"the config.json of {encoder}")
        self._vocabulary, self.width, self.projection = read["vocab_size"], read["hidden_size"], read["projection_dim"]
        self.tokens: int = read["max_position_embeddings"]
        self._folder, self._weights = repository.weights(encoder, "model", "pytorch_model")
        self._tokenizer_files, config = _tokenizer_files(repository, tokenizer), f"{tokenizer}/tokenizer_config.json"
        self._tokenizer_config = json_object(found) if (found := repository.file(config)) else {}
        self.identity = {
            encoder: {"weights": self._weights.sha256, "network": TEXT_KEYS.fingerprint(read)},
            tokenizer: _sha256(self._tokenizer_files, self._tokenizer_config),
        }

    def outputs(self, text: str, device: torch.device) -> Any:
        """Run the encoder on one text, padded or cut to as many tokens as the tokenizer says.

        Gives last_hidden_state and hidden_states (1, token, width), and text_embeds (1, projection) where the encoder
        has one.
        """
        length = self._length
        ids = self._tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        if max(ids) >= self._vocabulary:
            raise InputError(
                f"the tokenizer of {self._repository.name} gives token {max(ids)}, but {self._part} knows "
                f"{self._vocabulary}; they do not belong together"
            )
        encoder = self._encoder.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return encoder(torch.tensor([ids], device=device), output_hidden_states=True)

    def lost(self, text: str) -> str:
        """Give the end of a text that is too long to be read, "" where all of it is."""
        length = self._length
        ids = self._tokenizer(text, verbose=False).input_ids
        end: str = self._tokenizer.decode(ids[length - 1 : -1])
        return end if len(ids) > length else ""

    @property
    def _length(self) -> int:
        length: int = self._tokenizer.model_max_length
        if not isinstance(length, int) or not 2 < length <= self.tokens:
            raise InputError(
                f"the tokenizer of {self._repository.name} has model_max_length {shown(length)}; expected 3 to "
                f"{self.tokens}, as many tokens as {self._part} reads"
            )
        return length

    @cached_property
    def _tokenizer(self) -> Any:
        transformers = _transformers()
        with weights.staged(self._tokenizer_files) as place, silenced(transformers):
            (place / "tokenizer_config.json").write_text(json.dumps(self._tokenizer_config), encoding="utf-8")
            try:
                found = transformers.CLIPTokenizer.from_pretrained(
                    place, local_files_only=True, trust_remote_code=False
                )
                found("", padding="max_length", max_length=3)  # what its config lacks is missed only now
            except Exception as error:  # whatever a broken file may lead to
                raise InputError(f"the tokenizer of {self._repository.name} cannot be loaded: {error}") from None
        return found

    @cached_property
    def _encoder(self) -> Any:
        transformers = _transformers()
        kind = getattr(transformers, self._repository.parts[self._part])
        with weights.staged(self._weights.named) as place, silenced(transformers):
            (place / "config.json").write_text(json.dumps(self._config), encoding="utf-8")
            try:
                encoder, found = kind.from_pretrained(
                    place,
                    local_files_only=True,
                    use_safetensors=self._weights.safe,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except Exception as error:  # whatever a broken file may lead to
                why = weights.reason(error, place, self._folder)
                raise InputError(f"{self._folder} cannot be loaded as a text encoder: {why}") from None
        if absent := sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])}):
            raise InputError(
                f"the weights in {self._folder} lack {', '.join(absent[:3])}; they are those of another one"
            )
        weights.require_finite(encoder.state_dict(), self._folder)
        return encoder.eval().requires_grad_(False)


def _tokenizer_files(repository: Repository, part: str) -> dict[str, Path]:
    """Find the files of a tokenizer by their names, but its config. Raises MissingFile where there is no vocabulary."""
    for names in _TOKENIZERS:
        found = {name: repository.file(f"{part}/{name}") for name in names}
        if all(found.values()):
            others = {name: repository.file(f"{part}/{name}") for name in _SPECIAL}
            return {name: path for name, path in {**found, **others}.items() if path}
    raise MissingFile(f"model {repository.name}: {part} holds no tokenizer.json, nor vocab.json and merges.txt")


def _sha256(files: Mapping[str, Path], config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    told = {key: value for key, value in config.items() if key not in _NOTES}
    digest.update(json.dumps(told, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            "texts are read with the package transformers, which is not installed: pip install 'traj[transformers]'"
        ) from None
    return transformers
