"""The posterior as a readout gives the numbers of the analysis."""

import re
import shutil

import numpy as np
import pytest

from traj import stores
from traj.analysis.posterior import posterior
from traj.pipeline import models
from traj.pipeline.computing import analyze, engines
from traj.pipeline.making import dataset, generate, readout
from traj.pipeline.models import starts
from traj.stores import InputError


def make(making, path):
    """Make a store, and open it."""
    with making.open(path) as store:
        making.run(store, bar=False)
    return stores.open(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the exact model of the digits, and the digits."""
    folder = tmp_path_factory.mktemp("posterior")
    digits, there = folder / "digits.zarr", folder / "run.zarr"
    make(dataset.prepare("digits", samples=700), digits)
    make(generate.prepare(model=f"dataset:{digits}", samples=5, steps=6, block=4, device="cpu"), there)
    return there, digits


def test_it_gives_what_the_analysis_gives(run, tmp_path):
    there, digits = run
    reading = readout.prepare("posterior", store=there, dataset=str(digits), top=3, batch=7, device="cpu")
    read = make(reading, tmp_path / "r.zarr")
    computed = posterior(stores.open(there), dataset=stores.open(digits), top=3).compute()
    for name in ("weight", "log_weight", "entropy"):
        np.testing.assert_allclose(read[name], computed[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(read["index"], computed["index"])


@pytest.mark.parametrize(("top", "said"), [(0, "top 0; expected 1 to 700"), (701, "top 701")])
def test_more_images_than_there_are_are_refused(run, top, said):
    there, digits = run
    with pytest.raises(InputError, match=said):
        readout.prepare("posterior", store=there, dataset=str(digits), top=top, device="cpu")


def by_analysis(there, damaged, folder):
    jobs = analyze.plan_jobs([there], {"posterior": {"dataset": str(damaged)}}, folder)
    analyze.run(there, jobs, engine=engines.threads(1), say=lambda message: None)


@pytest.mark.parametrize(
    "read",
    [
        by_analysis,
        lambda there, damaged, folder: readout.prepare("posterior", store=there, dataset=str(damaged), device="cpu"),
        lambda there, damaged, folder: models.load(f"dataset:{damaged}"),
        lambda there, damaged, folder: dataset.prepare(str(damaged)),
        lambda there, damaged, folder: starts.load(str(damaged), 0).x_0([0]),
    ],
    ids=["analysis", "readout", "model", "source", "start"],
)
def test_a_damaged_dataset_is_named_by_all_that_read_it(run, read, tmp_path):
    there, digits = run
    damaged = shutil.copytree(digits, tmp_path / "damaged.zarr")
    chunk = next((damaged / "x_0").glob("c.*"))
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(stores.DamagedStore, match=re.escape(f"{damaged} is damaged: ") + ".*run `traj verify"):
        read(there, damaged, tmp_path)


def test_a_dataset_that_the_device_cannot_hold_is_refused_by_its_size(run, monkeypatch):
    there, digits = run
    monkeypatch.setattr(stores, "memory_free", lambda: 4 * 700 * 64 - 1)
    with pytest.raises(InputError, match=r"takes 175\.0 KiB of memory, and device cpu has 175\.0 KiB free; make a"):
        readout.prepare("posterior", store=there, dataset=str(digits), device="cpu")
