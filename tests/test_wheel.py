"""What pip installs: one package, traj, that works in a bare environment and in any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

from traj.analysis._kernels import compiling

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


WORK = """
import traj
from traj import stores
from traj.analysis.entropy import entropy

traj.open, traj.create

from traj.pipeline.cli import main

generate = "generate", "a.zarr", "--model", "gaussian:0,1,1x8x8", "--steps", "4", "--samples", "4"
for arguments in (generate, ("analyze", "psnr", "a.zarr")):
    main(arguments, standalone_mode=False)
print(traj.__file__)
"""


@pytest.mark.slow
def test_a_wheel_works_in_a_bare_environment(wheel, tmp_path):
    """The libraries are those of this environment, but not its editable install; kernels are compiled already."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "libraries.pth").write_text(str(Path(numpy.__file__).parents[1]))

    environment = os.environ | {"NUMBA_CACHE_DIR": str(compiling.PACKAGE / "__pycache__")}

    def run(*command):
        done = subprocess.run([python, *command], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "generate" in run("-c", "from traj.pipeline.cli import main; main()", "--help")
    assert Path(run("-c", WORK).splitlines()[-1]).is_relative_to(site)
    assert (tmp_path / "results" / "a" / "psnr.zarr" / "zarr.json").is_file()
