"""The schedules' constants against published numbers and diffusers' own tables."""

import json
import math
import re

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
)

from tests.sampling import betas
from traj.pipeline.process.schedule import Schedule

COSINE_4000 = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000}


def test_linear_1000_has_the_published_constants():
    schedule = Schedule.from_config({"num_train_timesteps": 1000})
    at = schedule.alpha_bar[[0, 249, 499, 749, 999]]
    np.testing.assert_allclose(at, [0.9999, 0.524085, 0.0785872, 0.00335055, 4.03583e-5], rtol=2e-6)
    assert np.abs(schedule.log_snr).argmin() + 1 == 259
    small_2 = (1 - at[0]) / (1 - schedule.alpha_bar[1]) * betas(schedule)[1]
    assert small_2 == pytest.approx(5.45319e-5, rel=2e-6)


def test_cosine_4000_has_the_published_constants_and_one_capped_beta():
    schedule = Schedule.from_config(COSINE_4000)
    np.testing.assert_allclose(betas(schedule)[[0, 3998, 3999]], [9.86582e-6, 0.75, 0.999], rtol=1e-6)
    assert np.isclose(betas(schedule), 0.999, rtol=1e-9).sum() == 1
    np.testing.assert_allclose(schedule.alpha_bar[[1999, 3998, 3999]], [0.493844, 1.51798e-7, 1.51798e-10], rtol=2e-6)
    assert np.abs(schedule.log_snr).argmin() + 1 == 1984


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
        {"trained_betas": [0.01, 0.02, 0.5]},
    ],
)
def test_tables_are_those_of_diffusers(scheduler_class, config):
    scheduler = scheduler_class(**config)
    schedule = Schedule.from_config({**scheduler.config, "_class_name": scheduler_class.__name__})
    np.testing.assert_allclose(betas(schedule), scheduler.betas, rtol=2e-5)  # float32 cosines
    np.testing.assert_allclose(schedule.alpha_bar, scheduler.alphas_cumprod, rtol=1e-4)
    if hasattr(scheduler, "final_alpha_cumprod"):
        assert schedule.final[0] ** 2 == pytest.approx(float(scheduler.final_alpha_cumprod), rel=1e-6)
    assert schedule.clip_sample == (1.0 if scheduler.config.get("clip_sample") else None)


def test_sigma_and_log_snr_are_two_views_of_alpha_bar():
    schedule = Schedule.from_config(COSINE_4000)
    np.testing.assert_allclose(schedule.log_snr, -2 * np.log(schedule.sigma), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("variance_type", "variance", "learned"),
    [
        ("fixed_small", "small", False),
        ("fixed_small_log", "small", False),
        ("fixed_large", "large", False),
        ("fixed_large_log", "large", False),
        ("learned_range", "learned", True),
    ],
)
def test_variance_type_is_read(variance_type, variance, learned):
    schedule = Schedule.from_config({"variance_type": variance_type})
    assert (schedule.variance, schedule.learned_range) == (variance, learned)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"thresholding": True}, "thresholding"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"beta_schedule": "cubic"}, "cubic"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"variance_type": "learned"}, "'learned'"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
        ({"timestep_spacing": "karras"}, "karras"),
        ({"trained_betas": [0.1, 1.5]}, "trained_betas"),
        ({"beta_end": 2.0}, "beta_end"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config, named):
    with pytest.raises(ValueError, match=named):
        Schedule.from_config(config)


def test_fingerprint_values_tell_schedules_apart():
    configs = [
        {},
        {"beta_end": 0.03},
        {"num_train_timesteps": 999},
        {"beta_schedule": "scaled_linear"},
        {"trained_betas": [0.1, 0.2]},
        {"trained_betas": [0.1, 0.3]},
        {"clip_sample": False},
        {"clip_sample_range": 2.0},
        {"prediction_type": "sample"},
        {"set_alpha_to_one": False},
        {"timestep_spacing": "trailing"},
        {"steps_offset": 1},
        {"variance_type": "fixed_large"},
    ]
    schedules = [*map(Schedule.from_config, configs), Schedule.from_config({}, time_scale=0.25)]
    texts = [json.dumps({**schedule.identity, **schedule.habits}, sort_keys=True) for schedule in schedules]
    assert len(set(texts)) == len(texts)
    assert Schedule.from_config({}) == Schedule.from_config({"num_train_timesteps": 1000})


def test_what_only_makes_a_plan_is_not_in_the_identity():
    plain = Schedule.from_config({})
    for config in (
        {"clip_sample": False},
        {"timestep_spacing": "trailing"},
        {"steps_offset": 1},
        {"variance_type": "fixed_large"},
        {"clip_sample_range": 2.0},
    ):
        assert Schedule.from_config(config).identity == plain.identity, config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"timesteps": 4000}, {"num_train_timesteps": 4000}),
        ({"_class_name": "GaussianDDPMScheduler", "timesteps": 4000}, {"num_train_timesteps": 4000}),
        ({"predict_epsilon": False}, {"prediction_type": "sample"}),
        ({"predict_epsilon": True}, {"prediction_type": "epsilon"}),
        ({"clip_predicted_image": False}, {"clip_sample": False}),
    ],
)
def test_older_spellings_mean_what_they_meant(old, new):
    schedule = Schedule.from_config(old)
    assert schedule == Schedule.from_config(new) == Schedule.from_config({**old, **new})
    assert schedule.T == new.get("num_train_timesteps", 1000)


def test_two_spellings_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"timesteps: 4000, the older spelling of num_train_timesteps, and .*: 1000"):
        Schedule.from_config({"timesteps": 4000, "num_train_timesteps": 1000})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_timesteps": 4000}, "has num_timesteps, which is not known; expected num_train_timesteps, beta_start"),
        ({"sigma": 0.01}, "has sigma, which is not known"),
        ({"_class_name": "GaussianDDPMScheduler", "sigma": 1}, "scheduler config (DDPMScheduler) has sigma"),
        ({"_class_name": ["DDPMScheduler"]}, "scheduler class ['DDPMScheduler'] is not supported"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps: '1000'; expected a whole number from 1 to 1000000"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"num_train_timesteps": True}, "num_train_timesteps"),
        ({"timesteps": 0}, "num_train_timesteps: 0"),
        ({"beta_start": math.nan}, "beta_start: nan; expected a number between 0 and 1"),
        ({"beta_start": None}, "beta_start"),
        ({"trained_betas": []}, "trained_betas"),
        ({"trained_betas": [[0.1]]}, "trained_betas: [[0.1]]; expected null, or a list, each of it a number between"),
        ({"clip_sample": "no"}, "clip_sample: 'no'; expected true or false"),
        ({"clip_sample_range": 0}, "clip_sample_range: 0; expected a number above 0"),
        ({"clip_sample_range": math.inf}, "clip_sample_range"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"thresholding": 1}, "thresholding: 1; expected false: it is not supported"),
        ({"beta_schedule": {"a": 1}}, "beta_schedule: {'a': 1}; expected one of linear"),
        ({"predict_epsilon": "yes"}, "predict_epsilon: 'yes'; expected true or false"),
    ],
)
def test_values_that_no_key_takes_are_refused_with_what_was_expected(config, says):
    with pytest.raises(ValueError, match=re.escape(says) if ".*" not in says else says):
        Schedule.from_config(config)
