"""A process as a table: how much signal and how much noise x_t has at each timestep, and what the network is fed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stores import levels

# Schedulers that share DDPM's training tables; only the tables are read, the updates are ours.
_CLASSES = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
)
_PREDICTIONS = ("epsilon", "sample", "v_prediction")  # that those schedulers know
PREDICTIONS = (*_PREDICTIONS, "flow_prediction")
_SPACINGS = ("leading", "linspace", "trailing")
_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
_MAX_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """Signal and noise at each timestep 0..T-1, from the least noise to the most: x_t = signal x_0 + noise_scale eps.

    ``signal``, ``noise_scale`` and ``model_time``, what the network is fed, are float64 of shape (T,). ``definition``
    says in small JSON values what the table is. ``prediction_type`` is what the network answers: "epsilon", "sample",
    "v_prediction" or "flow_prediction" (eps - x_0). ``clip_sample`` is the range pred_x0 is clipped to, None for no
    clipping. ``variance`` is the usual reverse variance: "large", "small", or "learned" for a network that predicts
    it. ``final`` is the signal and noise_scale that a ddim or heun step lands on after the last timestep.

    Raises
    ------
    ValueError
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

    def __post_init__(self) -> None:
        """Check the columns, and that the network's answer can be read at every timestep."""
        columns = {}
        for name in ("signal", "noise_scale", "model_time"):
            columns[name] = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, columns[name])
        shapes = {column.shape for column in columns.values()}
        if len(shapes) > 1 or self.signal.ndim != 1 or not self.T:
            given = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise ValueError(f"a schedule with {given}; expected one number of each for every timestep")
        if not all(np.isfinite(column).all() for column in columns.values()) or (self.signal < 0).any():
            raise ValueError("a schedule with numbers that are not finite, or signal below 0")
        if not ((self.noise_scale > 0).all() and (np.diff(self.log_snr) < 0).all()):
            raise ValueError("a schedule whose noise does not grow with the timestep; expected least noise first")
        _expect("prediction_type", self.prediction_type, PREDICTIONS)
        if self.prediction_type == "epsilon" and self.signal[-1] == 0:
            raise ValueError(
                f"prediction_type epsilon says nothing of x_0 at timestep {self.T - 1}, where no signal is left "
                "(zero terminal SNR); expected a network with v_prediction or sample"
            )
        if self.prediction_type == "v_prediction" and self.alpha_bar is None:
            raise ValueError("prediction_type v_prediction needs signal^2 + noise_scale^2 = 1; expected another one")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], time_scale: float = 1.0) -> Schedule:
        """Read the scheduler config of a diffusers pipeline; the network is fed timestep * time_scale.

        Keys that are absent take the defaults of the scheduler class the config names.

        Raises
        ------
        ValueError
            When the config asks for something that is not supported; the message names it.
        """
        name = config.get("_class_name", "DDPMScheduler")
        _expect("scheduler class", name, _CLASSES)
        if config.get("thresholding"):
            raise ValueError("scheduler config has thresholding: true, which is not supported; expected false")
        if config.get("predict_epsilon") is False:
            raise ValueError('scheduler config has predict_epsilon: false; write prediction_type: "sample" instead')
        is_pndm = name == "PNDMScheduler"
        clips = config.get("clip_sample", not is_pndm)
        formula, betas = _betas(config)
        alpha_bar = np.cumprod(1 - betas)
        signal, zero_terminal = np.sqrt(alpha_bar), {}
        if config.get("rescale_betas_zero_snr"):
            signal = _without_terminal_signal(signal)
            alpha_bar, zero_terminal = signal**2, {"rescale_betas_zero_snr": True}
        lands_on_one = config.get("set_alpha_to_one", not is_pndm)
        last = 1.0 if lands_on_one else float(alpha_bar[0])
        variance_type = config.get("variance_type", "fixed_small")
        return cls(
            definition={
                "T": len(betas),
                "beta_formula": formula,
                **zero_terminal,
                "time_scale": float(time_scale),
                "final_alpha_bar": last,
            },
            signal=signal,
            noise_scale=np.sqrt(1 - alpha_bar),
            model_time=np.arange(len(betas)) * float(time_scale),
            prediction_type=_expect("prediction_type", config.get("prediction_type", "epsilon"), _PREDICTIONS),
            clip_sample=float(config.get("clip_sample_range", 1.0)) if clips else None,
            variance=_VARIANCES[_expect("variance_type", variance_type, tuple(_VARIANCES))],
            spacing=_expect("timestep_spacing", config.get("timestep_spacing", "leading"), _SPACINGS),
            steps_offset=int(config.get("steps_offset", 0)),
            final=(float(np.sqrt(last)), float(np.sqrt(1 - last))),
        )

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

    def to_config(self) -> dict[str, Any]:
        """Everything that defines the schedule, as small JSON values for a fingerprint."""
        return {
            **self.definition,
            "prediction_type": self.prediction_type,
            "clip_sample": self.clip_sample,
            "variance": self.variance,
            "spacing": self.spacing,
            "steps_offset": self.steps_offset,
        }


def _betas(config: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Return the beta table of a scheduler config and a short text that defines it."""
    trained = config.get("trained_betas")
    if trained is not None:
        betas = np.asarray(trained, dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("trained_betas must be a list of numbers between 0 and 1")
        return f"trained sha256:{hashlib.sha256(betas.tobytes()).hexdigest()}", betas
    name = config.get("beta_schedule", "linear")
    _expect("beta_schedule", name, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    T = int(config.get("num_train_timesteps", 1000))
    if T < 1:
        raise ValueError(f"num_train_timesteps is {T}; expected at least 1")
    if name == "squaredcos_cap_v2":
        return name, _cosine_betas(T)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if not (0 < start < 1 and 0 < end < 1):
        raise ValueError(f"beta_start {start} and beta_end {end} must lie between 0 and 1")
    power = 1 if name == "linear" else 2
    return f"{name} {start!r} {end!r}", np.linspace(start ** (1 / power), end ** (1 / power), T) ** power


def _cosine_betas(T: int) -> np.ndarray:
    """Return the cosine schedule's betas (IDDPM eq. 17), capped as improved-diffusion does."""
    u = np.arange(T + 1) / T
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MAX_BETA)


def _without_terminal_signal(signal: np.ndarray) -> np.ndarray:
    """Shift and stretch the signal to end at 0, its first value kept (Lin et al. 2024, algorithm 1)."""
    if len(signal) < 2:
        raise ValueError("rescale_betas_zero_snr with one timestep leaves no signal at all; expected more of them")
    return (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))


def _expect(key: str, value: Any, supported: tuple[str, ...]) -> str:
    if value not in supported:
        raise ValueError(f"{key} {value!r} is not supported; expected one of {', '.join(supported)}")
    return str(value)
