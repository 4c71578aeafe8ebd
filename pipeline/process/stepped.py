"""The steps that a scheduler object of diffusers is about to take: how noisy each state is, how pred_x0 is read there.

Every step of every scheduler here answers the same question, x_t = c x_0 + d eps (c is signal, d noise_scale), and
every kind of network output gives x_0 as a sum of x_t and the output, each times a factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from traj.stores import InputError

Columns = tuple[NDArray[np.float64], ...]
"""Signal, noise_scale, and the factors of x_t and of the output in pred_x0; one value for each call of ``step``."""


@dataclass(frozen=True)
class Steps:
    """The first evaluation of every step that is left, high noise first.

    ``call`` counts the calls of ``scheduler.step`` before it. ``timestep`` are the scheduler's own where it has a
    table of timesteps and they are whole numbers that descend, else they count the steps down to 0. ``model_time`` is
    what ``scheduler.step`` is given. pred_x0 = of_x_t * x_t + of_output * output.
    """

    call: NDArray[np.int64]
    timestep: NDArray[np.int64]
    model_time: NDArray[np.float64]
    signal: NDArray[np.float64]
    noise_scale: NDArray[np.float64]
    of_x_t: NDArray[np.float64]
    of_output: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.call)

    def pred_x0(self, k: int, x_t: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Predict x_0, unclipped and in float32, from what step k was given: states (sample, *event) and output.

        Half of an output with twice the channels is a variance, and is left out.

        Raises InputError for an output of another shape.
        """
        if output.ndim > 1 and output.shape[1] == 2 * x_t.shape[1]:
            output = output[:, : x_t.shape[1]]
        if output.shape != x_t.shape:
            raise InputError(
                f"the network answers {tuple(output.shape)} to a state of shape {tuple(x_t.shape)}; expected the same "
                "shape, or twice the channels with a variance"
            )
        a, b = float(self.of_x_t[k]), float(self.of_output[k])
        return a * x_t.float() + b * output.float()


def steps_of(scheduler: Any, first: float | None = None) -> Steps:
    """List the steps that a scheduler will take from its timestep ``first`` on, by default from the start.

    Where a step takes several evaluations, each a call of ``step`` (Heun, KDPM2, the Runge-Kutta start of PNDM), the
    first alone is listed: its state is the one the process has reached, the others are trial points of its update.

    Raises
    ------
    InputError
        For a scheduler that is not recorded, or steps that cannot be laid out in one store.
    """
    require_recorded(scheduler)
    name = type(scheduler).__name__
    times = _float64(scheduler.timesteps)
    begin = _begin(scheduler, times, first)
    with np.errstate(divide="ignore", invalid="ignore"):
        signal, noise_scale, of_x_t, of_output = RECORDED[name](scheduler, times)
    at = np.array([k for k in _first_evaluations(scheduler, len(times)) if k >= begin and noise_scale[k] > 0], np.int64)
    if not len(at):
        raise InputError(f"{name} has no step to take; expected set_timesteps to be called before step")
    if not (np.isfinite(of_x_t[at]).all() and np.isfinite(of_output[at]).all()):
        raise InputError(
            f"{name} starts where no signal is left (zero terminal SNR), and an output of prediction_type epsilon says "
            "nothing of x_0 there; expected v_prediction or sample"
        )
    return Steps(
        call=at - begin,
        timestep=_timesteps(scheduler, times[at]),
        model_time=times[at],
        signal=signal[at],
        noise_scale=noise_scale[at],
        of_x_t=of_x_t[at],
        of_output=of_output[at],
    )


def require_recorded(scheduler: Any) -> None:
    """Raise InputError for a scheduler that is not recorded; the message names it and says why."""
    name = type(scheduler).__name__
    reason = REFUSED.get(name, "it is none of those of diffusers that traj knows")
    if name in RECORDED:
        stages = getattr(scheduler.config, "stages", 1)
        if stages == 1:
            return
        reason = f"it makes {stages} stages of different sizes, and a store has one (stages=1 is recorded)"
    raise InputError(f"scheduler {name} cannot be recorded: {reason}")


def _begin(scheduler: Any, times: NDArray[np.float64], first: float | None) -> int:
    """Find the position of the first timestep that is visited."""
    if (told := getattr(scheduler, "begin_index", None)) is not None:
        return int(told)
    if first is None or not len(times):
        return 0
    found = np.flatnonzero(np.isclose(times, first, rtol=1e-6, atol=1e-9))
    name = type(scheduler).__name__
    if not len(found):
        raise InputError(f"{name} was given timestep {first:g}, which is none of its timesteps")
    if found[0] and name == "PNDMScheduler":
        raise InputError("PNDMScheduler began in the midst of its timesteps, where it mistakes the second step's time")
    return int(found[0])


def _first_evaluations(scheduler: Any, count: int) -> list[int]:
    """List the calls of ``step`` that are the first of a step."""
    if type(scheduler).__name__ == "PNDMScheduler":
        runge_kutta = 0 if scheduler.config.skip_prk_steps else len(scheduler.prk_timesteps)
        return [*range(0, runge_kutta, 4), *(k for k in range(runge_kutta, count) if k != 1)]
    return list(range(0, count, getattr(scheduler, "order", 1)))


def _timesteps(scheduler: Any, times: NDArray[np.float64]) -> NDArray[np.int64]:
    own = times.astype(np.int64)
    if hasattr(scheduler, "alphas_cumprod") and (own == times).all() and (np.diff(own) < 0).all():
        return own
    return np.arange(len(times))[::-1].copy()


def read(kind: str, signal: NDArray[np.float64], noise_scale: NDArray[np.float64]) -> Columns:
    """Give the factors of x_t and of the output in x_0, for what a network answers.

    ``v_prediction`` is (c eps - d x_0) / sqrt(c^2 + d^2): where c is 1, as in Euler's form, it belongs to the same
    state scaled to preserve variance. ``flow_prediction`` is eps - x_0, and ``clean_flow`` its negative.

    Raises InputError for another kind.
    """
    c, d = signal, noise_scale
    match kind:
        case "epsilon":
            return 1 / c, -d / c
        case "sample" | "original_sample":
            return np.zeros_like(c), np.ones_like(c)
        case "v_prediction":
            return c / (c**2 + d**2), -d / np.sqrt(c**2 + d**2)
        case "flow_prediction":
            return 1 / (c + d), -d / (c + d)
        case "clean_flow":
            return 1 / (c + d), d / (c + d)
    raise InputError(f"prediction_type {kind!r} cannot be recorded; expected epsilon, sample, v_prediction or flow")


def _told(scheduler: Any, c: NDArray[np.float64], d: NDArray[np.float64]) -> Columns:
    """Read outputs as the config's prediction_type says."""
    return c, d, *read(getattr(scheduler.config, "prediction_type", "epsilon"), c, d)


def _variance_preserving(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read the training table: c^2 is alpha_bar of the timestep."""
    alpha_bar = _float64(scheduler.alphas_cumprod)[times.astype(np.int64)]
    return _told(scheduler, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


def _by_sigma(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read sigmas of a process that preserves variance, d / c; or of rectified flow, where they are d."""
    sigma = _sigmas(scheduler, times)
    if scheduler.config.use_flow_sigmas:
        return _told(scheduler, 1 - sigma, sigma)
    return _told(scheduler, 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2))


def _exploding(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read sigmas of states x_0 + sigma eps."""
    sigma = _sigmas(scheduler, times)
    return _told(scheduler, np.ones_like(sigma), sigma)


def _preconditioned(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read outputs in EDM's form: x_0 = c_skip x + c_out F (Karras et al. 2022, table 1), -c_out for v_prediction."""
    sigma, data = _sigmas(scheduler, times), scheduler.config.sigma_data
    c_out = sigma * data / np.sqrt(sigma**2 + data**2)
    sign = {"epsilon": 1, "v_prediction": -1}[scheduler.config.prediction_type]
    return np.ones_like(sigma), sigma, data**2 / (sigma**2 + data**2), sign * c_out


def _consistency(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read outputs of a consistency model, which gives x_0 exactly at sigma_min (Song et al. 2023, appendix C)."""
    sigma, data, least = _sigmas(scheduler, times), scheduler.config.sigma_data, scheduler.config.sigma_min
    c_skip = data**2 / ((sigma - least) ** 2 + data**2)
    c_out = (sigma - least) * data / np.sqrt(sigma**2 + data**2)
    return np.ones_like(sigma), sigma, c_skip, c_out


def _consistency_decoder(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    columns = "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "c_skip", "c_out"
    return tuple(_float64(getattr(scheduler, name))[times.astype(np.int64)] for name in columns)


def _flow(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read sigmas of rectified flow, x_t = (1 - sigma) x_0 + sigma eps."""
    sigma = _sigmas(scheduler, times)
    return 1 - sigma, sigma, *read("flow_prediction", 1 - sigma, sigma)


def _clean_flow(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read times of rectified flow that run from noise, 0, to data, 1; the network answers x_0 - eps."""
    return times, 1 - times, *read("clean_flow", times, 1 - times)


def _trigonometric(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read angles: x_t = cos(t) x_0 + sin(t) z, the network answers cos(t) z - sin(t) x_0; z has sd sigma_data."""
    c, s = np.cos(times), np.sin(times)
    return c, s * scheduler.config.sigma_data, c, -s


def _improved_pndm(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    c, d = (_float64(column)[: len(times)] for column in (scheduler.alphas, scheduler.betas))
    return c, d, *read("v_prediction", c, d)


def _wuerstchen(scheduler: Any, times: NDArray[np.float64]) -> Columns:
    """Read a cosine of times 1 to 0; at 0, where its pipelines stop, no step is taken."""
    alpha_bar = _float64(scheduler._alpha_cumprod(torch.as_tensor(times, dtype=torch.float32), torch.device("cpu")))
    c, d = np.sqrt(alpha_bar), np.where(times > 0, np.sqrt(1 - alpha_bar), 0)
    return c, d, *read("epsilon", c, d)


def _sigmas(scheduler: Any, times: NDArray[np.float64]) -> NDArray[np.float64]:
    return _float64(scheduler.sigmas)[: len(times)]


def _float64(column: Any) -> NDArray[np.float64]:
    return torch.as_tensor(column).detach().cpu().double().numpy()


RECORDED: dict[str, Callable[[Any, NDArray[np.float64]], Columns]] = {
    **dict.fromkeys(
        (
            "CogVideoXDDIMScheduler",
            "CogVideoXDPMScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "LCMScheduler",
            "PNDMScheduler",
            "TCDScheduler",
            "UnCLIPScheduler",
        ),
        _variance_preserving,
    ),
    **dict.fromkeys(
        (
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        ),
        _by_sigma,
    ),
    **dict.fromkeys(
        (
            "DPMSolverSDEScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
        ),
        _exploding,
    ),
    **dict.fromkeys(
        ("CosineDPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"), _preconditioned
    ),
    **dict.fromkeys(
        (
            "FlowMapEulerDiscreteScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
            "FlowMatchLCMScheduler",
            "HeliosScheduler",
            "LTXEulerAncestralRFScheduler",
        ),
        _flow,
    ),
    "CMStochasticIterativeScheduler": _consistency,
    "ConsistencyDecoderScheduler": _consistency_decoder,
    "DDPMWuerstchenScheduler": _wuerstchen,
    "IPNDMScheduler": _improved_pndm,
    "MiniMaxH3Scheduler": _clean_flow,
    "RFD4ProteinaScheduler": _clean_flow,
    "SCMScheduler": _trigonometric,
}
"""How to read a scheduler, by the name of its class."""

_TOKENS = "its states are tokens, not numbers with noise added"
_UPWARDS = "it leads from data to noise, and a store goes from noise to data"
REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "DDIMInverseScheduler": _UPWARDS,
    "DPMSolverMultistepInverseScheduler": _UPWARDS,
    "HeliosDMDScheduler": "its noise levels are arguments of every step, it has no table",
    "KarrasVeScheduler": "its states get new noise before every step, and the network sees others than it is given",
    "PiflowScheduler": "its network answers a policy of several predictions, not one",
    "RePaintScheduler": "it goes back to noisier states again and again, and a store has each timestep once",
    "ScoreSdeVeScheduler": "it has no method step, and corrects a state several times at one timestep",
    "ScoreSdeVpScheduler": "it has no method step",
}
"""Why a scheduler of diffusers is not recorded, by the name of its class."""
