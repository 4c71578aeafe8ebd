"""Folders of pipelines that hold code: none of it runs, whichever part it lies in."""

import json
import pickle
import shutil
from contextlib import suppress

import pytest
import torch

from tests import families
from tests.test_weights import Code
from traj.pipeline.models import autoencoders, load, repository

STEMS = {"text_encoder": ("model", "pytorch_model"), "tokenizer": ("tokenizer", "tokenizer")}


def copied(family, place):
    return shutil.copytree(families.folder(family), place / "odd")


def read_text(folder):
    load(str(folder)).conditions({"labels": "none", "prompts": ["a cat"]}).of([0], torch.device("cpu"))


def decode(folder):
    autoencoders.Autoencoder(autoencoders.describe(repository.local(folder, folder.name)), "cpu")


@pytest.mark.parametrize(
    ("family", "part", "use"),
    [
        ("dit", "transformer", lambda folder: load(str(folder))),
        ("dit", "vae", decode),
        ("ldm-vq", "vqvae", decode),
        ("sd1", "unet", lambda folder: load(str(folder))),
        ("sd1", "text_encoder", read_text),
    ],
)
def test_a_pickle_with_code_is_one_clear_error(tmp_path, family, part, use):
    folder = copied(family, tmp_path)
    safe, pickled = STEMS.get(part, (repository.STEM, repository.STEM))
    (folder / part / f"{safe}.safetensors").unlink()
    (folder / part / f"{pickled}.bin").write_bytes(pickle.dumps(Code(), 2))
    with pytest.raises(ValueError, match=r"cannot be loaded") as caught:
        use(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "file", "custom"),
    [
        ("tokenizer", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}),
        ("text_encoder", "config.json", {"auto_map": {"AutoModel": "mine.Mine"}}),
        ("unet", "config.json", {"_class_name": ["mine", "Mine"]}),
        ("vae", "config.json", {"_class_name": "mine.Mine"}),
        (".", "model_index.json", {"unet": ["mine", "Mine"]}),
        (".", "model_index.json", {"vae": ["mine", {"Mine": 1}]}),
        (".", "model_index.json", {"_class_name": ["mine", "Mine"]}),
    ],
)
def test_code_beside_a_part_never_runs(tmp_path, part, file, custom):
    folder, ran = copied("sd1", tmp_path), tmp_path / "ran"
    for place in (folder, folder / part):
        (place / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    path = folder / part / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **custom}))
    for use in (read_text, decode):
        with suppress(ValueError):  # of a class that is not known
            use(folder)
    assert not ran.exists()
