"""Readouts by guided-diffusion's classifier, at the noise levels it was trained at."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import runs
from tests.noisy_classifiers import LINEAR, NETWORK, SHAPE, TIMESTEPS, levels, small, traj
from traj import stores
from traj.analysis.label_variance import label_variance
from traj.pipeline.making.readout import prepare
from traj.pipeline.models import classifiers
from traj.pipeline.models.digits import DigitsClassifier
from traj.pipeline.models.openai import encoder
from traj.pipeline.process import tables


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The folder of a small classifier."""
    return small(tmp_path_factory.mktemp("models") / "noisy")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run at noise levels of the linear schedule."""
    path = tmp_path_factory.mktemp("runs") / "a.zarr"
    return runs.make(path, 8, shape=SHAPE, timesteps=TIMESTEPS, levels=levels())


def read(source, out, model, *options, code=0):
    return traj("readout", "classifier", source, out, "--model", model, "--device", "cpu", *options, code=code)


@pytest.fixture(scope="module")
def logits(noisy, store, tmp_path_factory):
    """A readout of the run."""
    out = tmp_path_factory.mktemp("readouts") / "r.zarr"
    read(store, out, noisy)
    return out


@torch.inference_mode()
def test_states_are_read_at_their_times_and_predictions_at_the_least_noise(noisy, store, logits):
    network = encoder.OpenAIEncoder(**NETWORK).eval()
    network.load_state_dict(load_file(noisy / "model.safetensors"))
    ds, found = stores.open(store), stores.open(logits)

    def by_hand(images, times):
        flat = torch.from_numpy(images.reshape(-1, *SHAPE))
        return network(flat, torch.from_numpy(times).expand(8, 4).flatten()).reshape(8, 4, 5).numpy()

    x_t, pred_x0, never = ds.x_t.to_numpy(), ds.pred_x0.to_numpy(), np.zeros(4)
    assert abs(x_t).max() > 3
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(found.logits.sel(on="x_t"), by_hand(x_t, TIMESTEPS * 1.0), **close)
    np.testing.assert_allclose(found.logits.sel(on="pred_x0"), by_hand(pred_x0, never), **close)
    x_0 = network(torch.from_numpy(ds.x_0.to_numpy()), torch.zeros(8)).numpy()
    np.testing.assert_allclose(found.x_0_logits, x_0, **close)
    for images, times in ((x_t, never), (x_t.clip(-1, 1), TIMESTEPS * 1.0)):  # without times; with what is clipped
        assert abs(found.logits.sel(on="x_t").to_numpy() - by_hand(images, times)).max() > 0.01
    assert found.class_name.values.tolist() == list("01234")


def test_label_variance_follows(logits):
    found = label_variance(stores.open(logits))
    p = np.exp(stores.open(logits).logits.astype("f8"))
    p = p / p.sum("class")
    np.testing.assert_allclose(found.label_variance, 1 - (p**2).sum("class"), atol=1e-12)
    assert found["on"].values.tolist() == ["x_t", "pred_x0"]
    clean = found.copy()
    del clean.attrs[stores.LEARNED_FROM]
    (caption,) = (figure.caption for figure in label_variance.figures if figure.name == "label_variance")
    of_noisy, of_clean = "has learned from noisy images, and is told", "has learned from finished images only"
    assert of_noisy in caption({"a": found})
    assert of_clean not in caption({"a": found})
    assert of_clean in caption({"b": clean})
    assert of_noisy not in caption({"b": clean})
    both = caption({"a": found, "b": clean})
    assert f"The classifier of a {of_noisy}" in both
    assert f"The classifier of b {of_clean}" in both


def test_a_readout_asks_of_a_classifier_what_it_does_and_not_what_it_is(store, tmp_path, monkeypatch):
    """A third kind, of no class that a readout knows."""

    class Brightness:
        class_names, identity, environment, batch = ("dark", "bright"), {}, {}, 3
        learned_from = "blurred images"

        def fitted(self, path, ds, states, bounds, device):
            assert (path, states, bounds) == (store, ("pred_x0",), (-1.0, 1.0))
            return self.classify

        def classify(self, images, timestep):
            assert timestep is None
            mean = images.flatten(1).mean(1)
            return torch.stack([-mean, mean], 1)

        def cautions(self, ds):
            return ("eyes of its own",)

    monkeypatch.setattr(classifiers, "load", lambda *_: Brightness())
    job = prepare("classifier", store=store, model="brightness", on=["pred_x0"], device="cpu")
    with job.open(tmp_path / "r.zarr") as written:
        job.run(written, bar=False)
    found, ds = stores.open(tmp_path / "r.zarr"), stores.open(store)
    np.testing.assert_allclose(found.logits[0, ..., 1], ds.pred_x0.mean(("channel", "y", "x")), atol=1e-6)
    assert found.logits.attrs[stores.LEARNED_FROM] == "blurred images"
    assert job.readout.cautions == ("eyes of its own",)


def test_a_run_in_fewer_steps_of_the_same_schedule_fits(noisy, tmp_path):
    """A respaced process has products of its own betas, here in float32: those of the schedule up to rounding."""
    timesteps = np.array([990, 330, 3])
    kept = LINEAR.alpha_bar[timesteps[::-1]]
    betas = (1 - kept / np.append(1, kept[:-1])).astype("f4")
    alpha_bar = np.cumprod(1 - betas)[::-1].astype("f8")
    assert 1e-8 < abs(alpha_bar / LINEAR.alpha_bar[timesteps] - 1).max() < 1e-6
    runs.make(tmp_path / "a.zarr", 4, shape=SHAPE, timesteps=timesteps, levels=runs.preserving(alpha_bar))
    read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy)


VE = tables.ve()


@pytest.mark.parametrize(
    ("timesteps", "others", "says"),
    [
        (
            TIMESTEPS,
            levels(tables.named("cosine")),
            r"noisy was trained with signal 0\.00635\S* and noise_scale 0\.99998 at timestep 999, and x_t of "
            r".*a\.zarr has 4\.9\S*e-05 and 1 there; expected a store of the same process, or --on pred_x0",
        ),
        (
            np.array([400, 0]),
            levels(VE, [400, 0]),
            "was trained with signal .* at timestep 400, and x_t of .* has 1 and",
        ),
        (np.array([2, 1, 0]), levels(tables.flow(3), [2, 1, 0]), "and x_t of .* has 0 and 1 there"),
        (np.array([1000, 0]), levels(), "was trained at 1000 timesteps, and .* has timestep 1000"),
    ],
    ids=["cosine", "ve", "flow", "longer"],
)
def test_states_of_other_noise_levels_are_refused_and_their_predictions_read(noisy, tmp_path, timesteps, others, says):
    others = {name: values[: len(timesteps)] for name, values in others.items()}
    runs.make(tmp_path / "a.zarr", 2, block=2, shape=SHAPE, timesteps=timesteps, levels=others)
    with pytest.raises(AssertionError, match=says):
        read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy)
    assert not (tmp_path / "r.zarr").exists()
    read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy, "--on", "pred_x0")
    assert stores.open(tmp_path / "r.zarr")["on"].values.tolist() == ["pred_x0"]


def test_a_dataset_and_forks_are_read(noisy, tmp_path):
    rng = np.random.default_rng(0)
    runs.dataset(tmp_path / "d.zarr", rng.uniform(-1, 1, (2, *SHAPE)), label=[0, 1])
    read(tmp_path / "d.zarr", tmp_path / "r.zarr", noisy)
    found = stores.open(tmp_path / "r.zarr")
    assert set(found.data_vars) == {"x_0_logits"}
    assert np.isfinite(found.x_0_logits).all()
    x_t = rng.standard_normal((1, 2, 2, 4, *SHAPE)).astype("f4")  # (variant, replica, sample, timestep, *event)
    x_t[:, :, :, 0] = np.nan  # before the fork
    described = {
        "timestep": TIMESTEPS,
        **levels(),
        "variant": {"at": [500]},
        "replicas": 2,
        "shape": SHAPE,
        "samples": 2,
    }
    with stores.create_forks(tmp_path / "f.zarr", **described, block=2, states=True, config={}) as written:
        for step in range(4):
            written.put(0, step, x_t[:, :, :, step], np.tanh(x_t[:, :, :, step]))
        written.finish(0, np.tanh(x_t[:, :, :, 3]))
    read(tmp_path / "f.zarr", tmp_path / "fr.zarr", noisy)
    found = stores.open(tmp_path / "fr.zarr")
    classifier = classifiers.load(str(noisy))
    with torch.inference_mode():
        flat = torch.from_numpy(x_t[0, :, :, 1:].reshape(-1, *SHAPE))
        expected = classifier(flat, torch.from_numpy(TIMESTEPS[1:]).repeat(4)).reshape(2, 2, 3, 5)
    np.testing.assert_allclose(found.logits.sel(on="x_t")[0, :, :, 1:], expected, atol=1e-5)
    assert np.isnan(found.logits[:, :, :, :, 0]).all()


def test_decoded_states_are_refused_and_decoded_predictions_read(noisy, store):
    ds = stores.open(store).assign_attrs(kind="decoded", of="trajectories")
    classifier = classifiers.load(str(noisy))
    with pytest.raises(ValueError, match=r"x_t of a\.zarr was decoded from noisy latents, .*--on pred_x0"):
        classifier.check(Path("a.zarr"), ds, ("x_t", "pred_x0"))
    classifier.check(Path("a.zarr"), ds, ("pred_x0",))


def test_states_without_their_noise_levels_are_refused(noisy, store):
    ds = stores.open(store).drop_vars("signal")
    with pytest.raises(ValueError, match=r"a\.zarr has no signal along timestep, .*--on pred_x0"):
        classifiers.load(str(noisy)).check(Path("a.zarr"), ds, ("x_t", "pred_x0"))


def test_noisy_images_go_few_at_a_time_unless_told_otherwise(noisy, logits):
    assert json.loads(stores.open(logits).attrs["config"])["batch"] == classifiers.load(str(noisy)).batch == 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (3, 16, 16)}, r"takes images of shape \(3, 8, 8\) .*, those of .* have \(3, 16, 16\)"),
        ({"shape": (1, 8, 8)}, "noisy images cannot be resized"),
        ({"shape": SHAPE, "valid_range": (0.0, 1.0)}, r"takes images in -1 to 1, those of .* are in \(0\.0, 1\.0\)"),
    ],
)
def test_images_of_another_shape_or_range_are_refused(noisy, tmp_path, options, says):
    store = runs.make(tmp_path / "a.zarr", 1, block=1, timesteps=TIMESTEPS, levels=levels(), **options)
    assert re.search(says, read(store, tmp_path / "r.zarr", noisy, code=2))


def test_a_classifier_of_finished_images_makes_the_store_it_always_made(tmp_path):
    """Nothing of its fingerprint or of its attributes has changed."""
    network = DigitsClassifier(channels=3, width=2, classes=5)
    state = {
        name: torch.arange(tensor.numel()).reshape(tensor.shape) / 64 for name, tensor in network.state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "digits-classifier", "channels": 3, "width": 2, "classes": 5})
    )
    store = runs.make(tmp_path / "a.zarr", 2, block=2, shape=SHAPE, timesteps=TIMESTEPS, levels=levels())
    read(store, tmp_path / "r.zarr", tmp_path)
    found = stores.open(tmp_path / "r.zarr")
    assert found.attrs["fingerprint"] == "82d82d5735f9f0e5bd965799f152245fb8a52403fba727351a32d93dde6d0dd1"
    assert found.logits.attrs == {"long_name": "logits of the state or prediction", "units": "1"}


def test_help_tells_of_noisy_images():
    text = traj("readout", "classifier", "--help")
    assert "has learned from noisy images. It is told the timestep of x_t" in text
    assert "--model models/noisy-classifier" in text
