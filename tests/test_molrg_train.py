"""The bases of a MoLRG denoiser, trained: what is learnt, and the folder it is saved in."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from traj import stores
from traj.analysis._molrg.model import Molrg, of_model
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.models.molrg import MolrgNetwork, draw
from traj.pipeline.models.molrg_train import Objective, batches, fit, held_out_metrics, in_order, train_bases
from traj.pipeline.process import tables

VE = tables.named("ve")
NAME = "molrg:classes=2,dim=2,features=6,delta=.3"
SMALL = Molrg(dims=(2, 2), features=6, delta=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "small"
    assert train_bases(NAME, out, samples=500, steps=60, batch=32, progress=False)
    return out


def test_a_trained_folder_is_a_model_whose_hidden_part_gives_its_features(folder):
    denoiser = models.load(str(folder))
    assert (denoiser.shape, denoiser.dims, denoiser.num_classes, denoiser.dtype) == (
        (6,),
        ("feature",),
        0,
        torch.float32,
    )
    assert denoiser.schedule == VE
    assert of_model(denoiser.identity) == SMALL
    U = load_file(folder / "model.safetensors")["hidden.U"]
    x_t = torch.randn(5, 6)
    h = denoiser.network.get_submodule("hidden")(x_t, 100)
    torch.testing.assert_close(denoiser(x_t, 100, torch.full((5,), -1)).pred_x0, h @ U.T)
    with pytest.raises(stores.InputError, match="has no classes"):
        denoiser.conditions({"labels": "cycle"})
    with pytest.raises(stores.InputError, match="has its own"):
        models.load(str(folder), schedule="linear")


def test_what_is_learnt_is_nearer_to_the_exact_denoiser_than_the_start(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    start, _ = fit(SMALL, VE, samples=500, steps=1, batch=32, seed=0)
    before = held_out_metrics(start, SMALL, VE, seed=1)
    assert metrics["exact_loss"] == pytest.approx(before["exact_loss"])
    assert metrics["exact_loss"] < metrics["loss"] < 0.7 * before["loss"]
    assert metrics["parameters"] == 6 * 4


def test_loss_is_the_weighted_error_of_the_prediction():
    network, objective = MolrgNetwork(SMALL, VE).float(), Objective(SMALL, VE)
    x_0, timestep, eps = torch.randn(4, 6), torch.tensor([0, 100, 300, 499]), torch.randn(4, 6)
    sigma = torch.from_numpy(VE.sigma).float()[timestep]
    error = (network(x_0 + sigma[:, None] * eps, timestep) - x_0).square().sum(1)
    expected = (error / (sigma**2 + 0.3**2)).mean()
    torch.testing.assert_close(objective(network, x_0, timestep, eps)["loss"], expected)


def test_batches_show_every_sample_once_and_all_noise_levels():
    x_0 = torch.arange(60.0).reshape(60, 1)
    stream = batches(x_0, 20, 500, torch.Generator().manual_seed(0))
    drawn = [next(stream) for _ in range(30)]
    torch.testing.assert_close(torch.cat([x for x, _, _ in drawn[:3]]).sort(0).values, x_0)
    timestep = torch.cat([t for _, t, _ in drawn])
    assert timestep.min() < 10
    assert timestep.max() > 489
    assert torch.cat([eps for *_, eps in drawn]).std() == pytest.approx(1, abs=0.1)


def test_bases_are_put_where_the_classes_are_that_they_are_nearest_to():
    mixed = Molrg(dims=(2, 3, 2, 2), features=9, weights=(0.2, 0.4, 0.2, 0.2))
    U = torch.from_numpy(mixed.U).float()
    swapped = U[:, [7, 8, 2, 3, 4, 0, 1, 5, 6]]
    torch.testing.assert_close(in_order(swapped, mixed), U)
    weighed = Molrg(dims=(2, 2), features=6, weights=(0.7, 0.3))  # whose places are not alike
    swapped = torch.from_numpy(weighed.U).float()[:, [2, 3, 0, 1]]
    torch.testing.assert_close(in_order(swapped, weighed), swapped)


def test_training_does_not_begin_at_the_answer_and_its_seed_counts():
    options = {"samples": 8, "steps": 1, "batch": 4}
    start, _ = fit(SMALL, VE, seed=0, **options)
    again, _ = fit(SMALL, VE, seed=0, **options)
    other, _ = fit(SMALL, VE, seed=1, **options)
    torch.testing.assert_close(start.hidden.U, again.hidden.U, rtol=0, atol=0)
    assert not torch.allclose(start.hidden.U, other.hidden.U)
    overlap = SMALL.U.T @ start.hidden.U.double().detach().numpy()
    assert np.linalg.norm(overlap) < 0.98 * 2  # 2 where it spans the same space


def test_the_command_line_trains_and_says_how_good_it_is_and_what_it_saw(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, ["train", *arguments, "-o", str(tmp_path / "model")])

    said = run(NAME, "--steps", "2", "--samples", "20").output
    assert "times that of the exact denoiser" in said
    assert f"it has learned from: traj dataset {NAME} data/datasets/molrg.zarr --samples 20 --seed 0" in said
    assert f"--model {tmp_path / 'model'}" in said
    bare = CliRunner().invoke(main, ["train", "molrg", "--steps", "1", "--samples", "9", "-o", str(tmp_path / "bare")])
    assert "traj dataset molrg: data" in bare.output  # without its colon it would be a file's name
    assert "nothing to do" in run(NAME, "--steps", "2", "--samples", "20").output
    assert "samples 20 (asked for 21)" in run(NAME, "--steps", "2", "--samples", "21").output
    assert "expected --samples" in run("molrg", "--images", "20").output
    assert "expected --images" in run("digits", "--samples", "20").output
    assert "has no known key" in run("molrg:k=3").output
    assert "theta 60; a network of this form knows orthogonal subspaces only" in run("molrg:theta=60").output
    assert "'faces' is not one of 'digits'" in run("faces").output


@pytest.mark.parametrize(("option", "message"), [("samples", "samples is 0"), ("steps", "steps is 0")])
def test_bad_numbers_are_named(tmp_path, option, message):
    with pytest.raises(stores.InputError, match=f"{message}; expected at least 1"):
        train_bases(NAME, tmp_path / "model", **{option: 0})
    assert not list(tmp_path.iterdir())


def test_weights_of_another_mixture_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(stores.MissingFile):
        models.load(str(tmp_path))
    for tensors in ({"hidden.U": torch.zeros(6, 5)}, {"U": torch.zeros(6, 4)}):
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(stores.InputError, match=r"does not belong to its config\.json; train it again"):
            models.load(str(tmp_path))


@pytest.mark.slow
def test_snr_learnt_for_two_classes_is_the_published_one(tmp_path):
    """Table 4 of 004, an angle of 90 degrees: 30,000 samples."""
    train_bases("molrg:classes=2", tmp_path / "model", samples=30_000, progress=False)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert 1 < metrics["loss"] / metrics["exact_loss"] < 1.005
    two, U = Molrg(dims=(5, 5)), load_file(tmp_path / "model" / "model.safetensors")["hidden.U"]
    np.testing.assert_allclose((two.U[:, :5].T @ U.double().numpy()[:, 5:]), 0, atol=0.1)
    published = {0.008: 24.88, 0.023: 25.15, 0.060: 26.95, 0.140: 35.84, 0.296: 58.27, 0.585: 20.84, 1.088: 4.05}
    sigma = np.array([*published, 1.923])
    network = MolrgNetwork(two, tables.table(np.ones(8), sigma, sigma)).float()
    network.hidden.U.data = U
    x_0, label = draw(two, 9, range(50_000))
    own = two.class_of == label[:, None]
    rng = np.random.default_rng(0)
    found = []
    for timestep, level in enumerate(sigma):
        x_t = x_0 + level * rng.standard_normal(x_0.shape, np.float32)
        with torch.no_grad():
            x_hat = network(torch.from_numpy(x_t.astype(np.float32)), timestep).numpy()
        signal = ((x_hat @ two.U) ** 2 * own).sum(1)
        rest = (x_hat**2).sum(1) - signal
        found.append(np.mean([signal[label == k].mean() / rest[label == k].mean() for k in range(2)]))
    np.testing.assert_allclose(found, [*published.values(), 1.57], rtol=0.03)
