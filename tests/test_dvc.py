"""The pipeline as DVC runs it, on a copy of the project with tiny parameters."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from networkx import ancestors

from tests.runs import digest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ("traj", "stores", "analysis", "pipeline", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    (folder / "wide").mkdir()
    shutil.copy(ROOT / "wide" / "dvc.yaml", folder / "wide")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"]["steps"] = 2
    params["generate"] |= {"samples": 8, "block": 8}
    params["runs"] = {
        "ddim": {"model": "digits", "sampler": "ddim", "steps": 5},
        "iddpm": {"model": "digits-iddpm", "sampler": "iddpm", "steps": 5},
    }
    params["forks"] = {
        "ddim_forks": {"run": "ddim", "options": {"at": "800,200", "replicas": 2, "samples": 4, "block": 4, "eta": 1}}
    }
    params["sweep"] = {"samples": 4, "block": 4}
    params["sweeps"] = {"ddim_edits": {"run": "ddim", "edits": "two"}}
    params["edits"] = {"two": [{"edit": "jump", "n": [2, 3], "t_start": {"every": 2}}]}
    params["readouts"] = {"ddim_forks": "forks/ddim_forks"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    wide = {"run": "ddim", "sweep": params["sweep"], "sweeps": params["edits"], "forks": {}}
    (folder / "wide" / "params.yaml").write_text(yaml.safe_dump(wide))
    repro(folder)
    return folder


def dvc(folder, *arguments):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repro(folder, *arguments):
    """Reproduce, and return the stages that ran."""
    return re.findall(r"Running stage '(.*)'", dvc(folder, "repro", *arguments))


def edit(folder, name, old, new):
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_everything_is_made_and_a_second_repro_does_nothing(project):
    assert (project / "report" / "index.html").is_file()
    begun = time.perf_counter()
    assert repro(project) == []
    # two seconds on a quiet machine, import of DVC included; a loaded one may take longer
    assert time.perf_counter() - begun < 10


def test_the_wide_group_is_asked_for_by_name_only(project):
    assert not any((project / "wide" / made).exists() for made in ("data", "results", "report"))
    assert sorted(repro(project, "wide/dvc.yaml")) == ["wide/dvc.yaml:intervene@two", "wide/dvc.yaml:report"]
    numbers = json.loads((project / "wide" / "report" / "metrics.json").read_text())
    assert list(numbers["sweeps"]) == ["two"]
    assert repro(project) == []


def test_metrics_and_plots_are_worth_reading(project):
    assert "confidence" in dvc(project, "metrics", "show")
    dvc(project, "plots", "show", "-o", "plots")
    assert "stepwise_entropy" in (project / "plots" / "index.html").read_text()


def test_changing_one_run_reruns_only_it_and_what_depends_on_it(project):
    untouched = digest(project / "data" / "trajectories" / "ddim.zarr")
    edit(project, "params.yaml", "sampler: iddpm\n    steps: 5", "sampler: iddpm\n    steps: 4")
    assert sorted(repro(project)) == ["analyze@iddpm", "generate@iddpm", "report"]
    assert digest(project / "data" / "trajectories" / "ddim.zarr") == untouched
    assert len(list((project / "data" / "trajectories").glob("iddpm.stale-*.zarr"))) == 1


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own
def test_what_is_made_of_a_run_depends_on_it(project, monkeypatch):
    monkeypatch.chdir(project)
    graph = Repo().index.graph
    stages = {stage.addressing: stage for stage in graph}
    assert {stage.addressing for stage in ancestors(graph, stages["generate@ddim"])} == {
        "analyze@ddim",
        "analyze_fork@ddim_forks",
        "analyze_readout@ddim_forks",
        "analyze_sweep@ddim_edits",
        "fork@ddim_forks",
        "intervene@ddim_edits",
        "readout@ddim_forks",
        "report",
        "wide/dvc.yaml:intervene@two",
        "wide/dvc.yaml:report",
    }


def test_a_comment_in_the_code_regenerates_nothing(project):
    forks = project / "data" / "forks" / "ddim_forks.zarr"
    before, touched = digest(forks), [file.stat().st_mtime_ns for file in sorted(forks.rglob("*"))]
    with (project / "pipeline" / "making" / "fork.py").open("a") as file:
        file.write("# a comment\n")
    ran = set(repro(project))
    assert {"fork@ddim_forks", "intervene@ddim_edits"} <= ran <= {"fork@ddim_forks", "intervene@ddim_edits", "report"}
    assert digest(forks) == before
    assert [file.stat().st_mtime_ns for file in sorted(forks.rglob("*"))] == touched
