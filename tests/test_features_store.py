"""A store of features: how it goes on, what makes it another one, and that it takes what was said."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import features_networks, runs
from tests.features_networks import made, prepare, states


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return features_networks.laid_out(tmp_path_factory.mktemp("features"))


@pytest.fixture(autouse=True)
def here(folder, tmp_path, monkeypatch):
    features_networks.enter(folder, tmp_path, monkeypatch)


def test_interrupted_and_extended_features_equal_those_of_one_pass():
    states("s.zarr", 6)
    made(("first", "relu"), store="s.zarr")
    states("s.zarr", 11)
    reading = prepare(("first", "relu"), store="s.zarr")
    with reading.open(Path("r.zarr"), blocks=[2]) as store:
        reading.run(store, bar=False)
    made(("first", "relu"), store="s.zarr")
    made(("first", "relu"), "straight.zarr", store="s.zarr")
    assert runs.digest("r.zarr") == runs.digest("straight.zarr")


def test_what_changes_the_features_changes_the_fingerprint():
    changes = ({}, {"pool": "flat"}, {"input": "clean"}, {"labels": "stored"}, {"timesteps": [500]}, {"batch": 3})
    assert len({str(prepare(("first",), **options).config) for options in changes}) == len(changes)


def test_the_size_that_is_said_first_is_that_of_the_features():
    cost = prepare(("first", "last"), pool="flat").cost(Path("r.zarr"))
    assert cost.disk == 2 * 4 * 3 * (256 + 64) * 4  # blocks, samples, timesteps, features, bytes
    assert cost.evaluations == 2 * 3


MEASURED = """
import resource
from pathlib import Path
from traj.pipeline.making import readout

for kind in ("noisy", "clean"):
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    reading = readout.prepare(
        "features", store=Path("big.zarr"), model="wide.py:wide", parts=("layer",), pool="flat", device="cpu",
        input=kind,
    )
    out = Path(f"{kind}.zarr")
    said = reading.cost(out)
    with reading.open(out) as store:
        reading.run(store, bar=False)
    print(said.memory, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, said.disk)
"""

WIDE = """
from torch import nn
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.back = nn.Conv2d(1, 64, 1), nn.Conv2d(64, 1, 1)

    def forward(self, x, t):
        return self.back(self.layer(x))

def wide():
    return wrap(Wide(), tables.named("linear"), shape=(1, 16, 16), predicts="epsilon")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux alone")
def test_memory_stays_within_what_was_said():
    """Blocks of 32 samples have 168 MB of features."""
    Path("wide.py").write_text(WIDE)
    states("big.zarr", 64, timesteps=np.arange(80)[::-1] * 10, shape=(1, 16, 16), block=32)
    done = subprocess.run([sys.executable, "-c", MEASURED], check=True, capture_output=True, text=True)
    noisy, clean = (list(map(int, line.split())) for line in done.stdout.splitlines())
    for said, peak, disk in (noisy, clean):
        assert disk == 64 * 80 * 64 * 256 * 4
        assert peak <= said
        assert said < 3 * peak
