"""Models by name: folders, the hub's cache, and clear refusals."""

import json
import math
import shutil
import socket

import huggingface_hub.constants
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EDMEulerScheduler

from tests.networks import random_unet
from traj.pipeline.models import load
from traj.pipeline.models.labels import NUMBERS
from traj.pipeline.models.pixels import UNetDenoiser
from traj.pipeline.models.surgery import count
from traj.pipeline.process.schedule import Schedule

NONE = torch.full((3,), -1)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def _no_connections(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def save(folder, network=None, traj=None, safe=True, **scheduler):
    pipeline = DDPMPipeline(network or random_unet(), DDPMScheduler(**scheduler))
    pipeline.save_pretrained(folder, safe_serialization=safe)
    if traj is not None:
        (folder / "traj.json").write_text(json.dumps(traj))
    return folder


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flatten(folder):
    """Lay a pipeline folder out as older repositories do: everything at the root."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    return folder


def states(*shape):
    return torch.randn(shape or (3, 1, 8, 8), generator=torch.Generator().manual_seed(1))


# --- folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("layout", [lambda folder: folder, flatten])
def test_a_pipeline_folder_is_the_network_it_holds(tmp_path, safe, layout):
    folder = layout(save(tmp_path / "mine", safe=safe, clip_sample=False, variance_type="fixed_large"))
    denoiser = load(str(folder))
    assert (denoiser.shape, denoiser.num_classes, denoiser.valid_range) == ((1, 8, 8), 0, (-1.0, 1.0))
    assert (denoiser.schedule.variance, denoiser.schedule.clip_sample) == ("large", None)
    x_t = states()
    prediction = denoiser(x_t, 700, NONE)
    assert torch.equal(prediction.eps, random_unet().eval()(x_t, 700).sample)
    assert not denoiser.network.training


def test_identity_tells_weights_and_options_apart_but_not_places(tmp_path):
    first = save(tmp_path / "a" / "mine")
    other_weights = random_unet()
    other_weights.conv_out.bias += 1
    identities = [
        load(str(folder)).identity
        for folder in (
            first,
            save(tmp_path / "b" / "mine", other_weights),
            save(tmp_path / "c" / "mine", traj={"time_scale": 0.25}),
            save(tmp_path / "d" / "mine", random_unet(center_input_sample=True)),
        )
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4
    shutil.copytree(first, tmp_path / "e" / "another")
    assert load(str(tmp_path / "e" / "another")).identity == identities[0]
    assert str(tmp_path) not in json.dumps(identities)


def test_images_need_not_be_square(tmp_path):
    denoiser = load(str(save(tmp_path, random_unet(sample_size=(4, 8)))))
    assert denoiser.shape == (1, 4, 8)
    assert denoiser(states(3, 1, 4, 8), 0, NONE).pred_x0.shape == (3, 1, 4, 8)


def test_the_network_is_fed_the_scaled_time(tmp_path):
    denoiser = load(str(save(tmp_path, traj={"time_scale": 0.25})))
    expected = denoiser.network(states(), torch.tensor(999 * 0.25)).sample
    assert torch.equal(denoiser(states(), 999, NONE).eps, expected)
    assert not torch.equal(expected, denoiser.network(states(), 249).sample)


def test_learned_range_splits_the_channels():
    schedule = Schedule.from_config({"variance_type": "learned_range"})
    denoiser = UNetDenoiser(random_unet(out_channels=2), schedule, identity={"name": "x"})
    output = denoiser.network(states(), 10).sample
    prediction = denoiser(states(), 10, NONE)
    assert torch.equal(prediction.eps, output[:, :1])
    assert torch.equal(prediction.variance_fraction, (output[:, 1:] + 1) / 2)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_prediction_types_are_consistent(kind, timestep):
    schedule = Schedule.from_config({"prediction_type": kind})
    denoiser = UNetDenoiser(random_unet().double(), schedule, identity={"name": "x"})
    x_t = states().double()
    abar = schedule.alpha_bar[timestep]
    signal, noise = math.sqrt(abar), math.sqrt(1 - abar)
    prediction = denoiser(x_t, timestep, NONE)
    torch.testing.assert_close(signal * prediction.pred_x0 + noise * prediction.eps, x_t, rtol=1e-10, atol=1e-10)
    output = denoiser.network(x_t, timestep).sample
    v = signal * prediction.eps - noise * prediction.pred_x0
    expected = {"epsilon": prediction.eps, "sample": prediction.pred_x0, "v_prediction": v}[kind]
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


def test_autocast_predicts_in_float32_and_near_the_full_network(tmp_path):
    folder = str(save(tmp_path))
    full, cast = (load(folder, autocast=flag)(states(), 500, NONE).eps for flag in (False, True))
    assert cast.dtype == torch.float32
    assert not torch.equal(full, cast)
    assert (full - cast).norm() < 0.05 * full.norm()


# --- labels ---------------------------------------------------------------------------------------------------


def test_labels_reach_the_network_and_minus_one_is_the_null_label(tmp_path):
    denoiser = load(str(save(tmp_path, random_unet(num_class_embeds=11), traj={"null_label": 10})))
    assert denoiser.num_classes == 10
    fed = torch.tensor([3, 10, 9])
    expected = denoiser.network(states(), 50, fed).sample
    assert torch.equal(denoiser(states(), 50, torch.tensor([3, -1, 9])).eps, expected)
    other = denoiser(states(), 50, torch.tensor([4, -1, 9])).eps
    assert not torch.equal(other[0], expected[0])
    with pytest.raises(ValueError, match="label 10: expected 0 to 9"):
        denoiser(states(), 50, fed)


def test_a_conditional_network_without_null_label_refuses_none(tmp_path):
    denoiser = load(str(save(tmp_path, random_unet(num_class_embeds=10))))
    assert denoiser.num_classes == 10
    denoiser(states(), 50, torch.tensor([0, 5, 9]))
    with pytest.raises(ValueError, match="null_label"):
        denoiser(states(), 50, torch.tensor([0, -1, 9]))


@pytest.mark.parametrize("time", ["positional", "fourier", "learned"])
@pytest.mark.parametrize("kind", ["timestep", "identity"])
def test_labels_that_are_numbers_are_embedded_as_the_network_does_it(tmp_path, kind, time):
    unet = random_unet(class_embed_type=kind, time_embedding_type=time, num_train_timesteps=1000)
    denoiser = load(str(save(tmp_path, unet)))
    table = kind == "timestep" and time == "learned"
    assert denoiser.num_classes == (1000 if table else NUMBERS)
    label = torch.tensor([7, 1, 300])
    told = {"timestep": label if table else label.float(), "identity": label.float()[:, None]}[kind]
    expected = unet.eval()(states(), 50, told).sample
    assert torch.equal(denoiser(states(), 50, label).eps, expected)
    assert not torch.equal(denoiser(states(), 50, label + 1).eps, expected)
    with pytest.raises(ValueError, match=f"label {denoiser.num_classes}: expected 0 to {denoiser.num_classes - 1}"):
        denoiser(states(), 50, label + denoiser.num_classes - 300)
    with pytest.raises(ValueError, match="trained with labels only"):
        denoiser.conditions({"labels": "none"})
    assert denoiser.conditions({"labels": "cycle"}).of([0, 5], "cpu").tolist() == [0, 5]
    assert count(denoiser.network).whole > 0


def test_a_label_without_a_logarithm_is_refused_where_one_is_taken(tmp_path):
    denoiser = load(str(save(tmp_path, random_unet(class_embed_type="timestep", time_embedding_type="fourier"))))
    with pytest.raises(ValueError, match="label 0, but the network is told the logarithm"):
        denoiser(states(), 50, torch.tensor([0, 1, 2]))


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "unknown; expected one of digits, digits-iddpm, gaussian"),
        ("gaussian:", "gaussian:MEAN,VAR"),
        ("gaussian:0,-1", "variance"),
        ("gaussian:0,1,1x1x4x8x8", "expected lengths of feature; channel, position; channel, y, x"),
        ("gaussian:0,1,1x8x8,2", "gaussian:MEAN,VAR"),
        ("mixture:1", "two different"),
        ("mixture:1,nan", "two different"),
        ("mixture:a,b", "mixture:A,B"),
        ("dataset:cats", "source 'cats': no such file or folder; expected digits"),
        ("dataset:", "dataset:DATA"),
        ("laplace:0,1", "gaussian:MEAN,VAR"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


@pytest.mark.parametrize("name", ["digits", "digits-iddpm"])
def test_a_built_in_network_before_training_says_what_to_type(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TRAJ_MODELS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"run traj train {name}$"):
        load(name)


def test_a_built_in_network_is_found_where_traj_models_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAJ_MODELS", str(tmp_path))
    save(tmp_path / "digits")
    assert load("digits").name == "digits"


def test_a_folder_under_models_is_found_by_the_name_that_stores_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAJ_MODELS", str(tmp_path))
    kept = load(str(save(tmp_path / "mine"))).name
    assert load(kept).name == kept == "mine"


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no diffusers pipeline folder"):
        load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel"),
        ({"movq": ["diffusers", "VQModel"]}, r"movq \(VQModel\)"),
        ({"text_encoder": ["transformers", "CLIPTextModel"]}, "text_encoder"),
    ],
)
def test_pipelines_with_other_parts_are_refused_by_name(tmp_path, parts, message):
    edit(save(tmp_path) / "model_index.json", **parts)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"_class_name": "VQModel"}, "VQModel"),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type: 'projection'; expected null"),
        ("scheduler/scheduler_config.json", {"thresholding": True}, "thresholding"),
        ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "expected 2 out"),
    ],
)
def test_parts_that_are_not_supported_are_refused_by_name(tmp_path, file, change, message):
    edit(save(tmp_path / "odd") / file, **change)
    with pytest.raises(ValueError, match=f"model odd: .*{message}"):
        load(str(tmp_path / "odd"))


@pytest.mark.parametrize(
    ("network", "traj", "message"),
    [
        ({"out_channels": 2}, {}, "2 out; expected 1 out"),
        ({"class_embed_type": "timestep"}, {"null_label": 3}, "null_label is 3; expected the last of 0"),
        ({"num_class_embeds": 11}, {"null_label": 3}, "null_label is 3"),
        ({}, {"null_label": 10}, "null_label is 10"),
        ({}, {"guidance": 2}, "has guidance, which is not known"),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, network, traj, message):
    with pytest.raises(ValueError, match=message):
        load(str(save(tmp_path, random_unet(**network), traj)))


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(("content", "says"), [("{", "is not JSON"), ("7", "holds a JSON int; expected an object")])
def test_a_config_that_is_no_json_object_is_named(tmp_path, file, content, says):
    (save(tmp_path) / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{file} {says}"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {
                "transformer": ["diffusers", "FluxTransformer2DModel"],
                "text_encoder_2": ["transformers", "T5EncoderModel"],
            },
            r"has transformer \(FluxTransformer2DModel\), text_encoder_2 \(T5EncoderModel\); expected unet",
        ),
        (
            {"prior": ["diffusers", "PriorTransformer"]},
            r"has prior \(PriorTransformer\), scheduler \(DDPMScheduler\); expected one of unet,",
        ),
    ],
)
def test_a_pipeline_of_no_family_names_its_parts_and_the_recorder(tmp_path, parts, message):
    folder = save(tmp_path / "odd")
    shutil.rmtree(folder / "unet")
    index = {**parts, "scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, (_, kind) in parts.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ValueError, match=rf"model odd: the pipeline {message}.*`traj record` keeps the runs"):
        load(str(folder))


def test_a_network_of_an_old_class_or_of_another_model_is_refused_by_name(tmp_path):
    folder = save(tmp_path / "odd")
    for kind in ("UNetModel", "ControlNetModel"):
        edit(folder / "unet" / "config.json", _class_name=kind)
        with pytest.raises(ValueError, match=rf"unet \(UNet2DModel\), whose config.json is of a {kind}; expected"):
            load(str(folder))


def test_missing_weights_are_named(tmp_path):
    folder = save(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        load(str(folder))


# --- the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put_in_cache(cache, hub_id, fill, revision="main"):
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    return fill(folder / "snapshots" / commit)


@pytest.mark.parametrize("layout", [lambda folder: folder, flatten])
def test_a_cached_hub_model_loads_offline(cache, layout):
    put_in_cache(cache, "someone/ddpm-tiny", lambda folder: layout(save(folder)))
    denoiser = load("someone/ddpm-tiny")
    assert denoiser.name == "someone/ddpm-tiny"
    assert torch.equal(denoiser(states(), 3, NONE).eps, random_unet().eval()(states(), 3).sample)


def test_a_revision_a_folder_and_a_variant_of_a_hub_model_are_found_by_name(cache):
    folder = put_in_cache(cache, "someone/many", lambda folder: save(folder / "small" / "first"), revision="v1.0")
    random_unet().half().save_pretrained(folder / "unet", variant="fp16")
    name = "someone/many/small/first@v1.0"
    denoiser = load(name)
    assert denoiser.name == name
    assert torch.equal(denoiser(states(), 3, NONE).eps, random_unet().eval()(states(), 3).sample)
    half = load(name, variant="fp16")
    assert torch.equal(half(states(), 3, NONE).eps, random_unet().half().float().eval()(states(), 3).sample)
    random_unet(center_input_sample=True).save_pretrained(folder / "unet_ema")
    edit(folder / "model_index.json", unet_ema=["diffusers", "UNet2DModel"])
    averaged = "someone/many/small/first/unet_ema@v1.0"
    assert load(name).cautions == (
        f"{name} holds unet and unet_ema; unet is used, as diffusers does. For the other, name {averaged}",
    )
    assert load(averaged).network.config.center_input_sample
    for absent in ("someone/many/small/first", "someone/many/small/first@v2", "someone/many@v1.0"):
        with pytest.raises(FileNotFoundError, match=f"model '{absent}' is neither"):
            load(absent)


def test_a_cached_hub_model_of_another_kind_is_refused_by_name(cache):
    folder = put_in_cache(cache, "someone/ldm", save)
    edit(folder / "model_index.json", vqvae=["diffusers", "VQModel"])
    with pytest.raises(ValueError, match=r"someone/ldm: .*vqvae"):
        load("someone/ldm")


def test_a_hub_model_that_can_not_be_had_is_one_clear_error(cache):
    with pytest.raises(FileNotFoundError, match=r"someone/ddpm-tiny.*HF_HOME.*HF_HUB_OFFLINE") as caught:
        load("someone/ddpm-tiny")
    assert "http" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_ddim_scheduler_folder_is_read_like_any_other(tmp_path):
    folder = save(tmp_path)
    DDIMScheduler(set_alpha_to_one=False, timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    schedule = load(str(folder)).schedule
    assert (schedule.final[0] ** 2, schedule.spacing) == (schedule.alpha_bar[0], "trailing")


def test_a_folder_whose_scheduler_is_a_grid_is_loaded_with_its_steps(tmp_path):
    folder = save(tmp_path)
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match=r"model .*: scheduler config \(EDMEulerScheduler\) is a grid.*--steps 40"):
        load(str(folder))
    denoiser = load(str(folder), steps=5)
    x_t, sigma = 80 * states(), denoiser.schedule.noise_scale[4]
    output = denoiser.network(x_t / (sigma**2 + 0.25) ** 0.5, torch.tensor(math.log(sigma) / 4)).sample
    found = denoiser(x_t, 4, NONE)
    torch.testing.assert_close(found.pred_x0, 0.25 / (sigma**2 + 0.25) * x_t + 0.5 * output, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pred_x0 + 80 * found.eps, x_t)
