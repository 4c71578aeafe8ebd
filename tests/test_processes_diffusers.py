"""The same steps as diffusers' samplers of EDM, flows and zero terminal SNR take, from the same states and networks."""

import numpy as np
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)

from tests.networks import random_unet
from tests.sampling import network, noise_for, relative, run, start
from traj.pipeline.models.own import preconditioned, wrap
from traj.pipeline.process import tables
from traj.pipeline.process.plans import ddim, ddpm, heun
from traj.pipeline.process.schedule import Schedule

TOLERANCE = 2e-4
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def trajectory(denoiser, plan):
    """Every state of a plan in x_0 / noise units of the schedule, the last among them, and the signal of each."""
    schedule = denoiser.schedule
    x_T = start() * schedule.start_sd(plan.timesteps[0])
    states, _, _, x_0 = run(denoiser, plan, x_T)
    return [*states, x_0], [*schedule.signal[plan.timesteps], 1.0]


def same(ours, theirs):
    assert relative(ours, theirs) < TOLERANCE


TABLES = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "trailing"},
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "leading"},
]


@pytest.mark.parametrize("config", TABLES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_is_their_euler_on_states_over_signal(config, prediction_type):
    scheduler = EulerDiscreteScheduler(prediction_type=prediction_type, **config)
    scheduler.set_timesteps(20)
    denoiser = network(Schedule.from_config({"clip_sample": False, "prediction_type": prediction_type, **config}))
    plan = ddim(denoiser.schedule, 20)
    assert plan.timesteps == scheduler.timesteps.tolist()
    states, signal = trajectory(denoiser, plan)
    for k, t in enumerate(scheduler.timesteps):
        y = states[k] / signal[k]
        output = denoiser.network(scheduler.scale_model_input(y, t), t).sample
        same(states[k + 1] / signal[k + 1], scheduler.step(output, t, y).prev_sample)


@pytest.mark.parametrize("config", TABLES)
def test_posterior_is_their_ancestral_euler_on_states_over_signal(config, monkeypatch):
    scheduler = EulerAncestralDiscreteScheduler(**config)
    scheduler.set_timesteps(20)
    denoiser, noise = network(Schedule.from_config({"clip_sample": False, **config})), noise_for((4, *SHAPE))
    plan = ddpm(denoiser.schedule, 20, "small", clip=None)
    states, signal = trajectory(denoiser, plan)
    for k, (t, step) in enumerate(zip(scheduler.timesteps, plan.steps, strict=True)):
        drawn = noise(step)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *_, n=drawn, **__: n
        )
        y = states[k] / signal[k]
        output = denoiser.network(scheduler.scale_model_input(y, t), t).sample
        same(states[k + 1] / signal[k + 1], scheduler.step(output, t, y).prev_sample)


@pytest.mark.parametrize("config", TABLES)
def test_heun_is_theirs_on_states_over_signal(config):
    scheduler = HeunDiscreteScheduler(**config)
    scheduler.set_timesteps(20)
    denoiser = network(Schedule.from_config({"clip_sample": False, **config}))
    states, signal = trajectory(denoiser, heun(denoiser.schedule, 20))
    times = iter(scheduler.timesteps)
    for k in range(20):
        y = states[k] / signal[k]
        for _ in range(1 if k == 19 else 2):
            t = next(times)
            output = denoiser.network(scheduler.scale_model_input(y, t), t).sample
            y = scheduler.step(output, t, y).prev_sample
        same(states[k + 1] / signal[k + 1], y)


def flow_network():
    unet = random_unet().eval()
    return unet, lambda x_t, t: unet(x_t, 1000 * t).sample


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_a_flow_is_their_flow_matching_euler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 20, 20))
    unet, velocity = flow_network()
    denoiser = wrap(velocity, tables.flow(20, shift), shape=SHAPE, predicts="flow_prediction")
    states, _ = trajectory(denoiser, ddim(denoiser.schedule, 20))
    for k, t in enumerate(scheduler.timesteps):
        same(states[k + 1], scheduler.step(unet(states[k], t).sample, t, states[k]).prev_sample)


def test_ddim_on_edms_grid_is_their_edm_euler():
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(20)
    unet = random_unet().eval()
    denoiser = wrap(preconditioned(lambda x, c: unet(x, c).sample), tables.edm(20), shape=SHAPE, predicts="sample")
    np.testing.assert_allclose(denoiser.schedule.sigma[::-1], scheduler.sigmas[:-1], rtol=1e-5)
    states, _ = trajectory(denoiser, ddim(denoiser.schedule, 20))
    for k, t in enumerate(scheduler.timesteps):
        output = unet(scheduler.scale_model_input(states[k], t), t).sample
        scheduler.is_scale_input_called = True
        same(states[k + 1], scheduler.step(output, t, states[k]).prev_sample)


OF_LATENTS, V = TABLES[0], {"prediction_type": "v_prediction"}
FIRST_ORDER = {"solver_order": 1, "timestep_spacing": "trailing"}
READ = [
    (EulerDiscreteScheduler, {**OF_LATENTS, **V}, ddim),
    (EulerDiscreteScheduler, {**OF_LATENTS, **V, "rescale_betas_zero_snr": True}, ddim),
    (HeunDiscreteScheduler, {**OF_LATENTS, **V}, heun),
    (DPMSolverMultistepScheduler, {**FIRST_ORDER, **V}, ddim),
    (
        DPMSolverMultistepScheduler,
        {**FIRST_ORDER, "use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
        ddim,
    ),
    (FlowMatchEulerDiscreteScheduler, {"shift": 1.0}, ddim),
    (FlowMatchEulerDiscreteScheduler, {"shift": 3.0, "shift_terminal": 0.1}, ddim),
    (FlowMatchHeunDiscreteScheduler, {"shift": 3.0}, heun),
    (EDMEulerScheduler, {}, ddim),
    (EDMEulerScheduler, {**V, "sigma_data": 0.7, "sigma_schedule": "exponential", "sigma_max": 40}, ddim),
]


@pytest.mark.parametrize(("scheduler_class", "config", "sampler"), READ)
def test_a_config_that_was_read_makes_the_steps_of_its_scheduler(scheduler_class, config, sampler):
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(10)
    denoiser = network(Schedule.from_config({**scheduler.config, "_class_name": scheduler_class.__name__}, steps=10))
    states, signal = trajectory(denoiser, sampler(denoiser.schedule, 10))
    if scheduler_class in (EulerDiscreteScheduler, HeunDiscreteScheduler):  # their states are ours over the signal
        states = [state / c for state, c in zip(states, signal, strict=True)]
    times = iter(scheduler.timesteps)
    for k in range(10):
        x_t = states[k]
        for _ in range(2 if sampler is heun and k < 9 else 1):
            t = next(times)
            fed = scheduler.scale_model_input(x_t, t) if hasattr(scheduler, "scale_model_input") else x_t
            output = denoiser.network(fed, t).sample
            x_t = scheduler.step(output, t, x_t).prev_sample
        same(states[k + 1], x_t)
    assert next(times, None) is None


def test_a_consistency_model_that_was_read_predicts_as_its_scheduler():
    scheduler = CMStochasticIterativeScheduler()
    denoiser = network(Schedule.from_config({**scheduler.config, "_class_name": type(scheduler).__name__}))
    label = torch.full((4,), -1)
    for timestep in (39, 20, 1, 0):
        scheduler.set_timesteps(timesteps=[39 - timestep])
        (t,) = scheduler.timesteps
        x_t = start() * denoiser.schedule.noise_scale[timestep]
        output = denoiser.network(scheduler.scale_model_input(x_t, t), t).sample
        same(denoiser(x_t, timestep, label).pred_x0.clamp(-1, 1), scheduler.step(output, t, x_t).prev_sample)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_their_ddim(prediction_type, eta):
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, prediction_type=prediction_type
    )
    scheduler.set_timesteps(20)
    denoiser, noise = network(Schedule.from_config(scheduler.config)), noise_for((4, *SHAPE))
    np.testing.assert_allclose(denoiser.schedule.alpha_bar, scheduler.alphas_cumprod, atol=1e-6)
    plan = ddim(denoiser.schedule, 20, eta)
    assert plan.timesteps == scheduler.timesteps.tolist()
    states, _ = trajectory(denoiser, plan)
    for k, (t, step) in enumerate(zip(scheduler.timesteps, plan.steps, strict=True)):
        output = denoiser.network(states[k], t).sample
        drawn = noise(step) if eta else None
        same(states[k + 1], scheduler.step(output, t, states[k], eta=eta, variance_noise=drawn).prev_sample)
