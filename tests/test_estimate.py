"""What a run is said to take holds all that takes long: the network, and the noise it is fed."""

import time
from types import SimpleNamespace

import pytest

from tests import runs
from tests.test_generate import make
from traj.pipeline import readouts
from traj.pipeline.making import fork, generate, readout
from traj.pipeline.process import device

MIXTURE = "mixture:-8,-4,6,8"


@pytest.fixture
def trials(monkeypatch):
    """A network call takes a second, a draw of noise a hundred."""
    for verb in (generate, fork):
        monkeypatch.setattr(verb, "call_seconds", lambda *_: device.Timed(1.0, 4, 4))
        monkeypatch.setattr(verb, "draw_seconds", lambda *_: 100.0)


@pytest.mark.parametrize(
    ("options", "draws"),
    [({}, 1 + 19), ({"sampler_name": "ddim"}, 1), ({"sampler_name": "ddim", "eta": 1.0}, 1 + 19)],
)
def test_drawing_noise_is_part_of_what_a_run_takes(options, draws, trials, tmp_path):
    job = generate.prepare(model=MIXTURE, steps=20, samples=12, block=4, device="cpu", **options)
    assert job.cost(tmp_path / "a.zarr").seconds == 3 * (20 + 100 * draws)


def test_drawing_noise_is_part_of_what_forks_take(trials, tmp_path):
    run = make(tmp_path / "a.zarr", 8, model=MIXTURE)
    apart = fork.prepare(store=run, at=[200], replicas=3, device="cpu")
    # from 200: 5 calls of 3 replicas together, 4 steps that add noise, each replica's own
    assert apart.cost(tmp_path / "f.zarr").seconds == 2 * (5 + 100 * 4 * 3)
    alike = fork.prepare(store=run, at=[200], replicas=3, noise=["shared"], device="cpu")
    assert alike.cost(tmp_path / "f.zarr").seconds == 2 * (5 + 100 * 4)


def test_a_draw_is_timed_for_all_samples_at_once():
    def slow(purpose, samples, timestep):
        time.sleep(0.002 * len(samples))

    assert 0.02 <= device.draw_seconds(slow, range(10)) < 1


@pytest.mark.parametrize(
    ("seconds", "calls", "tried"),
    [
        (lambda count: 0.4 * count, [1, 4, 16], 16),
        (lambda count: 60.0 * count, [1], 1),
        (lambda count: 0.001 * count, [1, 4, 16, 64, *[100] * 4], 100),
        (lambda count: 2.0, [1, 4, 16, 64, 100], 100),  # as a GPU does, once it is warm
        (lambda count: 4.0 * count, [1, 1], 1),
    ],
)
def test_a_call_that_takes_long_is_timed_with_few_samples_and_scaled(seconds, calls, tried, monkeypatch):
    """A network of 60 s a sample on a CPU is tried once, not for the 100 minutes that a block takes."""
    made = []

    def trial(count):
        made.append(count)
        return count, None

    monkeypatch.setattr(device, "timed_call", lambda denoiser, x_t, timestep, condition: seconds(x_t))
    found = device.call_seconds(None, trial, 100, 999, False)
    assert found[:3] == pytest.approx((seconds(tried) * 100 / tried, 100, tried))
    assert made == calls
    assert (f"by a call with {tried} of 100 samples" in found.note) == (tried < 100)


def test_a_dry_run_says_that_it_tried_few_samples(tmp_path, monkeypatch):
    job = generate.prepare(model=MIXTURE, steps=20, samples=12, block=4, device="cpu")
    monkeypatch.setattr(generate, "call_seconds", lambda *_: device.Timed(80.0, 4, 1))
    assert "about 80 min (by a call with 1 of 4 samples; whole" in str(job.cost(tmp_path / "a.zarr"))


def test_a_readout_that_takes_long_is_timed_with_few_events_and_says_so(tmp_path, monkeypatch):
    """A classifier of 9 s an image is tried once, not for the minutes that a batch of it takes."""
    clock, tried = [0.0], []
    monkeypatch.setattr(readouts, "load", lambda _: slow)
    monkeypatch.setattr(readout, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def read(events):
        tried.append(len(events.timestep))
        clock[0] += 9.0 * tried[-1]
        return (events.values["x_t"].flatten(1).mean(dim=1),)

    def slow(source):
        return readouts.Readout((readouts.Pass(("x_t",), (readouts.Output("mean", (), "mean"),), read),), {}, {}, 64)

    reading = readout.prepare("slow", store=runs.make(tmp_path / "a.zarr", 24), device="cpu")
    cost = reading.cost(tmp_path / "r.zarr")
    assert tried == [1, 1]
    assert cost.seconds == pytest.approx(9.0 * cost.events, rel=0.01)
    assert "by a call with 1 of 24 events; whole calls take more memory" in str(cost)
