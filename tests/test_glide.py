"""GLIDE's base model: converted, guided as in its authors' notebook, cut as in source 002."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import families, glide
from tests.sampling import relative
from tests.test_fork import traj
from traj.pipeline import models
from traj.pipeline.models import surgery
from traj.pipeline.models.openai import convert
from traj.pipeline.process import plans
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.sampler import reverse
from traj.stores import InputError, MissingFile

CPU = torch.device("cpu")
STEPS, W = 10, 3.0
PROMPTS = ["a cat", "tokens:1,2,3", "dog"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    return models.load(str(families.folder("glide")))


# --- guidance, by METHODS 3.1 ---------------------------------------------------------------------------------


def start(batch):
    return torch.randn((batch, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def noise(timestep, batch):
    return torch.randn((batch, 3, 8, 8), generator=torch.Generator().manual_seed(timestep))


def cosine_alpha_bar():
    """alpha_bar of GLIDE's thousand timesteps (IDDPM eq. 17, betas at most .999)."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def theirs(model, sampler, batch, w=W, variance_of="condition"):
    """x_0 of their loop in float64, around the network."""
    alpha_bar = cosine_alpha_bar()
    visited = [round(k * 999 / (STEPS - 1)) for k in range(STEPS)]
    x = start(batch).double().numpy()
    texts = [[model.texts.encode(text, CPU) for text in told] for told in (PROMPTS[:batch], [""] * batch)]
    for place in reversed(range(STEPS)):
        t = visited[place]
        now, before = alpha_bar[t], alpha_bar[visited[place - 1]] if place else 1.0
        outputs = []
        for told in texts:
            tokens, whole = (torch.stack(each) for each in zip(*told, strict=True))
            output = model.network(torch.from_numpy(x).float(), torch.tensor(t), None, tokens, whole).sample
            outputs.append(np.split(output.double().numpy(), 2, axis=1))
        (eps_c, v_c), (eps_u, v_u) = outputs
        eps = eps_u + w * (eps_c - eps_u)
        x_0 = np.clip((x - np.sqrt(1 - now) * eps) / np.sqrt(now), -1, 1)
        if sampler == "ddim":
            eps = (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
            x = np.sqrt(before) * x_0 + np.sqrt(1 - before) * eps
            continue
        beta = 1 - now / before
        mean = np.sqrt(before) * beta / (1 - now) * x_0 + np.sqrt(now / before) * (1 - before) / (1 - now) * x
        fraction = ((v_c if variance_of == "condition" else v_u) + 1) / 2
        if place:
            log_variance = fraction * np.log(beta) + (1 - fraction) * np.log(beta * (1 - before) / (1 - now))
            mean = mean + np.exp(log_variance / 2) * noise(t, batch).double().numpy()
        x = mean
    return torch.from_numpy(x)


def ours(model, sampler, batch):
    denoiser = guided(model, W)
    conditions = denoiser.conditions({"labels": "none", "prompts": PROMPTS})
    options = (None, None, True, "rederived") if sampler == "ddim" else (None, None, None)
    (x_0,) = reverse(
        denoiser,
        [plans.choose(denoiser, sampler, STEPS, *options)],
        lambda times: conditions.of([*range(batch)] * times, CPU),
        start=lambda _: start(batch),
        noise=lambda _, step: noise(step.timestep, batch),
        keep=lambda *_: None,
    )
    return x_0


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sampler", ["iddpm", "ddim"])
def test_guided_samples_are_those_of_their_loop(model, sampler, batch):
    assert relative(ours(model, sampler, batch), theirs(model, sampler, batch)) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("wrong", [{"w": 1.0}, {"w": 2.9}, {"variance_of": "null"}])
def test_the_comparison_would_notice_another_guidance(model, wrong):
    assert relative(ours(model, "iddpm", 3), theirs(model, "iddpm", 3, **wrong)) > 5 * TOLERANCE


# --- conversion and folders -----------------------------------------------------------------------------------


def test_a_converted_model_holds_its_parts(model):
    folder = families.folder("glide")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    weights = "diffusion_pytorch_model.safetensors"
    assert there == {
        "model_index.json",
        "traj.json",
        "scheduler/scheduler_config.json",
        *(f"{part}/{name}" for part in ("unet", "text_encoder") for name in ("config.json", weights)),
        *(f"tokenizer/{name}" for name in ("vocab.json", "merges.txt")),
    }
    for name, tensor in glide.state(glide.TINY).items():
        there = {**model.network.state_dict(), **model.texts._encoder.state_dict()}
        assert torch.equal(there[name], tensor)
    assert model.schedule.spacing == "openai"
    assert model.schedule.learned_range
    np.testing.assert_allclose(model.schedule.alpha_bar, cosine_alpha_bar(), rtol=1e-6)


def test_a_state_dict_of_another_model_is_refused_by_its_names(tmp_path):
    state = glide.state(glide.TINY)
    del state["final_ln.weight"], state["out.2.bias"]
    state |= {"image_encoder.weight": torch.zeros(1), "transformer_proj.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError) as refused:
        convert.convert(tmp_path / "a.pt", tmp_path / "out", glide.TINY)
    for name in ("lacks out.2.bias, final_ln.weight", "also has image_encoder.weight", "transformer_proj.bias (7,)"):
        assert name in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_the_next_command_gives_tokens_and_one_that_is_not_there_is_missing(tmp_path):
    torch.save(glide.state(glide.TINY), tmp_path / "a.pt")
    asked = ("convert", "openai", tmp_path / "a.pt", tmp_path / "out", "--flags", glide.TINY)
    assert " ".join(traj(*asked, "--tokenizer", tmp_path, code=2).split()).startswith(f"Error: {tmp_path} holds no")
    assert '--prompt "tokens:64,3797" --guidance 3' in " ".join(traj(*asked).split())


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    torch.save(glide.state(glide.TINY), tmp_path / "a.pt")
    more = {**glide.VOCABULARY, "theirs": glide.N_VOCAB}
    folder = glide.write(tmp_path / "bpe", vocabulary=more)
    with pytest.raises(InputError, match=f"has token {glide.N_VOCAB}, but the model knows {glide.N_VOCAB}"):
        convert.convert(tmp_path / "a.pt", tmp_path / "out", glide.TINY, tokenizer=folder)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(families.folder("glide"), tmp_path / "glide")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_model_is_known_by_both_networks_and_its_tokenizer(model, folder):
    identities = [model.identity]
    for name in ("text_encoder", "unet"):
        with (folder / name / "diffusion_pytorch_model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\1")
        identities.append(models.load(str(folder)).identity)
    with (folder / "tokenizer" / "merges.txt").open("a") as file:
        file.write("a b\n")
    identities.append(models.load(str(folder)).identity)
    assert len({json.dumps(identity) for identity in identities}) == 4
    shutil.rmtree(folder / "tokenizer")
    assert models.load(str(folder)).identity["tokenizer"] is None


def test_a_text_without_a_tokenizer_is_refused_before_anything_is_written(folder, tmp_path):
    shutil.rmtree(folder / "tokenizer")
    asked = ("generate", tmp_path / "a.zarr", "--model", folder, "--steps", 2, "--prompt", "a cat", "--device", "cpu")
    said = " ".join(traj(*asked, code=2).split())
    assert "--tokenizer FOLDER" in said
    assert '--prompt "tokens:64,3797"' in said
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("w", [1, W])
def test_the_end_of_a_text_that_is_not_read_is_told_with_guidance_too(model, w):
    conditions = guided(model, w).conditions({"labels": "none", "prompts": ["tokens:1,2,3,4,5,6,7,8"]})
    assert conditions.cautions[0].endswith("is too long: the model reads nothing of its end, '7,8'")


def test_half_a_tokenizer_is_missing_a_file(folder):
    (folder / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(MissingFile, match=r"tokenizer holds vocab\.json only"):
        models.load(str(folder))


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("unet/config.json", {"text_width": 8}, "they do not belong together"),
        ("text_encoder/config.json", {"xf_heads": 5}, "expected a width that is a multiple of them"),
        ("text_encoder/config.json", {"xf_heads": 0}, "xf_heads"),
        ("text_encoder/config.json", {"causal": True}, "causal, which is not known"),
        ("text_encoder/config.json", {"xf_layers": 2}, "lack"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_refused(folder, file, values, says):
    change(folder / file, **values)
    with pytest.raises(InputError, match=says):
        models.load(str(folder))


def test_a_text_has_as_many_tokens_in_the_multiply_adds_as_in_the_network(model):
    """Attention to a text costs two products, with keys and with values, per token that is really read."""
    counter = FlopCounterMode(display=False)
    told = model.texts.encode("a cat", CPU)
    with counter, torch.no_grad():
        model.network(torch.zeros(1, 3, 8, 8), torch.tensor(1), None, *(each[None] for each in told))
    assert len(told[0]) == 6
    assert surgery.count(model.network).whole == counter.get_total_flops() // 2


def test_a_size_is_refused():
    with pytest.raises(InputError, match="leave out --size"):
        models.load(str(families.folder("glide")), size=(16, 16))
