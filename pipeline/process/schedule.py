"""A process as a table: how much signal and how much noise x_t has at each timestep, and what the network is fed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from traj.pipeline.configs import Key, Keys, Unfit, flag, number, off, one_of, optional, several, shown, whole
from traj.stores import InputError, levels

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
MOST_TIMESTEPS = 1_000_000


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
        if self.prediction_type == "epsilon" and self.signal[-1] == 0:
            raise InputError(
                f"prediction_type epsilon says nothing of x_0 at timestep {self.T - 1}, where no signal is left "
                "(zero terminal SNR); expected a network with v_prediction or sample"
            )
        if self.prediction_type == "v_prediction" and self.alpha_bar is None:
            raise InputError("prediction_type v_prediction needs signal^2 + noise_scale^2 = 1; expected another one")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], time_scale: float = 1.0) -> Schedule:
        """Read the scheduler config of a diffusers pipeline; the network is fed timestep * time_scale.

        Keys that are absent take the defaults of the scheduler class the config names.

        Raises
        ------
        InputError
            When the config asks for something that is not supported; the message names it.
        """
        name = _class_name(config)
        found = scheduler_keys(name).read(config, f"scheduler config ({name})")
        formula, betas = _betas(found)
        alpha_bar = np.cumprod(1 - betas)
        signal, zero_terminal = np.sqrt(alpha_bar), {}
        if found["rescale_betas_zero_snr"]:
            signal = _without_terminal_signal(signal)
            alpha_bar, zero_terminal = signal**2, {"rescale_betas_zero_snr": True}
        last = 1.0 if found["set_alpha_to_one"] else float(alpha_bar[0])
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
            prediction_type=found["prediction_type"],
            clip_sample=found["clip_sample_range"] if found["clip_sample"] else None,
            variance=_VARIANCES[found["variance_type"]],
            spacing=found["timestep_spacing"],
            steps_offset=found["steps_offset"],
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


def scheduler_keys(name: str) -> Keys:
    """List the keys of a scheduler config, by the class it names."""
    is_pndm = name == "PNDMScheduler"
    return Keys(
        used={
            "num_train_timesteps": Key(1000, whole(1, MOST_TIMESTEPS)),
            "beta_start": Key(1e-4, number(0, 1)),
            "beta_end": Key(0.02, number(0, 1)),
            "beta_schedule": Key("linear", one_of("linear", "scaled_linear", "squaredcos_cap_v2")),
            "trained_betas": Key(None, optional(several(number(0, 1)))),
            "variance_type": Key("fixed_small", one_of(*_VARIANCES)),
            "clip_sample": Key(not is_pndm, flag),
            "clip_sample_range": Key(1.0, number(above=0)),
            "prediction_type": Key("epsilon", one_of(*_PREDICTIONS)),
            "timestep_spacing": Key("leading", one_of(*_SPACINGS)),
            "steps_offset": Key(0, whole(0, MOST_TIMESTEPS)),
            "set_alpha_to_one": Key(not is_pndm, flag),
            "thresholding": Key(False, off),
            "rescale_betas_zero_snr": Key(False, flag),
        },
        unused={
            "dynamic_thresholding_ratio": "of thresholding, which is refused",
            "sample_max_value": "of thresholding, which is refused",
            "skip_prk_steps": "of PNDM's own update; only its table is read",
            "tensor_format": "the kind of arrays that old versions worked on",
        },
        renamed={
            "timesteps": ("num_train_timesteps", lambda value: value),
            "predict_epsilon": ("prediction_type", lambda value: "epsilon" if flag(value) else "sample"),
            "clip_predicted_image": ("clip_sample", flag),
        },
    )


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name", "DDPMScheduler")
    try:
        known: str = one_of(*_CLASSES)(name)
        return known
    except Unfit as unfit:
        instead = "; its name today is DDPMScheduler: write that" if name == "GaussianDDPMScheduler" else ""
        raise InputError(f"scheduler class {shown(name)} is not supported; expected {unfit}{instead}") from None


def _betas(found: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Return the beta table of a scheduler config that was read, and a short text that defines it."""
    if found["trained_betas"] is not None:
        betas = np.array(found["trained_betas"])
        return f"trained sha256:{hashlib.sha256(betas.tobytes()).hexdigest()}", betas
    name, T = found["beta_schedule"], found["num_train_timesteps"]
    if name == "squaredcos_cap_v2":
        return name, _cosine_betas(T)
    start, end = found["beta_start"], found["beta_end"]
    power = 1 if name == "linear" else 2
    return f"{name} {start!r} {end!r}", np.linspace(start ** (1 / power), end ** (1 / power), T) ** power


def _cosine_betas(T: int) -> np.ndarray:
    """Return the cosine schedule's betas (IDDPM eq. 17), capped as improved-diffusion does."""
    u = np.arange(T + 1) / T
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MAX_BETA)
    return betas


def _without_terminal_signal(signal: np.ndarray) -> np.ndarray:
    """Shift and stretch the signal to end at 0, its first value kept (Lin et al. 2024, algorithm 1)."""
    if len(signal) < 2:
        raise InputError("rescale_betas_zero_snr with one timestep leaves no signal at all; expected more of them")
    stretched: np.ndarray = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    return stretched
