"""Guidance: further towards a label than the model goes by itself."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from tests.networks import random_unet
from traj import stores
from traj.pipeline import models
from traj.pipeline.making import fork, generate
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.schedule import Schedule

LABELS = torch.tensor([0, 3, 7])
WITH_NULL = torch.tensor([0, 3, 7, -1, -1, -1])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A random network of the digits' kind, with ten classes and a null label."""
    folder = tmp_path_factory.mktemp("models") / "random"
    DDPMPipeline(random_unet(num_class_embeds=11), DDPMScheduler(variance_type="fixed_large")).save_pretrained(folder)
    (folder / "traj.json").write_text(json.dumps({"null_label": 10}))
    return str(folder)


def states():
    return torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))


def make(out, **options):
    made = generate.prepare(**{"samples": 4, "block": 4, "device": "cpu", "steps": 6, "labels": "cycle", **options})
    with made.open(out) as store:
        made.run(store, bar=False)
    return stores.open(out).compute()


@torch.inference_mode()
def test_both_predictions_are_put_together(network):
    denoiser, x_t = models.load(network), states()
    with_label, without = denoiser(x_t, 500, LABELS), denoiser(x_t, 500, torch.full((3,), -1))
    c, d = denoiser.schedule.at(500)
    for w in (0.0, 0.5, 3.0):
        prediction = guided(denoiser, w)(x_t, 500, WITH_NULL)
        torch.testing.assert_close(prediction.eps, without.eps + w * (with_label.eps - without.eps))
        torch.testing.assert_close(c * prediction.pred_x0 + d * prediction.eps, x_t, rtol=1e-5, atol=1e-5)
    assert guided(denoiser, 1) is denoiser
    assert not torch.allclose(with_label.eps, without.eps, atol=1e-3)


def test_a_guided_condition_is_followed_by_as_many_null_ones(network):
    conditions = guided(models.load(network), 2.0).conditions({"labels": "cycle"})
    assert torch.equal(conditions.of([0, 3, 7], torch.device("cpu")), WITH_NULL)
    assert conditions.visible([0, 3, 7])["label"].tolist() == LABELS.tolist()


@torch.inference_mode()
def test_a_learned_variance_is_the_one_with_the_label():
    schedule = Schedule.from_config({"variance_type": "learned_range"})
    unet = random_unet(num_class_embeds=11, out_channels=2)
    denoiser = UNetDenoiser(unet, schedule, identity={}, null_label=10)
    expected = denoiser(states(), 500, LABELS).variance_fraction
    torch.testing.assert_close(guided(denoiser, 2.0)(states(), 500, WITH_NULL).variance_fraction, expected)


def test_runs_with_guidance_are_told_apart_and_plain_ones_are_as_before(network, tmp_path):
    plain = make(tmp_path / "plain.zarr", model=network)
    same = make(tmp_path / "one.zarr", model=network, guidance=1.0)
    assert plain.attrs["fingerprint"] == same.attrs["fingerprint"]
    further = make(tmp_path / "three.zarr", model=network, guidance=3.0)
    assert json.loads(further.attrs["config"])["guidance"] == 3
    assert "guidance" not in json.loads(plain.attrs["config"])
    none = make(tmp_path / "none.zarr", model=network, labels="none")
    zero = make(tmp_path / "zero.zarr", model=network, guidance=0.0)
    np.testing.assert_allclose(zero.x_t, none.x_t, atol=1e-4)
    first = [ds.pred_x0.isel(timestep=0).values for ds in (none, plain, further)]
    np.testing.assert_allclose(first[2], first[0] + 3 * (first[1] - first[0]), rtol=1e-3, atol=1e-2)


def test_a_guided_run_does_not_depend_on_how_many_samples_were_asked_for(network, tmp_path):
    many = make(tmp_path / "many.zarr", model=network, guidance=2.0, samples=10)
    few = make(tmp_path / "few.zarr", model=network, guidance=2.0, samples=6)
    np.testing.assert_array_equal(many.x_t[:6], few.x_t)


def test_a_fork_keeps_the_guidance_of_its_run(network, tmp_path):
    ds = make(tmp_path / "a.zarr", model=network, guidance=2.0)
    forks = fork.prepare(
        store=tmp_path / "a.zarr", at=[664], replicas=1, noise=["shared"], model=network, device="cpu", batch=4
    )
    with forks.open(tmp_path / "f.zarr") as store:
        forks.run(store, bar=False)
    np.testing.assert_array_equal(stores.open(tmp_path / "f.zarr").x_0[0, 0], ds.x_0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "gaussian:0,1", "labels": "none"}, "without labels"),
        ({"labels": "none"}, "without labels"),
        ({"guidance": float("nan")}, "guidance nan"),
    ],
)
def test_guidance_that_cannot_be_is_refused(network, options, named):
    with pytest.raises(ValueError, match=named):
        generate.prepare(**{"model": network, "labels": "cycle", "guidance": 2.0, "device": "cpu", **options})


def test_a_model_without_a_null_label_is_refused():
    denoiser = UNetDenoiser(random_unet(num_class_embeds=10), Schedule.from_config({}), identity={})
    with pytest.raises(ValueError, match="trained with labels only"):
        guided(denoiser, 2.0).conditions({"labels": "cycle"})


def test_exact_models_are_guided_too(tmp_path):
    ds = make(tmp_path / "a.zarr", model="mixture:-1,1", guidance=2.0, sampler_name="ddim", schedule="flow", steps=9)
    assert np.isfinite(ds.x_t).all()
    assert (np.sign(ds.x_0.values.ravel()) == [-1, 1, -1, 1]).all()
