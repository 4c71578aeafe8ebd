"""What pip installs: one package, traj, that works in a bare environment and in any folder."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("traj", "stores", "analysis", "pipeline"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (found,) = (folder / "out").glob("*.whl")
    return found


@pytest.mark.slow
def test_a_wheel_holds_traj_and_nothing_else_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    about = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
    assert {name.split("/")[0] for name in names} == {"traj", about}
    files = [file for room in ("stores", "analysis", "pipeline") for file in (ROOT / room).rglob("*.py")]
    assert {f"traj/{file.relative_to(ROOT)}" for file in files} | {"traj/__init__.py", "traj/py.typed"} <= set(names)


@pytest.mark.slow
def test_a_wheel_works_in_a_bare_environment(wheel, tmp_path):
    """The libraries are those of this environment, but not its editable install."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "libraries.pth").write_text(str(Path(numpy.__file__).parents[1]))

    def run(*command):
        done = subprocess.run([python, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run("-c", "import traj; print(traj.__file__)").strip()).is_relative_to(site)
    run("-c", "from traj import stores; from traj.analysis.entropy import entropy; import traj; traj.open, traj.create")
    traj = "from traj.pipeline.cli import main; main()"
    assert "generate" in run("-c", traj, "--help")
    run("-c", traj, "generate", "a.zarr", "--model", "gaussian:0,1,1x8x8", "--steps", "4", "--samples", "4")
    run("-c", traj, "analyze", "psnr", "a.zarr")
    assert (tmp_path / "results" / "a" / "psnr.zarr" / "zarr.json").is_file()
