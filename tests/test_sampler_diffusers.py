"""The sampling loop against the scheduler.step of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tests.sampling import betas, network, noise_for, relative, run, start
from traj.pipeline.process.plans import ddim, ddpm
from traj.pipeline.process.schedule import Schedule

DDPM_CASES = [("fixed_large", "large"), ("fixed_small", "small"), ("learned_range", "learned")]


def their_step(scheduler, output, timestep, x_t, noise, eta, monkeypatch):
    if isinstance(scheduler, DDIMScheduler):
        return scheduler.step(output, timestep, x_t, eta=eta, variance_noise=noise if eta else None)
    # ancestral steps draw their noise themselves
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
    return scheduler.step(output, timestep, x_t)


LINEAR_1000 = {"num_train_timesteps": 1000}
COSINE_20 = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}


def cases():
    for tables, steps in ((LINEAR_1000, 10), (LINEAR_1000, 7), (COSINE_20, 20)):
        name = f"{tables['num_train_timesteps']}-{steps}"
        for variance_type, variance in DDPM_CASES:
            config = {"variance_type": variance_type, **tables}
            yield pytest.param(DDPMScheduler, config, steps, variance, id=f"ddpm-{variance}-{name}")
        for eta in (0.0, 1.0):
            for clip in (True, False):
                config = {"clip_sample": clip, "set_alpha_to_one": clip, **tables}
                yield pytest.param(DDIMScheduler, config, steps, eta, id=f"ddim-{eta:g}-clip-{clip}-{name}")
    config = {"variance_type": "learned_range", "clip_sample": False, **LINEAR_1000}
    yield pytest.param(DDPMScheduler, config, 30, "learned", id="ddpm-learned-unclipped")


def both(scheduler_class, config, steps, variance):
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(scheduler.config)
    clip = schedule.clip_sample
    if scheduler_class is DDIMScheduler:
        return scheduler, schedule, ddim(schedule, steps, eta=variance, clip=clip)
    return scheduler, schedule, ddpm(schedule, steps, variance=variance, clip=clip)


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler_class", "config", "steps", "variance"), list(cases()))
def test_whole_trajectory_equals_diffusers_with_our_tables(scheduler_class, config, steps, variance, monkeypatch):
    scheduler, schedule, plan = both(scheduler_class, config, steps, variance)
    scheduler.betas = torch.from_numpy(betas(schedule))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha_bar)
    if scheduler_class is DDIMScheduler:
        scheduler.final_alpha_cumprod = torch.tensor(schedule.final[0] ** 2, dtype=torch.float64)
    denoiser, noise = network(schedule), noise_for((4, 1, 8, 8))
    states, _, _, x_0 = run(denoiser, plan, start())

    x_t = start()
    for step, ours in zip(plan.steps, states, strict=True):
        assert relative(ours, x_t) < 1e-6
        output = denoiser.network(x_t, step.timestep).sample
        x_t = their_step(scheduler, output, step.timestep, x_t, noise(step), variance, monkeypatch).prev_sample
    assert relative(x_0, x_t) < 1e-6


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_rederived_eps_is_what_diffusers_makes_of_a_clipped_prediction(eta):
    scheduler, schedule, plan = both(DDIMScheduler, LINEAR_1000, 17, eta)
    denoiser, noise = network(schedule), noise_for((4, 1, 8, 8))
    states, _, _, x_0 = run(denoiser, ddim(schedule, 17, eta, plan.clip, eps="rederived"), start())
    for step, x_t, x_s in zip(plan.steps, states, [*states[1:], x_0], strict=True):
        theirs = scheduler.step(
            denoiser.network(x_t, step.timestep).sample,
            step.timestep,
            x_t,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=noise(step) if eta else None,
        )
        assert relative(x_s, theirs.prev_sample) < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler_class", "config", "steps", "variance"), list(cases()))
def test_each_step_equals_stock_diffusers(scheduler_class, config, steps, variance, monkeypatch):
    scheduler, schedule, plan = both(scheduler_class, config, steps, variance)
    denoiser, noise = network(schedule), noise_for((4, 1, 8, 8))
    states, predictions, _, x_0 = run(denoiser, plan, start())
    for step, x_t, pred_x0, x_s in zip(plan.steps, states, predictions, [*states[1:], x_0], strict=True):
        output = denoiser.network(x_t, step.timestep).sample
        theirs = their_step(scheduler, output, step.timestep, x_t, noise(step), variance, monkeypatch)
        assert relative(x_s, theirs.prev_sample) < 2e-4
        clipped = pred_x0 if plan.clip is None else pred_x0.clamp(-plan.clip, plan.clip)
        assert relative(clipped, theirs.pred_original_sample) < 2e-4
