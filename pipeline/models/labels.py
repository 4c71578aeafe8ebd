"""Classes as a condition: which samples are of which class, and which classes a model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from traj.pipeline.parsing import is_whole
from traj.stores import InputError

NONE = -1
NUMBERS = 1 << 24
"""How many classes a model has whose labels are any whole numbers: as many as float32 tells apart."""
SOURCE = "source"
"""Each sample has the label of what it starts from."""


class Labelled(Protocol):
    """A model with ``num_classes`` classes, perhaps 0; ``unconditional`` tells whether it works without one."""

    name: str
    num_classes: int
    unconditional: bool


class Labels:
    """Conditions that are classes: int64 (sample,), -1 for none.

    ``asked["labels"]`` is none, cycle, by which sample k is of class k modulo their number, one class, or a list of
    the label of each sample of a source. ``null`` tells that the model will be run without classes too, as guidance
    does.

    Raises
    ------
    InputError
        When the model has no such class, or needs one and gets none; with ``null``, when it has no null class or gets
        no class.
    """

    def __init__(self, model: Labelled, asked: Mapping[str, Any], null: bool) -> None:
        refuse_prompts(model.name, asked)
        labels, num_classes, unconditional = asked["labels"], model.num_classes, model.unconditional
        each: Sequence[int] = () if isinstance(labels, str) else labels
        labels = SOURCE if each else labels
        if null and labels == "none":
            raise InputError("guidance was given without labels; use --labels cycle, or one class")
        if null and not (num_classes and unconditional):
            lack = "was trained with labels only" if num_classes else "has no labels"
            raise InputError(f"guidance needs a model with labels and a null label; model {model.name} {lack}")
        if labels == "none" and not unconditional:
            raise InputError(f"model {model.name} was trained with labels only; use --labels cycle, or one class")
        if labels != "none" and not num_classes:
            raise InputError(
                f"labels {labels} were asked for, but model {model.name} has no classes; use --labels none"
            )
        if each:
            check_label(torch.tensor(each), num_classes, unconditional)
        elif labels not in ("none", "cycle"):
            if not (is_whole(labels) and int(labels) < num_classes):
                raise InputError(
                    f"labels {labels!r} was given, expected cycle, none or a class from 0 to {num_classes - 1}"
                )
            labels = str(int(labels))  # one class is written in one way
        self.asked = {"labels": labels}
        self._labels, self._each, self._num_classes = labels, each, num_classes

    @property
    def classes(self) -> Sequence[int]:
        """The classes that samples are of, each once."""
        match self._labels:
            case "none":
                return ()
            case "cycle":
                return range(self._num_classes)
            case _ if self._each:
                return sorted({*self._each} - {NONE})
            case one:
                return (int(one),)

    def of(self, samples: Sequence[int | None], device: torch.device) -> torch.Tensor:
        """Make the labels of samples: int64 (sample,), -1 for None."""
        return torch.tensor([NONE if k is None else self._label(k) for k in samples], device=device)

    def visible(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """Give the coordinate label of samples: int64 (sample,)."""
        return {"label": np.array([self._label(k) for k in samples], np.int64)}

    def _label(self, sample: int) -> int:
        match self._labels:
            case "none":
                return NONE
            case "cycle":
                return sample % self._num_classes
            case _ if self._each:  # a short last block is filled up with the last sample
                return int(self._each[min(sample, len(self._each) - 1)])
            case one:
                return int(one)


def refuse_prompts(name: str, asked: Mapping[str, Any]) -> None:
    """Refuse texts that were asked of a model that reads none. Raises InputError."""
    if {"prompts", "negative_prompt"} & asked.keys():
        raise InputError(f"prompts were given, but model {name} reads no texts; leave them out")


def check_label(label: torch.Tensor, num_classes: int, unconditional: bool = True) -> None:
    """Refuse labels a model doesn't have.

    Raises
    ------
    InputError
        When a label lies outside 0..num_classes-1 and isn't -1, or is -1 where the model needs a class.
    """
    lowest, highest = (int(bound) for bound in torch.aminmax(label))
    if highest >= num_classes:
        known = f"expected 0 to {num_classes - 1}" if num_classes else "the model has no classes; use labels none"
        raise InputError(f"label {highest}: {known}")
    if lowest < NONE:
        raise InputError(f"label {lowest}: expected {NONE} (none) or a class")
    if lowest == NONE and not unconditional:
        raise InputError(
            f"label {NONE} (none), but this model was trained with labels only; expected 0 to {num_classes - 1}, or "
            "a null_label in the model folder's traj.json"
        )
