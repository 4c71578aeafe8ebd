"""Plans: diffusers' timesteps, an invertible short form, edits that do what they say."""

import json

import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import NOISES, VARIANCES, Plan, Step, ddim, ddpm, iddpm
from pipeline.schedule import Schedule

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
        (lambda: Plan(()), "without steps"),
        (lambda: Plan((Step(5, 4, "ddim", 0.0),)), "goes on at -1"),
        (lambda: Plan((Step(5, -1, "ddim", 0.0),), clip=0.0), "clip"),
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
)


@st.composite
def plans(draw):
    timesteps = sorted(draw(st.sets(st.integers(0, 40), min_size=1)), reverse=True)
    choices = draw(st.lists(treatments, min_size=1, max_size=3))
    steps = [
        Step(t, lands_on, *rule, noise)
        for t, lands_on in zip(timesteps, [*timesteps[1:], -1], strict=True)
        for rule, noise in [draw(st.sampled_from(choices))]
    ]
    return Plan(tuple(steps), draw(st.sampled_from([None, 1, 2.5])))


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
    assert len(ddpm(LINEAR).with_noise("zero", 700, 300).to_json()["runs"]) == 3


@pytest.mark.parametrize(
    "change",
    [{"last": 1}, {"stride": 0}, {"stride": 7}, {"rule": "euler"}, {"first": None}, {"first": -5}],
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


@given(st.integers(0, 9), st.integers(0, 14))
def test_a_jump_removes_the_evaluations_between(position, n):
    plan = ddim(LINEAR, 10)
    timesteps = plan.timesteps
    jumped = plan.jump(timesteps[position], n)
    kept = timesteps[: position + 1] + timesteps[position + max(n, 1) :]
    assert jumped.timesteps == kept
    assert jumped.steps[position].lands_on == (kept[position + 1] if len(kept) > position + 1 else -1)


def test_a_jump_of_nothing_leaves_any_plan_as_it_is():
    plan = ddpm(LINEAR, 10)
    assert plan.jump(500, 1) == plan.jump(500, 0) == plan


def test_a_jump_is_refused_where_it_makes_no_sense():
    with pytest.raises(ValueError, match=r"needs rule ddim; .* posterior"):
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
