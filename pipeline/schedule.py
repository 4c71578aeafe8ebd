"""The training schedule of a diffusion model: how much of the image is left at each timestep."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.configs import Key, Keys, Unfit, flag, number, off, one_of, optional, several, shown, whole

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
_MOST_TIMESTEPS = 1_000_000


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
        name = _class_name(config)
        found = scheduler_keys(name).read(config, f"scheduler config ({name})")
        formula, betas = _betas(found)
        alpha_bar = np.cumprod(1 - betas)
        return cls(
            beta_formula=formula,
            betas=betas,
            alpha_bar=alpha_bar,
            prediction_type=found["prediction_type"],
            clip_sample=found["clip_sample_range"] if found["clip_sample"] else None,
            variance=_VARIANCES[found["variance_type"]],
            time_scale=float(time_scale),
            final_alpha_bar=1.0 if found["set_alpha_to_one"] else float(alpha_bar[0]),
            spacing=found["timestep_spacing"],
            steps_offset=found["steps_offset"],
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

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's numbers depend on beside its plan, as small JSON values for a fingerprint."""
        return {
            "T": self.T,
            "beta_formula": self.beta_formula,
            "prediction_type": self.prediction_type,
            "learned_range": self.learned_range,
            "time_scale": self.time_scale,
            "final_alpha_bar": self.final_alpha_bar,
        }

    @property
    def habits(self) -> dict[str, Any]:
        """What a plan is made by unless it is told otherwise."""
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
            "num_train_timesteps": Key(1000, whole(1, _MOST_TIMESTEPS)),
            "beta_start": Key(1e-4, number(0, 1)),
            "beta_end": Key(0.02, number(0, 1)),
            "beta_schedule": Key("linear", one_of("linear", "scaled_linear", "squaredcos_cap_v2")),
            "trained_betas": Key(None, optional(several(number(0, 1)))),
            "variance_type": Key("fixed_small", one_of(*_VARIANCES)),
            "clip_sample": Key(not is_pndm, flag),
            "clip_sample_range": Key(1.0, number(above=0)),
            "prediction_type": Key("epsilon", one_of(*_PREDICTIONS)),
            "timestep_spacing": Key("leading", one_of(*_SPACINGS)),
            "steps_offset": Key(0, whole(0, _MOST_TIMESTEPS)),
            "set_alpha_to_one": Key(not is_pndm, flag),
            "thresholding": Key(False, off),
            "rescale_betas_zero_snr": Key(False, off),
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
        return one_of(*_CLASSES)(name)
    except Unfit as unfit:
        instead = "; its name today is DDPMScheduler: write that" if name == "GaussianDDPMScheduler" else ""
        raise ValueError(f"scheduler class {shown(name)} is not supported; expected {unfit}{instead}") from None


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
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MAX_BETA)
