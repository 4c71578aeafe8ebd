"""From a text to the tokens that GLIDE reads: GPT-2's byte-level BPE, or numbers as they are typed."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from traj.stores import InputError, MissingFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY, MERGES = NAMES = ("vocab.json", "merges.txt")
"""The files of a tokenizer, by the names of today."""
_OLD_NAMES = ("encoder.json", "vocab.bpe")
"""What GPT-2 and GLIDE call them; GLIDE's are compressed."""
_NUMBERS = re.compile(r"tokens:([0-9]{1,9}(,[0-9]{1,9})*)?")


class Tokens:
    """Reads texts as tokens, ``text_ctx`` of each, out of ``n_vocab``; the last token fills the places left free.

    A text is lower-cased, and read with the tokenizer in ``files``, a vocabulary and merges. "tokens:64,3797" are the
    tokens themselves, and need none.
    """

    def __init__(self, text_ctx: int, n_vocab: int, files: tuple[Path, Path] | None = None) -> None:
        self.text_ctx, self.n_vocab, self._files = text_ctx, n_vocab, files

    @property
    def sha256(self) -> str | None:
        """Hash the files of the tokenizer, where there is one."""
        if self._files is None:
            return None
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
        return f"sha256:{digest.hexdigest()}"

    def padded(self, text: str) -> tuple[Tensor, Tensor]:
        """Give tokens int64 (text_ctx,), and a mask bool (text_ctx,) that is false where they are padding.

        Raises
        ------
        InputError
            For a text without a tokenizer, or with files that are none, and for tokens that the model does not know.
        """
        numbers = self._numbers(text)[: self.text_ctx]
        free = self.text_ctx - len(numbers)
        mask = torch.arange(self.text_ctx) < len(numbers)
        return torch.tensor([*numbers, *[self.n_vocab - 1] * free]), mask

    def lost(self, text: str) -> str:
        """Give the end of a text that is too long to be read, "" where all of it is.

        Raises InputError as ``padded`` does.
        """
        end = self._numbers(text)[self.text_ctx :]
        if text.startswith("tokens:") or self._tokenizer is None:
            return ",".join(map(str, end))
        decoded: str = self._tokenizer.decode(end)
        return decoded

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return None if self._files is None else _load(*self._files, self.n_vocab)

    def _numbers(self, text: str) -> list[int]:
        """Give all tokens of a text."""
        if text.startswith("tokens:"):
            numbers = self._typed(text)
        elif not text:
            numbers = []
        elif self._tokenizer is None:
            raise InputError(
                f"prompt {text[:40]!r} is a text, but the model's folder holds no tokenizer; convert the checkpoint "
                f"again with --tokenizer FOLDER, one with GPT-2's {VOCABULARY} and {MERGES}, or give the tokens "
                'themselves: --prompt "tokens:64,3797"'
            )
        else:
            numbers = self._tokenizer.encode(text.lower()).ids
        return numbers

    def _typed(self, text: str) -> list[int]:
        if not (found := _NUMBERS.fullmatch(text.replace(" ", ""))):
            raise InputError(f"prompt {text[:40]!r}; expected whole numbers after tokens:, as in tokens:64,3797")
        numbers = [int(number) for number in (found[1] or "").split(",") if number]
        if numbers and max(numbers) >= self.n_vocab:
            raise InputError(f"prompt {text[:40]!r} has token {max(numbers)}; expected 0 to {self.n_vocab - 1}")
        return numbers


def copy(source: Path, folder: Path) -> None:
    """Copy the two files of a tokenizer into a folder, by the names of today and not compressed.

    Raises
    ------
    MissingFile
        When ``source`` does not hold both.
    InputError
        When one is no compressed file although its name ends on .gz.
    """
    for names in (NAMES, _OLD_NAMES):
        found = [path for name in names if (path := _existing(source / name))]
        if len(found) == len(names):
            folder.mkdir()
            for path, name in zip(found, NAMES, strict=True):
                (folder / name).write_bytes(_content(path))
            return
    expected = " or ".join(" and ".join(names) for names in (NAMES, _OLD_NAMES))
    raise MissingFile(f"{source} holds no tokenizer; expected {expected}, perhaps with .gz")


def _load(vocabulary: Path, merges: Path, n_vocab: int) -> Tokenizer:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError:
        raise InputError(
            "texts are read with the package tokenizers, which is not installed: pip install 'traj[transformers]'"
        ) from None
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # whatever a broken file may lead to
        raise InputError(f"{vocabulary} and {merges} cannot be loaded as a tokenizer: {error}") from None
    tokens = tokenizer.get_vocab()
    if absent := sorted(byte for byte in pre_tokenizers.ByteLevel.alphabet() if byte not in tokens):
        raise InputError(
            f"{vocabulary} has no tokens for {len(absent)} of 256 bytes, the first {absent[0]!r}; expected GPT-2's"
        )
    if max(tokens.values()) >= n_vocab:
        raise InputError(
            f"{vocabulary} has token {max(tokens.values())}, but the model knows {n_vocab}; they do not belong together"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _existing(path: Path) -> Path | None:
    there = (path, path.with_name(f"{path.name}.gz"))
    return next((one for one in there if one.is_file()), None)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be decompressed: {error}") from None
