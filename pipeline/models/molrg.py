"""A mixture of low-rank Gaussians as a model (004): its exact denoiser, the same with trained bases, and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from traj.analysis._molrg.model import Molrg, axes, mixture_of, sample, weighing
from traj.pipeline.folder import json_object
from traj.pipeline.models import surgery, weights
from traj.pipeline.models.labels import Labels, check_label
from traj.pipeline.parsing import number, whole
from traj.pipeline.process import tables
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Prediction
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

KIND = "molrg"
FORM = "molrg:classes=3,dim=5,features=50,delta=.2,weights=.2:.3:.5,basis=0,theta=90"
"""With the default of every key but weights, which are equal; dim may be one number for each class too, 10:5:2."""
KEYS = ("classes", "dim", "features", "delta", "weights", "basis", "theta")
VALID_RANGE = (-4.0, 4.0)
"""Four sd of an x_0 along its own subspace, where it has the largest."""


def parse(fields: str) -> Molrg:
    """Read a mixture from what a name like FORM has after its first colon; each key may be left out.

    Raises
    ------
    InputError
        When a key is unknown, given twice or no number, or the numbers do not fit together.
    """
    given: dict[str, str] = {}
    for field in filter(None, fields.split(",")):
        key, _, value = field.partition("=")
        if key not in KEYS or key in given:
            problem = "repeats a key" if key in given else "has no known key"
            raise InputError(f"{field!r} {problem}; expected each of {', '.join(KEYS)} once at most")
        given[key] = value
    classes, features = whole(given.get("classes", "3")), whole(given.get("features", "50"))
    if classes > features:
        raise InputError(f"{classes} classes in {features} features; expected a subspace of its own for each")
    dims = [whole(text) for text in given.get("dim", "5").split(":")]
    return Molrg(
        dims=tuple(dims * classes if len(dims) == 1 else _one_each("dim", dims, classes)),
        features=features,
        delta=number(given.get("delta", ".2")),
        weights=tuple(number(text) for text in given["weights"].split(":")) if "weights" in given else (),
        basis=whole(given.get("basis", "0")),
        theta=number(given.get("theta", "90")),
    )


def name_of(molrg: Molrg) -> str:
    """Write the name of a mixture; without equal weights, bases of seed 0 and theta 90, as of one that names none."""
    classes = len(molrg.dims)
    dims = ":".join(map(str, molrg.dims if len({*molrg.dims}) > 1 else molrg.dims[:1]))
    name = f"{KIND}:classes={classes},dim={dims},features={molrg.features},delta={molrg.delta!r}"
    if molrg.weights != Molrg(molrg.dims, molrg.features).weights:
        name += f",weights={':'.join(map(repr, molrg.weights))}"
    name += f",basis={molrg.basis}" if molrg.basis else ""
    return name if molrg.orthogonal else f"{name},theta={molrg.theta!r}"


def exact(fields: str, device: str = "cpu", schedule: Schedule | None = None) -> MolrgDenoiser:
    """Build the exact denoiser of what ``parse`` reads, for any schedule; 004's own unless given. Raises as it does."""
    molrg = parse(fields)
    schedule = schedule or tables.named("ve")
    return MolrgDenoiser(
        MolrgNetwork(molrg, schedule).double().to(device),
        schedule,
        name=name_of(molrg),
        identity={"name": KIND, **molrg.identity},
        num_classes=len(molrg.dims),
    )


def is_trained(folder: Path) -> bool:
    """Whether a folder is one that `traj train molrg` made."""
    config = folder / "config.json"
    return config.is_file() and json_object(config).get("model_type") == KIND


def trained(folder: Path, name: str, device: str = "cpu") -> MolrgDenoiser:
    """Load the denoiser of a folder that `traj train molrg` made. It knows of no classes: their order is not learnt.

    Raises
    ------
    MissingFile
        When there are no weights.
    InputError
        When the weights do not belong to config.json.
    """
    found, schedule = weights.find(folder, "model", "model"), tables.named("ve")
    try:
        mixture = mixture_of(json_object(folder / "config.json"))
        network = MolrgNetwork(mixture, schedule).float()
        network.load_state_dict(weights.read(found.files[0]))
    except (KeyError, TypeError, RuntimeError):
        raise InputError(f"{found.files[0]} does not belong to its config.json; train it again") from None
    identity = {"weights": found.sha256, **mixture.identity}
    return MolrgDenoiser(network.to(device), schedule, name=name, identity=identity)


class MolrgNetwork(nn.Module):
    """The denoiser x_hat = U h (METHODS 5.2): exact where U is the mixture's, the network of 004 where it is learnt.

    Of subspaces that are not orthogonal, U is an orthonormal basis of them all, and h that of ``Oblique``.
    ``hidden`` gives h. States (sample, feature) come with the timestep of all of them, or one each: (sample,).
    """

    def __init__(self, molrg: Molrg, schedule: Schedule) -> None:
        super().__init__()
        self.hidden = Hidden(molrg, schedule) if molrg.orthogonal else Oblique(molrg, schedule)

    def forward(self, x_t: Tensor, timestep: int | Tensor, label: Tensor | None = None) -> Tensor:
        """Predict x_0 (sample, feature); given classes (sample,), that of the class, where it is not -1."""
        x_hat: Tensor = self.hidden(x_t, timestep, label) @ self.hidden.U.T
        return x_hat


class Hidden(nn.Module):
    """The features h = D(x_t) U^T x_t, (sample, column); U (feature, column) is the mixture's own to begin with."""

    membership: Tensor
    other: Tensor
    gap: Tensor
    rate: Tensor
    offset: Tensor

    def __init__(self, molrg: Molrg, schedule: Schedule) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.from_numpy(molrg.U))
        membership = molrg.class_of[:, None] == np.arange(len(molrg.dims))
        own, other, rate, offset = weighing(molrg, schedule.signal, schedule.noise_scale)
        columns = {"membership": membership, "other": other, "gap": own - other, "rate": rate, "offset": offset}
        for key, table in columns.items():
            self.register_buffer(key, torch.from_numpy(table.astype(np.float64)), persistent=False)

    def forward(self, x_t: Tensor, timestep: int | Tensor, label: Tensor | None = None) -> Tensor:
        """Weigh the coefficients of each class by how likely it is, or by what it is given as."""
        a = x_t @ self.U
        other, gap, rate = (table[timestep][..., None] for table in (self.other, self.gap, self.rate))
        w = _told(torch.softmax(rate * (a.square() @ self.membership) + self.offset[timestep], dim=1), label)
        h: Tensor = (other + gap * w) @ self.membership.T * a
        return h


class Oblique(nn.Module):
    """The features h of subspaces that are not orthogonal, (sample, column); U (feature, column) spans them all.

    As ``oblique`` of the mathematics, which has the equations.
    """

    vectors: Tensor
    variance: Tensor
    signal: Tensor
    noise_scale: Tensor
    log_weights: Tensor

    def __init__(self, molrg: Molrg, schedule: Schedule) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.from_numpy(molrg.span))
        tables = {
            **axes(molrg)._asdict(),
            "signal": schedule.signal,
            "noise_scale": schedule.noise_scale,
            "log_weights": np.log(molrg.weights),
        }
        for key, table in tables.items():
            self.register_buffer(key, torch.from_numpy(np.asarray(table, np.float64)), persistent=False)

    def forward(self, x_t: Tensor, timestep: int | Tensor, label: Tensor | None = None) -> Tensor:
        """Weigh the mean of each class by how likely it is, or by what it is given as."""
        a = torch.einsum("sc,lca->sla", x_t @ self.U, self.vectors)
        signal, noise_scale = (table[timestep][..., None, None] for table in (self.signal, self.noise_scale))
        v = signal**2 * self.variance + noise_scale**2
        w = _told(torch.softmax(self.log_weights - (a.square() / v + v.log()).sum(dim=2) / 2, dim=1), label)
        return torch.einsum("sl,sla,lca->sc", w, a * signal * self.variance / v, self.vectors)


def _told(w: Tensor, label: Tensor | None) -> Tensor:
    """Replace the probabilities of classes (sample, class) by labels (sample,) that are not -1."""
    if label is None:
        return w
    given = label[:, None] == torch.arange(w.shape[1], device=w.device)
    return torch.where(label[:, None] >= 0, given.to(w), w)


class MolrgDenoiser:
    """A ``MolrgNetwork`` as a denoiser."""

    dims = ("feature",)
    valid_range = VALID_RANGE
    unconditional = True

    def __init__(
        self, network: MolrgNetwork, schedule: Schedule, *, name: str, identity: dict[str, Any], num_classes: int = 0
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.schedule, self.name, self.identity, self.num_classes = schedule, name, identity, num_classes
        self.dtype = network.hidden.U.dtype
        self.shape: tuple[int, ...] = (len(network.hidden.U),)

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Labels:
        """Read which labels samples are to have."""
        return Labels(self, asked, null)

    def __call__(self, x_t: Tensor, timestep: int, condition: Tensor, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, feature) of one timestep; the label (sample,) is -1 for none; uncut."""
        surgery.check(self, cut)
        check_label(condition, self.num_classes)
        pred_x0 = self.network(x_t.to(self.dtype), timestep, condition).to(x_t.dtype)
        signal, noise = self.schedule.at(timestep)
        return Prediction(pred_x0, (x_t - signal * pred_x0) / noise)


def draw(molrg: Molrg, seed: int, samples: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw the x_0 of samples, float32 (sample, feature), and their classes (sample,), each by its number."""
    noise = NoiseSource(seed, (1 + sum(molrg.dims),))
    x_0, label = sample(molrg, noise(Purpose.SOURCE, samples, 0).astype(np.float64))
    return x_0.astype(np.float32), label


def _one_each(key: str, values: list[int], classes: int) -> list[int]:
    if len(values) != classes:
        raise InputError(f"{len(values)} numbers of {key} for {classes} classes; expected one, or one for each")
    return values
