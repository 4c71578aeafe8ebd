"""Plans: diffusers' timesteps, an invertible short form, edits that do what they say."""

import json

import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import random_unet
from traj.pipeline.making.shortcut import shortcut
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.plan import ENDS, EPS, NOISES, VARIANCES, Plan, Step
from traj.pipeline.process.plans import ddim, ddpm, iddpm
from traj.pipeline.process.schedule import Schedule
from traj.pipeline.process.spacing import spaced_timesteps

LINEAR = Schedule.from_config({})
LEARNED = Schedule.from_config({"variance_type": "learned_range"})


def test_ddim_uniform_lists_are_the_published_ones():
    assert ddim(LINEAR, 50).timesteps == list(range(980, -1, -20))
    assert ddim(LINEAR, 100).timesteps == list(range(990, -1, -10))


def test_all_steps_visit_every_timestep_whatever_the_spacing():
    for config in ({}, {"steps_offset": 1}, {"timestep_spacing": "trailing"}):
        schedule = Schedule.from_config({"num_train_timesteps": 40, **config})
        assert ddpm(schedule).timesteps == ddim(schedule, 40).timesteps == list(range(39, -1, -1))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 99])
@pytest.mark.parametrize("offset", [0, 1])
def test_respaced_timesteps_are_those_of_diffusers(spacing, steps, offset):
    scheduler = DDPMScheduler(100, timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    plan = ddpm(Schedule.from_config(scheduler.config), steps)
    assert plan.timesteps == scheduler.timesteps.tolist()
    assert [step.lands_on for step in plan.steps] == [*plan.timesteps[1:], -1]


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_another_spacing_than_the_schedules_may_be_asked_for(spacing):
    named = Schedule.from_config({"timestep_spacing": spacing})
    for build in (ddpm, ddim):
        assert build(LINEAR, 30, spacing=spacing) == build(named, 30)
    assert iddpm(LEARNED, 30, spacing=spacing).timesteps == ddpm(named, 30).timesteps
    with pytest.raises(ValueError, match="spacing 'karras'; expected one of"):
        ddim(LINEAR, 30, spacing="karras")


def space_timesteps(T, steps):
    """As improved-diffusion does for one section."""
    stride, place, taken = 1 if steps <= 1 else (T - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        taken.append(round(place))
        place += stride
    return sorted(set(taken), reverse=True)


def test_openais_timesteps_are_rounded_as_theirs():
    schedule = Schedule.from_config({"num_train_timesteps": 4000, "variance_type": "learned_range"})
    unlike = []
    for steps in range(1, 1001):
        found = spaced_timesteps(schedule, steps, "openai")
        assert found == space_timesteps(4000, steps)
        if found != spaced_timesteps(schedule, steps, "linspace"):
            unlike.append(steps)
    assert (len(unlike), unlike[:3]) == (300, [31, 35, 37])
    plan = iddpm(schedule, 250, spacing="openai")
    assert (plan.timesteps[0], iddpm(schedule, 250).timesteps[0]) == (3999, 3984)
    assert len(plan.to_json()["runs"]) > 1  # so it is in the fingerprint


@pytest.mark.parametrize("steps", [0, -3, 1001])
@pytest.mark.parametrize("build", [ddpm, ddim])
def test_a_number_of_steps_that_can_not_be_is_refused(build, steps):
    with pytest.raises(ValueError, match=f"{steps} steps; expected 1 to 1000"):
        build(LINEAR, steps)


def test_an_offset_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="steps_offset 5"):
        ddim(Schedule.from_config({"num_train_timesteps": 12, "steps_offset": 5}), 6)


def test_clip_follows_the_schedule_for_ancestral_samplers_only():
    clips = Schedule.from_config({"clip_sample_range": 2.0, "variance_type": "learned_range"})
    assert (ddpm(clips, 5).clip, iddpm(clips, 5).clip, ddim(clips, 5).clip) == (2.0, 2.0, None)
    assert (ddpm(clips, 5, clip=None).clip, ddim(clips, 5, clip=1).clip) == (None, 1.0)


def test_learned_variance_needs_a_network_that_has_one():
    assert {step.variance for step in iddpm(LEARNED, 4).steps} == {"learned"}
    with pytest.raises(ValueError, match="learned_range"):
        iddpm(LINEAR)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Step(5, 5, "ddim", 0.0), "lands on 5"),
        (lambda: Step(5, -2, "ddim", 0.0), "lands on -2"),
        (lambda: Step(5, 4, "euler", 0.0), "euler"),
        (lambda: Step(5, 4, "posterior", 0.0), "variance 0.0"),
        (lambda: Step(5, 4, "ddim", "large"), "eta"),
        (lambda: Step(5, 4, "ddim", -1.0), "eta"),
        (lambda: Step(5, 4, "ddim", 0.0, "loud"), "loud"),
        (lambda: Step(5, 1, "posterior", "small", planned=4), "expected a ddim step"),
        (lambda: Step(5, 1, "ddim", 0.0, planned=1), "planned to land on 1"),
        (lambda: Step(5, 1, "ddim", 0.0, planned=5), "planned to land on 5"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), end="x_t"), "end 'x_t'"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), clip=1.0, eps="lost"), "eps 'lost'"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), eps="rederived"), "does not clip"),
        (lambda: Plan(()), "without steps"),
        (lambda: Plan((Step(5, 4, "ddim", 0.0),)), "goes on at -1"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), clip=0.0), "clip"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), came_from=5), "came from timestep 5 starts at 5"),
    ],
)
def test_nonsense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


treatments = st.tuples(
    st.one_of(
        st.tuples(st.just("posterior"), st.sampled_from(VARIANCES)),
        st.tuples(st.just("ddim"), st.sampled_from([0, 0.0, 0.3, 1.0])),
    ),
    st.sampled_from(NOISES),
    st.sampled_from([Cut(), Cut(skips=2), Cut(unet_blocks=1)]),
)


@st.composite
def plans(draw):
    timesteps = sorted(draw(st.sets(st.integers(0, 40), min_size=1)), reverse=True)
    choices = draw(st.lists(treatments, min_size=1, max_size=3))
    steps = []
    for t, lands_on in zip(timesteps, [*timesteps[1:], -1], strict=True):
        rule, noise, cut = draw(st.sampled_from(choices))
        between = [None, *range(lands_on + 1, t)] if rule[0] == "ddim" else [None]
        steps.append(Step(t, lands_on, *rule, noise, cut, draw(st.sampled_from(between))))
    came_from = draw(st.sampled_from([None, timesteps[0] + 1, 1000]))
    clip = draw(st.sampled_from([None, 1, 2.5]))
    eps = "kept" if clip is None else draw(st.sampled_from(EPS))
    return Plan(tuple(steps), clip, came_from, draw(st.sampled_from(ENDS)), eps)


@given(plans())
def test_json_form_is_invertible_and_canonical(plan):
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    assert json.dumps(Plan.from_json(json.loads(text)).to_json()) == text


def test_json_form_is_short():
    assert ddim(LINEAR, 100, eta=1).to_json() == {
        "runs": [{"first": 990, "last": 0, "stride": 10, "rule": "ddim", "variance": 1.0, "noise": "shared"}],
        "clip": None,
    }
    assert ddim(LINEAR, 100, clip=1, eps="kept").to_json() == ddim(LINEAR, 100, clip=1).to_json()
    assert ddim(LINEAR, 100, clip=1, eps="rederived").to_json() == ddim(LINEAR, 100, clip=1).to_json() | {
        "eps": "rederived"
    }
    assert len(ddpm(LINEAR).with_noise("zero", 700, 300).to_json()["runs"]) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"last": 1},
        {"stride": 0},
        {"stride": 7},
        {"rule": "euler"},
        {"first": None},
        {"first": -5},
        {"cut": {"unet_blocks": 0}},
        {"cut": {"heads": 1}},
        {"planned": None},
    ],
)
def test_a_damaged_json_form_is_refused(change):
    form = ddim(LINEAR, 100).to_json()
    form["runs"][0].update(change)
    with pytest.raises(ValueError, match="expected"):
        Plan.from_json(form)


def test_a_json_form_without_runs_is_refused():
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_json({"clip": None})


@given(plans(), st.data())
def test_after_keeps_the_end_of_the_plan(plan, data):
    timestep = data.draw(st.sampled_from(plan.timesteps))
    rest = plan.after(timestep)
    assert rest.timesteps[0] == timestep
    assert plan.steps[-len(rest.steps) :] == rest.steps
    assert rest.clip == plan.clip
    position = plan.timesteps.index(timestep)
    assert rest.came_from == (plan.timesteps[position - 1] if position else plan.came_from)
    assert rest.after(timestep) == rest


@given(st.integers(0, 9), st.integers(0, 14))
def test_a_jump_removes_the_evaluations_between(position, n):
    plan = ddim(LINEAR, 10)
    timesteps = plan.timesteps
    jumped = plan.jump(timesteps[position], n)
    kept = timesteps[: position + 1] + timesteps[position + max(n, 1) :]
    assert jumped.timesteps == kept
    assert jumped.steps[position].lands_on == (kept[position + 1] if len(kept) > position + 1 else -1)
    assert (jumped == plan) == (n <= 1 or position == 9)


def test_a_jump_remembers_where_its_step_was_to_land():
    jumped = ddim(LINEAR, 10, eta=1).jump(600, 3)
    assert jumped.steps[3] == Step(600, 300, "ddim", 1.0, planned=500)
    assert jumped.jump(600, 2).steps[3] == Step(600, 200, "ddim", 1.0, planned=500)
    assert jumped.to_json()["runs"][1] == {
        **{"first": 600, "last": 600, "stride": 0, "rule": "ddim", "variance": 1.0, "noise": "shared"},
        "planned": 500,
    }


def test_a_jump_of_nothing_leaves_any_plan_as_it_is():
    plan = ddpm(LINEAR, 10)
    assert plan.jump(500, 1) == plan.jump(500, 0) == plan


def test_a_jump_is_refused_where_it_makes_no_sense():
    with pytest.raises(
        ValueError, match=r"needs rule ddim; .* posterior: .* `traj generate .* --sampler ddim --eta 1`"
    ):
        ddpm(LINEAR, 10).jump(500, 3)
    with pytest.raises(ValueError, match=r"does not visit timestep 501; it visits 900, 800, 700, \.\.\., 0"):
        ddim(LINEAR, 10).jump(501, 3)
    with pytest.raises(ValueError, match="-1 steps"):
        ddim(LINEAR, 10).jump(500, -1)


def test_with_noise_changes_the_named_timesteps_only():
    plan = ddpm(LINEAR, 10).with_noise("independent", 650, 300)
    changed = [step.timestep for step in plan.steps if step.noise == "independent"]
    assert changed == [600, 500, 400, 300]
    assert plan.with_noise("shared", 999, 0) == ddpm(LINEAR, 10)
    with pytest.raises(ValueError, match="from high to low"):
        plan.with_noise("zero", 300, 650)
    with pytest.raises(ValueError, match=r"no step at timesteps 690 to 610; the plan visits 900"):
        plan.with_noise("zero", 690, 610)


def test_with_eta_changes_the_named_timesteps_of_ddim_only():
    plan = ddim(LINEAR, 10).with_eta(1, 650, 300)
    assert [step.timestep for step in plan.steps if step.variance == 1.0] == [600, 500, 400, 300]
    assert plan.with_eta(0, 600, 300) == ddim(LINEAR, 10)
    with pytest.raises(ValueError, match=r"needs rule ddim; the step at timestep 600 has rule posterior"):
        ddpm(LINEAR, 10).with_eta(1, 600, 0)
    with pytest.raises(ValueError, match=r"-1\.0 of a ddim step"):
        plan.with_eta(-1.0, 900, 0)
    with pytest.raises(ValueError, match="no step at timesteps 90 to 10"):
        plan.with_eta(1, 90, 10)


BLOCK, SKIPS = Cut(unet_blocks=1), Cut(skips=2)


@given(st.integers(0, 9), st.integers(0, 14))
def test_a_cut_is_of_n_steps_from_a_timestep_on(position, n):
    plan = ddpm(LINEAR, 10)
    found = [step.cut for step in plan.with_cut(BLOCK, plan.timesteps[position], n).steps]
    assert found == [BLOCK if position <= k < position + n else Cut() for k in range(10)]


@given(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5))
def test_cut_relax_cut_is_two_cuts(position, n, r):
    plan = ddpm(LINEAR, 10)
    expected = plan.with_cut(SKIPS, plan.timesteps[position], n)
    if position + n + r < 10:
        expected = expected.with_cut(SKIPS, plan.timesteps[position + n + r], n)
    assert plan.cut_relax_cut(SKIPS, plan.timesteps[position], n, r) == expected
    cut = [k for k, step in enumerate(expected.steps) if step.cut == SKIPS]
    assert cut == [k for k in range(10) if 0 <= k - position < n or 0 <= k - position - n - r < n]


def test_cuts_are_refused_where_they_make_no_sense():
    plan = ddpm(LINEAR, 10)
    with pytest.raises(ValueError, match="-1 steps"):
        plan.with_cut(BLOCK, 500, -1)
    with pytest.raises(ValueError, match="r is -2 steps"):
        plan.cut_relax_cut(BLOCK, 500, 3, -2)
    with pytest.raises(ValueError, match="does not visit timestep 501"):
        plan.with_cut(BLOCK, 501, 1)


@given(plans(), st.data())
def test_stop_ends_in_the_prediction_made_there(plan, data):
    timestep = data.draw(st.sampled_from(plan.timesteps))
    stopped = plan.stop(timestep)
    assert stopped.timesteps == [t for t in plan.timesteps if t >= timestep]
    assert stopped.steps[:-1] == plan.steps[: len(stopped.steps) - 1]
    assert (stopped.steps[-1].lands_on, stopped.end) == (-1, "pred_x0")


def test_the_shortcut_is_the_published_list_of_83_evaluations():
    network = random_unet()  # four output blocks: a quarter of the source's sixteen
    plan = shortcut(ddim(LINEAR, 100, eta=1), network)
    found = {t // 10 + 1: step.cut for t, step in zip(plan.timesteps, plan.steps, strict=True)}
    two = Cut(unet_blocks=2)  # of 6 of 16, 1.5 of 4, and of 8 of 16
    expected = {
        **dict.fromkeys(range(100, 65, -1), Cut()),
        **dict.fromkeys(range(65, 58, -1), two),
        **dict.fromkeys(range(58, 47, -1), Cut()),
        **dict.fromkeys(range(47, 40, -1), two),
        **dict.fromkeys(range(40, 31, -1), Cut()),
        **dict.fromkeys(range(31, 24, -1), two),
        **dict.fromkeys(range(24, 17, -1), Cut()),
    }
    assert found == expected
    assert len(found) == 83
    assert plan.end == "pred_x0"
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_shortcut_leaves_out_the_published_numbers_of_16_blocks():
    network = random_unet(block_out_channels=(4,) * 4, layers_per_block=3)
    steps = shortcut(ddpm(LINEAR, 100), network).steps
    assert [step.cut.unet_blocks for step in steps] == (
        [0] * 35 + [6] * 5 + [8] * 2 + [0] * 11 + [8] * 7 + [0] * 9 + [8] * 7 + [0] * 7
    )


def test_the_shortcut_of_another_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="plan of 100 steps, 50 were given"):
        shortcut(ddim(LINEAR, 50), random_unet())
