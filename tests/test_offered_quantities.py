"""Quantities of other packages are listed without being imported, and a broken one costs nobody else anything."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import offered, runs
from traj import analysis
from traj.pipeline.cli import main

SOUND = '''
import xarray as xr
from traj.analysis import quantity

@quantity(reads="trajectories", numerics=1, title="Largest values")
def largest(ds: xr.Dataset, *, on: str = "x_t", beside: xr.Dataset | None = None) -> xr.Dataset:
    """Find the largest value of a store.

    Parameters
    ----------
    on
        Variable that is looked at.
    beside
        Another store.
    """
    return xr.Dataset({"largest": ds[on].max()})

@quantity(reads="trajectories", numerics=1, title="Another")
def renamed(ds: xr.Dataset) -> xr.Dataset: ...

def unmarked(ds: xr.Dataset) -> xr.Dataset: ...
'''

BROKEN = {
    "gone": ("sound_toy.nowhere:gone", "ImportError: there is no module sound_toy.nowhere", "No module named"),
    "raises": ("raising_toy:raises", "Of package brokenbox.", "RuntimeError: this package is out of order"),
    "garbled": ("garbled_toy:garbled", "SyntaxError: '(' was never closed", "SyntaxError: '(' was never closed"),
    "unmarked": ("sound_toy:unmarked", "Of package brokenbox.", "is not marked by @traj.analysis.quantity"),
    "other": ("sound_toy:renamed", "Of package brokenbox.", "sound_toy:renamed is called renamed, expected other"),
    "missing": ("sound_toy:missing", "Of package brokenbox.", "has no attribute 'missing'"),
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    offered.install(tmp_path / "site", "toybox", {"largest": "sound_toy:largest"}, sound_toy=SOUND)
    modules = {"raising_toy": "raise RuntimeError('this package is\\nout of order')", "garbled_toy": "garbled = ("}
    entries = {name: value for name, (value, _, _) in BROKEN.items()} | {"entropy": "sound_toy:largest"}
    offered.install(tmp_path / "site", "brokenbox", entries, **modules)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for name in ("sound_toy", "raising_toy", "garbled_toy"):
        sys.modules.pop(name, None)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_help_lists_what_other_packages_offer_and_names_what_is_broken(packages):
    text = traj("analyze", "--help")
    assert "largest Find the largest value of a store." in text
    for name, (_, listed, _) in BROKEN.items():
        assert f"{name} {listed}" in text or f"{name} Cannot be used: {listed}" in text
    assert "Left out: quantity 'entropy' of package brokenbox cannot be used: traj has one of this name" in text
    assert not {"sound_toy", "raising_toy"} & set(sys.modules)


def test_a_command_and_its_options_come_from_the_signature(packages):
    text = traj("analyze", "largest", "--help")
    assert "--on TEXT Variable that is looked at. [default: x_t]" in text
    assert "--beside STORE Another store." in text
    path = runs.make("a.zarr")
    assert "wrote results/a/largest.zarr" in traj("analyze", "largest", path)


def test_ours_is_taken_where_another_package_has_a_quantity_of_its_name(packages):
    assert analysis.load("entropy").__module__ == "traj.analysis.entropy"
    assert analysis.quantities().count("entropy") == 1


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_quantity_is_named_in_one_line_and_leaves_others_alone(packages, name):
    text = traj("analyze", name, "a.zarr", code=2)
    assert f"quantity {name!r} of package brokenbox cannot be used" in text
    assert BROKEN[name][2] in text
    assert "Traceback" not in text
    traj("analyze", "psnr", runs.make("a.zarr"))
    assert name not in analysis.usable()
    assert {"largest", "psnr"} <= set(analysis.usable())


def test_a_name_offered_by_two_packages_is_refused(packages):
    offered.install(packages, "secondbox", {"largest": "sound_toy:largest"})
    assert "offer one of this name, uninstall all but one" in traj("analyze", "largest", "a.zarr", code=2)
    assert "largest Cannot be used: ImportError: packages" in traj("analyze", "--help")


def test_help_with_other_packages_imports_nothing_heavy(packages):
    code = f"""
import sys
sys.path.insert(0, {str(packages)!r})
from traj import analysis
assert all(map(analysis.summary, analysis.quantities())) and analysis.clashes()
assert not {{"numpy", "xarray", "zarr", "sound_toy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
