"""Hugging Face classifiers: against the library's own preprocessing, and what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import (
    BertConfig,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from tests import runs
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.models import classifiers


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "vit"
    torch.manual_seed(0)
    names = dict(enumerate(("cat", "dog", "eel")))
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        id2label=names,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(folder)
    return folder


def read(out, store, model):
    arguments = ["readout", "classifier", store, out, "--model", model, "--device", "cpu", "--batch", "7"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_transformer_is_given_what_its_own_processor_makes(vit, tmp_path):
    """Resizing is the identity here, so floats can go through the library's processor without rounding to bytes."""
    store = runs.make(tmp_path / "a.zarr", 4, shape=(3, 8, 8))
    images = stores.open(store).pred_x0.values.reshape(-1, 3, 8, 8)
    bytes_of = [255 * (image.transpose(1, 2, 0) + 1) / 2 for image in images]
    processor = ViTImageProcessorPil.from_pretrained(vit)
    pixels = processor(bytes_of, do_resize=False, return_tensors="pt", input_data_format="channels_last")
    network = ViTForImageClassification.from_pretrained(vit).eval()
    with torch.inference_mode():
        expected = network(pixels["pixel_values"].float()).logits.numpy()
    assert "resized" not in read(tmp_path / "r.zarr", store, vit)
    found = stores.open(tmp_path / "r.zarr")
    np.testing.assert_allclose(found.logits.sel(on="pred_x0").values.reshape(-1, 3), expected, atol=1e-4)
    assert found.class_name.values.tolist() == ["cat", "dog", "eel"]
    assert "transformers" in stores.describe(tmp_path / "r.zarr")["environments"][0]["environment"]


@pytest.mark.parametrize("edge", [16, 48, 400])
def test_resizing_and_cropping_follow_the_library(tmp_path, edge):
    """ConvNeXT's processor, which ResNets use too: resize and crop below 384 pixels, resize alone above."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    processor = ConvNextImageProcessorPil(size={"shortest_edge": edge}, resample=3)
    processor.save_pretrained(tmp_path)
    # far from black and white, where Pillow would clip what overshoots after each of its two passes
    grey = np.random.default_rng(0).integers(80, 176, (2, 3, 32, 32), np.uint8)
    expected = processor(list(grey), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    classifier = classifiers.load(str(tmp_path))
    found = classifier.preprocessing(torch.from_numpy(grey / 127.5 - 1).float(), (-1, 1))
    assert found.shape == expected.shape == (2, *classifier.preprocessing.shape((3, 32, 32)))
    # and it rounds to bytes after each
    assert (found - expected).abs().max() < 2 / 255 / min(classifier.preprocessing.sd)
    with torch.inference_mode():
        assert classifier(torch.zeros(2, 3, 32, 32), (-1, 1)).shape == (2, 5)


def test_one_channel_is_shown_as_three_and_small_images_larger(vit, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 4, shape=(1, 6, 6))
    images = torch.from_numpy(stores.open(store).x_0.values)
    text = read(tmp_path / "r.zarr", store, vit)
    assert "takes 3x8x8 (channel, y, x): images of 1x6x6 are resized or repeated to fit" in text
    found = stores.open(tmp_path / "r.zarr").x_0_logits
    grey = torch.nn.functional.interpolate((images + 1) / 2, (8, 8), mode="bilinear").expand(-1, 3, -1, -1)
    mean, sd = (torch.tensor(values)[:, None, None] for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.inference_mode():
        expected = ViTForImageClassification.from_pretrained(vit).eval()((grey - mean) / sd).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_loading_prints_nothing(vit, capfd):
    capfd.readouterr()
    classifiers.load(str(vit))
    assert capfd.readouterr() == ("", "")


def test_identity_is_that_of_weights_and_preprocessing_not_of_the_place(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    before = classifiers.load(str(vit)).identity
    assert classifiers.load(str(tmp_path / "vit")).identity == before
    assert str(tmp_path) not in json.dumps(before)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    assert classifiers.load(str(tmp_path / "vit")).identity != before
    network = ViTForImageClassification.from_pretrained(vit)
    with torch.no_grad():
        network.classifier.bias.add_(1)
    network.save_pretrained(tmp_path / "vit")
    assert classifiers.load(str(tmp_path / "vit")).identity["weights"] != before["weights"]


def test_a_network_without_a_classifier_is_refused(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    ViTModel(ViTConfig.from_pretrained(vit)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"weights lack classifier\.bias, classifier\.weight"):
        classifiers.load(str(tmp_path / "vit"))
    BertConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="cannot be loaded as an image classifier"):
        classifiers.load(str(tmp_path / "vit"))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(("content", "says"), [("{", "is not JSON"), ("[]", "holds a JSON list; expected an object")])
def test_a_config_that_is_no_json_object_is_named(vit, tmp_path, file, content, says):
    shutil.copytree(vit, tmp_path / "vit")
    (tmp_path / "vit" / file).write_text(content)
    with pytest.raises(ValueError, match=rf"vit/{file} {says}"):
        classifiers.load(str(tmp_path / "vit"))


def test_code_of_others_is_never_run(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    config = json.loads((vit / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"}}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    (tmp_path / "vit" / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="cannot be loaded"):
        classifiers.load(str(tmp_path / "vit"))


def test_a_processor_that_does_more_is_refused(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    path = tmp_path / "vit" / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    for change, message in (
        ({"do_pad": True}, "does do_pad, which is not supported"),
        ({"resample": 1}, "filter 1; expected 2 or 3"),
        ({"size": {"longest_edge": 8}}, "expected height and width, or shortest_edge"),
        ({"image_mean": [0.5, 0.5]}, "has 2 means"),
    ):
        path.write_text(json.dumps({**settings, **change}))
        with pytest.raises(ValueError, match=message):
            classifiers.load(str(tmp_path / "vit"))


def test_a_missing_package_is_named(vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'traj\[transformers\]'"):
        classifiers.load(str(vit))


@pytest.mark.slow
def test_a_hub_id_is_looked_up_in_the_cache_alone_when_offline(vit, tmp_path):
    cached = tmp_path / "hub" / "models--somebody--vit"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(vit, cached / "snapshots" / ("0" * 40))
    code = """
from traj.pipeline.models import classifiers
print(classifiers.load("somebody/vit").name)
classifiers.load("nobody/nothing")
"""
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "somebody/vit\n"
    assert "MissingFile: classifier 'nobody/nothing' is neither a folder here, nor in the hub's cache" in done.stderr


def test_other_channels_are_refused(vit, tmp_path):
    text = read(tmp_path / "r.zarr", runs.make(tmp_path / "a.zarr", 4, shape=(2, 8, 8)), vit)
    assert "takes images of shape 3xanyxany (channel, y, x), the store's are 2x8x8: they do not fit" in text
    assert not (tmp_path / "r.zarr").exists()


def test_a_size_the_network_cannot_take_is_refused(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path / "vit")
    text = read(tmp_path / "r.zarr", runs.make(tmp_path / "a.zarr", 4, shape=(1, 6, 6)), tmp_path / "vit")
    assert "the store's are 1x6x6, 3x6x6 after its preprocessing: " in text
    settings = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}
    path = tmp_path / "vit" / "preprocessor_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), **settings, "image_processor_type": "CLIPImageProcessor"})
    )
    text = read(tmp_path / "r.zarr", tmp_path / "a.zarr", tmp_path / "vit")
    assert "they are smaller than what is cut out of them" in text
