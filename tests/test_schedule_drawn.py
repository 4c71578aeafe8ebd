"""The noise schedule of the steps of a run, against METHODS' numbers for GLIDE and DDPM."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis_data import ALPHA_BAR, trajectories
from traj.analysis._drawing import schedule
from traj.analysis.psnr import psnr
from traj.pipeline.process.schedule import Schedule

GLIDE = {18: 0.0096, 25: 0.0125, 41: 0.0227, 58: 0.0387, 65: 0.0487, 70: 0.0581, 80: 0.0890}
GLIDE |= {85: 0.1181, 90: 0.1706, 95: 0.3275, 98: 0.5554, 99: 0.7499, 100: 1.0}


def visiting(alpha_bar, **coords):
    """A run of two samples that visits states of this alpha_bar, most noise first."""
    along = {"signal": np.sqrt(alpha_bar), "noise_scale": np.sqrt(1 - alpha_bar), **coords}
    ds = trajectories(2, len(alpha_bar), side=2)
    return psnr(ds.assign_coords({name: ("timestep", values) for name, values in along.items()}))


def test_beta_is_that_of_glide_in_100_steps():
    table = Schedule.from_config({"beta_schedule": "squaredcos_cap_v2"}).alpha_bar
    visited = np.round(np.arange(100) * 999 / 99).astype(int)[::-1]
    beta = schedule.of_steps(visiting(table[visited]))["beta"]
    for t, expected in GLIDE.items():
        assert beta[100 - t] == pytest.approx(expected, abs=6e-5)


def test_beta_of_every_timestep_is_the_one_that_the_schedule_is_made_of():
    beta = schedule.of_steps(visiting(ALPHA_BAR[::-1]))["beta"]
    np.testing.assert_allclose(beta[::-1], np.linspace(1e-4, 0.02, 1000), rtol=1e-9)


def test_a_process_that_only_adds_noise_has_the_difference_of_its_variances():
    sigma = np.array([4.0, 2.0, 1.0])
    result = visiting(np.full(3, 0.5), signal=np.ones(3), noise_scale=sigma)
    np.testing.assert_allclose(schedule.of_steps(result)["beta"], [12, 3, 1])


def test_beta_is_left_out_between_states_with_others_between_them():
    result = visiting(ALPHA_BAR[[900, 600, 300, 0]], step=np.array([0, 1, 3, 4]))
    np.testing.assert_array_equal(np.isnan(schedule.of_steps(result)["beta"]), [False, True, False, False])


def test_the_schedule_is_drawn_from_noise_to_image():
    run = visiting(ALPHA_BAR[[900, 600, 300, 0]])
    signal, noise_scale, beta = psnr.plot(run, "schedule").axes
    for axis, name in ((signal, "signal"), (noise_scale, "noise_scale")):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), run[name])
    np.testing.assert_array_equal(beta.lines[0].get_xdata(), np.linspace(0, 100, 4))
