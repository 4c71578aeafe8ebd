"""A step may add as much noise as the state it lands on holds; with more, states are noisier than they say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.sampling import LINEAR, run, start
from traj.pipeline.making import fork, generate
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.process.plans import ddim, ddpm
from traj.pipeline.process.sampler import noise_sd
from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.variance import ends, fixed_sd, overfull

COSINE = Schedule.from_config({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200})
LEFT = Schedule.from_config({"set_alpha_to_one": False, "steps_offset": 3})


def room(schedule, plan):
    """What every step has left of the variance that the state it lands on holds."""
    holds = [ends(schedule, step)[1][1] ** 2 for step in plan.steps]
    return [held - sd**2 for held, sd in zip(holds, noise_sd(schedule, plan), strict=True)]


def test_too_large_an_eta_is_refused_with_the_largest_that_fits_where_there_is_least_room():
    for eta in (1.009, 5, 1e9):
        with pytest.raises(ValueError, match=r"timestep 20, .* state at 0; expected an eta of at most 1\.008 there"):
            ddim(LINEAR, 50, eta=eta)
    assert min(room(LINEAR, ddim(LINEAR, 50, eta=1.008))) > -1e-12


@given(st.sampled_from([LINEAR, COSINE, LEFT]), st.integers(1, 200))
def test_eta_1_fits_everywhere(schedule, steps):
    assert min(room(schedule, ddim(schedule, min(steps, 190), eta=1.0))) > -1e-12


def test_an_edit_may_go_as_far_as_there_is_room_and_the_loop_refuses_what_goes_beyond():
    plan = ddim(LINEAR, 50)
    x_t, denoiser = start((4, 1, 1, 1)), GaussianDenoiser(0.0, 0.25)
    run(denoiser, plan.with_eta(1.2, 980, 60), x_t)
    for too_much in (plan.with_eta(1.2, 980, 0), plan.with_eta(5.0, 40, 40).with_noise("zero", 40, 40)):
        with pytest.raises(ValueError, match=r"eta .* expected an eta of at most"):
            run(denoiser, too_much, x_t)


def test_gaussian_data_never_gain_variance_at_the_largest_eta():
    plan, variance = ddim(LINEAR, 50, eta=1.008), 0.25
    states, *_, x_0 = run(
        GaussianDenoiser(0.0, variance),
        plan,
        torch.ones(4, 1, 1, 1, dtype=torch.float64),
        noise=lambda _: torch.zeros(4, 1, 1, 1, dtype=torch.float64),
    )
    means = [float(state[0]) for state in [*states, x_0]]
    spread = 1.0
    for before, after, sd in zip(means[:-1], means[1:], noise_sd(LINEAR, plan), strict=True):
        spread = (after / before) ** 2 * spread + sd**2
    assert 0.18 < spread < variance  # 50 steps lose some; an eta of 5 ended at 1.07


def test_a_jump_keeps_the_sigma_of_its_step_and_is_named_where_that_is_too_much():
    plan = ddim(LINEAR, 100, eta=1)
    near, far = plan.jump(500, 5), plan.jump(70, 5)
    assert not overfull(LINEAR, near.steps)
    (step,) = overfull(LINEAR, far.steps)
    assert step.timestep == 70
    assert fixed_sd(LINEAR, step) ** 2 > 1 - LINEAR.alpha_bar[20]
    run(GaussianDenoiser(0.0, 0.25), far, start((4, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"eta 5 .* at timestep 70"):
        run(GaussianDenoiser(0.0, 0.25), plan.with_eta(5, 70, 70).jump(70, 9), start((4, 1, 1, 1)))


def test_variance_large_is_taken_as_published():
    plan = ddpm(LINEAR, variance="large")
    assert min(room(LINEAR, plan)) < 0
    assert not overfull(LINEAR, plan.steps)
    run(GaussianDenoiser(0.0, 0.25), plan.after(5), start((4, 1, 1, 1)))


def test_a_fork_is_refused_before_there_is_a_store(tmp_path):
    with pytest.raises(ValueError, match=r"at most 1\.\d+ there"):
        generate.prepare(model="gaussian:0,1", sampler_name="ddim", steps=20, eta=5)
    job = generate.prepare(
        model="gaussian:0,1", sampler_name="ddim", steps=20, samples=2, block=2, eta=1.0, device="cpu"
    )
    with job.open(tmp_path / "a.zarr") as store:
        job.run(store, bar=False)
    with pytest.raises(ValueError, match=r"at most 1\.\d+ there"):
        fork.prepare(store=tmp_path / "a.zarr", at=[500], eta=["5"], device="cpu")
    assert math.isclose(
        fork.prepare(store=tmp_path / "a.zarr", at=[500], eta=["1.1:500-200"]).plan.steps[0].variance, 1.1
    )
