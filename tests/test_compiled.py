"""A compiled kernel is that of the files as they are: when any of them changes, it is compiled anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from traj.analysis._edits import families
from traj.analysis._kernels import compiling, gaussian, histograms, images, labels, pairs, sorted_codes

ROOT = Path(__file__).parents[1]

INNER = """
from traj.analysis._kernels.compiling import compiled
FACTOR = 2.0

@compiled
def inner(x):
    return FACTOR * x
"""

OUTER = """
from traj.analysis._kernels.compiling import compiled
from traj.analysis._inner import inner

@compiled
def outer(x):
    return inner(x)
"""

CALL = """
from traj.analysis._outer import outer
print(outer(3.0), sum(outer.stats.cache_misses.values()))
"""


@pytest.fixture
def package(tmp_path):
    """A package of two kernels in two files, one calling the other."""
    folder = tmp_path / "traj" / "analysis"
    (folder / "_kernels").mkdir(parents=True)
    for place in (folder.parent, folder, folder / "_kernels"):
        (place / "__init__.py").touch()
    shutil.copy(ROOT / "analysis/_kernels/compiling.py", folder / "_kernels")
    (folder / "_inner.py").write_text(INNER)
    (folder / "_outer.py").write_text(OUTER)
    return folder


def call(package, **environment):
    """What a new process gets of the outer kernel, and how often it compiled it."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # Python tells files apart by size and second, and these change within one
    command = [sys.executable, "-c", CALL]
    ran = subprocess.run(
        command, cwd=package.parents[1], env=kept | environment, capture_output=True, text=True, check=True
    )
    value, compiled = ran.stdout.split()
    return float(value), int(compiled)


def test_a_constant_of_another_file_is_not_the_one_before_it_changed(package):
    assert call(package) == (6.0, 1)
    (package / "_inner.py").write_text(INNER.replace("2.0", "5.0"))
    assert call(package) == (15.0, 1)
    (package / "_inner.py").write_text(INNER)
    assert call(package) == (6.0, 0)


@pytest.mark.slow
def test_where_the_package_cannot_be_written_kernels_lie_among_the_users_caches(package, tmp_path):
    (package / "__pycache__").write_text("a file, so no folder can be made here")
    caches = tmp_path / "caches"
    assert call(package, XDG_CACHE_HOME=str(caches), PYTHONDONTWRITEBYTECODE="1") == (6.0, 1)
    assert call(package, XDG_CACHE_HOME=str(caches), PYTHONDONTWRITEBYTECODE="1") == (6.0, 0)
    assert list(caches.rglob("*.nbc"))
    caches_no_more = tmp_path / "a file"
    caches_no_more.touch()
    assert call(package, XDG_CACHE_HOME=str(caches_no_more), PYTHONDONTWRITEBYTECODE="1") == (6.0, 1)


def test_compiled_code_of_earlier_versions_does_not_pile_up(tmp_path):
    for age in range(9):
        (tmp_path / str(age)).mkdir()
        os.utime(tmp_path / str(age), (9 - age, 9 - age))
    compiling._clear(tmp_path / "8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "8"]


def test_files_changed_since_they_were_imported_are_neither_read_from_the_cache_nor_written_to_it(monkeypatch):
    kernel = compiling.compiled(lambda x: x + 1)
    monkeypatch.setattr(compiling, "IMPORTED", "another hash")
    assert kernel(1) == 2
    assert not list(compiling.folder().glob("*lambda*"))


def test_all_kernels_are_compiled_in_the_one_way():
    for module in (families, gaussian, histograms, images, labels, pairs, sorted_codes):
        kernels = [value for value in vars(module).values() if hasattr(value, "py_func")]
        assert kernels
        assert all(isinstance(kernel._cache, compiling._Cache) for kernel in kernels), module
    others = [file.name for file in (ROOT / "analysis").rglob("*.py") if "njit" in file.read_text(encoding="utf-8")]
    assert others == ["compiling.py"]
