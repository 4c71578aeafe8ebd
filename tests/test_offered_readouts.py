"""Readouts of other packages are listed without being imported, and a broken one costs nobody else anything."""

import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from tests import offered, runs
from traj import stores
from traj.pipeline import readouts
from traj.pipeline.cli import main

SOUND = '''
from traj.pipeline.readouts import Output, Pass, Readout, Source

def gain(source: Source, *, times: float = 2.0) -> Readout:
    """Tell the mean of every state, larger.

    Parameters
    ----------
    times
        How much larger.
    """
    def read(events):
        return (times * events.values["x_t"].flatten(1).mean(dim=1),)

    return Readout((Pass(("x_t",), (Output("gain", (), "mean"),), read),), {}, identity={"times": times}, batch=4)

def taken(source: Source, *, every: int = 2) -> Readout: ...

def bare(source: Source, *, times=2) -> Readout: ...

number = 3
'''

BROKEN = {
    "raises": ("raising_readouts:raises", "RuntimeError: this package is out of order"),
    "number": ("sound_readouts:number", "sound_readouts:number is no function"),
    "other": ("sound_readouts:gain", "the function sound_readouts:gain is called gain, expected other"),
    "taken": ("sound_readouts:taken", "`traj readout` has an option 'every' of its own"),
    "bare": ("sound_readouts:bare", "its option 'times' has no type hint, expected one, as in times: int"),
    "missing": ("sound_readouts:missing", "has no attribute 'missing'"),
}


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site, group = tmp_path / "site", "traj.readouts"
    offered.install(site, "toybox", {"gain": "sound_readouts:gain"}, group=group, sound_readouts=SOUND)
    entries = {name: value for name, (value, _) in BROKEN.items()} | {"classifier": "sound_readouts:gain"}
    raises = "raise RuntimeError('this package is\\nout of order')"
    offered.install(site, "brokenbox", entries, group=group, raising_readouts=raises)
    monkeypatch.syspath_prepend(site)
    yield
    for name in ("sound_readouts", "raising_readouts"):
        sys.modules.pop(name, None)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, ["readout", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_help_lists_what_other_packages_offer_and_imports_none_of_it():
    text = traj("--help")
    assert "gain Tell the mean of every state, larger." in text
    assert "raises Of package brokenbox." in text
    assert "Left out: readout 'classifier' of package brokenbox cannot be used: traj has one of this name" in text
    assert not {"sound_readouts", "raising_readouts"} & set(sys.modules)


def test_a_readout_of_another_package_is_read_like_ours():
    assert "--times NUMBER How much larger. [default: 2.0]" in traj("gain", "--help")
    ds = stores.open(runs.make("a.zarr", 4))
    traj("gain", "a.zarr", "r.zarr", "--times", 3, "--device", "cpu")
    np.testing.assert_allclose(stores.open("r.zarr").gain, 3 * ds.x_t.mean(["channel", "y", "x"]), atol=1e-6)


def test_ours_is_taken_where_another_package_has_a_readout_of_its_name():
    assert readouts.load("classifier").__module__ == "traj.pipeline.readouts.classifier"
    assert readouts.names().count("classifier") == 1


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_readout_is_named_in_one_line(name):
    text = traj(name, "a.zarr", "r.zarr", code=2)
    assert re.search(f"readout {name!r} (of package brokenbox )?cannot be used", text)
    assert BROKEN[name][1] in text
