"""Folders of guided-diffusion's classifier: converted from checkpoints, loaded, refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.noisy_classifiers import randomized, small, traj, write
from traj.pipeline.models import classifiers
from traj.pipeline.models.openai import convert, encoder


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The folder of a small classifier."""
    return small(tmp_path_factory.mktemp("models") / "noisy")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint with the names that guided-diffusion's program writes, for images of 64 x 64."""
    folder = tmp_path_factory.mktemp("published")
    network = encoder.OpenAIEncoder(model_channels=64, num_res_blocks=1, pool="spatial")
    torch.save(randomized(network), folder / "model.pt")
    flags = "--image_size 64 --classifier_width 64 --classifier_depth 1 --classifier_pool spatial"
    convert.convert(folder / "model.pt", folder / "noisy", flags)
    return folder, flags


@torch.inference_mode()
def test_a_checkpoint_is_converted_and_read(published):
    folder, _ = published
    network = encoder.OpenAIEncoder(model_channels=64, num_res_blocks=1, pool="spatial").eval()
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    found = classifiers.load(str(folder / "noisy"))
    assert found.class_names == tuple(str(number) for number in range(1000))
    images = 2 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found(images, torch.tensor([10, 999])), network(images, torch.tensor([10.0, 999])))
    torch.testing.assert_close(found(images), network(images, torch.zeros(2)))


def test_no_flag_that_counts_is_said_to_change_nothing(published, tmp_path):
    folder, flags = published
    said = traj(
        "convert", "openai", folder / "model.pt", tmp_path / "out", "--flags", f"{flags} --diffusion_steps 1000"
    )
    assert "changes no number" not in said


def test_names_are_those_of_their_checkpoints(published, noisy):
    names = set(load_file(published[0] / "noisy" / "model.safetensors"))
    assert {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.2.bias"} <= names
    names = {name for name in load_file(noisy / "model.safetensors") if name.startswith("out.")}
    pool = {f"out.2.{part}.{kind}" for part in ("qkv_proj", "c_proj") for kind in ("weight", "bias")}
    assert names == {"out.0.weight", "out.0.bias", "out.2.positional_embedding", *pool}


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (40, "flags have classifier_width 40, which is 40 at level 1; expected a multiple of 32, for the groups of a"),
        (96, "flags have classifier_width 96, which is 288 at level 3; expected a multiple of 64, for heads of"),
    ],
)
def test_widths_that_norms_and_heads_cannot_part_are_refused_by_the_flags_name(published, tmp_path, width, says):
    with pytest.raises(ValueError, match=says):
        convert.convert(published[0] / "model.pt", tmp_path / "out", f"--image_size 64 --classifier_width {width}")


@pytest.mark.parametrize("change", ["--classifier_pool attention", "--classifier_depth 2", "--classifier_width 32"])
def test_other_flags_than_those_of_the_checkpoint_are_refused(published, tmp_path, change):
    folder, flags = published
    name = change.split()[0]
    others = " ".join(f"--{flag}" for flag in flags.split("--")[1:] if not flag.startswith(name[2:]))
    with pytest.raises(ValueError, match=r"the classifier that the flags describe|is 96 at level 3"):
        convert.convert(folder / "model.pt", tmp_path / "out", f"{others} {change}")
    assert not (tmp_path / "out").exists()


def test_the_schedule_is_that_of_its_diffusion(noisy, tmp_path):
    for name, steps in (("linear", 1000), ("cosine", 4000)):
        config = json.loads((noisy / "config.json").read_text()) | {"noise_schedule": name, "diffusion_steps": steps}
        write(tmp_path, load_file(noisy / "model.safetensors"))
        (tmp_path / "config.json").write_text(json.dumps(config))
        schedule = classifiers.load(str(tmp_path)).schedule
        np.testing.assert_array_equal(schedule.model_time, np.arange(steps))
        t = np.array([0, steps // 2, steps - 2])
        betas = np.linspace(1e-4, 0.02, 1000)
        f = np.cos((np.arange(4001) / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2
        expected = np.cumprod(1 - betas) if name == "linear" else f[1:] / f[0]
        np.testing.assert_allclose(schedule.alpha_bar[t], expected[t], rtol=1e-9)


def missing(folder, state, config):
    del state["out.2.c_proj.bias"]
    return r"lacks out\.2\.c_proj\.bias"


def other_pool(folder, state, config):
    config["pool"] = "adaptive"
    return r"lacks out\.3\.weight, out\.3\.bias; also has out\.2\.c_proj"


def unknown_pool(folder, state, config):
    config["pool"] = "max"
    return "has pool: 'max'; expected one of attention, adaptive, spatial, spatial_v2"


def no_groups(folder, state, config):
    config["model_channels"] = 40
    return "there is no such classifier"


def no_heads(folder, state, config):
    config["num_head_channels"] = 48
    return "attention over 64 channels, in heads of 48"


def other_schedule(folder, state, config):
    config["noise_schedule"] = "sigmoid"
    return "has noise_schedule: 'sigmoid'; expected one of linear, cosine"


def unknown_key(folder, state, config):
    config["scale"] = 3
    return "has scale, which is not known"


@pytest.mark.parametrize(
    "damage", [missing, other_pool, unknown_pool, no_groups, no_heads, other_schedule, unknown_key]
)
def test_a_damaged_folder_is_refused(noisy, tmp_path, damage):
    state, config = load_file(noisy / "model.safetensors"), json.loads((noisy / "config.json").read_text())
    says = damage(tmp_path, state, config)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=says):
        classifiers.load(str(tmp_path))


def test_tensors_that_cannot_be_read_are_named(noisy, tmp_path):
    (tmp_path / "config.json").write_bytes((noisy / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((noisy / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        classifiers.load(str(tmp_path))
