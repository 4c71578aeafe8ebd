"""The training schedule of a diffusion model: how much of the image is left at each timestep."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Schedulers that share DDPM's training tables; only the tables are read, the updates are ours.
_CLASSES = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
)
_PREDICTIONS = ("epsilon", "sample", "v_prediction")
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
    """Constants of a training schedule, float64, indexed by timestep 0..T-1 (0 = noised once).

    ``betas`` and ``alpha_bar`` have shape (T,). ``variance`` is the reverse variance the scheduler config
    names: "large", "small", or "learned" for a network that predicts a learned-range variance.
    ``clip_sample`` is the range pred_x0 is clipped to, None for no clipping. ``time_scale`` times timestep
    is what the network is fed. ``final_alpha_bar`` is the alpha_bar a DDIM step lands on after the last one.
    """

    beta_formula: str
    betas: np.ndarray = field(compare=False, repr=False)
    alpha_bar: np.ndarray = field(compare=False, repr=False)
    prediction_type: str = "epsilon"
    clip_sample: float | None = None
    variance: str = "small"
    time_scale: float = 1.0
    final_alpha_bar: float = 1.0
    spacing: str = "leading"
    steps_offset: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], time_scale: float = 1.0) -> Schedule:
        """Read the scheduler config of a diffusers pipeline.

        Keys that are absent take the defaults of the scheduler class the config names.

        Raises
        ------
        ValueError
            When the config asks for something that is not supported; the message names it.
        """
        name = config.get("_class_name", "DDPMScheduler")
        _expect("scheduler class", name, _CLASSES)
        for key in ("thresholding", "rescale_betas_zero_snr"):
            if config.get(key):
                raise ValueError(f"scheduler config has {key}: true, which is not supported; expected false")
        if config.get("predict_epsilon") is False:
            raise ValueError('scheduler config has predict_epsilon: false; write prediction_type: "sample" instead')
        is_pndm = name == "PNDMScheduler"
        clips = config.get("clip_sample", not is_pndm)
        formula, betas = _betas(config)
        alpha_bar = np.cumprod(1 - betas)
        lands_on_one = config.get("set_alpha_to_one", not is_pndm)
        variance_type = config.get("variance_type", "fixed_small")
        return cls(
            beta_formula=formula,
            betas=betas,
            alpha_bar=alpha_bar,
            prediction_type=_expect("prediction_type", config.get("prediction_type", "epsilon"), _PREDICTIONS),
            clip_sample=float(config.get("clip_sample_range", 1.0)) if clips else None,
            variance=_VARIANCES[_expect("variance_type", variance_type, tuple(_VARIANCES))],
            time_scale=float(time_scale),
            final_alpha_bar=1.0 if lands_on_one else float(alpha_bar[0]),
            spacing=_expect("timestep_spacing", config.get("timestep_spacing", "leading"), _SPACINGS),
            steps_offset=int(config.get("steps_offset", 0)),
        )

    @property
    def T(self) -> int:
        """Number of training timesteps."""
        return len(self.betas)

    @property
    def learned_range(self) -> bool:
        """Whether the network predicts its reverse variance (IDDPM eq. 15)."""
        return self.variance == "learned"

    @property
    def sigma(self) -> np.ndarray:
        """Noise level of x_t / sqrt(alpha_bar), the variance-exploding view; shape (T,)."""
        return np.sqrt((1 - self.alpha_bar) / self.alpha_bar)

    @property
    def log_snr(self) -> np.ndarray:
        """Natural logarithm of alpha_bar / (1 - alpha_bar); shape (T,)."""
        return np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)

    def to_config(self) -> dict[str, Any]:
        """Everything that defines the schedule, as small JSON values for a fingerprint."""
        return {
            "T": self.T,
            "beta_formula": self.beta_formula,
            "prediction_type": self.prediction_type,
            "clip_sample": self.clip_sample,
            "variance": self.variance,
            "time_scale": self.time_scale,
            "final_alpha_bar": self.final_alpha_bar,
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


def _expect(key: str, value: Any, supported: tuple[str, ...]) -> str:
    if value not in supported:
        raise ValueError(f"{key} {value!r} is not supported; expected one of {', '.join(supported)}")
    return str(value)
