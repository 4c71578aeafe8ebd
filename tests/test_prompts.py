"""Runs under texts, from the command line on: what is stored, resumed, forked, cut and read, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests import families
from tests.sampling import relative
from traj import stores
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.making import generate
from traj.pipeline.models.own import wrap
from traj.pipeline.models.prompts import Prompts
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError

CPU = torch.device("cpu")
TEXTS = ["a cat", "a dog in snow", ""]


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def again():
    """Where the model of the run lies, as its store only knows it by its name."""
    return "--model", families.folder("sd1"), "--device", "cpu"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The command of a guided run, but its samples."""
    out = tmp_path_factory.mktemp("runs") / "run.zarr"
    texts = out.with_name("texts.txt")
    texts.write_text("a cat\na dog in snow\n")
    sampling = ("--sampler", "ddim", "--steps", 4, "--block", 2, "--guidance", 3, "--device", "cpu")
    return (
        "generate",
        out,
        "--model",
        families.folder("sd1"),
        *sampling,
        "--prompts",
        texts,
        "--negative-prompt",
        "snow",
    )


@pytest.fixture(scope="module")
def run(asked):
    """The store of that run, made of three samples and then extended."""
    traj(*asked, "--samples", 3)
    traj(*asked, "--samples", 5)
    return asked[1]


class Letters:
    """Reads a text as its number of letters, and no more than five; counts how often it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, text, device):
        self.asked.append(text)
        return (torch.full((2,), float(len(text)), device=device),)

    def lost(self, text):
        return text[5:]


def prompts(null=False, texts=None, **asked):
    return Prompts(texts or Letters(), "letters", {"labels": "none", **asked}, null)


def test_sample_k_is_made_under_prompt_k_and_none_under_the_negative_one():
    conditions = prompts(null=True, prompts=["a", "bbb"], negative_prompt="nn")
    assert [row[0].item() for row in conditions.of([0, 1, 2, None], CPU)[0]] == [1, 3, 1, 2]
    assert conditions.visible([3, 4])["prompt"].tolist() == ["bbb", "a"]
    assert conditions.visible([3, 4])["label"].tolist() == [-1, -1]
    assert prompts(null=True, prompts=["a"]).of([None], CPU)[0].sum() == 0


def test_each_text_is_encoded_once():
    texts = Letters()
    conditions = prompts(texts=texts, prompts=["a", "bb"])
    for _ in range(2):
        conditions.of(range(6), CPU)
    assert texts.asked == ["a", "bb"]


def test_what_was_asked_holds_only_what_was_given():
    assert prompts(prompts=("a",)).asked == {"labels": "none", "prompts": ["a"]}


def test_prompts_that_lose_words_are_named():
    (caution,) = prompts(prompts=["short", "much longer"]).cautions
    assert "'much longer' is too long" in caution
    assert "'longer'" in caution
    assert len(prompts(null=True, prompts=["a"], negative_prompt="very long").cautions) == 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "--prompt TEXT or --prompts FILE"),
        ({"labels": "cycle", "prompts": ["a"]}, "labels were asked for, but model letters reads texts"),
        ({"prompts": ["a"], "negative_prompt": "b"}, "without guidance"),
    ],
)
def test_conditions_that_are_no_texts_are_refused(asked, says):
    with pytest.raises(InputError, match=says):
        prompts(**asked)


@pytest.mark.parametrize("asked", [{"prompts": ["a"]}, {"negative_prompt": "a"}])
@pytest.mark.parametrize("model", ["gaussian:0,1", "mixture:0,1"])
def test_models_that_read_no_texts_refuse_them_by_name(model, asked):
    with pytest.raises(InputError, match="reads no texts"):
        models.load(model).conditions({"labels": "none", **asked})


def test_a_network_of_your_own_with_conditions_refuses_texts_too():
    schedule = Schedule.from_config({})
    made = wrap(lambda x, *_: x, schedule, shape=(2,), predicts="epsilon", condition=lambda ids: torch.zeros(len(ids)))
    with pytest.raises(InputError, match="model own reads no texts"):
        made.conditions({"labels": "none", "prompts": ["a"]})


def test_a_run_keeps_its_texts_and_an_extension_those_of_earlier_samples(run):
    ds = stores.open(run)
    assert ds.prompt.values.tolist() == ["a cat", "a dog in snow", "a cat", "a dog in snow", "a cat"]
    assert set(ds.label.values.tolist()) == {-1}
    condition = json.loads(ds.attrs["config"])["condition"]
    assert condition == {"labels": "none", "prompts": TEXTS[:2], "negative_prompt": "snow"}
    assert "valid_range" not in ds.x_0.attrs


def test_an_extended_run_is_the_one_made_at_once(asked, run, tmp_path):
    arguments = [tmp_path / "once.zarr" if argument == run else argument for argument in asked]
    traj(*arguments, "--samples", 5)
    np.testing.assert_array_equal(stores.open(tmp_path / "once.zarr").x_t.values, stores.open(run).x_t.values)


def test_forks_replay_texts_and_guidance(run, tmp_path):
    traj("fork", run, tmp_path / "fork.zarr", "--at", 501, "--replicas", 1, *again())
    parent, ds = stores.open(run), stores.open(tmp_path / "fork.zarr")
    assert ds.prompt.values.tolist() == parent.prompt.values.tolist()
    np.testing.assert_allclose(ds.x_0.values[0, 0], parent.x_0.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", ["none", "stored"])
def test_features_are_read_under_stored_texts_or_none(run, tmp_path, labels):
    out = tmp_path / "features.zarr"
    parts = ("--parts", "mid_block", "--pool", "flat", "--labels", labels, *again())
    traj("readout", "features", run, out, *parts)
    ds, denoiser, parent = stores.open(out), models.load(str(families.folder("sd1"))), stores.open(run)
    seen = []
    denoiser.network.mid_block.register_forward_hook(lambda _module, _given, output: seen.append(output))
    texts = parent.prompt.values.tolist() if labels == "stored" else [""] * 5
    conditions = denoiser.conditions({"labels": "none", "prompts": texts})
    with torch.inference_mode():
        t = int(parent.timestep[1])
        denoiser(torch.from_numpy(parent.x_t.sel(timestep=t).values), t, conditions.of(range(5), CPU))
    expected = seen[0].flatten(1)
    assert relative(torch.from_numpy(ds.features_mid_block.sel(timestep=t).values), expected) < 1e-4


def test_likelihoods_of_classes_are_refused(run, tmp_path):
    text = traj("readout", "likelihood", run, tmp_path / "a.zarr", *again(), code=2)
    assert "reads texts and has no classes" in text


def test_info_describes_a_pipeline_with_texts():
    text = traj("info", families.folder("sd1"))
    assert "4 channel(s) of 8 x 8, reads texts" in text
    assert "input blocks" in text


def test_a_long_prompt_and_a_safety_checker_are_spoken_of(tmp_path):
    folder = tmp_path / "sd"
    shutil.copytree(families.folder("sd1"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    run = ("--model", folder, "--sampler", "ddim", "--steps", 2, "--samples", 1, "--device", "cpu", "--dry-run")
    text = traj("generate", tmp_path / "a.zarr", *run, "--prompt", "a cat in snow a dog in snow a cat")
    assert "safety_checker is left out" in text
    assert "is too long" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prompt", "a", "--prompts", "FILE"), "expected one of them"),
        (("--prompts", "FILE"), "line 2 of"),
        ((), "--prompt TEXT or --prompts FILE"),
    ],
)
def test_unclear_prompts_are_refused_before_anything_is_written(tmp_path, options, says):
    file = tmp_path / "texts.txt"
    file.write_text("a cat\n\na dog\n")
    options = [file if option == "FILE" else option for option in options]
    assert says in traj("generate", tmp_path / "a.zarr", "--model", families.folder("sd1"), *options, code=2)
    assert not (tmp_path / "a.zarr").exists()


def test_a_file_of_prompts_may_come_from_windows(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("a cat\r\na dög".encode("utf-8-sig"))
    out = tmp_path / "a.zarr"
    made = ("--steps", 1, "--sampler", "ddim", "--samples", 2, "--device", "cpu", "--prompts", file)
    traj("generate", out, "--model", families.folder("sd1"), *made)
    assert stores.open(out).prompt.values.tolist() == ["a cat", "a dög"]
    assert 'condition.prompts            "a cat", "a dög"' in traj("info", out)


def test_the_model_of_a_text_run_is_known_by_its_encoder_and_tokenizer(tmp_path):
    """Other weights of the encoder, or another vocabulary, are another model."""
    identities = []
    for change in (None, "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json"):
        folder = tmp_path / str(len(identities))
        shutil.copytree(families.folder("sd1"), folder)
        if change == "tokenizer/tokenizer_config.json":
            config = json.loads((folder / change).read_text())
            (folder / change).write_text(json.dumps({**config, "model_max_length": 7}))
        elif change:
            with (folder / change).open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"\1")
        identities.append(json.dumps(models.load(str(folder)).identity))
    assert len(set(identities)) == 3


def test_a_flow_runs_under_texts(tmp_path):
    options = {"model": str(families.folder("sd3")), "sampler_name": "ddim", "steps": 3, "samples": 2, "block": 2}
    made = generate.prepare(**options, prompts=TEXTS[:1], guidance=4.0, device="cpu", autocast=True)
    with made.open(tmp_path / "a.zarr") as store:
        made.run(store, bar=False)
    assert np.isfinite(stores.open(tmp_path / "a.zarr").x_0.values).all()
