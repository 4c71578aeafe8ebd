"""Converting checkpoints of improved-diffusion and guided-diffusion, on small random networks of the same names."""

import json
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMPipeline
from safetensors.torch import load_file, save_file

from tests.openai import KINDS, SMALL, network_of, random_state
from tests.openai import converted as converted_into
from tests.runs import digest
from tests.test_openai_flags import cosine
from tests.test_weights import Code
from traj import stores
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.models.openai import checkpoint, convert
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.pipeline.process.noise import NoiseSource, Purpose


def traj(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    said = " ".join(result.output.split())
    assert result.exit_code == status, said
    return said


@pytest.fixture(scope="module")
def state():
    return random_state(f"{SMALL} --attention_resolutions 8,4")


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module", params=KINDS)
def converted(request, tmp_path_factory):
    """The flags of a network, its state dict, and the folder that it was converted into."""
    text = f"{SMALL} --attention_resolutions {KINDS[request.param]}"
    folder, state = tmp_path_factory.mktemp("models"), random_state(text)
    torch.save(state, folder / "model.pt")
    convert.convert(folder / "model.pt", folder / "out", text)
    return text, state, folder / "out"


def test_the_folder_holds_a_network_its_schedule_and_what_diffusers_cannot_say(converted):
    text, _, folder = converted
    kind = json.loads((folder / "unet/config.json").read_text())["_class_name"]
    assert text.endswith(KINDS[kind])
    assert json.loads((folder / "traj.json").read_text()) == {"time_scale": 0.25, "spacing": "openai"}
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert scheduler["variance_type"] == "learned_range"
    assert not (folder / "model_index.json").exists()  # a pipeline of diffusers would feed times that are not rescaled


def test_predictions_are_those_of_the_checkpoint_at_rescaled_times(converted):
    text, state, folder = converted
    denoiser, plain = models.load(str(folder)), network_of(text)
    plain.load_state_dict(state)
    x_t, label = torch.randn(2, 3, 8, 8), torch.tensor([3, 999])
    for timestep in (0, 1, 1999, 3999):
        with torch.inference_mode():
            found = denoiser(x_t, timestep, label)
            eps, v = plain(x_t, torch.tensor(timestep / 4), label).sample.chunk(2, dim=1)
        torch.testing.assert_close(found.eps, eps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.variance_fraction, (v + 1) / 2, rtol=1e-5, atol=1e-5)


def theirs(network, alpha_bar, visited, drawn, *, scale=1.0, clip=1.0, predicts="eps", learned=True):
    """x_0 of improved-diffusion's loop: the betas of the timesteps visited, times rescaled, predictions clipped."""
    x, label = drawn(Purpose.START, [0, 1], 0).astype(float), torch.tensor([0, 1])
    for t, before in zip(visited[::-1], [*visited[-2::-1], None], strict=True):
        now, then = alpha_bar[t], 1.0 if before is None else alpha_bar[before]
        output = network(torch.from_numpy(x).float(), torch.tensor(t * scale), label if learned else None).sample
        said, *v = np.split(output.double().numpy(), 2 if learned else 1, axis=1)
        x_0 = said if predicts == "x_0" else (x - np.sqrt(1 - now) * said) / np.sqrt(now)
        beta = 1 - now / then
        x = np.sqrt(then) * beta * np.clip(x_0, -clip, clip) + np.sqrt(now / then) * (1 - then) * x
        x = x / (1 - now)
        if before is not None:
            tilde = beta * (1 - then) / (1 - now)
            f = (v[0] + 1) / 2 if learned else 1.0
            x = x + np.exp((f * np.log(beta) + (1 - f) * np.log(tilde)) / 2) * drawn(Purpose.STEP, [0, 1], t)
    return x


@torch.inference_mode()
def test_generated_samples_are_those_of_their_loop(converted, tmp_path):
    text, state, folder = converted
    asked = ("--labels", "cycle", "--sampler", "iddpm", "--steps", 5, "--samples", 2, "--device", "cpu")
    traj("generate", tmp_path / "run.zarr", "--model", folder, *asked)
    network, drawn = network_of(text), NoiseSource(0, (3, 8, 8))
    network.load_state_dict(state)
    right = {"visited": [0, 1000, 2000, 2999, 3999], "scale": 0.25}
    found, x_0 = stores.open(tmp_path / "run.zarr").x_0, theirs(network, cosine(4000), drawn=drawn, **right)
    np.testing.assert_allclose(found, x_0, atol=1e-4)
    for wrong in ({"visited": [0, 1000, 2000, 3000, 3999]}, {"scale": 1.0}, {"clip": 1.1}):
        assert abs(theirs(network, cosine(4000), drawn=drawn, **right | wrong) - x_0).max() > 1e-3


@torch.inference_mode()
def test_of_a_network_that_predicts_x_0_with_a_fixed_variance_too(tmp_path):
    text = "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --predict_xstart True"
    torch.save(random_state(text), tmp_path / "model.pt")
    _, following = convert.convert(tmp_path / "model.pt", tmp_path / "out", f"{text} --timestep_respacing 2,3")
    _, _, out, *asked = following.split()
    assert asked == ["--model", str(tmp_path / "out"), "--timesteps", "999,750,500,499,0"]
    traj("generate", tmp_path / out, *asked, "--samples", 2, "--device", "cpu")
    network, alpha_bar = network_of(text), np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    network.load_state_dict(torch.load(tmp_path / "model.pt"))
    drawn, visited = NoiseSource(0, (3, 8, 8)), [0, 499, 500, 750, 999]
    x_0 = theirs(network, alpha_bar, visited, drawn, predicts="x_0", learned=False)
    np.testing.assert_allclose(stores.open(tmp_path / out).x_0, x_0, atol=1e-4)


def test_fractions_of_a_timestep_reach_the_network(converted, monkeypatch):
    denoiser, times = models.load(str(converted[2])), []
    denoiser.network.register_forward_pre_hook(lambda _, given: times.append(given[1]))
    for timestep in (3999, 3):
        denoiser(torch.zeros(1, 3, 8, 8), timestep, torch.tensor([0]))
    assert [float(time) for time in times] == [999.75, 0.75]
    assert times[0].dtype == torch.float32


def test_what_is_known_of_the_model_says_how_it_is_spaced(converted):
    said = traj("info", converted[2])
    assert "3 channel(s) of 8 x 8, 1000 classes" in said
    assert "schedule.spacing openai" in said
    assert "U-Net: 4 input blocks" in said


def test_a_converted_model_is_generated_continued_forked_and_cut(converted, tmp_path):
    folder = converted[2]
    run, parts, forks, sweep = (tmp_path / f"{name}.zarr" for name in ("run", "parts", "forks", "sweep"))
    asked = ("--model", folder, "--labels", "cycle", "--sampler", "iddpm", "--steps", 4, "--samples", 3, "--block", 2)
    traj("generate", run, *asked, "--device", "cpu")
    traj("generate", parts, *asked, "--device", "cpu", "--blocks", "1:2")
    traj("generate", parts, *asked, "--device", "cpu")
    assert digest(parts) == digest(run)
    made = stores.open(run)
    assert made.timestep.values.tolist() == [3999, 2666, 1333, 0]
    assert made.label.values.tolist() == [0, 1, 2]
    assert made.log_variance.shape == made.x_t.shape

    loaded = ("--model", folder, "--device", "cpu")
    traj("fork", run, forks, *loaded, "--at", 1333, "--noise", "shared", "--replicas", 1)
    np.testing.assert_array_equal(stores.open(forks).x_0[0, 0], made.x_0)
    (tmp_path / "cuts.yaml").write_text("[{edit: blocks, nb: 8, n: 2, t_start: 2666}]")
    traj("fork", run, sweep, *loaded, "--sweep", tmp_path / "cuts.yaml")
    assert abs(stores.open(sweep).x_0[0, 0] - made.x_0).max() > 0


def test_a_size_and_a_missing_label_are_refused(converted, tmp_path):
    text, _, folder = converted
    if text.endswith(KINDS["OpenAIUNet"]):
        with pytest.raises(ValueError, match="size 16x16 was given, but its images are 8 x 8; leave out --size"):
            models.load(str(folder), size=(16, 16))
    said = traj("generate", tmp_path / "run.zarr", "--model", folder, "--steps", 2, status=2)
    assert "was trained with labels only; use --labels cycle, or one class" in said


def test_where_nothing_is_rescaled_diffusers_can_run_the_folder(tmp_path):
    text = "--image_size 64 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --attention_resolutions 8"
    torch.save(random_state(text), tmp_path / "model.pt")
    convert.convert(tmp_path / "model.pt", tmp_path / "out", text)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    loaded = models.load(str(tmp_path / "out"))
    assert (loaded.schedule.variance, loaded.schedule.clip_sample, loaded.num_classes) == ("large", 1.0, 0)
    convert.convert(*_labelled(tmp_path))
    assert not (tmp_path / "labelled/model_index.json").exists()  # DDPMPipeline tells its network no labels


def _labelled(folder):
    text = "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --class_cond True"
    torch.save(random_state(text), folder / "labelled.pt")
    return folder / "labelled.pt", folder / "labelled", text


def test_the_command_says_what_was_left_out_and_what_to_type(saved, tmp_path):
    text = f"{SMALL} --attention_resolutions 8,4 --use_fp16 True --timestep_respacing 250"
    said = traj("convert", "openai", saved, tmp_path / "out", "--flags", text)
    assert "--use_fp16 changes no number here: it is of speed and memory" in said
    assert "is ready, a model of guided-diffusion" in said
    assert said.endswith(f"--model {tmp_path / 'out'} --labels cycle --sampler iddpm --steps 250")


def test_half_precision_becomes_float32_and_old_files_are_read(state, tmp_path):
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    generators = {"cpu": torch.get_rng_state()}
    torch.save({"state_dict": state, "epoch": 3, "generators": generators}, tmp_path / "wrapped.pt")
    read = {name: checkpoint.read(tmp_path / f"{name}.pt") for name in ("half", "old", "wrapped")}
    for name, tensor in state.items():
        torch.testing.assert_close(read["half"][name], tensor.half().float(), rtol=0, atol=0)
        torch.testing.assert_close(read["old"][name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(read["wrapped"][name], tensor, rtol=0, atol=0)


def test_tensors_that_share_memory_are_told_apart(state, saved, tmp_path):
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    views = {name: torch.nn.Parameter(part.view(state[name].shape)) for name, part in zip(state, parts, strict=True)}
    views["out.0.bias"] = views["out.0.weight"]
    torch.save(views, tmp_path / "views.pt")
    convert.convert(tmp_path / "views.pt", tmp_path / "out", f"{SMALL} --attention_resolutions 8,4")
    written = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    for name, tensor in {**state, "out.0.bias": state["out.0.weight"]}.items():
        assert torch.equal(written[name], tensor)


@pytest.mark.parametrize(
    "odd", [torch.ones(32, dtype=torch.int64), torch.ones(32).to_sparse(), torch.tensor(1.0), torch.ones(0)]
)
def test_tensors_of_no_network_are_named(state, tmp_path, odd):
    torch.save({**state, "out.0.bias": odd}, tmp_path / "odd.pt")
    with pytest.raises(
        ValueError, match=r"odd\.pt holds out\.0\.bias; expected dense tensors of floating-point numbers"
    ):
        checkpoint.read(tmp_path / "odd.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named_the_first_three(state, tmp_path, value):
    names = list(state)[2:6]
    broken = {name: tensor.clone() for name, tensor in state.items()}
    for name in names:
        broken[name].view(-1)[-1] = value
    torch.save(broken, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt holds NaN or infinite values in ") as told:
        convert.convert(tmp_path / "odd.pt", tmp_path / "out", f"{SMALL} --attention_resolutions 8,4")
    assert f"in {', '.join(names[:3])} and 1 more; expected finite weights" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_finite_weights_whose_sum_is_not_are_taken(state, tmp_path):
    torch.save({**state, "out.0.bias": torch.full((32,), 3e38)}, tmp_path / "large.pt")
    assert checkpoint.read(tmp_path / "large.pt")["out.0.bias"].isfinite().all()


def test_a_network_whose_predictions_are_not_finite_is_refused_with_the_tensors(tmp_path):
    folder = converted_into(tmp_path / "model", f"{SMALL} --attention_resolutions 8,4")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["out.2.bias"][0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds NaN or infinite values in out\.2\.bias; expected finite weights"):
        models.load(str(folder))


def test_the_tensors_of_another_program_are_named(state, tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"the checkpoint has tensors such as module\.time_embed\.0\.weight; expected"):
        convert.convert(tmp_path / "other.pt", tmp_path / "out", SMALL)


@pytest.mark.parametrize("channels", [1, 7])
def test_a_network_of_other_images_than_colour_is_refused(state, tmp_path, channels):
    torch.save({**state, "input_blocks.0.0.weight": torch.ones(32, channels, 3, 3)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=f"network reads {channels} channels; expected 3: models that enlarge images"):
        convert.convert(tmp_path / "odd.pt", tmp_path / "out", f"{SMALL} --attention_resolutions 8,4")


def odd_contents():
    network = torch.nn.Linear(1, 1)
    return {
        "a list": ([1], "holds a list; expected a state dict: tensors by name"),
        "one tensor": (torch.ones(1), "holds a Tensor; expected a state dict"),
        "numbers": ({"a": 1}, "holds a dict with 'a'; expected a state dict"),
        "nothing": ({}, "holds an empty dict"),
        "an optimizer": (torch.optim.Adam(network.parameters()).state_dict(), "holds the state of an optimizer"),
        "a module": (network, "cannot be read as tensors, and no code of a checkpoint is run"),
        "two models": ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, "2 state dicts, model"),
        "an average too": ({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "2 state dicts, model, ema"),
        "code": (Code(), "cannot be read as tensors, and no code of a checkpoint is run"),
    }


@pytest.mark.parametrize("what", odd_contents())
def test_a_file_that_holds_no_state_dict_is_refused_and_its_code_never_runs(tmp_path, what):
    content, said = odd_contents()[what]
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=said):
        convert.convert(tmp_path / "odd.pt", tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [pickle.dumps(Code(), 2), b"", b"text"], ids=["code", "nothing", "text"])
def test_a_file_that_is_no_checkpoint_is_one_clear_error(tmp_path, content):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as tensors") as caught:
        checkpoint.read(tmp_path / "odd.pt")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # how to run its code


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    assert "no such checkpoint" in traj("convert", "openai", tmp_path / "no.pt", tmp_path / "out", status=2)


def test_missing_extra_and_misshapen_tensors_are_refused_with_the_first_three(state):
    given = {f"extra.{k}": torch.ones(1) for k in range(4)} | {
        name: tensor[:1] if name.startswith("time_embed") else tensor
        for name, tensor in state.items()
        if not name.startswith("output_blocks.1.")
    }
    shapes = {name: tensor.shape for name, tensor in state.items()}
    with pytest.raises(ValueError, match="the checkpoint lacks") as caught:
        checkpoint.require(given, shapes, "the network")
    lacks, extra, other = str(caught.value).split("; ")[:3]
    assert lacks.startswith("the checkpoint lacks output_blocks.1.0.in_layers.0.weight, output_blocks.1.0.in_layers.0.")
    assert lacks.endswith(f" and {sum(name.startswith('output_blocks.1.') for name in state) - 3} more")
    assert extra == "also has extra.0, extra.1, extra.2 and 1 more"
    assert other.startswith("has time_embed.0.weight (1, 32) instead of (128, 32), time_embed.0.bias (1,) instead of")


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        (("--learn_sigma True", ""), "expected --learn_sigma True"),
        (("--class_cond True", ""), "expected --class_cond True"),
        (("--num_channels 32", "--num_channels 64"), "check --num_channels"),
        (("--num_heads 2", "--num_heads 2 --use_scale_shift_norm False"), "expected --use_scale_shift_norm True"),
        (("--num_res_blocks 1", "--num_res_blocks 2"), "check the flags"),
    ],
)
def test_flags_of_another_network_are_refused_with_the_likely_one(saved, tmp_path, changed, advice):
    text = f"{SMALL} --attention_resolutions 8,4".replace(*changed)
    with pytest.raises(ValueError, match=f"does not belong to the U-Net that the flags describe; {advice}$"):
        convert.convert(saved, tmp_path / "out", text)
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_overwritten(saved, tmp_path):
    (tmp_path / "out").mkdir()
    said = traj("convert", "openai", saved, tmp_path / "out", status=2)
    assert "out exists; give another folder, or move it away" in said


def test_a_conversion_that_is_stopped_leaves_nothing(saved, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(OpenAIUNet, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(saved, tmp_path / "out", f"{SMALL} --attention_resolutions 8,4")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_is_of_glide_only(saved, tmp_path):
    with pytest.raises(ValueError, match="guided-diffusion reads no texts; leave it out"):
        convert.convert(saved, tmp_path / "out", SMALL, tokenizer=tmp_path)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"null_label": 999}, "has null_label, but such a network has no label that stands for none"),
        ({"spacing": "odd"}, "has spacing: 'odd'; expected null, or one of leading, linspace, trailing, openai"),
    ],
)
def test_an_odd_traj_json_is_refused(saved, tmp_path, own, said):
    convert.convert(saved, tmp_path / "out", f"{SMALL} --attention_resolutions 8,4")
    (tmp_path / "out/traj.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match=said):
        models.load(str(tmp_path / "out"))
