"""The sampling loop against Gaussian closed forms and its own invariants."""

import math

import numpy as np
import pytest
import torch

from tests.sampling import (
    LEARNED,
    LINEAR,
    NO_LABEL,
    PLANS,
    asked,
    betas,
    bits,
    gain,
    network,
    noise_for,
    relative,
    run,
    start,
)
from traj.pipeline.models import analytic
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Prediction
from traj.pipeline.process.plan import Plan
from traj.pipeline.process.plans import ddim, ddpm, heun, iddpm
from traj.pipeline.process.sampler import ddim_mean, learned_log_variance, noise_sd, posterior_mean, reverse
from traj.pipeline.process.schedule import Schedule


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


# --- Gaussian closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("variance", "steps", "final_sd"),
    [
        (0.25, 50, 0.47244),
        (0.25, 100, 0.48598),
        (0.25, 1000, 0.49850),
        (1.0, 50, 0.96408),
        (1.0, 100, 0.98185),
        (1.0, 1000, 0.99812),
    ],
)
def test_ddim_on_gaussian_data_has_the_closed_form_gain_at_every_step(variance, steps, final_sd, dtype):
    plan = ddim(LINEAR, steps)
    x_t = torch.linspace(-3, 3, 4, dtype=dtype).add(0.1).reshape(4, 1, 1, 1)
    states, _, _, x_0 = run(analytic.GaussianDenoiser(0.0, variance), plan, x_t)
    rtol = 1e-6 if dtype == torch.float32 else 1e-12
    total = 1.0
    for step, before, after in zip(plan.steps, states, [*states[1:], x_0], strict=True):
        abar_s = 1.0 if step.lands_on == -1 else LINEAR.alpha_bar[step.lands_on]
        factor = gain(LINEAR.alpha_bar[step.timestep], abar_s, variance)
        np.testing.assert_allclose(after, before * factor, rtol=rtol)
        total *= factor
    assert total == pytest.approx(final_sd, abs=6e-6)
    np.testing.assert_allclose(x_0, x_t * final_sd, rtol=3e-5)


@pytest.mark.parametrize(
    ("variance", "which", "final"),
    [(0.25, "small", 0.24613), (1.0, "small", 0.99107), (0.25, "large", 0.25075), (1.0, "large", 0.99990)],
)
def test_ddpm_on_gaussian_data_ends_with_the_closed_form_variance(variance, which, final):
    denoiser = analytic.GaussianDenoiser(0.0, variance)
    plan = ddpm(LINEAR, variance=which)

    states, _, _, x_0 = run(
        denoiser,
        plan,
        torch.ones(4, 1, 1, 1, dtype=torch.float64),
        noise=lambda _: torch.zeros(4, 1, 1, 1, dtype=torch.float64),
    )
    means = np.array([float(state[0]) for state in [*states, x_0]])
    spread = 1.0
    for factor, sd in zip(means[1:] / means[:-1], noise_sd(LINEAR, plan), strict=True):
        spread = factor**2 * spread + sd**2
    assert spread == pytest.approx(final, abs=1e-5)

    n = 20_000
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn((n, 1, 1, 1), generator=generator)
    sampled = run(
        denoiser,
        plan,
        x_T,
        noise=lambda _: torch.randn((n, 1, 1, 1), generator=generator),
        label=torch.full((n,), -1),
    )[-1]
    assert float(sampled.var()) == pytest.approx(final, abs=5 * final * math.sqrt(2 / n))
    assert float(sampled.mean()) == pytest.approx(0, abs=5 * math.sqrt(final / n))


@pytest.mark.parametrize("n", [2, 5, 40])
def test_a_deterministic_jump_has_the_closed_form_gain(n):
    plan = ddim(LINEAR, 50)
    jumped = plan.jump(600, n)
    x_t = start((4, 1, 1, 1), torch.float64)
    states, _, _, x_0 = run(analytic.GaussianDenoiser(0.0, 0.25), jumped, x_t)
    k = jumped.timesteps.index(600)
    landed = states[k + 1] if k + 1 < len(states) else x_0
    abar_s = LINEAR.alpha_bar[jumped.steps[k].lands_on] if k + 1 < len(states) else 1.0
    np.testing.assert_allclose(landed, states[k] * gain(LINEAR.alpha_bar[600], abar_s, 0.25), rtol=1e-12)


# --- identities between samplers ------------------------------------------------------------------------------


def test_the_two_forms_of_the_ddpm_mean_agree():
    x_t, eps = start(dtype=torch.float64), start(dtype=torch.float64).flip(0)
    for step in ddpm(LINEAR).steps:
        abar, beta = LINEAR.alpha_bar[step.timestep], betas(LINEAR)[step.timestep]
        x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        from_eps = (x_t - beta / math.sqrt(1 - abar) * eps) / math.sqrt(1 - beta)
        np.testing.assert_allclose(posterior_mean(LINEAR, step, x_0, x_t), from_eps, rtol=1e-8, atol=1e-9)


def test_ddim_with_eta_1_is_ddpm_with_the_small_variance():
    denoiser, x_t = network(LINEAR), start(dtype=torch.float64)
    denoiser.network.double()
    ours = run(denoiser, ddim(LINEAR, 40, eta=1.0), x_t)
    ancestral = run(denoiser, ddpm(LINEAR, 40, variance="small"), x_t)
    assert relative(ours[-1], ancestral[-1]) < 1e-9


@pytest.mark.parametrize("steps", [50, 1000])
def test_where_eps_is_rederived_ddim_with_eta_1_is_ddpm_with_a_clip_too(steps):
    denoiser, x_t = network(LINEAR), start(dtype=torch.float64)
    denoiser.network.double()
    first = 980 if steps == 50 else 30
    ancestral, rederived, kept = (
        run(denoiser, plan.after(first), x_t)
        for plan in (
            ddpm(LINEAR, steps, variance="small", clip=0.5),
            ddim(LINEAR, steps, eta=1.0, clip=0.5, eps="rederived"),
            ddim(LINEAR, steps, eta=1.0, clip=0.5),
        )
    )
    assert float((ancestral[1][0].abs() > 0.5).double().mean()) > 0.1  # predictions that are clipped
    assert relative(rederived[-1], ancestral[-1]) < 1e-9
    assert max(map(relative, rederived[0], ancestral[0])) < 1e-9
    assert relative(kept[0][-1], ancestral[0][-1]) > 0.01


def test_a_radicand_below_zero_counts_as_zero():
    jump = ddim(LINEAR, 1000, eta=1.0).jump(30, 29).steps[-3]
    x_0, eps = torch.ones(1), torch.full((1,), torch.nan)
    assert ddim_mean(LINEAR, jump, x_0, torch.ones(1)) == LINEAR.signal[1]
    assert torch.isnan(ddim_mean(LINEAR, ddim(LINEAR, 1000).steps[-2], x_0, eps))


class FixedFraction:
    """A denoiser whose variance fraction is one number everywhere."""

    schedule = LINEAR
    shape = (1, 8, 8)

    def __init__(self, fraction):
        self.fraction = fraction
        self.network = network(LINEAR)

    def __call__(self, x_t, timestep, label, cut=WHOLE):
        prediction = self.network(x_t, timestep, label, cut)
        fraction = None if self.fraction is None else torch.full_like(x_t, self.fraction)
        return Prediction(prediction.pred_x0, prediction.eps, fraction)


@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "small"), (1.0, "large")])
def test_learned_variance_has_the_fixed_ones_as_its_limits(fraction, variance):
    learned = run(FixedFraction(fraction), iddpm(LEARNED, 50), start())
    fixed = run(FixedFraction(fraction), ddpm(LINEAR, 50, variance=variance), start())
    assert relative(learned[-1], fixed[-1]) < 1e-5
    sds = noise_sd(LINEAR, ddpm(LINEAR, 50, variance=variance))
    for log_variance, sd in zip(learned[2][:-1], sds[:-1], strict=True):
        np.testing.assert_allclose((0.5 * log_variance).exp(), sd, rtol=1e-5)
    assert set(fixed[2]) == {None}


def test_the_learned_variance_of_the_last_step_borrows_from_the_step_before():
    plan = iddpm(LEARNED)
    small_2, beta_1 = 5.45319e-5, 1e-4  # improved-diffusion: posterior_variance[1] in place of [0]
    for f in (0.0, 0.3, 1.0):
        prediction = Prediction(torch.zeros(1), torch.zeros(1), torch.full((1,), f, dtype=torch.float64))
        log_variance = learned_log_variance(LEARNED, plan, 999, prediction)
        assert log_variance == learned_log_variance(LEARNED, plan.after(0), 0, prediction)
        assert float(log_variance) == pytest.approx(f * math.log(beta_1) + (1 - f) * math.log(small_2), rel=1e-6)


def test_a_learned_variance_nobody_predicts_is_refused():
    with pytest.raises(ValueError, match="predicts none"):
        run(FixedFraction(None), iddpm(LEARNED, 5), start())


# --- noise ----------------------------------------------------------------------------------------------------


def test_noise_is_asked_for_only_where_it_is_added():
    assert asked(ddim(LINEAR, 20)) == []
    assert asked(ddim(LINEAR, 5, eta=1.0)) == [800, 600, 400, 200]
    assert asked(ddpm(LINEAR, 5)) == [800, 600, 400, 200]
    assert asked(ddpm(LINEAR, 5).with_noise("zero", 600, 400)) == [800, 200]


def test_noise_sd_says_what_the_loop_adds():
    plan = ddpm(LINEAR, variance="large").with_noise("zero", 10, 5)
    expected = np.sqrt(betas(LINEAR)[::-1])
    expected[-11:-5] = 0
    expected[-1] = 0
    np.testing.assert_allclose(noise_sd(LINEAR, plan), expected, rtol=1e-9)
    assert not noise_sd(LINEAR, ddim(LINEAR, 20)).any()
    small, eta_1 = noise_sd(LINEAR, ddpm(LINEAR, 20, "small")), noise_sd(LINEAR, ddim(LINEAR, 20, eta=1.0))
    np.testing.assert_allclose(small, eta_1, rtol=1e-12)
    learned = noise_sd(LEARNED, iddpm(LEARNED, 20))
    assert np.isnan(learned[:-1]).all()
    assert learned[-1] == 0
    assert learned.dtype == np.float64


def test_a_ddim_step_past_the_schedule_keeps_the_noise_its_config_asks_for():
    left = Schedule.from_config({"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 3})
    sd = noise_sd(left, ddim(left, 10, eta=1.0))[-1]
    abar_t, abar_s = left.alpha_bar[3], left.alpha_bar[0]
    assert sd == pytest.approx(math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)))
    assert asked(ddim(left, 2, eta=1.0), left) == [503, 3]


# --- invariants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_plan_edits_that_change_nothing_give_the_same_bits(plan):
    denoiser = network(LEARNED if plan.steps[0].variance == "learned" else LINEAR)
    first = plan.timesteps[0]
    edited = Plan.from_json(plan.with_noise("shared", 999, 0).jump(first, 1).jump(first, 0).after(first).to_json())
    assert bits(run(denoiser, edited, start())) == bits(run(denoiser, plan, start()))


@pytest.mark.parametrize("plan", PLANS)
def test_a_start_from_a_stored_state_gives_the_same_bits(plan):
    denoiser = network(LEARNED if plan.steps[0].variance == "learned" else LINEAR)
    states, predictions, log_variances, x_0 = run(denoiser, plan, start())
    for k in (7, 11):
        resumed = run(denoiser, plan.after(plan.timesteps[k]), states[k].clone())
        assert bits(resumed) == bits((states[k:], predictions[k:], log_variances[k:], x_0))


def test_changing_the_noise_changes_nothing_before_it():
    denoiser, plan = network(LINEAR), ddpm(LINEAR, 12)
    timestep = plan.timesteps[6]
    states, *_, x_0 = run(denoiser, plan, start())
    quiet, *_, other_x_0 = run(denoiser, plan.with_noise("zero", timestep, 0), start())
    assert all(torch.equal(a, b) for a, b in zip(states[:7], quiet[:7], strict=True))
    assert not torch.equal(states[7], quiet[7])
    assert not torch.equal(x_0, other_x_0)


def test_the_last_clipped_prediction_is_x_0():
    plan = ddpm(LINEAR, 12, clip=1.0)
    _, predictions, _, x_0 = run(network(LINEAR), plan, start())
    assert predictions[-1].abs().max() > 1  # kept raw
    assert torch.equal(predictions[-1].clamp(-1, 1), x_0)


def test_kept_states_are_never_written_to_again():
    denoiser, copies, kept = network(LINEAR), [], []

    def keep(_, __, x_t, pred_x0, ___):
        kept.extend([x_t, pred_x0])
        copies.extend([x_t.clone(), pred_x0.clone()])

    noise = noise_for((4, 1, 8, 8))
    reverse(
        denoiser,
        [ddpm(LINEAR, 6)],
        NO_LABEL.repeat,
        start=lambda _: start(),
        noise=lambda _, step: noise(step),
        keep=keep,
    )
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


# --- heun -----------------------------------------------------------------------------------------------------


def test_both_evaluations_of_a_heun_step_are_under_its_cut():
    plan, asked = heun(LINEAR, 4), []
    cut = Cut(skips=1)
    first, second = plan.timesteps[:2]

    class Recorded(FixedFraction):
        def __call__(self, x_t, timestep, condition, cut=WHOLE):
            asked.append((timestep, cut))
            return super().__call__(x_t, timestep, condition, cut)

    run(Recorded(None), plan.with_cut(cut, first, 1), start())
    assert asked[:3] == [(first, cut), (second, cut), (second, WHOLE)]
    assert len(asked) == plan.evaluations


def test_branches_of_heun_that_land_apart_are_each_corrected_where_they_land():
    denoiser, x_t = network(LINEAR), start()
    plans = [heun(LINEAR, [900, 600, 300]), heun(LINEAR, [900, 400]), heun(LINEAR, [900, 600])]
    together = reverse(
        denoiser, plans, NO_LABEL.repeat, start=lambda _: x_t, noise=lambda *_: None, keep=lambda *_: None, together=3
    )
    for plan, x_0 in zip(plans, together, strict=True):
        torch.testing.assert_close(x_0, run(denoiser, plan, x_t)[-1], rtol=1e-4, atol=1e-4)


def test_a_clip_that_never_bites_changes_no_heun_step():
    denoiser, x_t = analytic.GaussianDenoiser(0.0, 0.25, (1, 8, 8)), start(dtype=torch.float64)
    plain = run(denoiser, heun(LINEAR, 12), x_t)[-1]
    for eps in ("kept", "rederived"):
        torch.testing.assert_close(run(denoiser, heun(LINEAR, 12, clip=9.0, eps=eps), x_t)[-1], plain)
    clipped = run(denoiser, heun(LINEAR, 12, clip=0.1, eps="rederived"), x_t)[-1]
    assert float(clipped.abs().max()) <= 0.1 + 1e-12
