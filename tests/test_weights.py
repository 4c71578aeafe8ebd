"""Weights: what is hashed is what is loaded, whatever else lies in the folder, and broken folders are named."""

import hashlib
import inspect
import json
import pickle

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from tests.networks import random_unet
from tests.test_models import edit, save
from traj.pipeline.models import classifiers, load, unet
from traj.pipeline.models.digits import DigitsClassifier

NONE = torch.full((2,), -1)
STEM = "diffusion_pytorch_model"


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def other_unet():
    network = random_unet()
    network.conv_out.bias += 1
    return network


def save_shards(network, folder, variant=None, safe=True):
    network.save_pretrained(folder, max_shard_size="2KB", variant=variant, safe_serialization=safe)
    shards = sorted(folder.glob(f"{STEM}*-of-*"))
    assert len(shards) > 1
    return shards


def is_loaded(folder, network, files, **options):
    """Whether a folder's model is this network, and vouched for by the hash of these files."""
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    denoiser = load(str(folder), **options)
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    same = torch.equal(denoiser(x_t, 700, NONE).eps, network.eval()(x_t, 700).sample)
    return same and denoiser.identity["weights"] == f"sha256:{digest}"


# --- which files ----------------------------------------------------------------------------------------------


def test_shards_beside_a_single_file_are_what_is_loaded_and_hashed(tmp_path):
    folder = save(tmp_path)
    single = (folder / "unet" / f"{STEM}.safetensors").read_bytes()
    shards = save_shards(other_unet(), folder / "unet")
    (folder / "unet" / f"{STEM}.safetensors").write_bytes(single)
    assert is_loaded(folder, other_unet(), shards)
    assert is_loaded(folder, UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False), shards)


def test_shards_alone_are_loaded(tmp_path):
    folder = save(tmp_path)
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    assert is_loaded(folder, other_unet(), save_shards(other_unet(), folder / "unet"))


def test_safetensors_go_before_pickles_and_plain_files_before_variants(tmp_path):
    folder = save(tmp_path)
    other_unet().save_pretrained(folder / "unet", safe_serialization=False)
    other_unet().save_pretrained(folder / "unet", variant="fp16")
    assert is_loaded(folder, random_unet(), [folder / "unet" / f"{STEM}.safetensors"])


def test_a_variant_is_loaded_and_hashed_where_it_is_alone_or_named(tmp_path):
    folder = save(tmp_path)
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    random_unet().half().save_pretrained(folder / "unet", variant="fp16")
    file = folder / "unet" / f"{STEM}.fp16.safetensors"
    assert is_loaded(folder, random_unet().half().float(), [file])
    other_unet().save_pretrained(folder / "unet", variant="non_ema")
    with pytest.raises(ValueError, match=r"variants: fp16, non_ema; name one of them, as in --variant fp16"):
        load(str(folder))
    assert is_loaded(folder, random_unet().half().float(), [file], variant="fp16")
    assert is_loaded(folder, other_unet(), [folder / "unet" / f"{STEM}.non_ema.safetensors"], variant="non_ema")


def test_a_variant_that_is_named_goes_before_plain_weights_and_must_be_there(tmp_path):
    folder = save(tmp_path)
    with pytest.raises(ValueError, match="holds no variant fp16 of its weights, none"):
        load(str(folder), variant="fp16")
    other_unet().save_pretrained(folder / "unet", variant="fp16")
    assert is_loaded(folder, other_unet(), [folder / "unet" / f"{STEM}.fp16.safetensors"], variant="fp16")
    with pytest.raises(ValueError, match="holds no variant bf16 of its weights, only fp16"):
        load(str(folder), variant="bf16")
    with pytest.raises(ValueError, match="expected a name such as fp16"):
        load(str(folder), variant="../fp16")


@pytest.mark.parametrize("safe", [True, False])
def test_a_variant_in_shards_is_what_is_loaded_and_hashed(tmp_path, safe, capfd):
    folder = save(tmp_path)
    shards = save_shards(other_unet(), folder / "unet", variant="fp16", safe=safe)
    assert is_loaded(folder, other_unet(), shards, variant="fp16")
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    assert is_loaded(folder, other_unet(), shards)
    assert capfd.readouterr().err == ""


def test_of_a_network_and_its_average_the_one_that_is_given_is_loaded(tmp_path):
    folder = save(tmp_path)
    assert load(str(folder)).cautions == ()
    other_unet().save_pretrained(folder / "unet_ema")
    edit(folder / "model_index.json", unet_ema=["diffusers", "UNet2DModel"])
    assert load(str(folder)).cautions == (
        f"{folder} holds unet and unet_ema; unet is used, as diffusers does. For the other, name {folder}/unet_ema",
    )
    assert is_loaded(folder, random_unet(), [folder / "unet" / f"{STEM}.safetensors"])
    for part, network in (("unet", random_unet()), ("unet_ema", other_unet())):
        assert is_loaded(folder / part, network, [folder / part / f"{STEM}.safetensors"])
    (folder / "traj.json").write_text('{"time_scale": 0.5}')
    assert load(str(folder / "unet_ema")).schedule.model_time[1] == 0.5


def test_a_classifier_is_loaded_from_the_files_that_are_hashed(tmp_path):
    def saved(file, bias):
        network = DigitsClassifier(channels=1, width=2, classes=3)
        network[-1].bias.fill_(bias)
        save_file(network.state_dict(), tmp_path / file)
        return network

    config = {"model_type": "digits-classifier", "channels": 1, "width": 2, "classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    saved("model.safetensors", 5.0)
    found = classifiers.load(str(tmp_path))
    assert found.network[-1].bias.tolist() == [5.0] * 3
    assert "name" not in found.identity
    edit(tmp_path / "config.json", width="two")
    with pytest.raises(ValueError, match="has width: 'two'; expected a whole number from 1"):
        classifiers.load(str(tmp_path))


# --- what is no model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"in_channels": "three"}, "has in_channels: 'three'; expected a whole number from 1"),
        ({"norm_num_groups": 0}, "has norm_num_groups: 0; expected a whole number from 1"),
        ({"norm_num_groups": 3}, "cannot be loaded: .*divisible"),
        ({"sample_size": [8, 8, 8]}, "has sample_size: .*height and width"),
        ({"block_out_channels": []}, "has block_out_channels"),
        ({"block_out_channels": [8]}, "cannot be loaded: .*same number"),
        ({"down_block_types": ["DownBlock2D", "BackBlock2D"]}, "cannot be loaded: .*BackBlock2D"),
        ({"act_fn": "loud"}, "cannot be loaded: .*loud"),
        ({"norm_eps": float("nan")}, "has norm_eps: nan"),
        ({"num_class_embeds": 3}, r"lack class_embedding\.weight; they do not belong to its config\.json"),
        ({"attn_type": "new"}, "has attn_type, which is not known"),
        ({"layers_per_block": 2}, "cannot be loaded: .*size mismatch"),
        ({"time_embedding_type": "learned"}, "cannot be loaded"),
        ({"mid_block_type": None}, "also hold mid_block"),
        ({"block_out_channels": [16, 16]}, "cannot be loaded: .*size"),
    ],
)
def test_a_config_that_no_network_can_have_is_one_clear_error(tmp_path, changes, says):
    folder = save(tmp_path / "odd")
    edit(folder / "unet" / "config.json", **changes)
    with pytest.raises(ValueError, match=f"^model odd: .*{says}") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_class_embeddings_of_another_number_are_refused(tmp_path):
    folder = save(tmp_path, random_unet(num_class_embeds=11), {"null_label": 10})
    edit(folder / "unet" / "config.json", num_class_embeds=3)
    with pytest.raises(ValueError, match=r"cannot be loaded: .*size mismatch for class_embedding\.weight"):
        load(str(folder))


@pytest.mark.parametrize("time_scale", ["NaN", "Infinity", "1" + 400 * "0", "0", "-1", '"1"', "true", "[1]"])
def test_a_time_scale_that_is_no_number_above_0_is_refused(tmp_path, time_scale):
    (save(tmp_path) / "traj.json").write_text(f'{{"time_scale": {time_scale}}}')
    with pytest.raises(ValueError, match=r"traj\.json has time_scale: .*; expected a number above 0"):
        load(str(tmp_path))


@pytest.mark.parametrize("null_label", ['"ten"', "10.0", "-1", "true"])
def test_a_null_label_that_is_no_class_is_refused(tmp_path, null_label):
    (save(tmp_path) / "traj.json").write_text(f'{{"null_label": {null_label}}}')
    with pytest.raises(ValueError, match=r"traj\.json has null_label"):
        load(str(tmp_path))


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_brackets_without_end_are_refused(tmp_path, file):
    (save(tmp_path) / file).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{file} is not JSON that can be read: it is nested too deeply"):
        load(str(tmp_path))


def test_an_empty_part_of_an_index_is_no_part(tmp_path):
    folder = save(tmp_path)
    edit(folder / "model_index.json", vqvae=[], text_encoder=[None, None])
    load(str(folder))


def test_a_scheduler_by_its_old_name_is_read(tmp_path):
    folder = save(tmp_path, clip_sample_range=3.0)
    (folder / "scheduler").rename(folder / "noise_scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "noise_scheduler": index.pop("scheduler")}))
    assert load(str(folder)).valid_range == (-3.0, 3.0)
    assert load(str(folder / "unet")).valid_range == (-3.0, 3.0)


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a model folder ran')",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Code(), 2), b"", b"no weights", pickle.dumps({"a": 1}, 2), pickle.dumps([1], 2)],
    ids=["code", "nothing", "text", "numbers", "list"],
)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_files_that_hold_no_tensors_are_one_clear_error(tmp_path, content, suffix):
    folder = save(tmp_path / "odd")
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    (folder / "unet" / f"{STEM}{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=r"^model odd: ") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    assert "/tmp/traj-" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({}, "has weight_map None; expected the file of every tensor"),
        ({"weight_map": []}, r"has weight_map \[\]"),
        ({"weight_map": {"a": "../../secret.safetensors"}}, "names the file '../../secret.safetensors'"),
        ({"weight_map": {"a": 3}}, "names the file 3; expected .safetensors files beside it"),
        ({"weight_map": {"a": "absent.safetensors"}}, "lists absent.safetensors, which is not beside it"),
    ],
)
def test_an_index_that_lists_no_shards_is_refused(tmp_path, index, says):
    folder = save(tmp_path / "odd")
    (folder / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=f"^model odd: .*{says}"):
        load(str(folder))


def test_weights_of_another_kind_are_named(tmp_path):
    folder = save(tmp_path)
    (folder / "unet" / f"{STEM}.safetensors").rename(folder / "unet" / "model.ckpt")
    with pytest.raises(FileNotFoundError, match=rf"expected {STEM}\.safetensors, found only model\.ckpt"):
        load(str(folder))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    folder = save(tmp_path)
    path = folder / "unet" / f"{STEM}.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"][0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"holds NaN or infinite values in conv_in\.weight"):
        load(str(folder))


def test_images_that_cannot_be_halved_are_refused_with_sizes_that_fit(tmp_path):
    network = random_unet(block_out_channels=(4, 4, 4, 4), sample_size=28, norm_num_groups=2)
    with pytest.raises(
        ValueError, match=r"^model odd: .* 1 x 28 x 28, .*halves images 3 times: .* multiples of 8, 24x24 or 32x32"
    ):
        load(str(save(tmp_path / "odd", network)))


# --- what identifies a network --------------------------------------------------------------------------------


def test_every_key_of_the_installed_network_is_decided_on_and_has_its_default():
    signature = inspect.signature(UNet2DModel.__init__).parameters
    assert {*signature} - {"self"} == {*unet.KEYS.used} | {*unet.KEYS.unused}
    for name, key in unet.KEYS.used.items():
        assert key.default == signature[name].default, name


def test_what_is_as_usual_and_what_changes_nothing_is_not_in_the_identity(tmp_path):
    folder = save(tmp_path)
    config = folder / "unet" / "config.json"
    before = load(str(folder)).identity
    written = json.loads(config.read_text())
    said = {key: value for key, value in written.items() if value != getattr(unet.KEYS.used.get(key), "default", None)}
    assert len(said) < len(written)
    for other in (
        said,
        {**written, "_diffusers_version": "99.0", "_name_or_path": "/somewhere", "dropout": 0.5},
        {**written, "norm_eps": 0.00001, "mid_block_scale_factor": 1.0},
    ):
        config.write_text(json.dumps({"_class_name": "UNet2DModel", **other}))
        assert load(str(folder)).identity == before
    edit(folder / "unet" / "config.json", norm_eps=1e-6)
    assert load(str(folder)).identity != before
