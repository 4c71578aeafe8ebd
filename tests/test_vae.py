"""The VAE of digits: its loss by hand, what training leaves, what it decodes, and which folders are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from tests.test_generate import make
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.models import starts, train
from traj.pipeline.models.digits import VAES, DigitsVae, images
from traj.pipeline.models.losses import vae_objective

RECIPE = VAES["digits-vae"]
MODEL = "gaussian:0,0.0625,1x8x8"
"""Its valid range is that of the digits."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "digits-vae"
    assert train.train("digits-vae", out, steps=3, batch=8, progress=False)
    return out


def test_its_layers_are_those_of_the_source_scaled_to_64_pixels():
    network = DigitsVae(**RECIPE.network)
    widths = [[layer.weight.shape for layer in half if hasattr(layer, "weight")] for half in network.children()]
    assert widths[0] == [(128, 64), (64, 128), (32, 64), (8, 32)]
    assert widths[1] == [(32, 4), (64, 32), (128, 64), (64, 128)]
    assert network.decode(torch.zeros(3, 4)).shape == (3, 1, 8, 8)


def test_its_loss_is_squared_error_and_divergence_by_hand():
    torch.manual_seed(0)
    network, points, eps = DigitsVae(**RECIPE.network), torch.randn(5, 1, 8, 8), torch.randn(5, 4)
    terms = vae_objective(network, points, eps)
    mean, log_variance = network.encode(points)
    sd = (log_variance / 2).exp()
    mse = torch.nn.functional.mse_loss(network.decode(mean + sd * eps), points)
    kl = kl_divergence(Normal(mean, sd), Normal(0, 1)).sum(1).mean()
    torch.testing.assert_close(terms["squared_error"], 64 * mse)
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(terms["loss"], 64 * mse + kl)


def test_metrics_name_every_term(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    terms = {"final_loss", "final_squared_error", "final_kl"}
    assert set(metrics) == {"reconstruction_error", "kl", "steps", "parameters"} | terms


@pytest.mark.slow
def test_it_redraws_digits_it_has_not_seen_better_than_their_mean():
    network, _ = train.fit(RECIPE, steps=1000, batch=64, seed=0)
    metrics = train.held_out_metrics(network)
    assert metrics["reconstruction_error"] < 0.7 * images()[0].var(0).mean()
    assert metrics["kl"] > 2


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.train("digits-vae", tmp_path / name, steps=3, batch=8, seed=seed, progress=False)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["config.json", "loss.csv", "metrics.json", "model.safetensors", "training.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / files[3]).read_bytes() != (tmp_path / "c" / files[3]).read_bytes()


def test_the_command_says_how_well_it_redraws_and_what_to_type_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", "digits-vae", "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert "redraws held-out images with a squared error of 0." in result.output
    assert "--start vae:digits-vae --start-step 499" in result.output


def test_a_sample_is_decoded_from_noise_of_its_own(folder):
    source, other = (starts.load(f"vae:{folder}", seed) for seed in (0, 1))
    few, many = source.x_0(range(3)), source.x_0(range(20))
    assert few.dtype == np.float32
    np.testing.assert_allclose(few, many[:3], rtol=1e-5, atol=1e-6)
    assert len(np.unique(many[:, 0, 4, 4])) == 20
    assert not np.allclose(few, other.x_0(range(3)), atol=1e-3)


def test_a_run_starts_from_what_it_decodes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAJ_MODELS", str(folder.parent))
    late = {"model": MODEL, "start": "vae:digits-vae", "start_step": 0, "sampler_name": "ddim"}
    ds = stores.open(make(tmp_path / "a.zarr", 6, **late)).compute()
    decoded = starts.load("vae:digits-vae", 0).x_0(range(6))
    np.testing.assert_allclose(ds.x_t.isel(timestep=0), decoded, atol=6 * 0.01)  # timestep 0 has noise of sd 0.01
    digest = json.loads(ds.attrs["config"])["start"]["vae"]["weights"]
    assert digest.startswith("sha256:")
    again = {**late, "start": f"vae:{folder}"}
    make(tmp_path / "a.zarr", 6, **again)  # a place changes no number, so that there is nothing to do


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


BAD = {
    "another width": (lambda folder: edit_config(folder, width=64), "does not belong to its config.json"),
    "an unknown key": (lambda folder: edit_config(folder, dropout=0.1), "has dropout, which is not known"),
    "no number": (lambda folder: edit_config(folder, latent="4"), "latent: '4'; expected a whole number"),
    "another model": (lambda folder: edit_config(folder, model_type="digits"), "holds 'digits'; expected one of"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_holds_no_vae_is_refused_in_words(case, folder, tmp_path):
    spoil, words = BAD[case]
    shutil.copytree(folder, tmp_path / "vae")
    spoil(tmp_path / "vae")
    with pytest.raises(stores.InputError, match=words):
        starts.load(f"vae:{tmp_path / 'vae'}", 0)


def test_a_vae_that_is_not_there_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAJ_MODELS", str(tmp_path))
    with pytest.raises(stores.MissingFile, match="run traj train digits-vae"):
        starts.load("vae:digits-vae", 0)
    with pytest.raises(stores.MissingFile, match="no folder nothing; expected one of digits-vae"):
        starts.load("vae:nothing", 0)


def test_weights_on_disk_are_those_that_decode(folder):
    network = DigitsVae(**RECIPE.network)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.decoder[-2].bias.data += 1
    source = starts.load(f"vae:{folder}", 0)
    with torch.inference_mode():
        latent = torch.from_numpy(source._noise(5, range(4), 0))
        np.testing.assert_allclose(network.decode(latent) - 1, source.x_0(range(4)), atol=1e-5)
