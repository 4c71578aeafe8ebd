"""The tables of studies/ fit the runs they are for."""

import shlex
from pathlib import Path

import click
import pytest
import yaml
from dvc.repo import Repo

from traj.pipeline.cli import main
from traj.pipeline.making import sweep
from traj.pipeline.making.shortcut import STEPS

ROOT = Path(__file__).parents[1]
UNET_DYNAMICS = ROOT / "studies" / "unet_dynamics"
FULL = UNET_DYNAMICS / "full"


def read(folder):
    return yaml.safe_load((folder / "params.yaml").read_text())


def made_by(folder, path):
    """The parameters of the run that stands at a path, seen from a folder."""
    root, run = (folder / path).resolve().as_posix().split("/data/trajectories/")
    return read(Path(root))["runs"][run.removesuffix(".zarr")]


def timesteps(run):
    return range(1000 - 1000 // run["steps"], -1, -1000 // run["steps"])


def tables():
    """Every table of edits: its folder, name, and the run it is for."""
    study, full = read(UNET_DYNAMICS), read(FULL)
    for name, of in study["sweeps"].items():
        yield pytest.param(UNET_DYNAMICS, f"edits.{of['edits']}", of["run"], id=name)
    for name in full["sweeps"]:
        yield pytest.param(FULL, f"sweeps.{name}", full["run"], id=name)


@pytest.mark.parametrize(("folder", "table", "run"), [*tables()])
def test_every_edit_starts_at_a_timestep_of_its_run(folder, table, run):
    visited = timesteps(made_by(folder, run))
    for family in sweep.read(f"{folder / 'params.yaml'}:{table}", visited):
        assert all(t_start in visited for t_start in family.t_start)


@pytest.mark.parametrize("name", ["lengths", "relaxations"])
def test_cuts_start_at_the_steps_of_the_source(name):
    """002 Figs 9 and 10, its step k being timestep 10 (k - 1)."""
    run = made_by(FULL, read(FULL)["run"])
    assert (run["sampler"], run["steps"], run["eta"]) == ("ddim", STEPS, 1.0)
    families = sweep.read(f"{FULL / 'params.yaml'}:sweeps.{name}", timesteps(run))
    starts = {(nb, t_start // 10 + 1) for family in families for nb in family.nb for t_start in family.t_start}
    assert starts == {(2, 70), (4, 65), (6, 65), (8, 60)}


def test_forks_start_from_runs_of_the_root():
    runs = read(ROOT)["runs"]
    for folder in (ROOT, ROOT / "studies" / "feature_emergence"):
        for fork in read(folder)["forks"].values():
            visited = timesteps(runs[fork["run"]])
            assert all(int(at) in visited for at in fork["options"]["at"].split(","))


@pytest.mark.parametrize("study", sorted((ROOT / "studies").glob("*/dvc.yaml")), ids=lambda file: file.parent.name)
def test_of_the_code_studies_list_what_the_root_lists(study):
    """So that a fingerprint that a stage of the root watches is watched there too."""
    code = {}
    for file in (ROOT / "dvc.yaml", study):
        for name, stage in yaml.safe_load(file.read_text())["stages"].items():
            deps = {path.removeprefix("../../") for path in stage.get("do", stage)["deps"]}
            code.setdefault(name, []).append({path for path in deps if path.startswith(("pipeline/", "stores/"))})
    for name in ("train", "generate", "analyze", "fork"):
        if len(code[name]) == 2:
            assert code[name][0] <= code[name][1], name


def commands():
    """Every command of the studies, as DVC runs it: a name, and its words."""
    for stage in Repo(ROOT).index.stages:
        if stage.addressing.startswith("studies/"):
            for command in [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd:
                name = stage.addressing.removeprefix("studies/").replace("/dvc.yaml", "")
                yield pytest.param(shlex.split(command), id=f"{name}:{shlex.split(command)[1]}")


@pytest.mark.parametrize("words", [*commands()])
def test_every_command_of_a_study_is_one_that_traj_knows(words):
    command, context = main, None
    assert words.pop(0) == "traj"
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, words, parent=context)
