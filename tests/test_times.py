"""Times of a sweep: shares of a run's network time by hand, how calls are timed, and what the command writes."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from tests.test_fork import GAUSSIAN, prepare, save_network, traj
from tests.test_generate import make
from traj.pipeline.making import times
from traj.pipeline.process.cut import Cut

HEAD = ["variant", "edit", "at", "ns", "nb", "n", "r", "time_removed"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random network of four output blocks."""
    return save_network(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run of twenty steps, four samples a block."""
    return make(tmp_path_factory.mktemp("runs") / "p.zarr", 6, model=model, labels="cycle", sampler_name="ddim")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "sweep.yaml"
    families = [
        {"edit": "jump", "n": [0, 5], "t_start": 700},
        {"edit": "blocks", "nb": 6, "n": 2, "r": 3, "t_start": 500},
        {"edit": "skips", "ns": 2, "n": 4, "t_start": 50},
    ]
    path.write_text(yaml.safe_dump(families))
    return str(path)


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def test_a_share_is_that_of_the_whole_runs_network_time(run, model, table, tmp_path, monkeypatch):
    seconds = {Cut(): 2.0, Cut(unet_blocks=2): 1.0, Cut(skips=2): 2.2}
    monkeypatch.setattr(times, "timed_call", lambda *arguments: seconds[arguments[-1]])
    times.write_times(prepare(run, table=table, replicas=None, model=model), tmp_path / "new" / "times.csv")
    assert rows(tmp_path / "new" / "times.csv") == [
        HEAD,
        ["0", "jump", "700", "0", "0", "0", "-1", "0.000000"],
        ["1", "jump", "700", "0", "0", "5", "-1", "0.200000"],  # 4 evaluations of 20
        ["2", "blocks", "500", "0", "6", "2", "3", "0.100000"],  # 4 of 20 take half
        ["3", "skips", "50", "2", "0", "4", "-1", "-0.010000"],  # 2 of 20, as many as are left, take a tenth more
    ]


def test_all_cuts_are_timed_in_turn_and_a_slow_moment_does_not_count(monkeypatch):
    cuts, calls = [Cut(), Cut(unet_blocks=1), Cut(skips=1)], []

    def call(denoiser, x_t, timestep, condition, cut):
        calls.append((cut, timestep, len(x_t), condition))
        return (1.0, 0.5, 2.0)[cuts.index(cut)] * (100 if len(calls) <= 6 else 1)

    monkeypatch.setattr(times, "timed_call", call)
    monkeypatch.setattr(times, "SECONDS", 0)
    found = times.call_medians(None, cuts, torch.zeros(8, 1), 700, "a condition")
    assert found == dict(zip(cuts, (1.0, 0.5, 2.0), strict=True))
    assert calls == [(cut, 700, 8, "a condition") for cut in cuts] * 6


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 5), (0.06, 7), (0.0, 25)])
def test_slow_networks_are_timed_a_few_times_only(seconds, count, monkeypatch):
    clock, calls = [0.0], []

    def call(denoiser, x_t, timestep, condition, cut):
        calls.append(cut)
        clock[0] += seconds
        return seconds

    monkeypatch.setattr(times, "timed_call", call)
    monkeypatch.setattr(times.time, "perf_counter", lambda: clock[0])
    times.call_medians(None, [Cut(unet_blocks=nb) for nb in range(5)], torch.zeros(8, 1), 700, None)
    assert len(calls) == 5 * (1 + count)


def test_calls_have_the_batch_of_the_forks(run, model, table, monkeypatch, tmp_path):
    sizes = []
    forking = prepare(run, table=table, replicas=None, model=model, batch=12)
    original = type(forking.denoiser).__call__
    monkeypatch.setattr(times, "SECONDS", 0)
    monkeypatch.setattr(
        type(forking.denoiser),
        "__call__",
        lambda self, x_t, *rest: sizes.append(tuple(x_t.shape)) or original(self, x_t, *rest),
    )
    times.write_times(forking, tmp_path / "times.csv")
    assert set(sizes) == {(12, 1, 8, 8)}


@pytest.mark.slow
def test_the_command_measures_after_the_forks_and_also_when_there_is_nothing_to_do(run, model, table, tmp_path):
    path = tmp_path / "results" / "times.csv"
    command = ("fork", run, tmp_path / "f.zarr", "--sweep", table, "--model", model, "--times", path)
    traj(*command, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    text = traj(*command)
    assert text.index("is complete") < text.index(f"wrote {path}")
    head, *measured = rows(path)
    assert head == HEAD
    assert [row[1] for row in measured] == ["jump", "jump", "blocks", "skips"]
    assert (measured[0][-1], measured[1][-1]) == ("0.000000", "0.200000")
    assert all(-1 < float(row[-1]) < 1 for row in measured)
    path.write_text("from before")
    assert "nothing to do" in traj(*command)
    assert rows(path)[0] == HEAD


@pytest.mark.slow
def test_times_never_go_into_the_store(run, model, table, tmp_path):
    command = ("fork", run, tmp_path / "f.zarr", "--sweep", table, "--model", model)
    traj(*command, "--times", tmp_path / "times.csv")
    assert "nothing to do" in traj(*command)
    assert not [file for file in (tmp_path / "f.zarr").rglob("*") if "time_removed" in file.name]


def test_a_model_without_a_network_is_timed_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 4, model=GAUSSIAN, sampler_name="ddim")
    Path("sweep.yaml").write_text(yaml.safe_dump([{"edit": "jump", "n": 6, "t_start": 700}]))
    traj("fork", "p.zarr", "f.zarr", "--sweep", "sweep.yaml", "--times", "times.csv")
    assert rows("times.csv")[1][-1] == "0.250000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "500"], "--times times.csv is what the edits of a sweep save; expected it with --sweep only"),
        (["--sweep", "sweep.yaml", "--times", "."], "is a directory"),
    ],
)
def test_times_that_cannot_be_get_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 4, model=GAUSSIAN)
    assert message in traj("fork", "p.zarr", "f.zarr", "--times", "times.csv", *arguments, code=2)
    assert not Path("f.zarr").exists()
