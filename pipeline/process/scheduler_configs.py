"""Scheduler configs of diffusers: the keys of every class, their defaults, and the table that they define.

Only tables are read; the updates are ours. A class is decided on in one place, CLASSES or REFUSED.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from traj.pipeline.configs import Key, Keys, Unfit, flag, number, off, one_of, optional, several, shown, whole
from traj.pipeline.process import scheduler_tables as tables
from traj.pipeline.process.grids import MOST_TIMESTEPS
from traj.stores import InputError

_RENAMED_CLASSES = {"GaussianDDPMScheduler": "DDPMScheduler"}
_OF_VISITS = "says which noise levels are visited; here --spacing and --timesteps do"
_OF_UPDATES = "of the scheduler's own update; only its table is read"
_OF_REFUSED = "of thresholding or dynamic shifting, which are refused"
_OF_OTHERS = "read by other classes only"


@dataclass(frozen=True)
class SchedulerClass:
    """How a scheduler class is read: its keys, what makes its table, and what is fixed where others have a key.

    ``used`` are keys with the class's defaults; ``unused`` are its other keys, with the reason why they change no
    number of a table.
    """

    table: Callable[[str, Mapping[str, Any], float, int | None], dict[str, Any]]
    used: Mapping[str, Key]
    unused: Mapping[str, str]
    fixed: Mapping[str, Any]


def read(config: Mapping[str, Any], time_scale: float, steps: int | None) -> dict[str, Any]:
    """Read a scheduler config: the fields of a ``Schedule``.

    Raises
    ------
    InputError
        When the config asks for something that is not supported, or a grid and there is no number of steps.
    """
    name = _class_name(config)
    kind, what = CLASSES[name], f"scheduler config ({name})"
    found = {**kind.fixed, **scheduler_keys(name).read(config, what)}
    return kind.table(what, found, float(time_scale), steps)


def scheduler_keys(name: str) -> Keys:
    """List the keys of a scheduler config by the class it names; those of other classes may stand there too."""
    kind = CLASSES[name]
    every = {key for other in CLASSES.values() for key in (*other.used, *other.unused)}
    unused = {key: _OF_OTHERS for key in sorted(every)} | {"tensor_format": "the arrays of old versions", **kind.unused}
    return Keys(
        used=kind.used,
        unused={key: reason for key, reason in unused.items() if key not in kind.used},
        renamed={old: (key, read) for old, (key, read) in _RENAMED_KEYS.items() if key in kind.used},
    )


def _class_name(config: Mapping[str, Any]) -> str:
    given = config.get("_class_name", "DDPMScheduler")
    name = _RENAMED_CLASSES.get(given, given) if isinstance(given, str) else given
    if isinstance(name, str) and name in REFUSED:
        raise InputError(f"scheduler class {name} is not supported: {REFUSED[name]}")
    try:
        known: str = one_of(*CLASSES)(name)
        return known
    except Unfit as unfit:
        raise InputError(f"scheduler class {shown(name)} is not supported; expected {unfit}") from None


def _switch(value: Any) -> bool:
    """Read true or false, or null for false."""
    return value is not None and flag(value)


def _fixed_shift(value: Any) -> bool:
    if value is not False and value is not None:
        raise Unfit("false, and the shift as a number: a shift by the size of each image is not supported")
    return False


def _predictions(*kinds: str, usual: str = "epsilon") -> Key:
    return Key(usual, one_of(*kinds))


_THREE = ("epsilon", "sample", "v_prediction")
_RENAMED_KEYS = {
    "timesteps": ("num_train_timesteps", lambda value: value),
    "predict_epsilon": ("prediction_type", lambda value: "epsilon" if flag(value) else "sample"),
    "clip_predicted_image": ("clip_sample", flag),
}

_T = {"num_train_timesteps": Key(1000, whole(1, MOST_TIMESTEPS))}
_BETAS = {
    **_T,
    "beta_start": Key(1e-4, number(0, 1)),
    "beta_end": Key(0.02, number(0, 1)),
    "beta_schedule": Key("linear", one_of(*tables.CURVES, *tables.ALPHA_BAR_OF_TIME)),
    "trained_betas": Key(None, optional(several(number(0, 1)))),
}
_BETAS_OF_LATENTS = {**_BETAS, "beta_start": Key(0.00085, number(0, 1)), "beta_end": Key(0.012, number(0, 1))}
_SCALED = {**_BETAS_OF_LATENTS, "beta_schedule": Key("scaled_linear", _BETAS["beta_schedule"].read)}
_PREDICTION = {"prediction_type": _predictions(*_THREE)}
_CLIP = {"clip_sample": Key(True, flag), "clip_sample_range": Key(1.0, number(above=0))}
_NO_CLIP = {**_CLIP, "clip_sample": Key(False, flag)}
_STEPS_OFFSET = {"steps_offset": Key(0, whole(0, MOST_TIMESTEPS))}
_LEADING = {"timestep_spacing": Key("leading", one_of("leading", "linspace", "trailing")), **_STEPS_OFFSET}
_LINSPACE = {**_LEADING, "timestep_spacing": Key("linspace", one_of("leading", "linspace", "trailing"))}
_ALPHA_TO_ONE = {"set_alpha_to_one": Key(True, flag)}
_ZERO_SNR = {"rescale_betas_zero_snr": Key(False, flag)}
_THRESHOLDING = {"thresholding": Key(False, off)}
_VARIANCE = {"variance_type": Key("fixed_small", one_of(*(kind for kind in tables.VARIANCES if kind)))}
_VARIANCE_LEFT = {"variance_type": Key(None, optional(one_of("learned_range")))}
_FINAL = {"final_sigmas_type": Key("zero", one_of("zero", "sigma_min"))}
_SIGMAS = {key: Key(False, _switch) for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")}
_LU = {"use_lu_lambdas": Key(False, _switch)}
_FIXED_SHIFT = {"use_dynamic_shifting": Key(False, _fixed_shift)}
_FLOW = {
    **_SIGMAS,
    **_THRESHOLDING,
    "use_flow_sigmas": Key(False, _switch),
    "flow_shift": Key(1.0, number(above=0)),
    "prediction_type": _predictions(*_THREE, "flow_prediction"),
}
_SHIFT = {"shift": Key(1.0, number(above=0))}
_TERMINAL = {"shift_terminal": Key(None, optional(number(0, 1)))}
_KARRAS = {
    "sigma_min": Key(0.002, number(above=0)),
    "sigma_max": Key(80.0, number(above=0)),
    "sigma_data": Key(0.5, number(above=0)),
    "rho": Key(7.0, number(above=0)),
}
_EDM = {
    **_KARRAS,
    **_FINAL,
    "sigma_schedule": Key("karras", one_of("karras", "exponential")),
    "prediction_type": _predictions("epsilon", "v_prediction"),
}

_OF_THRESHOLDING = dict.fromkeys(("dynamic_thresholding_ratio", "sample_max_value"), _OF_REFUSED)
_OF_SHIFTING = {"time_shift_type": _OF_REFUSED}
_OF_SOLVERS = {
    **_OF_THRESHOLDING,
    **dict.fromkeys(("solver_order", "algorithm_type", "solver_type", "lower_order_final"), _OF_UPDATES),
}
_EULER_AT_FINAL = {"euler_at_final": _OF_UPDATES}
_LAMBDA = {"lambda_min_clipped": _OF_VISITS}
_NO_SHIFT = {"sigma_min": _OF_VISITS, "sigma_max": _OF_VISITS}
_OF_CONSISTENCY = {"original_inference_steps": _OF_VISITS, "timestep_scaling": _OF_UPDATES}


def _betas(*used: Mapping[str, Key], unused: Mapping[str, str] | None = None, **fixed: Any) -> SchedulerClass:
    absent = {
        "prediction_type": "epsilon",
        "trained_betas": None,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "final_sigmas_type": "zero",
        "variance_type": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "terminal_alpha_bar": 0.0,
        "snr_shift_scale": 1.0,
        "use_flow_sigmas": False,
        "flow_from_1": False,
        "shift_terminal": None,
    }
    keys = {key: value for some in used for key, value in some.items()}
    return SchedulerClass(tables.of_betas, keys, unused or {}, {**absent, **fixed})


def _flow(*used: Mapping[str, Key], unused: Mapping[str, str] | None = None) -> SchedulerClass:
    keys = {key: value for some in (_T, _SHIFT, *used) for key, value in some.items()}
    return SchedulerClass(tables.of_flow, keys, unused or {}, {"shift_terminal": None})


def _edm(*used: Mapping[str, Key], unused: Mapping[str, str] | None = None, c_noise: str) -> SchedulerClass:
    keys = {key: value for some in (_EDM, *used) for key, value in some.items()}
    before = {"num_train_timesteps": "of the table before a number of steps is said"}
    return SchedulerClass(tables.of_edm, keys, {**before, **(unused or {})}, {"c_noise": c_noise})


_ALMOST_ZERO = 2**-24
"""What the least alpha_bar is set to by the classes that divide by it, where others have zero terminal SNR."""

_DDPM = {**_BETAS, **_PREDICTION, **_CLIP, **_LEADING, **_ALPHA_TO_ONE, **_ZERO_SNR, **_THRESHOLDING, **_VARIANCE}
_PNDM = {**_DDPM, "clip_sample": Key(False, flag), "set_alpha_to_one": Key(False, flag)}
_FLOW_MATCH = {**_TERMINAL, **_FIXED_SHIFT, **{key: Key(False, off) for key in (*_SIGMAS, "invert_sigmas")}}
_FLOW_SIZES = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
_OF_FLOW_MATCH = {**_OF_SHIFTING, **dict.fromkeys(_FLOW_SIZES, _OF_REFUSED)}
_DPM = (_BETAS, _FLOW, _VARIANCE_LEFT)

CLASSES: Mapping[str, SchedulerClass] = {
    **dict.fromkeys(
        ("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler"),
        _betas(_DDPM, unused=_OF_THRESHOLDING),
    ),
    "PNDMScheduler": _betas(_PNDM, unused={**_OF_THRESHOLDING, "skip_prk_steps": _OF_UPDATES}),
    "DDIMInverseScheduler": _betas(_BETAS, _PREDICTION, _CLIP, _LEADING, _ALPHA_TO_ONE, _ZERO_SNR),
    **dict.fromkeys(
        ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
        _betas(
            {**_SCALED, **_PREDICTION, **_CLIP, **_LEADING, **_ALPHA_TO_ONE, **_ZERO_SNR},
            {"snr_shift_scale": Key(3.0, number(above=0))},
            unused=_OF_THRESHOLDING,
        ),
    ),
    **dict.fromkeys(
        ("LCMScheduler", "TCDScheduler"),
        _betas(
            {**_SCALED, **_PREDICTION, **_NO_CLIP, **_LEADING, **_ALPHA_TO_ONE, **_ZERO_SNR, **_THRESHOLDING},
            unused={**_OF_THRESHOLDING, **_OF_CONSISTENCY},
        ),
    ),
    "RePaintScheduler": _betas(
        _BETAS, {"clip_sample": _CLIP["clip_sample"]}, unused={"eta": _OF_UPDATES}, timestep_spacing="leading"
    ),
    "UnCLIPScheduler": _betas(
        {**_T, **_CLIP, "prediction_type": _predictions("epsilon", "sample")},
        {"variance_type": Key("fixed_small_log", one_of("fixed_small_log", "learned_range"))},
        {"beta_schedule": Key("squaredcos_cap_v2", one_of("squaredcos_cap_v2"))},
    ),
    "EulerDiscreteScheduler": _betas(
        {**_BETAS, **_PREDICTION, **_SIGMAS, **_LINSPACE, **_ZERO_SNR, **_FINAL},
        {"timestep_type": Key("discrete", one_of("discrete"))},
        unused={**_NO_SHIFT, "interpolation_type": _OF_VISITS},
        terminal_alpha_bar=_ALMOST_ZERO,
    ),
    "EulerAncestralDiscreteScheduler": _betas(
        _BETAS, _PREDICTION, _LINSPACE, _ZERO_SNR, terminal_alpha_bar=_ALMOST_ZERO
    ),
    "LMSDiscreteScheduler": _betas(_BETAS, _PREDICTION, _SIGMAS, _LINSPACE),
    "HeunDiscreteScheduler": _betas(_BETAS_OF_LATENTS, _PREDICTION, _SIGMAS, _NO_CLIP, _LINSPACE),
    **dict.fromkeys(
        ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        _betas(_BETAS_OF_LATENTS, _PREDICTION, _SIGMAS, _LINSPACE),
    ),
    "DPMSolverSDEScheduler": _betas(
        _BETAS_OF_LATENTS, _PREDICTION, _SIGMAS, _LINSPACE, unused={"noise_sampler_seed": _OF_UPDATES}
    ),
    "DPMSolverSinglestepScheduler": _betas(
        *_DPM, _FINAL, _FIXED_SHIFT, unused={**_OF_SOLVERS, **_LAMBDA, **_OF_SHIFTING}
    ),
    "DPMSolverMultistepScheduler": _betas(
        *(*_DPM, _FINAL, _FIXED_SHIFT, _LU, _LINSPACE, _ZERO_SNR),
        unused={**_OF_SOLVERS, **_LAMBDA, **_OF_SHIFTING, **_EULER_AT_FINAL},
        terminal_alpha_bar=_ALMOST_ZERO,
    ),
    "DPMSolverMultistepInverseScheduler": _betas(
        *_DPM, _LINSPACE, unused={**_OF_SOLVERS, **_LAMBDA, **_EULER_AT_FINAL}
    ),
    "DEISMultistepScheduler": _betas(
        *(_BETAS, _FLOW, _FIXED_SHIFT, _LINSPACE), unused={**_OF_SOLVERS, **_OF_SHIFTING}, set_alpha_to_one=False
    ),
    "UniPCMultistepScheduler": _betas(
        *(_BETAS, _FLOW, _FINAL, _FIXED_SHIFT, _TERMINAL, _LINSPACE, _ZERO_SNR),
        unused={
            **_OF_SOLVERS,
            **_OF_SHIFTING,
            **_NO_SHIFT,
            **dict.fromkeys(("predict_x0", "disable_corrector", "solver_p"), _OF_UPDATES),
        },
        terminal_alpha_bar=_ALMOST_ZERO,
        flow_from_1=True,
    ),
    "SASolverScheduler": _betas(
        *(*_DPM, _LINSPACE),
        unused={
            **_OF_SOLVERS,
            **_LAMBDA,
            **dict.fromkeys(("predictor_order", "corrector_order", "tau_func"), _OF_UPDATES),
        },
        set_alpha_to_one=False,
    ),
    "FlowMatchEulerDiscreteScheduler": _flow(
        _FLOW_MATCH, unused={**_OF_FLOW_MATCH, "stochastic_sampling": _OF_UPDATES}
    ),
    "FlowMatchHeunDiscreteScheduler": _flow(),
    "FlowMatchLCMScheduler": _flow(
        {**_FLOW_MATCH, "scale_factors": Key(None, off)}, unused={**_OF_FLOW_MATCH, "upscale_mode": _OF_UPDATES}
    ),
    "LTXEulerAncestralRFScheduler": _flow(
        _FLOW_MATCH, unused={**_OF_FLOW_MATCH, "eta": _OF_UPDATES, "s_noise": _OF_UPDATES}
    ),
    "EDMEulerScheduler": _edm(c_noise="log(sigma)/4"),
    "EDMDPMSolverMultistepScheduler": _edm(
        _THRESHOLDING, unused={**_OF_SOLVERS, **_EULER_AT_FINAL}, c_noise="log(sigma)/4"
    ),
    "CosineDPMSolverMultistepScheduler": _edm(
        {"sigma_min": Key(0.3, number(above=0)), "sigma_max": Key(500.0, number(above=0))},
        {
            "sigma_data": Key(1.0, number(above=0)),
            "prediction_type": _predictions("epsilon", "v_prediction", usual="v_prediction"),
        },
        {"sigma_schedule": Key("exponential", one_of("karras", "exponential"))},
        unused={**_OF_SOLVERS, **_EULER_AT_FINAL},
        c_noise="atan(sigma)*2/pi",
    ),
    "CMStochasticIterativeScheduler": SchedulerClass(
        tables.of_consistency,
        {"num_train_timesteps": Key(40, whole(2, MOST_TIMESTEPS)), **_KARRAS, "clip_denoised": Key(True, flag)},
        {"s_noise": _OF_UPDATES},
        {},
    ),
}
"""Every scheduler class that is read."""

_TOKENS = "it samples tokens, of which x_t is no sum of signal and noise"
REFUSED = {
    **dict.fromkeys(
        (
            "AmusedScheduler",
            "BlockRefinementScheduler",
            "DiscreteDDIMScheduler",
            "EntropyBoundScheduler",
            "VQDiffusionScheduler",
        ),
        _TOKENS,
    ),
    "ConsistencyDecoderScheduler": "it belongs to a decoder of latents, not to a model of images",
    "DDPMWuerstchenScheduler": "its time is continuous, and its cosine is clamped at both ends",
    "FlowMapEulerDiscreteScheduler": "its network is told where a step lands, which a table does not hold",
    "HeliosDMDScheduler": "its stages enlarge the images between them",
    "HeliosScheduler": "its stages enlarge the images between them",
    "IPNDMScheduler": "its first state holds no signal, and its network answers with epsilon",
    "KarrasVeScheduler": "its pipeline scales the network's input and time by rules of its own",
    "MiniMaxH3Scheduler": "its velocity and its time point from noise to image",
    "PiflowScheduler": "its network answers with a policy for many steps",
    "RFD4ProteinaScheduler": "its steps are those of proteins",
    "SCMScheduler": "its pipeline turns the network's answer and time from those of a flow",
    "ScoreSdeVeScheduler": "its network answers with the score of images in [0, 1]",
    "ScoreSdeVpScheduler": "its network answers with the score at a continuous time",
}
"""Every scheduler class of diffusers that is not read, and why."""
