"""Several branches of the same samples in one loop."""

import numpy as np
import pytest
import torch

from tests.sampling import LEARNED, LINEAR, NO_LABEL, PLANS, bits, network, noise_for, run, start
from traj.pipeline.models import analytic
from traj.pipeline.process.cut import WHOLE
from traj.pipeline.process.plans import ddpm
from traj.pipeline.process.sampler import reverse


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("plan", PLANS)
def test_branches_run_side_by_side_as_each_runs_alone(plan):
    learned = plan.steps[0].variance == "learned"
    denoiser = network(LEARNED if learned else LINEAR)
    plans = [plan.after(plan.timesteps[5]), plan, plan.with_noise("zero", 999, 0).after(plan.timesteps[11])]
    starts = [start() + i for i in range(3)]
    noises = [noise_for((4, 1, 8, 8), seed=i) for i in range(3)]
    alone = [run(denoiser, plan, x_t, noise) for plan, x_t, noise in zip(plans, starts, noises, strict=True)]
    for together in (1, 2, 3):
        kept = [[] for _ in plans]
        x_0 = reverse(
            denoiser,
            plans,
            NO_LABEL.repeat,
            start=lambda i: starts[i],
            noise=lambda i, step: noises[i](step),
            keep=lambda i, *what, kept=kept: kept[i].append(what),
            together=together,
        )
        for i, (states, predictions, log_variances, end) in enumerate(alone):
            ks, *lists = zip(*kept[i], strict=True)
            assert ks == tuple(range(len(plans[i].steps)))
            if together == 1:
                assert bits((*lists, x_0[i])) == bits((states, predictions, log_variances, end))
            for ours, theirs in zip((*lists[0], *lists[1], x_0[i]), (*states, *predictions, end), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
            assert (lists[2][0] is None) == (not learned)


def test_a_branch_is_started_when_it_is_due_and_calls_hold_no_more_than_asked():
    plan, events = ddpm(LINEAR, 4), []

    class Recorder(analytic.GaussianDenoiser):
        def __call__(self, x_t, timestep, label, cut=WHOLE):
            events.append((timestep, len(x_t), label.tolist()))
            return super().__call__(x_t, timestep, label, cut)

    def started(i):
        events.append(f"start {i}")
        return torch.zeros(1, 1, 1, 1)

    reverse(
        Recorder(0.0, 1.0),
        [plan.after(500), plan, plan.after(500), plan.after(250)],
        torch.tensor([-1]).repeat,
        start=started,
        noise=lambda *_: torch.zeros(1),
        keep=lambda *_: None,
        together=3,
    )
    first = ["start 1", (750, 1, [-1]), "start 0", "start 2", (500, 3, [-1] * 3)]
    assert events == [*first, "start 3", (250, 3, [-1] * 3), (250, 1, [-1]), (0, 3, [-1] * 3), (0, 1, [-1])]
