"""Scheduler configs of diffusers: every class is decided on, with its own defaults, and its tables are its own."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.scheduler_configs import CLASSES, REFUSED, scheduler_keys
from traj.stores import InputError

INSTALLED = {name for name in dir(diffusers.schedulers) if name.endswith("Scheduler")}
READ = sorted(INSTALLED & CLASSES.keys())
FOLDER = Path(inspect.getfile(diffusers.schedulers)).parent
STEPS = 7


def signature(name):
    """The parameters of a class with their defaults, from its source where it needs a package that is not here."""
    scheduler_class = getattr(diffusers.schedulers, name)
    if "dummy" not in scheduler_class.__module__:
        parameters = inspect.signature(scheduler_class.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in ("self", "kwargs")}
    (text,) = [text for file in FOLDER.glob("scheduling_*.py") if f"\nclass {name}(" in (text := file.read_text())]
    (body,) = [node.body for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    names = [argument.arg for argument in init.args.args[1:]]
    return dict(zip(names, map(ast.literal_eval, init.args.defaults), strict=True))


@cache
def built(name, **config):
    """A scheduler of diffusers, built once; the test is skipped where it needs a package that is not here."""
    scheduler_class = getattr(diffusers.schedulers, name)
    if "dummy" in scheduler_class.__module__:
        pytest.skip(f"{name} needs a package that is not installed")
    return scheduler_class(**config)


def read(scheduler, **more):
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    return Schedule.from_config(config, steps=STEPS, **more)


# --- classes and keys -----------------------------------------------------------------------------------------


def test_every_scheduler_class_of_the_installed_diffusers_is_read_or_refused():
    assert not INSTALLED - CLASSES.keys() - REFUSED.keys()
    assert not CLASSES.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_class_that_is_refused_says_why(name):
    with pytest.raises(InputError, match=f"{name} is not supported: {re.escape(REFUSED[name])}"):
        Schedule.from_config({"_class_name": name})


@pytest.mark.parametrize("name", READ)
def test_every_key_of_a_class_is_decided_on_and_has_its_default(name):
    kind = CLASSES[name]
    for key, default in signature(name).items():
        assert (key in kind.used) != (key in kind.unused), key
        if key in kind.used:
            assert kind.used[key].default == default, key
    assert all(kind.unused.values())


@pytest.mark.parametrize("name", READ)
def test_a_whole_config_means_what_its_class_alone_does(name):
    assert read(built(name)) == Schedule.from_config({"_class_name": name}, steps=STEPS)


def test_keys_that_another_class_left_in_a_config_change_nothing():
    left = {"_class_name": "EulerDiscreteScheduler", "clip_sample": True, "skip_prk_steps": True, "solver_order": 3}
    assert Schedule.from_config(left) == Schedule.from_config({"_class_name": "EulerDiscreteScheduler"})
    assert "shift" in scheduler_keys("DDPMScheduler").unused


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding: True"),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned"}, "expected null, or one of learned_range"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "without use_flow_sigmas: true"),
        (
            "DPMSolverMultistepScheduler",
            {"use_flow_sigmas": True, "use_karras_sigmas": True},
            "expected use_karras_sigmas: false",
        ),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, "v_prediction needs"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type: 'continuous'; expected one of dis"),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True},
            "and the shift as a number: a shift by the",
        ),
        ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas: True; expected false"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 0}, "shift: 0; expected a number above 0"),
        ("FlowMatchLCMScheduler", {"scale_factors": [2, 4]}, "scale_factors"),
        ("EDMEulerScheduler", {"sigma_min": 90}, "'sigma_min': 90.0, .*expected 0 < MIN < MAX"),
        ("EDMEulerScheduler", {"sigma_schedule": "exponential", "sigma_min": 90}, "noise does not grow"),
        ("EDMEulerScheduler", {"prediction_type": "sample"}, "prediction_type: 'sample'"),
        ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}, "to 6e-08, above the one before it"),
        ("UnCLIPScheduler", {"beta_schedule": "linear"}, "beta_schedule: 'linear'"),
    ],
)
def test_a_key_that_would_change_numbers_is_refused_by_name(name, config, says):
    with pytest.raises(InputError, match=says):
        Schedule.from_config({"_class_name": name, **config}, steps=STEPS)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_a_grid_needs_a_number_of_steps(name):
    with pytest.raises(InputError, match=rf"scheduler config \({name}\) is a grid .*say how many: --steps 40"):
        Schedule.from_config({"_class_name": name})
    with pytest.raises(InputError, match="0 steps; expected 1"):
        Schedule.from_config({"_class_name": name}, steps=0)


# --- tables ---------------------------------------------------------------------------------------------------

OF_BETAS = [name for name in READ if not {"sigma_data", "shift"} & CLASSES[name].used.keys()]
ZERO_SNR = [name for name in OF_BETAS if "rescale_betas_zero_snr" in CLASSES[name].used and name != "PNDMScheduler"]
OF_LATENTS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def beta_cases():
    for name in OF_BETAS:
        yield pytest.param(name, {}, id=name)
    for name in ZERO_SNR:
        yield pytest.param(name, {"rescale_betas_zero_snr": True, **OF_LATENTS}, id=f"{name}-zero-snr")
    for name, formula in (("DDPM", "sigmoid"), ("DDPM", "laplace"), ("HeunDiscrete", "exp")):
        yield pytest.param(f"{name}Scheduler", {"beta_schedule": formula}, id=formula)


@pytest.mark.parametrize(("name", "config"), [*beta_cases()])
def test_alpha_bar_is_the_schedulers_own(name, config):
    scheduler = built(
        name, **config, **({"prediction_type": "v_prediction"} if "rescale_betas_zero_snr" in config else {})
    )
    schedule = read(scheduler)
    np.testing.assert_allclose(schedule.alpha_bar, scheduler.alphas_cumprod, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(schedule.model_time, np.arange(schedule.T))


def final_cases():
    """Classes that say where their last step lands, each way they can say it."""
    for name in sorted(
        set(OF_BETAS) - {"DDPMScheduler", "DDPMParallelScheduler", "DPMSolverMultistepInverseScheduler"}
    ):
        yield name, {}
        if "final_sigmas_type" in CLASSES[name].used:
            yield name, {"final_sigmas_type": "sigma_min"}
        if "set_alpha_to_one" in CLASSES[name].used:
            yield name, {"set_alpha_to_one": False}


@pytest.mark.parametrize(("name", "final"), [*final_cases()])
def test_the_level_of_the_last_state_is_the_schedulers_own(name, final):
    scheduler = built(name, **final)
    _, noise_scale = read(scheduler).final
    if hasattr(scheduler, "final_alpha_cumprod"):
        assert 1 - noise_scale**2 == pytest.approx(float(scheduler.final_alpha_cumprod), rel=1e-6)
    elif hasattr(scheduler, "sigmas"):
        scheduler.set_timesteps(STEPS)
        assert noise_scale / np.sqrt(1 - noise_scale**2) == pytest.approx(float(scheduler.sigmas[-1]), rel=1e-4)


GRIDS = [
    *(("FlowMatchEulerDiscreteScheduler", {"shift": shift}) for shift in (1.0, 3.0, 1.1)),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "shift_terminal": 0.1, "num_train_timesteps": 500}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}),
    ("LTXEulerAncestralRFScheduler", {}),
    *(("EDMEulerScheduler", {"sigma_schedule": kind}) for kind in ("karras", "exponential")),
    ("EDMDPMSolverMultistepScheduler", {"sigma_max": 40, "rho": 5}),
    ("CosineDPMSolverMultistepScheduler", {}),
    *(
        (f"{name}Scheduler", {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"})
        for name in (
            *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverMultistepInverse"),
            *("DEISMultistep", "SASolver", "UniPCMultistep"),
        )
    ),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "shift_terminal": 0.1, "prediction_type": "flow_prediction"}),
]


@pytest.mark.parametrize(("name", "config"), GRIDS)
def test_a_grid_is_the_one_that_set_timesteps_makes(name, config):
    scheduler = built(name, **config)
    scheduler.set_timesteps(STEPS)
    schedule = read(scheduler)
    np.testing.assert_allclose(schedule.noise_scale, np.unique(scheduler.sigmas[:-1]), rtol=2e-6)
    np.testing.assert_allclose(schedule.model_time, np.unique(scheduler.timesteps), rtol=2e-6, atol=1e-7)
    if "Inverse" not in name:
        assert schedule.final[1] == pytest.approx(float(scheduler.sigmas[-1]), rel=1e-6)
    assert schedule.is_grid
    assert schedule.T == STEPS


def test_every_class_that_is_a_grid_is_compared():
    grids = {name for name in CLASSES if Schedule.from_config({"_class_name": name}, steps=STEPS).is_grid}
    flows = {name for name in CLASSES if "use_flow_sigmas" in CLASSES[name].used}
    assert grids | flows == {name for name, _ in GRIDS}


def test_a_consistency_models_table_is_that_of_all_its_timesteps():
    scheduler = built("CMStochasticIterativeScheduler")
    schedule = read(scheduler)
    scheduler.set_timesteps(schedule.T)
    np.testing.assert_allclose(schedule.noise_scale[::-1], scheduler.sigmas[:-1], rtol=2e-6)
    np.testing.assert_allclose(schedule.model_time[::-1], scheduler.timesteps, rtol=1e-12)
    assert (schedule.clip_sample, schedule.is_grid) == (1.0, False)
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition(torch.tensor(schedule.noise_scale))
    np.testing.assert_allclose(schedule.preconditioning.c_skip, c_skip, rtol=1e-12)
    np.testing.assert_allclose(schedule.preconditioning.c_out, c_out, rtol=1e-12, atol=1e-15)
    assert schedule.preconditioning.c_skip[0] == 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_edms_preconditioning_is_the_schedulers_own(prediction_type):
    scheduler = built("EDMEulerScheduler", prediction_type=prediction_type, sigma_data=0.7)
    schedule = read(scheduler)
    sigma, one, none = torch.tensor(schedule.noise_scale), torch.ones(()), torch.zeros(())
    np.testing.assert_allclose(schedule.preconditioning.c_in, scheduler.precondition_inputs(one, sigma), rtol=1e-12)
    np.testing.assert_allclose(
        schedule.preconditioning.c_skip, scheduler.precondition_outputs(one, none, sigma), rtol=1e-12
    )
    np.testing.assert_allclose(
        schedule.preconditioning.c_out, scheduler.precondition_outputs(none, one, sigma), rtol=1e-12
    )


def test_one_step_starts_from_pure_noise():
    schedule = Schedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, steps=1)
    assert (schedule.signal, schedule.noise_scale) == (0, 1)


def test_time_scale_multiplies_what_the_network_is_fed():
    for name in ("DDPMScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        plain, scaled = (Schedule.from_config({"_class_name": name}, scale, STEPS) for scale in (1.0, 0.25))
        np.testing.assert_array_equal(scaled.model_time, plain.model_time / 4)
        assert scaled.identity != plain.identity


def test_grids_of_other_numbers_have_other_fingerprints():
    edm, flow = "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"
    solver = {"use_flow_sigmas": True}
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **OF_LATENTS}
    configs = [
        *((edm, config) for config in ({}, {"sigma_data": 1}, {"rho": 5}, {"sigma_schedule": "exponential"})),
        *((edm, config) for config in ({"prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"})),
        *((flow, config) for config in ({}, {"shift": 3}, {"shift_terminal": 0.1}, {"num_train_timesteps": 500})),
        *((f"{name}MultistepScheduler", solver) for name in ("DPMSolver", "DEIS", "UniPC")),
        ("CMStochasticIterativeScheduler", {}),
        ("CMStochasticIterativeScheduler", {"sigma_data": 1}),
        ("CosineDPMSolverMultistepScheduler", {"sigma_min": 0.002, "sigma_max": 80, "sigma_data": 0.5}),
        ("CogVideoXDDIMScheduler", {}),
        ("CogVideoXDDIMScheduler", {"snr_shift_scale": 1}),
        ("DDIMScheduler", zero_snr),
        ("EulerDiscreteScheduler", zero_snr),
    ]
    made = [Schedule.from_config({"_class_name": name, **config}, steps=STEPS).identity for name, config in configs]
    assert not [(a, b) for k, a in enumerate(made) for b in made[:k] if a == b]
