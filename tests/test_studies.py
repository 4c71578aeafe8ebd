"""The tables of studies/ fit the runs they are for, and every stage of DVC names the code behind its outputs."""

import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from dvc.repo import Repo

from traj.pipeline.cli import main
from traj.pipeline.making import sweep
from traj.pipeline.making.shortcut import STEPS
from traj.pipeline.models.digits import LEARNT, NULL_LABEL

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


def test_networks_of_subsets_are_compared_with_the_images_they_have_learned_from():
    study = read(ROOT / "studies" / "representation" / "memorization")
    assert {model["images"] for model in study["models"].values()} == set(study["sizes"])
    assert all(NULL_LABEL <= size <= LEARNT for size in study["sizes"])


@pytest.fixture(scope="module")
def stages():
    """Every stage of the root and of the studies, as DVC runs it: its name, commands, and what it depends on."""
    found = []
    for stage in Repo(ROOT).index.stages:
        commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
        deps = {Path(dep.fs_path).relative_to(ROOT).as_posix() for dep in stage.deps}
        found.append((stage.addressing, [shlex.split(command) for command in commands], deps))
    assert len(found) > 50
    return found


ASKED = {"stores/asked.py", "stores/layout.py"}
PLANNED = {f"pipeline/{file}.py" for file in ("making/generate", "process/plan", "process/plans", "process/spacing")}
CODE = {
    "train": {f"pipeline/models/{file}.py" for file in ("train", "losses", "digits")},
    "dataset": ASKED | {"pipeline/making/dataset.py", "pipeline/models/samples.py", "pipeline/sources"},
    "generate": ASKED | PLANNED,
    "noise": ASKED | PLANNED | {"pipeline/models/starts.py", "pipeline/process/forward.py"},
    "fork": ASKED | {f"pipeline/{file}.py" for file in ("making/fork", "making/generate", "process/plan")},
    "readout": ASKED | {"pipeline/making/readout.py"},
    "analyze": {"analysis", "pipeline/computing/analyze.py"},
    "report": {"analysis", "pipeline/report", "pipeline/computing/project.py", "pipeline/process/in_words.py"},
}
"""The code that makes the fingerprint, or the output, of a verb; `options_code` adds what its options bring in."""


def options_code(verb, words):
    """The code that the words after a verb add."""
    given = dict(pairwise(words))
    if verb == "readout":
        yield f"pipeline/readouts/{words[0]}.py"
    if "--sweep" in given:
        yield from ("pipeline/making/sweep.py", "pipeline/making/shortcut.py")
    if "--times" in given:
        yield "pipeline/making/times.py"
    if "--start" in given:
        yield "pipeline/models/starts.py"
    if given.get("--model", "").startswith(("dataset:", "mixture:", "gaussian:")):
        yield "pipeline/models/analytic.py"
    if given.get("--start", "").startswith("vae:") or (verb == "train" and words[0].endswith("-vae")):
        yield "pipeline/models/vae.py"


def test_a_stage_lists_the_code_that_makes_its_outputs(stages):
    for name, lines, deps in stages:
        for _, verb, *words in lines:
            assert {*CODE[verb], *options_code(verb, words)} <= deps, name


def test_every_command_of_a_stage_is_one_that_traj_knows(stages):
    for _, lines, _ in stages:
        for first, *words in lines:
            assert first == "traj"
            require_known(words)


def require_known(words):
    """Read the words of a command, as `traj` does; raises click's UsageError for what it does not know."""
    command, context = main, None
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, words, parent=context)
