"""Pipelines that read texts: configs as they lie on the hub, and what is refused by name."""

import json
import shutil
import sys

import pytest

from tests import families
from traj.pipeline import models
from traj.pipeline.models import stable_diffusion, unet
from traj.pipeline.models.text_encoders import TEXT_KEYS
from traj.stores import InputError, MissingFile

UNETS = {
    "1.x": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    },
    "2.x": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.10.0.dev0",
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "sample_size": 96,
        "upcast_attention": True,
        "use_linear_projection": True,
    },
}
TEXT_ENCODER = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}


def change(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(families.folder("sd1"), tmp_path / "sd")
    return tmp_path / "sd"


@pytest.mark.parametrize("version", UNETS)
def test_configs_of_the_hub_are_read(version):
    config = UNETS[version]
    read = unet.CONDITION_KEYS.read(config, "config")
    assert read["cross_attention_dim"] == config["cross_attention_dim"]
    assert unet.sides_of(read) == (config["sample_size"],) * 2
    assert TEXT_KEYS.read(TEXT_ENCODER, "config")["hidden_size"] == 768


def test_a_scheduler_that_clips_or_counts_from_0_is_read_as_their_pipeline_does(folder):
    change(folder, "scheduler/scheduler_config.json", clip_sample=True, steps_offset=0)
    schedule = models.load(str(folder)).schedule
    assert schedule.clip_sample is None
    assert schedule.steps_offset == 1


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim: 256"),
        ("unet/config.json", {"addition_embed_type": "text"}, "addition_embed_type: 'text'"),
        ("unet/config.json", {"in_channels": 9}, "makes 9 channels, and the autoencoder"),
        ("unet/config.json", {"cross_attention_dim": 24}, "cross_attention_dim 24, and its text encoder gives"),
        ("unet/config.json", {"sample_size": None}, "has no sample_size"),
        ("text_encoder/config.json", {"use_attention_mask": True}, "use_attention_mask: True"),
        ("text_encoder/config.json", {"rope_theta": 1.0}, "rope_theta, which is not known"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "traj record"),
    ],
)
def test_what_is_not_supported_is_named(folder, file, values, says):
    change(folder, file, **values)
    with pytest.raises(InputError, match=says):
        models.load(str(folder))


def test_a_folder_without_a_vocabulary_is_named(folder):
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(MissingFile, match=r"tokenizer holds no tokenizer\.json"):
        models.load(str(folder))


def conditions(folder):
    return models.load(str(folder)).conditions({"labels": "none", "prompts": ["a cat"]})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_max_length": 9}, "model_max_length 9; expected 3 to 8"),
        ({"model_max_length": "eight"}, "model_max_length 'eight'; expected 3 to 8"),
        ({"model_max_length": [8]}, r"model_max_length \[8\]; expected 3 to 8"),
        ({"pad_token": None}, "cannot be loaded: .* padding token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_encoder_is_refused(folder, values, says):
    change(folder, "tokenizer/tokenizer_config.json", **values)
    with pytest.raises(InputError, match=says):
        conditions(folder)


def test_without_transformers_a_pipeline_loads_and_texts_say_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'traj\[transformers\]'"):
        conditions(folder)


def test_a_size_is_that_of_the_images(folder):
    assert models.load(str(folder), size=(24, 16)).shape == (4, 12, 8)
    with pytest.raises(InputError, match="multiples of 2"):
        models.load(str(folder), size=(17, 16))


def test_every_part_that_is_left_out_is_one_of_the_pipeline_of_diffusers():
    from diffusers import StableDiffusionPipeline

    assert set(stable_diffusion.LEFT_OUT) == set(StableDiffusionPipeline._optional_components)
