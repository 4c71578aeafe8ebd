"""The pipeline as DVC runs it, on a copy of the project with tiny parameters."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.runs import digest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DVC = ("dvc.cli.parser", "dvc.repo.reproduce", "dvc.dvcfile", "dvc.output", "dvc.scm", "dvc.stage", "ruamel.yaml")
PARTS = ("stores", "analysis", "pipeline", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")


@pytest.fixture(scope="module", autouse=True)
def traj_at_once(server):
    """Stages run the `traj` that costs no imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{server.parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    for file in (ROOT / "studies").rglob("*.yaml"):
        copied = folder / file.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"]["steps"] = 2
    params["generate"] |= {"samples": 8, "block": 8}
    params["runs"] = {
        "ddim": {"model": "digits", "sampler": "ddim", "steps": 5},
        "ddpm": {"model": "digits", "sampler": "ddpm", "steps": 5},
    }
    fork = {"run": "ddim", "options": {"at": "800,200", "replicas": 2, "samples": 4, "block": 4, "eta": 1}}
    params["forks"] = {"ddim_forks": fork}
    params["readouts"] = {"ddim_forks": "forks/ddim_forks"}
    write(folder / "params.yaml", params)
    feature_emergence = {
        "runs": {"iddpm": {"model": "models/digits-iddpm", "sampler": "iddpm", "steps": 5}},
        "forks": {"ddim_forks": fork},
    }
    write(folder / "studies/feature_emergence/params.yaml", feature_emergence)
    edits = {"two": [{"edit": "jump", "n": [2, 3], "t_start": {"every": 2}}]}
    few = {"samples": 4, "block": 4}
    unet_dynamics = {
        "runs": {"ddim4": {"model": "../../models/digits", "sampler": "ddim", "steps": 4}},
        "sweep": few,
        "sweeps": {"ddim_edits": {"run": "../../data/trajectories/ddim.zarr", "edits": "two"}},
        "edits": edits,
    }
    write(folder / "studies/unet_dynamics/params.yaml", unet_dynamics)
    full = {"run": "../data/trajectories/ddim4.zarr", "sweep": few, "sweeps": edits}
    write(folder / "studies/unet_dynamics/full/params.yaml", full)
    repro(folder)
    return folder


def write(file, params):
    file.write_text(yaml.safe_dump(params))


def dvc(folder, *arguments):
    """Run a command of DVC as a process of its own, forked from this one, which has imported it; give what it says."""
    return timed(folder, *arguments)[0]


def timed(folder, *arguments):
    """The same with the seconds it computed, those of its own commands included."""
    from dvc.cli import main

    for module in DVC:
        import_module(module)
    with tempfile.TemporaryFile() as said:
        if not (process := os.fork()):
            status = 255
            try:
                os.chdir(folder)
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))
                for handler in logging.getLogger("dvc").handlers:
                    handler.setStream(sys.stdout)  # not where DVC was imported
                status = main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status, used = os.wait4(process, 0)
        said.seek(0)
        text = said.read().decode()
    assert status == 0, text
    return text, used.ru_utime + used.ru_stime


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
    said, seconds = timed(project, "repro")
    assert "up to date" in said
    assert "Running stage" not in said
    assert seconds < 4  # one on a quiet machine


def test_studies_are_asked_for_by_name_only(project):
    made = ("data", "models", "results", "report")
    assert not [path for path in (project / "studies").rglob("*") if path.name in made]
    targets = ("studies/unet_dynamics/full/dvc.yaml:intervene@two", "studies/feature_emergence/dvc.yaml")
    assert sorted(repro(project, *targets)) == [
        "studies/feature_emergence/dvc.yaml:analyze@iddpm",
        "studies/feature_emergence/dvc.yaml:analyze_fork@ddim_forks",
        "studies/feature_emergence/dvc.yaml:fork@ddim_forks",
        "studies/feature_emergence/dvc.yaml:generate@iddpm",
        "studies/feature_emergence/dvc.yaml:report",
        "studies/feature_emergence/dvc.yaml:train",
        "studies/unet_dynamics/dvc.yaml:generate@ddim4",
        "studies/unet_dynamics/full/dvc.yaml:intervene@two",
    ]
    numbers = json.loads((project / "studies/feature_emergence/report/metrics.json").read_text())
    assert list(numbers["runs"]) == ["iddpm", "ddim", "ddpm", "ddim_forks"]
    assert repro(project) == []


def test_metrics_and_plots_are_worth_reading(project):
    assert "ssim_08_log_snr" in dvc(project, "metrics", "show")
    dvc(project, "plots", "show", "-o", "plots")
    assert "stepwise_entropy" in (project / "plots" / "index.html").read_text()


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own
def test_what_is_made_of_a_run_depends_on_it(project, monkeypatch):
    monkeypatch.chdir(project)
    from dvc.repo import Repo
    from networkx import ancestors

    graph = Repo().index.graph
    stages = {stage.addressing: stage for stage in graph}
    assert {stage.addressing for stage in ancestors(graph, stages["generate@ddim"])} == {
        "analyze@ddim",
        "analyze_fork@ddim_forks",
        "analyze_readout@ddim_forks",
        "fork@ddim_forks",
        "readout@ddim_forks",
        "report",
        "studies/feature_emergence/dvc.yaml:analyze_fork@ddim_forks",
        "studies/feature_emergence/dvc.yaml:fork@ddim_forks",
        "studies/feature_emergence/dvc.yaml:report",
        "studies/representation/dvc.yaml:report",
        "studies/three_faces/dvc.yaml:report",
        "studies/unet_dynamics/dvc.yaml:intervene@ddim_edits",
        "studies/unet_dynamics/dvc.yaml:report",
        "studies/unet_dynamics/full/dvc.yaml:report",
    }


def test_one_run_changed_and_a_comment_in_the_code_remake_that_run_and_what_depends_on_it(project):
    untouched = [project / "data" / "trajectories" / "ddim.zarr", project / "data" / "forks" / "ddim_forks.zarr"]
    before = [states(store) for store in untouched]
    edit(project, "params.yaml", "sampler: ddpm\n    steps: 5", "sampler: ddpm\n    steps: 4")
    with (project / "pipeline" / "making" / "fork.py").open("a") as file:
        file.write("# a comment\n")
    # that of the forks runs, and finds them as they should be
    assert sorted(repro(project)) == ["analyze@ddpm", "fork@ddim_forks", "generate@ddpm", "report"]
    assert [states(store) for store in untouched] == before
    assert len(list((project / "data" / "trajectories").glob("ddpm.stale-*.zarr"))) == 1


def states(store):
    """The bytes of a store's files, and when they were written."""
    return digest(store), [file.stat().st_mtime_ns for file in sorted(store.rglob("*"))]
