"""Exact denoisers in closed form, usable wherever a network is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from traj import stores
from traj.pipeline.estimate import size
from traj.pipeline.models import molrg, samples, surgery
from traj.pipeline.models.labels import Labels, check_label
from traj.pipeline.parsing import number, whole
from traj.pipeline.process import tables
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Prediction
from traj.pipeline.process.schedule import Schedule
from traj.stores import USUAL_DIMS, InputError

MOST_VALUES = 1 << 26
FORMS = ("gaussian:MEAN,VAR[,SHAPE]", "mixture:A,B,...", "dataset:DATA", molrg.FORM)


def load(
    name: str, device: str = "cpu", schedule: Schedule | None = None
) -> GaussianDenoiser | PointsDenoiser | molrg.MolrgDenoiser:
    """Build the exact denoiser a name like ``gaussian:0,0.25`` describes, for any schedule.

    Unless given, it is linear, and that of 004 for molrg. A SHAPE is 1 to 4 numbers with x between them: FEATURES,
    CHANNELSxPOSITIONS, CxHxW or CHANNELSxFRAMESxHxW. DATA are digits, or whatever `traj dataset` reads.

    Raises
    ------
    InputError
        When the name is none of the known forms, or as ``dataset`` does.
    """
    kind, _, numbers = name.partition(":")
    if kind == "dataset" and numbers:
        return digits_dataset(device, schedule) if numbers == "digits" else dataset(numbers, device, schedule)
    fields = numbers.split(",")
    try:
        match kind:
            case "gaussian" if len(fields) in (2, 3):
                shape = tuple(map(whole, fields[2].split("x"))) if len(fields) == 3 else (1, 1, 1)
                return GaussianDenoiser(number(fields[0]), number(fields[1]), shape, schedule)
            case "mixture":
                return mixture([number(field) for field in fields], device, schedule)
            case molrg.KIND:
                return molrg.exact(numbers, device, schedule)
    except InputError as error:
        raise InputError(f"model {name!r}: {error}; expected one of {', '.join(FORMS)}") from None
    raise InputError(f"model {name!r}; expected one of {', '.join(FORMS)}")


class GaussianDenoiser:
    """Values independent and normal with one mean and variance (METHODS 7.1); an event may have any shape."""

    num_classes = 0
    unconditional = True
    dtype = torch.float64

    def __init__(
        self, mean: float, variance: float, shape: tuple[int, ...] = (1, 1, 1), schedule: Schedule | None = None
    ) -> None:
        if not (variance > 0 and math.isfinite(mean) and math.isfinite(variance)):
            raise InputError(f"mean {mean} and variance {variance}; expected numbers, the variance above 0")
        if len(shape) not in USUAL_DIMS or min(shape) < 1 or math.prod(shape) > MOST_VALUES:
            known = "; ".join(map(", ".join, USUAL_DIMS.values()))
            raise InputError(f"shape {shape}; expected lengths of {known}, {MOST_VALUES:,} values at most")
        self.mean, self.variance, self.shape = mean, variance, shape
        self.schedule = schedule or tables.named("linear")
        reach = 4 * math.sqrt(variance)
        self.valid_range = (mean - reach, mean + reach)
        self.name = f"gaussian:{mean!r},{variance!r},{'x'.join(map(str, shape))}"
        self.identity = {"name": "gaussian", "mean": mean, "variance": variance, "shape": list(shape)}

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Labels:
        """Read which labels samples are to have."""
        return Labels(self, asked, null)

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: torch.Tensor, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep; the label (sample,) must be -1, nothing cut."""
        surgery.check(self, cut)
        check_label(condition, self.num_classes)
        signal, noise = self.schedule.at(timestep)
        v = signal**2 * self.variance + noise**2
        centred = x_t - signal * self.mean
        return Prediction(self.mean + signal * self.variance / v * centred, noise / v * centred)


class PointsDenoiser:
    """Equally likely points, each of a class: the posterior mean over a finite dataset (METHODS 2.1, 7.3).

    ``points`` is (point, *event), ``classes`` (point,) integers. A label restricts the dataset to
    that class; -1 takes all of it. A point of class -1 has none.
    """

    unconditional = True
    dtype = torch.float64

    def __init__(
        self,
        points: np.ndarray,
        classes: np.ndarray,
        *,
        name: str,
        identity: dict[str, Any],
        valid_range: tuple[float, float] | None,
        dims: tuple[str, ...] | None = None,
        device: str = "cpu",
        schedule: Schedule | None = None,
    ) -> None:
        self.shape, self.dims = tuple(points.shape[1:]), dims
        self.points = torch.as_tensor(points, dtype=torch.float64, device=device).flatten(1)
        self.squares = self.points.square().sum(1)
        self.classes = torch.as_tensor(classes, dtype=torch.int64, device=device)
        self.num_classes = int(self.classes.max()) + 1
        self.schedule = schedule or tables.named("linear")
        self.valid_range = valid_range
        self.identity = identity
        self.name = name

    def conditions(self, asked: Mapping[str, Any], null: bool = False) -> Labels:
        """Read which labels samples are to have. Raises InputError for a class without points."""
        labels = Labels(self, asked, null)
        there = set(self.classes.tolist())
        if (lacking := next((label for label in labels.classes if label not in there), None)) is not None:
            raise InputError(f"model {self.name} has no points of class {lacking}; ask for another label")
        return labels

    def __call__(self, x_t: torch.Tensor, timestep: int, condition: torch.Tensor, cut: Cut = WHOLE) -> Prediction:
        """Predict from states (sample, *event) of one timestep; label (sample,), -1 unconditional; uncut."""
        surgery.check(self, cut)
        weights = self.log_weights(x_t, timestep, condition).exp()
        pred_x0 = (weights @ self.points).reshape(x_t.shape).to(x_t.dtype)
        signal, noise = self.schedule.at(timestep)
        return Prediction(pred_x0, (x_t - signal * pred_x0) / noise)

    def log_weights(self, x_t: torch.Tensor, timestep: int, label: torch.Tensor) -> torch.Tensor:
        """Log posterior of each point given the states (001); shape (sample, point), float64, natural log."""
        check_label(label, self.num_classes)
        c, d = self.schedule.at(timestep)
        states = x_t.to(self.points).flatten(1)
        # |x_t|^2 is the same for every point and left out of |x_t - c x_i|^2
        squared_distance = c**2 * self.squares - 2 * c * states @ self.points.T
        excluded = (label[:, None] >= 0) & (label[:, None] != self.classes)
        return (-squared_distance / (2 * d**2)).masked_fill(excluded, -math.inf).log_softmax(dim=1)


def mixture(points: list[float], device: str = "cpu", schedule: Schedule | None = None) -> PointsDenoiser:
    """Point classes of equal weight in one pixel (003, the 1-D experiment): class k is the k-th number."""
    return PointsDenoiser(
        *samples.points(points),
        name="mixture:" + ",".join(map(repr, points)),
        identity={"name": "mixture", "points": points},
        valid_range=(min(points), max(points)),
        device=device,
        schedule=schedule,
    )


def digits_dataset(device: str = "cpu", schedule: Schedule | None = None) -> PointsDenoiser:
    """scikit-learn's 1797 digits as the whole data distribution."""
    from traj.pipeline.models.digits import images

    points, classes = images()
    return PointsDenoiser(
        points,
        classes,
        name="dataset:digits",
        identity={"name": "dataset:digits", "data": digest(points, classes)},
        valid_range=(-1.0, 1.0),
        device=device,
        schedule=schedule,
    )


def dataset(name: str, device: str = "cpu", schedule: Schedule | None = None) -> PointsDenoiser:
    """Take data as the whole distribution. A dataset of the digits is the same model as `dataset:digits`.

    Raises InputError for data that are not to be had, or clear only with options, and where the points, held in
    float64, are more than there is memory for; DamagedStore.
    """
    found = samples.surveyed(name)
    shape = (found.samples, *found.events.shape)
    values, there = math.prod(shape), stores.memory_free()
    needed = (4 + 8) * values  # the points as they are read and in float64
    if needed > there:
        raise InputError(
            f"{name} has {values:,} values, which take {size(8 * values)} in float64, and {size(needed)} to compute "
            f"with; this machine has {size(there)} free: make a dataset of fewer --samples"
        )
    identity = {"name": "dataset", "shape": list(shape[1:]), "data": found.digest}
    if shape == (1797, 1, 8, 8):
        digits = digits_dataset().identity
        identity = digits if digits["data"] == found.digest else identity
    return PointsDenoiser(
        found.read(0, found.samples).astype(np.float64),
        found.label,
        name=f"dataset:{name}",
        identity=identity,
        valid_range=found.valid_range,
        dims=found.events.dims,
        device=device,
        schedule=schedule,
    )


def digest(points: np.ndarray, classes: np.ndarray) -> str:
    """Hash a dataset: its points in float32, then their classes in int64, as `traj dataset` does."""
    return f"sha256:{hashlib.sha256(points.tobytes() + np.asarray(classes, dtype=np.int64).tobytes()).hexdigest()}"
