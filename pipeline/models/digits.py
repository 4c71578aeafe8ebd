"""The built-in networks' recipes, and what they learn: scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

NULL_LABEL = 10
LEARNING_RATE = 3e-3
# the images have 17 grey levels, k/8 - 1 for k = 0..16
GREY_STEP = 1 / 8
LEARNT, HELD_OUT = 1437, 360
"""Images of the two parts of the split."""


def images() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 digits: images (1797, 1, 8, 8), float32 in [-1, 1], and their classes, int64."""
    from sklearn.datasets import load_digits  # takes longer to import than to load a network

    digits = load_digits()
    points = (digits.images[:, None] * GREY_STEP - 1).astype(np.float32)
    return points, digits.target.astype(np.int64)


def split() -> tuple[np.ndarray, np.ndarray]:
    """Choose the images a classifier learns from, and those it is tested on, the same for every seed: numbers."""
    from sklearn.model_selection import train_test_split

    _, classes = images()
    learnt, held_out = train_test_split(np.arange(len(classes)), test_size=HELD_OUT, stratify=classes, random_state=0)
    return learnt, held_out


def training_images(count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Give the images a classifier learns from and their classes, or the first ``count`` of them, classes in turns.

    Of such a subset every class has as many as any other, or one more, and it is part of every larger one.
    """
    points, classes = images()
    learnt, _ = split()
    if count is not None:
        learnt = learnt[_turns(classes[learnt])[:count]]
    return points[learnt], classes[learnt]


def held_out_images() -> tuple[np.ndarray, np.ndarray]:
    """Give the images a classifier is tested on, and their classes."""
    points, classes = images()
    _, held_out = split()
    return points[held_out], classes[held_out]


def _turns(classes: np.ndarray) -> np.ndarray:
    """Order members of classes such that these take turns, each in the order of its members: positions."""
    turn = np.empty(len(classes), np.int64)
    for label in np.unique(classes):
        turn[classes == label] = np.arange((classes == label).sum())
    return np.lexsort((classes, turn))


class DigitsClassifier(nn.Sequential):
    """A small convolutional network: images (sample, channel, 8, 8) in [-1, 1] to logits (sample, class).

    Nothing in it looks at other images of the batch.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


class DigitsVae(nn.Module):
    """A small variational autoencoder of images (sample, *shape): 001's, whose layers shrink from 784 pixels to 64.

    The encoder gives mean and log variance of the latent (sample, latent), the decoder an image from a latent, with no
    bound on its values. ``width`` is that of the first layer; the next ones have a half and a quarter of it.
    """

    def __init__(self, channels: int, size: int, width: int, latent: int) -> None:
        super().__init__()
        self.shape, self.latent = (channels, size, size), latent
        pixels, widths = channels * size * size, (width, width // 2, width // 4)
        self.encoder = nn.Sequential(nn.Flatten(), *_perceptron(pixels, *widths, 2 * latent))
        self.decoder = nn.Sequential(*_perceptron(latent, *reversed(widths), pixels), nn.Unflatten(1, self.shape))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mean and the log variance of the images' latents, each (sample, latent)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Make images (sample, *shape) of latents (sample, latent)."""
        images: Tensor = self.decoder(latent)
        return images


def _perceptron(*widths: int) -> Iterator[nn.Module]:
    """Chain linear layers between widths, with ReLU between them."""
    for count, (before, after) in enumerate(pairwise(widths)):
        if count:
            yield nn.ReLU()
        yield nn.Linear(before, after)


@dataclass(frozen=True)
class Recipe:
    """What a network is and what it is trained for.

    ``network`` and ``scheduler`` are the configs of a UNet2DModel and a DDPMScheduler. The network is fed
    timestep * time_scale. ``steps`` is the number of training steps.
    """

    network: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    time_scale: float
    steps: int
    learning_rate: float = LEARNING_RATE


@dataclass(frozen=True)
class ClassifierRecipe:
    """What a classifier is and how long it is trained; ``network`` are the arguments of a DigitsClassifier."""

    network: Mapping[str, int]
    steps: int
    learning_rate: float = LEARNING_RATE


@dataclass(frozen=True)
class VaeRecipe:
    """What a variational autoencoder is and how long it is trained; ``network`` are the arguments of a DigitsVae."""

    network: Mapping[str, int]
    steps: int
    learning_rate: float


def _network(out_channels: int) -> dict[str, Any]:
    """Two levels, 8x8 and 4x4, attention in the middle only."""
    return {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": out_channels,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 8,
        "num_class_embeds": NULL_LABEL + 1,
    }


RECIPES = {
    "digits": Recipe(
        network=_network(out_channels=1),
        scheduler={
            "num_train_timesteps": 1000,
            "beta_schedule": "linear",
            "variance_type": "fixed_large",
            "clip_sample": True,
            "prediction_type": "epsilon",
        },
        time_scale=1.0,
        steps=1500,
    ),
    "digits-iddpm": Recipe(
        network=_network(out_channels=2),
        scheduler={
            "num_train_timesteps": 4000,
            "beta_schedule": "squaredcos_cap_v2",
            "variance_type": "learned_range",
            "clip_sample": True,
            "prediction_type": "epsilon",
        },
        time_scale=0.25,
        steps=1500,
    ),
}

CLASSIFIERS = {"digits-classifier": ClassifierRecipe({"channels": 1, "width": 32, "classes": 10}, steps=600)}

VAES = {"digits-vae": VaeRecipe({"channels": 1, "size": 8, "width": 128, "latent": 4}, steps=3000, learning_rate=1e-3)}
