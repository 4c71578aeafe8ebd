"""Weights that are NaN or infinite are refused by name, also where a trial call does not read them."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from tests import families, noisy_classifiers
from tests.networks import random_unet
from tests.test_models import save
from traj.analysis._molrg.model import Molrg
from traj.pipeline import models
from traj.pipeline.models import autoencoders, classifiers, molrg, starts
from traj.pipeline.models.digits import CLASSIFIERS, VAES, DigitsClassifier, DigitsVae
from traj.pipeline.process import tables


def copied(family):
    return lambda place: shutil.copytree(families.folder(family), place, copy_function=shutil.copy)


def of_classes(place):
    return save(place, random_unet(num_class_embeds=3))


def written(network, config):
    def write(place):
        place.mkdir()
        save_file(network().state_dict(), place / "model.safetensors")
        (place / "config.json").write_text(json.dumps(config))
        return place

    return write


def vit(place):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(place)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(place)
    return place


def flow(folder):
    return models.load(folder, steps=10)


def reading(folder, load=models.load):
    denoiser = load(folder)
    denoiser.conditions({"labels": "none", "prompts": ["a cat"]}).of([0], torch.device("cpu"))


PLACES = {
    "pixels": (of_classes, "unet", "class_embedding.weight", models.load),
    "dit": (copied("dit"), "transformer", "blocks.0.norm1.emb.class_embedder.embedding_table.weight", models.load),
    "openai": (copied("openai"), "unet", "label_emb.weight", models.load),
    "glide-text": (copied("glide"), "text_encoder", "token_embedding.weight", models.load),
    "sd3": (copied("sd3"), "transformer", "transformer_blocks.0.ff.net.2.bias", flow),
    "sd1-text": (copied("sd1"), "text_encoder", "token_embedding.weight", reading),
    "sd3-text": (copied("sd3"), "text_encoder_2", "token_embedding.weight", partial(reading, load=flow)),
    "autoencoder": (copied("ldm-vq"), "vqvae", "quantize.embedding.weight", autoencoders.load),
    "vae": (
        written(
            lambda: DigitsVae(**VAES["digits-vae"].network), {"model_type": "digits-vae", **VAES["digits-vae"].network}
        ),
        "",
        "encoder.1.weight",
        lambda folder: starts.load(f"vae:{folder}", 0),
    ),
    "digits-classifier": (
        written(
            lambda: DigitsClassifier(**CLASSIFIERS["digits-classifier"].network),
            {"model_type": "digits-classifier", **CLASSIFIERS["digits-classifier"].network},
        ),
        "",
        "11.bias",
        classifiers.load,
    ),
    "image-classifier": (vit, "", "classifier.bias", classifiers.load),
    "noisy-classifier": (noisy_classifiers.small, "", "input_blocks.0.0.bias", classifiers.load),
    "molrg": (
        written(
            lambda: molrg.MolrgNetwork(Molrg(), tables.named("ve")).float(),
            {"model_type": "molrg", **Molrg().identity},
        ),
        "",
        "hidden.U",
        models.load,
    ),
}
"""How a folder is made, which part of it is spoilt, the end of a tensor's name, and what loads it."""


@pytest.mark.parametrize("case", PLACES)
def test_one_value_that_is_no_number_is_refused_by_name_wherever_it_is(case, tmp_path):
    make, part, ending, load = PLACES[case]
    folder = make(tmp_path / case)
    load(str(folder))
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    (name,) = (name for name in tensors if name.endswith(ending))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"holds NaN or infinite values in \S*{ending}; expected finite weights"):
        load(str(folder))
