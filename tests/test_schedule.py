"""The schedules' constants against published numbers and diffusers' own tables."""

import json

import numpy as np
import pytest
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from pipeline.schedule import Schedule
from tests.sampling import betas

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
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"variance_type": "learned"}, "'learned'"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"timestep_spacing": "karras"}, "karras"),
        ({"predict_epsilon": False}, "predict_epsilon"),
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
    texts = [json.dumps(schedule.to_config(), sort_keys=True) for schedule in schedules]
    assert len(set(texts)) == len(texts)
    assert Schedule.from_config({}) == Schedule.from_config({"num_train_timesteps": 1000})
