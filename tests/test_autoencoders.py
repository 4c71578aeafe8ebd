"""Autoencoders: images as the pipelines decode them, latents as they encode them, and what is refused."""

import json
import shutil

import pytest
import torch

from tests import families
from tests.networks import random_unet
from traj.pipeline.models import autoencoders, repository
from traj.stores import InputError, MissingFile


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def latents(count=3, channels=4):
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def alone(network, folder):
    torch.manual_seed(0)
    network = network.eval()
    network.save_pretrained(folder)
    return network, autoencoders.load(str(folder))


def part_of(pipeline):
    return getattr(pipeline, "vqvae", None) or pipeline.vae


@pytest.mark.parametrize("family", ["ldm-vq", "ldm-kl", "dit"])
def test_images_are_those_that_the_pipeline_decodes(family):
    network = part_of(families.pipeline(family))
    ours = autoencoders.load(str(families.folder(family)))
    theirs = network.decode(latents() / network.config.scaling_factor).sample
    assert ours.image_shape((4, 8, 8)) == tuple(theirs.shape[1:]) == (3, 16, 16)
    assert ours.scaling_factor == network.config.scaling_factor
    assert torch.allclose(ours.decode(latents()), theirs, atol=1e-5)


def test_vectors_are_replaced_by_the_nearest_of_the_code_book(tmp_path):
    network, ours = alone(families.vq(), tmp_path)
    code = network.quantize.embedding.weight[:3, :, None, None].expand(3, 4, 8, 8)
    near = (code + 1e-4 * latents()) * ours.scaling_factor
    assert torch.allclose(ours.decode(near), ours.decode(code * ours.scaling_factor), atol=1e-6)


@pytest.mark.parametrize("shift", [None, 0.5])
def test_encoding_gives_the_mean_scaled_as_a_process_ends_with_it(tmp_path, shift):
    network, ours = alone(families.kl(shift_factor=shift), tmp_path)
    mean = network.encode(images()).latent_dist.mean
    assert torch.equal(ours.encode(images()), ours.encode(images()))
    assert torch.allclose(ours.encode(images()), (mean - (shift or 0)) * 0.18215, atol=1e-6)
    assert torch.allclose(ours.decode(ours.encode(images())), network.decode(mean).sample, atol=1e-5)


def test_latents_of_a_vq_model_are_encoded_as_they_are(tmp_path):
    network, ours = alone(families.vq(vq_embed_dim=2), tmp_path)
    assert ours.latent_channels == 2
    assert torch.allclose(ours.encode(images()), network.encode(images()).latents * 0.7, atol=1e-6)


def test_a_tiny_autoencoder_has_no_scale(tmp_path):
    network, ours = alone(families.tiny(), tmp_path)
    assert torch.allclose(ours.decode(latents()), network.decode(latents()).sample, atol=1e-6)
    assert torch.allclose(ours.encode(images()), network.encode(images()).latents, atol=1e-6)
    assert ours.decode(latents()).shape[1:] == ours.image_shape((4, 8, 8))


@pytest.mark.parametrize("place", ["vae", "transformer"])
def test_the_folder_of_a_part_stands_for_its_pipeline(place):
    whole, part = (autoencoders.load(str(families.folder("dit") / inside)) for inside in ("", place))
    assert whole.identity == part.identity


def test_another_autoencoder_in_the_folder_of_a_pipeline_is_loaded_when_named(tmp_path):
    shutil.copytree(families.folder("dit"), tmp_path / "dit")
    _, ours = alone(families.tiny(), tmp_path / "dit" / "vae_tiny")
    assert (ours.scaling_factor, autoencoders.load(str(tmp_path / "dit")).scaling_factor) == (1.0, 0.18215)


def test_identity_tells_weights_and_scale_apart_and_nothing_else(tmp_path):
    shutil.copytree(families.folder("dit") / "vae", tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    identity = autoencoders.load(str(families.folder("dit"))).identity

    def with_config(**changes):
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        return autoencoders.load(str(tmp_path / "vae")).identity

    assert with_config(sample_size=64, force_upcast=False) == identity
    assert with_config(scaling_factor=0.5)["network"] != identity["network"]


def test_sides_of_latents_are_those_of_images_divided():
    described = autoencoders.describe(repository.local(families.folder("dit"), "dit"))
    assert described.latent_sides((16, 40)) == (8, 20)
    with pytest.raises(InputError, match="multiples of 2, such as 16x40"):
        described.latent_sides((15, 40))


def test_what_is_no_autoencoder_is_refused_by_name(tmp_path):
    random_unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match="'UNet2DModel'; expected an autoencoder, AutoencoderKL"):
        autoencoders.load(str(tmp_path / "unet"))
    with pytest.raises(MissingFile, match="no such folder"):
        autoencoders.load("nowhere")
    _, ours = alone(families.vq(), tmp_path / "vq")
    for shape in ((3, 8, 8), (4,), (4, 2, 8, 8)):
        with pytest.raises(InputError, match="expected latents"):
            ours.image_shape(shape)


def test_means_and_deviations_of_latents_are_refused_not_ignored(tmp_path):
    families.kl(latents_mean=(0.0,) * 4).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"latents_mean: .*not supported"):
        autoencoders.load(str(tmp_path))
