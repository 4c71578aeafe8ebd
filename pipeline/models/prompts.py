"""Texts as a condition: which samples are made under which text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from traj.pipeline.models.labels import NONE
from traj.stores import InputError

_ENCODED = 1024
"""Texts whose embeddings are kept; more are encoded again when they come round."""


class Texts(Protocol):
    """What reads texts for a network."""

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Make what the network is told of one text, tensors without an axis of samples."""
        ...

    def lost(self, text: str) -> str:
        """Give the end of a text that is too long to be read, "" where all of it is."""
        ...


class Prompts:
    """Conditions that are texts; sample k of a run with n prompts is made under prompt k modulo n.

    ``asked`` holds the prompts, and ``negative_prompt`` where one was given: what the null condition is, by default the
    empty text. ``null`` tells that it will be asked for, as guidance does. Each text is encoded by itself, so that its
    embedding does not depend on the others.

    Raises
    ------
    InputError
        When there are no prompts, or labels, or a negative prompt that nothing would ask for.
    """

    def __init__(self, texts: Texts, name: str, asked: Mapping[str, Any], null: bool) -> None:
        if asked["labels"] != "none":
            raise InputError(f"labels were asked for, but model {name} reads texts; use --labels none and --prompt")
        if not (prompts := list(asked.get("prompts", ()))):
            raise InputError(
                f'model {name} reads texts; say which with --prompt TEXT or --prompts FILE. --prompt "" is no text'
            )
        negative = asked.get("negative_prompt")
        if negative is not None and not null:
            raise InputError(
                f"the negative prompt {negative!r} was given without guidance, which alone reads it; give --guidance "
                "too, 7.5 for example"
            )
        self.asked = {
            "labels": "none",
            "prompts": prompts,
            **({} if negative is None else {"negative_prompt": negative}),
        }
        self._prompts, self._null = prompts, negative or ""
        self._encoded = lru_cache(_ENCODED)(texts.encode)
        read = dict.fromkeys([*prompts, *([self._null] if null else [])])
        self.cautions = tuple(
            f"prompt {text[:40]!r}{'...' if len(text) > 40 else ''} is too long: the model reads nothing of its end, "
            f"{lost!r}"
            for text in read
            if (lost := texts.lost(text))
        )

    def of(self, samples: Sequence[int | None], device: torch.device) -> tuple[torch.Tensor, ...]:
        """Encode the texts of samples, tensors (sample, ...); the null condition for None."""
        told = [self._encoded(self._null if k is None else self._prompt(k), device) for k in samples]
        return tuple(torch.stack(each) for each in zip(*told, strict=True))

    def visible(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """Give the coordinates label, int64 (sample,) and -1, and prompt, texts (sample,)."""
        return {
            "label": np.full(len(samples), NONE, np.int64),
            "prompt": np.array([self._prompt(k) for k in samples], object),
        }

    def _prompt(self, sample: int) -> str:
        prompt: str = self._prompts[sample % len(self._prompts)]
        return prompt
