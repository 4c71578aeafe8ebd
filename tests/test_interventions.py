"""Jumps, cuts and early stops in the sampling loop, against closed forms and the network itself."""

import math

import numpy as np
import pytest
import torch

from tests.sampling import LEARNED, LINEAR, NO_LABEL, PLANS, asked, gain, network, noise_for, run, start
from traj.pipeline.models import analytic, surgery
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.denoiser import Prediction
from traj.pipeline.process.plans import ddim, ddpm
from traj.pipeline.process.sampler import advance, fixed_sd, noise_sd, reverse
from traj.pipeline.process.schedule import Schedule


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


# --- jumps ----------------------------------------------------------------------------------------------------


def steps_of(jumped, x_0, eps, z):
    """Take the step that jumps, from a prediction to where it lands."""
    (k,) = [k for k, step in enumerate(jumped.steps) if step.planned is not None]
    prediction = Prediction(*(torch.tensor([value], dtype=torch.float64) for value in (x_0, eps)))
    x_t = torch.full((1,), torch.nan, dtype=torch.float64)
    noise = torch.tensor([z], dtype=torch.float64)
    return float(advance(LINEAR, jumped, k, x_t, prediction, None, lambda _: noise))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.2])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_a_jump_has_the_sigma_of_its_step_and_keeps_the_marginals(eta, n):
    plan = ddim(LINEAR, 50).with_eta(eta, 980, 100)  # 1.2 is too much for what comes then
    jumped = plan.jump(600, n)
    abar_s = LINEAR.alpha_bar[600 - 20 * n]
    of_x_0, of_eps, of_noise = (steps_of(jumped, *unit) for unit in np.eye(3))
    sigma = fixed_sd(LINEAR, plan.steps[plan.timesteps.index(600)])
    assert of_x_0 == pytest.approx(math.sqrt(abar_s), rel=1e-12)
    assert of_noise == pytest.approx(sigma, rel=1e-12)
    assert of_eps**2 + of_noise**2 == pytest.approx(1 - abar_s, rel=1e-12)
    assert noise_sd(LINEAR, jumped)[jumped.timesteps.index(600)] == pytest.approx(sigma, rel=1e-12)


def test_a_jump_too_far_for_its_sigma_leaves_no_direction_to_eps():
    jumped = ddim(LINEAR, 10, eta=1).jump(900, 9)
    assert steps_of(jumped, 0.0, 1.0, 0.0) == 0
    assert steps_of(jumped, 0.0, 0.0, 1.0) ** 2 > 1 - LINEAR.alpha_bar[0]


@pytest.mark.parametrize("config", [{}, {"set_alpha_to_one": False}])
def test_a_jump_beyond_the_end_lands_on_x_0_without_noise(config):
    schedule = Schedule.from_config({"clip_sample": False, **config})
    jumped = ddim(schedule, 20, eta=1).jump(100, 40)
    assert asked(jumped, schedule)[-1] == 150
    denoiser = analytic.GaussianDenoiser(0.0, 0.25)
    denoiser.schedule = schedule
    states, _, _, x_0 = run(denoiser, jumped, start((4, 1, 1, 1), torch.float64))
    expected = states[-1] * gain(schedule.alpha_bar[100], schedule.final[0] ** 2, 0.25)
    np.testing.assert_allclose(x_0, expected, rtol=1e-12)


def test_the_steps_a_jump_leaves_draw_the_noise_they_had():
    plan = ddim(LINEAR, 10, eta=1)
    assert asked(plan.jump(700, 3)) == [900, 800, 700, 400, 300, 200, 100]


# --- cuts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cut(skips=2), Cut(unet_blocks=1), Cut(skips=1, unet_blocks=2)])
@pytest.mark.parametrize("plan", PLANS)
def test_a_cut_changes_the_predictions_of_its_steps_and_no_others(plan, cut):
    learned = plan.steps[0].variance == "learned"
    denoiser = network(LEARNED if learned else LINEAR)
    states, predictions, _, _ = run(denoiser, plan.with_cut(cut, plan.timesteps[4], 3), start())
    for k, (step, x_t, pred_x0) in enumerate(zip(plan.steps, states, predictions, strict=True)):
        whole = denoiser(x_t, step.timestep, NO_LABEL).pred_x0
        assert torch.equal(pred_x0, whole) == (k not in (4, 5, 6))
        if k in (4, 5, 6):
            assert torch.equal(pred_x0, denoiser(x_t, step.timestep, NO_LABEL, cut).pred_x0)


def test_nothing_changes_before_a_cut():
    plan = ddpm(LINEAR, 12)
    whole, *_ = run(network(LINEAR), plan, start())
    cut, *_ = run(network(LINEAR), plan.with_cut(Cut(unet_blocks=1), plan.timesteps[7], 2), start())
    assert [torch.equal(*states) for states in zip(whole, cut, strict=True)] == [True] * 8 + [False] * 4


def test_a_cut_of_a_network_is_that_of_the_surgery():
    denoiser = network(LINEAR)
    eps = denoiser(start(), 500, NO_LABEL, Cut(skips=1, unet_blocks=2)).eps
    assert torch.equal(eps, surgery.forward(denoiser.network, Cut(skips=1, unet_blocks=2), start(), 500))


@pytest.mark.parametrize("name", ["gaussian:0,1,1x8x8", "dataset:digits"])
def test_exact_denoisers_have_nothing_to_cut(name):
    denoiser = analytic.load(name)
    with pytest.raises(ValueError, match=rf"this model is a {type(denoiser).__name__}"):
        run(denoiser, ddpm(LINEAR, 4).with_cut(Cut(unet_blocks=1), 500, 1), start())


def test_branches_share_a_call_only_where_their_cuts_agree():
    plan, calls = ddpm(LINEAR, 6), []
    plans = [
        plan,
        plan.with_cut(Cut(unet_blocks=1), plan.timesteps[2], 2),
        plan.with_cut(Cut(skips=1), plan.timesteps[2], 1),
        plan.with_cut(Cut(unet_blocks=1), plan.timesteps[3], 1),
        plan,
    ]
    denoiser = network(LINEAR)

    def recorded(x_t, timestep, label, cut):
        calls.append((plan.timesteps.index(timestep), cut, len(x_t) // 4))
        return type(denoiser).__call__(denoiser, x_t, timestep, label, cut)

    recorded.schedule = LINEAR
    noise = noise_for((4, 1, 8, 8))
    x_0 = reverse(
        recorded,
        plans,
        NO_LABEL.repeat,
        start=lambda i: start(),
        noise=lambda i, step: noise(step),
        keep=lambda *_: None,
        together=5,
    )
    block, skip = Cut(unet_blocks=1), Cut(skips=1)
    assert calls == [
        *((k, Cut(), 5) for k in (0, 1)),
        *((2, Cut(), 3), (2, block, 1), (2, skip, 1)),
        *((3, Cut(), 3), (3, block, 2)),
        *((k, Cut(), 5) for k in (4, 5)),
    ]
    for alone, together in zip((run(denoiser, plan, start())[-1] for plan in plans), x_0, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(x_0[0], x_0[1], atol=1e-2)


# --- early stops ----------------------------------------------------------------------------------------------


LEFT = Schedule.from_config({"clip_sample": False, "set_alpha_to_one": False})


@pytest.mark.parametrize(
    ("schedule", "plan"),
    [*((LINEAR, plan) for plan in PLANS[:3]), (LEARNED, PLANS[3]), (LEFT, ddim(LEFT, 12, eta=1.0))],
)
@pytest.mark.parametrize("last", [5, 11])
def test_an_early_stop_ends_in_its_last_prediction_without_noise(schedule, plan, last):
    stopped = plan.stop(plan.timesteps[last])
    states, predictions, _, x_0 = run(network(schedule), stopped, start())
    whole = run(network(schedule), plan, start())
    for ours, theirs in zip((states, predictions), whole[:2], strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs[: last + 1], strict=True))
    assert torch.equal(x_0, predictions[-1] if plan.clip is None else predictions[-1].clamp(-plan.clip, plan.clip))
    assert noise_sd(schedule, stopped)[-1] == 0
