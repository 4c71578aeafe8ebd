"""Train the built-in digits networks."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from traj.pipeline.folder import json_object, write_json
from traj.pipeline.garbage import search_as_usual
from traj.pipeline.models import weights
from traj.pipeline.models.digits import (
    CLASSIFIERS,
    LEARNT,
    NULL_LABEL,
    RECIPES,
    VAES,
    ClassifierRecipe,
    DigitsClassifier,
    DigitsVae,
    Recipe,
    VaeRecipe,
    held_out_images,
    images,
    training_images,
)
from traj.pipeline.models.losses import VLB_WEIGHT, Objective, classifier_objective, vae_objective
from traj.pipeline.process.device import choose_device, repeatable
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError, making, place

# Raise when a change of this module, or of its losses, changes the trained weights.
NUMERICS = 1
WARM_UP = 100
GRADIENT_NORM = 1.0
EMA_DECAY = 0.99
LABEL_DROPOUT = 0.2
CLASSIFIER_NOISE = 0.5  # the largest noise sd a classifier sees: without it, it is too sure of itself
CURVE_ROWS = 200
ALL = "all"  # what a setting is that is not there: the images of a network that was not told how many
CPU = torch.device("cpu")

AnyRecipe = Recipe | ClassifierRecipe | VaeRecipe


def train(
    name: str,
    out: str | os.PathLike[str],
    *,
    steps: int | None = None,
    images: int | None = None,
    batch: int = 64,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> bool:
    """Train a built-in network and save it in a folder.

    ``name`` is digits, digits-iddpm, digits-classifier or digits-vae, ``out`` the folder, which appears once it is
    whole. The first two are saved as diffusers pipelines with traj.json (``time_scale``, ``null_label``), the others as
    config.json and model.safetensors; beside them lie training.json (settings), loss.csv (a curve of at most 200 rows)
    and metrics.json (the end of it; on the images held out, for the classifier also its accuracy and negative
    log-likelihood in bits, for the VAE its squared error per pixel and KL divergence in nats). ``steps`` defaults to
    the recipe's. With ``images`` the network learns from the first so many of ``training_images`` only, and never from
    those held out. Equal settings give equal bytes on the same kind of device with the same number of threads. Returns
    False when the folder already holds a model of these very settings, True when it was trained now.

    Raises
    ------
    InputError
        When the name or a number is not valid, fewer images are asked for than there are classes or more than there
        are to learn from, or the folder exists and holds something else.
    """
    recipes: dict[str, AnyRecipe] = {**RECIPES, **CLASSIFIERS, **VAES}
    if name not in recipes:
        raise InputError(f"no network {name!r} to train; expected one of {', '.join(recipes)}")
    recipe = recipes[name]
    steps = recipe.steps if steps is None else steps
    for key, value, least in (("steps", steps, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{key} is {value}; expected at least {least}")
    if images is not None and not NULL_LABEL <= images <= LEARNT:
        raise InputError(
            f"images is {images}; expected {NULL_LABEL}, one of each class, to {LEARNT}, all that are not held out"
        )
    settings = _settings(name, recipe, steps, batch, seed, images)
    where = choose_device(device)

    def write(folder: Path) -> None:
        network, curve = fit(
            recipe, steps=steps, images=images, batch=batch, seed=seed, device=where, progress=progress
        )
        _save(folder, network, recipe, settings, curve)

    return keep(out, settings, write)


def keep(out: str | os.PathLike[str], settings: dict[str, Any], write: Callable[[Path], None]) -> bool:
    """Let a function train a model and write its files, into a folder that appears once it is whole.

    ``settings`` is everything that decides the weights, as JSON values, which the function writes with ``record``.
    Returns False, and calls nothing, where the folder holds a model of these very settings.

    Raises InputError where it holds something else.
    """
    folder = place(out)
    if os.path.lexists(folder):
        _refuse_other_content(folder, settings)
        return False
    with making(folder, folder=True) as partial:
        with weights.saving(folder):
            write(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not os.path.lexists(folder):
                raise
            _refuse_other_content(folder, settings)
            return False  # another process has trained the same meanwhile
    return True


@repeatable()
def fit(
    recipe: AnyRecipe,
    *,
    steps: int,
    batch: int,
    seed: int,
    images: int | None = None,
    device: torch.device = CPU,
    progress: bool = False,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Train a recipe's network on the digits, or on the first ``images`` of ``training_images``.

    Returns the network, its weights an exponential moving average over training, and the curve of each loss
    term, one value a step. Every draw comes from CPU generators, so it is the same on any device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(recipe)
    objective, stream = _lesson(recipe, images, batch, torch.Generator().manual_seed(seed), device)
    return learn(
        network, objective, stream, steps=steps, learning_rate=recipe.learning_rate, device=device, progress=progress
    )


def learn(
    network: nn.Module,
    objective: Callable[..., dict[str, Tensor]],
    stream: Iterator[tuple[Tensor, ...]],
    *,
    steps: int,
    learning_rate: float,
    device: torch.device = CPU,
    progress: bool = False,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Lower objective(network, *batch)["loss"] over the batches of a stream; returns what ``fit`` does."""
    search_as_usual()
    network.to(device).train()
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    curve: dict[str, list[float]] = {}
    with tqdm(total=steps, desc="train", unit="step", disable=None if progress else True) as bar:
        for step, drawn in zip(range(steps), stream, strict=False):
            terms = objective(network, *(tensor.to(device) for tensor in drawn))
            optimizer.zero_grad()
            terms["loss"].backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimizer.step()
            rate.step()
            _average(average, network, decay=min(EMA_DECAY, (1 + step) / (10 + step)))
            for term, value in terms.items():
                curve.setdefault(term, []).append(value.item())
            bar.set_postfix(loss=f"{np.mean(curve['loss'][-50:]):.4f}", refresh=False)
            bar.update()
    with torch.no_grad():
        for parameter, averaged in zip(network.parameters(), average, strict=True):
            parameter.copy_(averaged)
    return network.to("cpu").eval(), {term: np.array(values) for term, values in curve.items()}


def _network(recipe: AnyRecipe) -> nn.Module:
    if isinstance(recipe, ClassifierRecipe):
        return DigitsClassifier(**recipe.network)
    if isinstance(recipe, VaeRecipe):
        return DigitsVae(**recipe.network)
    from diffusers import UNet2DModel  # takes seconds to import

    network: nn.Module = UNet2DModel(**recipe.network)
    return network


def _lesson(
    recipe: AnyRecipe, count: int | None, batch: int, generator: torch.Generator, device: torch.device
) -> tuple[Callable[..., dict[str, Tensor]], Iterator[tuple[Tensor, ...]]]:
    """Choose the loss of a recipe, and the batches that are its arguments after the network."""
    if isinstance(recipe, ClassifierRecipe):
        return classifier_objective, classifier_batches(batch, generator, count)
    if isinstance(recipe, VaeRecipe):
        return vae_objective, vae_batches(batch, recipe.network["latent"], generator, count)
    schedule = Schedule.from_config(recipe.scheduler, recipe.time_scale)
    return Objective(schedule, device), batches(batch, schedule.T, generator, count)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine down to nothing."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batches(
    batch: int, T: int, generator: torch.Generator, count: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Draw training batches without end: x_0, label, timestep and eps.

    Every image comes once before any comes again. Timesteps are uniform over 0..T-1. A label is the null label
    with probability LABEL_DROPOUT, so that the network also learns to do without.
    """
    points, classes = map(torch.from_numpy, images() if count is None else training_images(count))
    for chosen in epochs(len(points), batch, generator):
        x_0 = points[chosen]
        timestep = torch.randint(T, (batch,), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        dropped = torch.rand(batch, generator=generator) < LABEL_DROPOUT
        yield x_0, classes[chosen].masked_fill(dropped, NULL_LABEL), timestep, eps


def classifier_batches(
    batch: int, generator: torch.Generator, count: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw training batches of a classifier without end: images it may learn from, and their classes.

    Each image carries noise of its own sd, uniform up to CLASSIFIER_NOISE, and is clipped to [-1, 1].
    """
    points, classes = map(torch.from_numpy, training_images(count))
    for chosen in epochs(len(points), batch, generator):
        sd = CLASSIFIER_NOISE * torch.rand(batch, 1, 1, 1, generator=generator)
        noise = torch.randn(points[chosen].shape, generator=generator)
        yield (points[chosen] + sd * noise).clamp(-1, 1), classes[chosen]


def vae_batches(
    batch: int, latent: int, generator: torch.Generator, count: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw training batches of a VAE without end: images it may learn from, and the noise of their latents."""
    points = torch.from_numpy(training_images(count)[0])
    for chosen in epochs(len(points), batch, generator):
        yield points[chosen], torch.randn(batch, latent, generator=generator)


def epochs(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Draw batches of numbers below count without end: each number once before any comes again."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:batch], order[batch:]
        yield chosen


@torch.no_grad()
def held_out_metrics(network: nn.Module) -> dict[str, float]:
    """Test a classifier or a VAE on the images it did not learn from.

    Accuracy, and negative log-likelihood in bits; or the squared error per pixel of images redrawn from the means of
    their latents, and the latents' KL divergence from N(0, I) in nats per image.
    """
    points, classes = map(torch.from_numpy, held_out_images())
    if isinstance(network, DigitsVae):
        terms = vae_objective(network, points, torch.zeros(len(points), network.latent))
        return {"reconstruction_error": terms["squared_error"].item() / points[0].numel(), "kl": terms["kl"].item()}
    logits = network(points)
    return {
        "accuracy": (logits.argmax(dim=1) == classes).double().mean().item(),
        "negative_log_likelihood": functional.cross_entropy(logits, classes).item() / math.log(2),
    }


@torch.no_grad()
def _average(average: list[Tensor], network: nn.Module, decay: float) -> None:
    for averaged, parameter in zip(average, network.parameters(), strict=True):
        averaged.lerp_(parameter, 1 - decay)


def _settings(name: str, recipe: AnyRecipe, steps: int, batch: int, seed: int, images: int | None) -> dict[str, Any]:
    """Everything that decides the weights, as JSON values."""
    common = {
        **({} if images is None else {"images": images}),
        "numerics": NUMERICS,
        "model": name,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "learning_rate": recipe.learning_rate,
        "warm_up": WARM_UP,
        "gradient_norm": GRADIENT_NORM,
        "ema_decay": EMA_DECAY,
    }
    if isinstance(recipe, ClassifierRecipe):
        return {**common, "noise": CLASSIFIER_NOISE, "network": dict(recipe.network)}
    if isinstance(recipe, VaeRecipe):
        return {**common, "network": dict(recipe.network)}
    return {
        **common,
        "label_dropout": LABEL_DROPOUT,
        "vlb_weight": VLB_WEIGHT,
        "time_scale": recipe.time_scale,
        "network": dict(recipe.network),
        "scheduler": dict(recipe.scheduler),
    }


def _refuse_other_content(folder: Path, settings: dict[str, Any]) -> None:
    try:
        found = json_object(folder / "training.json")
    except (OSError, InputError):
        raise InputError(
            f"{folder} exists and holds no model that traj train made; give another folder, or move it away"
        ) from None
    differing = [key for key in {**settings, **found} if found.get(key, ALL) != settings.get(key, ALL)]
    if differing:
        listed = ", ".join(f"{key} {found.get(key, ALL)} (asked for {settings.get(key, ALL)})" for key in differing)
        raise InputError(
            f"{folder} holds a model trained with {listed}; remove it to train anew, or give another folder"
        )


def _save(
    folder: Path,
    network: nn.Module,
    recipe: AnyRecipe,
    settings: dict[str, Any],
    curve: dict[str, np.ndarray],
) -> None:
    if not isinstance(recipe, Recipe):
        save_file(network.state_dict(), folder / "model.safetensors")
        write_json(folder / "config.json", {"model_type": settings["model"], **recipe.network})
        tested = held_out_metrics(network)
    else:
        from diffusers import DDPMPipeline, DDPMScheduler

        DDPMPipeline(network, DDPMScheduler(**recipe.scheduler)).save_pretrained(folder)
        write_json(folder / "traj.json", {"time_scale": recipe.time_scale, "null_label": NULL_LABEL})
        tested = {}
    record(folder, settings, network, curve, tested)


def record(
    folder: Path,
    settings: dict[str, Any],
    network: nn.Module,
    curve: dict[str, np.ndarray],
    tested: dict[str, float],
) -> None:
    """Write the files beside a trained network: training.json, metrics.json and loss.csv."""
    write_json(folder / "training.json", settings)
    last = max(1, settings["steps"] // 10)
    metrics = {f"final_{term}": float(values[-last:].mean()) for term, values in curve.items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_json(folder / "metrics.json", {**tested, **metrics, "steps": settings["steps"], "parameters": parameters})
    _write_curve(folder / "loss.csv", curve)


def _write_curve(path: Path, curve: dict[str, np.ndarray]) -> None:
    """Write the loss terms, each row the mean over the steps since the row before."""
    steps = len(curve["loss"])
    ends = np.unique(np.linspace(0, steps, min(steps, CURVE_ROWS) + 1).astype(int))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *curve])
        for start, end in pairwise(ends):
            writer.writerow([end, *(f"{values[start:end].mean():.6g}" for values in curve.values())])
