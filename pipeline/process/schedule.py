"""A process as a table: how much signal and how much noise x_t has at each timestep, and what the network is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from traj.pipeline.process import scheduler_configs
from traj.pipeline.process.preconditioning import Preconditioning
from traj.stores import InputError, levels

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction", "preconditioned")


@dataclass(frozen=True)
class Schedule:
    """Signal and noise at each timestep 0..T-1, from the least noise to the most: x_t = signal x_0 + noise_scale eps.

    ``signal``, ``noise_scale`` and ``model_time``, what the network is fed, are float64 of shape (T,). ``definition``
    says in small JSON values what the table is. ``prediction_type`` is what the network answers: "epsilon", "sample",
    "v_prediction", "flow_prediction" (eps - x_0), or "preconditioned": F, of which ``preconditioning`` makes x_0.
    ``clip_sample`` is the range pred_x0 is clipped to, None for no clipping. ``variance`` is the usual reverse
    variance: "large", "small", or "learned" for a network that predicts it. ``final`` is the signal and noise_scale
    that a ddim or heun step lands on after the last timestep.

    Raises
    ------
    InputError
        When the columns do not fit, noise does not grow with the timestep, or the network's answer says nothing of x_0.
    """

    definition: Mapping[str, Any]
    signal: np.ndarray = field(compare=False, repr=False)
    noise_scale: np.ndarray = field(compare=False, repr=False)
    model_time: np.ndarray = field(compare=False, repr=False)
    prediction_type: str = "epsilon"
    clip_sample: float | None = None
    variance: str = "small"
    spacing: str = "leading"
    steps_offset: int = 0
    final: tuple[float, float] = (1.0, 0.0)
    preconditioning: Preconditioning | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the columns, and that the network's answer can be read at every timestep."""
        columns = {}
        for name in ("signal", "noise_scale", "model_time"):
            columns[name] = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, columns[name])
        shapes = {column.shape for column in columns.values()}
        if len(shapes) > 1 or self.signal.ndim != 1 or not self.T:
            given = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise InputError(f"a schedule with {given}; expected one number of each for every timestep")
        if not all(np.isfinite(column).all() for column in columns.values()) or (self.signal < 0).any():
            raise InputError("a schedule with numbers that are not finite, or signal below 0")
        if not ((self.noise_scale > 0).all() and (np.diff(self.log_snr) < 0).all()):
            raise InputError("a schedule whose noise does not grow with the timestep; expected least noise first")
        if self.prediction_type not in PREDICTIONS:
            raise InputError(f"prediction_type {self.prediction_type!r}; expected one of {', '.join(PREDICTIONS)}")
        if (self.prediction_type == "preconditioned") != (self.preconditioning is not None):
            raise InputError("a schedule with prediction_type preconditioned or preconditioning, expected both or none")
        if self.prediction_type == "epsilon" and self.signal[-1] == 0:
            raise InputError(
                f"prediction_type epsilon says nothing of x_0 at timestep {self.T - 1}, where no signal is left "
                "(zero terminal SNR); expected a network with v_prediction or sample"
            )
        if self.prediction_type == "v_prediction" and self.alpha_bar is None:
            raise InputError("prediction_type v_prediction needs signal^2 + noise_scale^2 = 1; expected another one")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], time_scale: float = 1.0, steps: int | None = None) -> Schedule:
        """Read the scheduler config of a diffusers pipeline: the table, never the update rule.

        Keys that are absent take the defaults of the scheduler class the config names. What the network is fed as time
        (the timestep, t * num_train_timesteps on a flow, c_noise of EDM) is multiplied by ``time_scale``. EDM and flow
        matching are grids of so many ``steps``, those of the class's own set_timesteps. Where a class visits levels
        between the timesteps of its table (as Euler's linspace and Karras sigmas do), a plan visits timesteps instead.

        Raises
        ------
        InputError
            When the config asks for something that is not supported, or for a grid and there are no steps; the message
            names it.
        """
        return cls(**scheduler_configs.read(config, time_scale, steps))

    @property
    def T(self) -> int:
        """Number of timesteps in the table."""
        return len(self.signal)

    @property
    def is_grid(self) -> bool:
        """Whether the table is the grid a continuous process is sampled on, rather than that of its training."""
        return "grid" in self.definition

    @property
    def learned_range(self) -> bool:
        """Whether the network predicts its reverse variance (IDDPM eq. 15)."""
        return self.variance == "learned"

    @property
    def alpha_bar(self) -> np.ndarray | None:
        """signal^2 where signal^2 + noise_scale^2 = 1, None elsewhere; shape (T,)."""
        return levels.alpha_bar(self.signal, self.noise_scale)

    @property
    def sigma(self) -> np.ndarray:
        """Noise level of x_t / signal, the variance-exploding view; shape (T,)."""
        return levels.sigma(self.signal, self.noise_scale)

    @property
    def log_snr(self) -> np.ndarray:
        """Natural logarithm of (signal / noise_scale)^2; shape (T,)."""
        return levels.log_snr(self.signal, self.noise_scale)

    def at(self, timestep: int) -> tuple[float, float]:
        """Give the signal and the noise_scale of x_t at a timestep."""
        return float(self.signal[timestep]), float(self.noise_scale[timestep])

    def start_sd(self, timestep: int) -> float:
        """Give the sd of the noise a run starts from at a timestep: 1 for a process that preserves variance."""
        return 1.0 if self.alpha_bar is not None else float(self.noise_scale[timestep])

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's numbers depend on beside its plan, as small JSON values for a fingerprint."""
        return {
            **self.definition,
            "prediction_type": self.prediction_type,
            "learned_range": self.learned_range,
        }

    @property
    def habits(self) -> dict[str, Any]:
        """The settings that a plan takes from the schedule by default."""
        return {
            "clip_sample": self.clip_sample,
            "variance": self.variance,
            "spacing": self.spacing,
            "steps_offset": self.steps_offset,
        }
