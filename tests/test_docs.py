"""What README and the notebook show must run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient

from tests.test_generate import make
from tests.test_readout import make as read
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import fork
from traj.pipeline.models import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def block(text):
    """The one piece of README's Python in which a text stands."""
    (found,) = (block for block in BLOCKS if text in block)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as `make repro` leaves it, with a small run of exact digits, forks of it and readouts of both."""
    folder = tmp_path_factory.mktemp("repro")
    (folder / "data" / "trajectories").mkdir(parents=True)
    out = folder / "data" / "trajectories" / "ddpm.zarr"
    make(out, 16, model="dataset:digits", labels="cycle", block=8, steps=100)
    forked = folder / "data" / "forks" / "ddpm_forks.zarr"
    forks = fork.prepare(store=out, at=[900, 500, 300], replicas=4, samples=8, device="cpu")
    with forks.open(forked) as store:
        forks.run(store, bar=False)
    classifier = folder / "models" / "digits-classifier"
    train.train("digits-classifier", classifier, steps=2, progress=False)
    for store in (out, forked):
        read(folder / "data" / "readouts" / store.name, store, classifier, batch=4096)
    return folder


@pytest.mark.slow
def test_the_readmes_xarray_lines_run_in_a_bare_environment(folder):
    lines = block("xr.open_zarr").replace('"data/', f'"{folder}/data/')
    subprocess.run([sys.executable, "-W", "error", "-c", f"{lines}\nassert len(ds.x_t.dims) == 5"], check=True)


@pytest.mark.slow
def test_the_readmes_quantity_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(block("entropy.plot").replace("entropy.plot", "figure = entropy.plot"), names)
    assert names["figure"].axes
    assert len(names["entropy"].landmarks(names["result"])) > 0


def test_the_readmes_sampling_loop_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "timesteps": [30, 20, 10, 0],
        "signal": [0.1, 0.4, 0.7, 0.9],
        "noise_scale": [0.9, 0.6, 0.3, 0.1],
        "start": lambda block: np.zeros((32, 3, 32, 32), np.float32),
        "predict": lambda x_t, t: x_t + t,
        "update": lambda x_t, pred_x0, t: x_t + 1,
    }
    exec(block("stores.create"), names)
    ds = stores.open("mine.zarr")
    assert ds.x_t.shape == (64, 4, 3, 32, 32)
    assert float(ds.pred_x0.sel(timestep=20)[0, 0, 0, 0]) == 21
    assert float(ds.x_0.max()) == 4


def test_every_command_of_the_readme_exists():
    verbs = set(re.findall(r"^traj (\w+)", README, re.M))
    assert {"train", "generate", "analyze", "report"} <= verbs
    for verb in verbs:
        assert CliRunner().invoke(main, [verb, "--help"]).exit_code == 0, verb


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.slow
def test_the_notebook_runs(folder):
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "explore.ipynb", folder / "notebooks")
    notebook = nbformat.read(folder / "notebooks" / "explore.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder / "notebooks"}}).execute()
    shown = [
        cell for cell in notebook.cells if any("image/png" in one.get("data", {}) for one in cell.get("outputs", []))
    ]
    assert len(shown) == 8
    output = json.dumps(notebook.cells)
    assert "class 0: t =" in output
    assert "of the pairs of replicas have equal labels" in output
    assert "Warning" not in output


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
