"""Training: the images it learns from, and what a training run leaves on disk."""

import csv
import errno
import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from traj.pipeline import models
from traj.pipeline.models import train
from traj.pipeline.models.digits import (
    CLASSIFIERS,
    LEARNT,
    NULL_LABEL,
    RECIPES,
    DigitsClassifier,
    held_out_images,
    images,
    split,
    training_images,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "digits-iddpm"
    assert train.train("digits-iddpm", out, steps=3, batch=8, progress=False)
    return out


# ---- the images and the draws


def test_images_are_the_digits_scaled_to_minus_one_one():
    points, classes = images()
    assert points.shape == (1797, 1, 8, 8)
    assert points.dtype == np.float32
    assert classes.dtype == np.int64
    assert sorted(set(classes)) == list(range(10))
    np.testing.assert_array_equal(np.unique(points), np.arange(17) / 8 - 1)


def test_batches_show_every_image_once_an_epoch_and_drop_labels_at_their_rate():
    points, _ = images()
    stream = train.batches(599, 1000, torch.Generator().manual_seed(0))
    drawn = [next(stream) for _ in range(3)]
    seen = torch.cat([x_0 for x_0, *_ in drawn]).flatten(1).numpy()
    np.testing.assert_array_equal(np.sort(seen, axis=0), np.sort(points.reshape(1797, -1), axis=0))
    more = [next(stream) for _ in range(30)]
    label = torch.cat([label for _, label, _, _ in more])
    dropped = (label == NULL_LABEL).double().mean().item()
    se = math.sqrt(train.LABEL_DROPOUT * (1 - train.LABEL_DROPOUT) / len(label))
    assert abs(dropped - train.LABEL_DROPOUT) < 4 * se
    timestep = torch.cat([timestep for _, _, timestep, _ in more])
    assert timestep.min() < 5
    assert timestep.max() > 994
    assert abs(timestep.double().mean().item() - 499.5) < 4 * 1000 / math.sqrt(12 * len(timestep))


def test_a_label_that_is_not_dropped_belongs_to_its_image():
    points, classes = images()
    class_of = {image.tobytes(): int(label) for image, label in zip(points, classes, strict=True)}
    x_0, label, _, _ = next(train.batches(500, 1000, torch.Generator().manual_seed(1)))
    for image, given in zip(x_0.numpy(), label.tolist(), strict=True):
        assert given in (NULL_LABEL, class_of[image.tobytes()])


def test_learning_rate_warms_up_and_ends_at_nothing():
    factors = [train.learning_rate_factor(step, 2000) for step in range(2000)]
    assert factors[0] == pytest.approx(1 / train.WARM_UP)
    assert np.argmax(factors) == train.WARM_UP - 1
    assert 0 < factors[-1] < 1e-5


def test_held_out_images_are_never_learnt_from():
    points, classes = images()
    learnt, held_out = split()
    assert sorted([*learnt, *held_out]) == list(range(1797))
    assert len(held_out) == 360
    counts = [(classes[part][:, None] == np.arange(10)).mean(axis=0) for part in (learnt, held_out)]
    np.testing.assert_allclose(*counts, atol=1 / 360)  # stratified
    stream = train.classifier_batches(1437, torch.Generator().manual_seed(0))
    noisy, label = next(stream)
    assert noisy.abs().max() <= 1
    nearest = torch.cdist(noisy.flatten(1), torch.from_numpy(points[learnt]).flatten(1)).argmin(dim=1)
    assert (torch.from_numpy(classes[learnt])[nearest] == label).double().mean() > 0.98
    assert np.bincount(label, minlength=10).tolist() == np.bincount(classes[learnt]).tolist()


# ---- a training run


@pytest.mark.parametrize("name", RECIPES)
def test_loss_decreases(name):
    _, curve = train.fit(RECIPES[name], steps=25, batch=16, seed=0)
    assert curve["loss"][-5:].mean() < 0.7 * curve["loss"][:5].mean()


def test_averaged_weights_trail_the_trained_ones():
    network = torch.nn.Linear(1, 1, bias=False)
    average = [torch.zeros(1, 1)]
    torch.nn.init.ones_(network.weight)
    train._average(average, network, decay=0.75)
    train._average(average, network, decay=0.5)
    assert average[0].item() == 0.625


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(short_run, tmp_path):
    torch.rand(7)  # the state of the global generator doesn't matter
    train.train("digits-iddpm", tmp_path / "again", steps=3, batch=8, progress=False)
    train.train("digits-iddpm", tmp_path / "other", steps=3, batch=8, seed=1, progress=False)
    files = sorted(path.relative_to(short_run) for path in short_run.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for file in files:
        assert (short_run / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (short_run / weights).read_bytes() != (tmp_path / "other" / weights).read_bytes()


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train.fit(RECIPES["digits"], steps=1, batch=4, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_folder_loads_as_a_diffusers_pipeline_and_by_our_loader(short_run, monkeypatch):
    pipeline = DDPMPipeline.from_pretrained(short_run)
    assert isinstance(pipeline.unet, UNet2DModel)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    monkeypatch.setenv("TRAJ_MODELS", str(short_run.parent))
    denoiser = models.load("digits-iddpm")
    assert denoiser.shape == (1, 8, 8)
    assert denoiser.num_classes == 10
    assert denoiser.schedule.T == 4000
    assert denoiser.schedule.model_time[6] == 1.5
    x_t, label = torch.randn(3, 1, 8, 8), torch.tensor([-1, 0, 9])
    prediction = denoiser(x_t, 3999, label)
    model_time = torch.tensor(3999 * 0.25)  # diffusers cuts a plain float down to 999
    output = pipeline.unet.eval()(x_t, model_time, torch.tensor([10, 0, 9])).sample
    torch.testing.assert_close(prediction.eps, output[:, :1])
    torch.testing.assert_close(prediction.variance_fraction, (output[:, 1:] + 1) / 2)


def test_curve_has_at_most_a_fixed_number_of_rows_each_a_mean(tmp_path):
    curve = {"loss": np.arange(1000.0)}
    train._write_curve(tmp_path / "loss.csv", curve)
    rows = list(csv.DictReader((tmp_path / "loss.csv").open()))
    assert len(rows) == train.CURVE_ROWS
    assert [int(row["step"]) for row in rows] == list(range(5, 1001, 5))
    assert float(rows[0]["loss"]) == 2.0


def test_metrics_name_every_term(short_run):
    metrics = json.loads((short_run / "metrics.json").read_text())
    assert set(metrics) == {"final_loss", "final_simple", "final_vlb", "steps", "parameters"}
    rows = list(csv.DictReader((short_run / "loss.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) == pytest.approx(metrics["final_loss"], rel=1e-4)


def test_equal_settings_have_nothing_to_do_and_others_are_refused(short_run, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in short_run.rglob("*")}
    assert not train.train("digits-iddpm", short_run, steps=3, batch=8, progress=False)
    with pytest.raises(ValueError, match=r"steps 3 \(asked for 4\).*remove it"):
        train.train("digits-iddpm", short_run, steps=4, batch=8, progress=False)
    with pytest.raises(ValueError, match="model digits-iddpm"):
        train.train("digits", short_run, steps=3, batch=8, progress=False)
    monkeypatch.setattr(train, "NUMERICS", train.NUMERICS + 1)
    with pytest.raises(ValueError, match="numerics"):
        train.train("digits-iddpm", short_run, steps=3, batch=8, progress=False)
    assert {path: path.stat().st_mtime_ns for path in short_run.rglob("*")} == before


def test_a_folder_that_is_not_ours_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="no model that traj train made"):
        train.train("digits", tmp_path, steps=1, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "digits-classifier"
    assert train.train("digits-classifier", out, progress=False)
    return out


def test_classifier_knows_digits_it_has_not_seen_and_how_sure_to_be(classifier):
    points, classes = (array[split()[1]] for array in images())
    network = DigitsClassifier(**CLASSIFIERS["digits-classifier"].network)
    network.load_state_dict(load_file(classifier / "model.safetensors"))
    with torch.no_grad():
        probabilities = network(torch.from_numpy(points)).double().softmax(dim=1).numpy()
    right = probabilities.argmax(axis=1) == classes
    metrics = json.loads((classifier / "metrics.json").read_text())
    assert metrics["accuracy"] == right.mean() >= 0.97
    bits = -np.log2(probabilities[np.arange(360), classes]).mean()
    assert metrics["negative_log_likelihood"] == pytest.approx(bits, rel=1e-5)
    assert bits < 0.1
    assert abs(probabilities.max(axis=1).mean() - right.mean()) < 0.015  # calibrated
    assert set(metrics) == {"accuracy", "negative_log_likelihood", "final_loss", "steps", "parameters"}


def test_classifier_training_is_reproducible_and_its_seed_counts(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.train("digits-classifier", tmp_path / name, steps=3, seed=seed, progress=False)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["config.json", "loss.csv", "metrics.json", "model.safetensors", "training.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / files[3]).read_bytes() != (tmp_path / "c" / files[3]).read_bytes()


@pytest.mark.parametrize("place", ["fit", "_save"])
def test_interrupted_training_leaves_nothing(tmp_path, monkeypatch, place):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    if place == "fit":
        monkeypatch.setattr(train, "_average", interrupt)
    else:
        monkeypatch.setattr(train, "_write_curve", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train("digits", tmp_path / "digits", steps=2, batch=4, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("faces", {}, "expected one of digits, digits-iddpm, digits-classifier"),
        ("digits", {"steps": 0}, "steps is 0; expected at least 1"),
        ("digits", {"batch": 0}, "batch is 0"),
        ("digits", {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        train.train(name, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_bar_is_silent_without_a_terminal(tmp_path, capfd):
    train.train("digits", tmp_path / "digits", steps=1, batch=4)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "train" not in captured.err


def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(train, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        train.train("digits-classifier", tmp_path / "model", steps=1, progress=False)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())


def test_two_trainings_of_one_model_at_once_leave_one_model_and_no_litter(tmp_path, monkeypatch):
    original = train.fit

    def fit_beside_another(*arguments, **options):
        monkeypatch.setattr(train, "fit", original)
        assert train.train("digits-classifier", tmp_path / "model", steps=1, progress=False)
        return original(*arguments, **options)

    monkeypatch.setattr(train, "fit", fit_beside_another)
    assert not train.train("digits-classifier", tmp_path / "model", steps=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- some of the images


def test_a_subset_has_all_classes_alike_is_part_of_larger_ones_and_of_nothing_held_out():
    points, classes = training_images(LEARNT)
    assert len(points) == LEARNT
    held_out, _ = held_out_images()
    every = np.concatenate([points, held_out]).reshape(1797, -1)
    np.testing.assert_array_equal(np.sort(every, axis=0), np.sort(images()[0].reshape(1797, -1), axis=0))
    for count in (10, 32, 500):
        fewer, their = training_images(count)
        np.testing.assert_array_equal(fewer, points[:count])
        np.testing.assert_array_equal(their, classes[:count])
        assert np.ptp(np.bincount(their, minlength=10)) <= 1


@pytest.mark.parametrize("name", ["digits", "digits-classifier", "digits-vae"])
def test_a_network_learns_from_its_subset_alone(tmp_path, monkeypatch, name):
    seen = []

    def remember(objective):
        def measure(network, points, *rest):
            seen.append(points)
            return objective(network, points, *rest)

        return measure

    original = train._lesson
    monkeypatch.setattr(train, "CLASSIFIER_NOISE", 0.0)
    monkeypatch.setattr(train, "_lesson", lambda *given: (remember((lesson := original(*given))[0]), lesson[1]))
    assert train.train(name, tmp_path / "model", steps=2, images=12, batch=18, progress=False)
    learnt = {image.tobytes() for image in torch.cat(seen).numpy()}
    assert learnt == {image.tobytes() for image in training_images(12)[0]}
    assert json.loads((tmp_path / "model" / "training.json").read_text())["images"] == 12


def test_a_model_of_other_images_is_refused_in_either_order(tmp_path):
    options = {"steps": 1, "batch": 4, "progress": False}
    for first, then, words in ((10, None, r"images 10 \(asked for all\)"), (None, 10, r"images all \(asked for 10\)")):
        folder = tmp_path / f"{first}"
        assert train.train("digits-classifier", folder, images=first, **options)
        with pytest.raises(ValueError, match=words):
            train.train("digits-classifier", folder, images=then, **options)
        assert not train.train("digits-classifier", folder, images=first, **options)


@pytest.mark.parametrize("count", [0, 9, 1438])
def test_more_images_than_there_are_and_fewer_than_classes_are_refused(tmp_path, count):
    with pytest.raises(ValueError, match=f"images is {count}; expected 10, one of each class, to 1437"):
        train.train("digits", tmp_path / "model", images=count)
    assert not list(tmp_path.iterdir())
