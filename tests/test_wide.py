"""The tables of the opt-in group wide/ fit the runs they are for."""

from pathlib import Path

import pytest
import yaml

from traj.pipeline.making import sweep
from traj.pipeline.making.shortcut import STEPS

ROOT = Path(__file__).parents[1]
RUNS = yaml.safe_load((ROOT / "params.yaml").read_text())["runs"]
WIDE = yaml.safe_load((ROOT / "wide" / "params.yaml").read_text())


def families(name):
    run = RUNS[WIDE["run"]]
    assert (run["sampler"], run["steps"], run["eta"]) == ("ddim", STEPS, 1.0)
    return sweep.read(f"{ROOT / 'wide' / 'params.yaml'}:sweeps.{name}", range(990, -1, -10))


@pytest.mark.parametrize("name", WIDE["sweeps"])
def test_every_edit_starts_at_a_timestep_of_the_run(name):
    assert all(t_start in range(990, -1, -10) for family in families(name) for t_start in family.t_start)


@pytest.mark.parametrize("name", ["lengths", "relaxations"])
def test_cuts_start_at_the_steps_of_the_source(name):
    """002 Figs 9 and 10, its step k being timestep 10 (k - 1)."""
    starts = {(nb, t_start // 10 + 1) for family in families(name) for nb in family.nb for t_start in family.t_start}
    assert starts == {(2, 70), (4, 65), (6, 65), (8, 60)}


def test_forks_start_from_runs_that_are_made():
    for fork in WIDE["forks"].values():
        steps = RUNS[fork["run"]]["steps"]
        assert all(0 <= int(at) < steps for at in fork["options"]["at"].split(","))
