"""TF32 is what a GPU does with float32 unless told otherwise; here it is off, and asked for by name."""

from dataclasses import replace

import pytest
import torch

from traj.pipeline.making import fork, generate
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.process import device

FLAGS = ((torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32"))


@pytest.fixture
def allowed(monkeypatch):
    """A process that allows TF32, and what networks find in it when they are called."""
    before = [getattr(backend, name) for backend, name in FLAGS]
    allow(True, True)
    found, call = set(), GaussianDenoiser.__call__

    def watched(*arguments):
        found.add(tuple(getattr(backend, name) for backend, name in FLAGS))
        return call(*arguments)

    monkeypatch.setattr(GaussianDenoiser, "__call__", watched)
    yield found
    allow(*before)


def allow(*values):
    for (backend, name), value in zip(FLAGS, values, strict=True):
        setattr(backend, name, value)


def made(tmp_path, job, out):
    job.cost(tmp_path / out)
    with job.open(tmp_path / out) as store:
        job.run(store, bar=False)


@pytest.mark.parametrize("tf32", [False, True])
def test_networks_run_without_tf32_unless_asked_for_and_forks_as_their_run(tf32, allowed, tmp_path):
    options = {"model": "gaussian:0,1", "steps": 4, "samples": 2, "block": 2, "device": "cpu"}
    made(tmp_path, replace(generate.prepare(**options), tf32=tf32), "a.zarr")
    assert allowed == {(tf32, tf32)}
    allowed.clear()
    made(tmp_path, fork.prepare(store=tmp_path / "a.zarr", at=[500], replicas=2, device="cpu"), "f.zarr")
    assert allowed == {(tf32, tf32)}
    assert all(getattr(backend, name) for backend, name in FLAGS)  # as it was before


def test_tf32_is_an_input_where_it_changes_numbers_only():
    plain = generate.prepare(model="gaussian:0,1", device="cpu")
    assert generate.prepare(model="gaussian:0,1", device="cpu", tf32=True).config == plain.config
    assert replace(plain, tf32=True).config == plain.config | {"tf32": True}


def test_flags_are_as_before_after_an_error(allowed):
    with pytest.raises(KeyError), device.inference():
        raise KeyError
    assert all(getattr(backend, name) for backend, name in FLAGS)
