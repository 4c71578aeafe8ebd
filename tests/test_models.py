"""Models by name: folders, the hub's cache, exact denoisers, and clear refusals."""

import json
import math
import shutil
import socket

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from pipeline.denoiser import NetworkDenoiser
from pipeline.models import load
from pipeline.plan import ddim, ddpm
from pipeline.sampler import reverse
from pipeline.schedule import Schedule

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


def unet(**changes):
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    }
    return UNet2DModel(**{**config, **changes})


def save(folder, network=None, traj=None, safe=True, **scheduler):
    pipeline = DDPMPipeline(network or unet(), DDPMScheduler(**scheduler))
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
    assert torch.equal(prediction.eps, unet().eval()(x_t, 700).sample)
    assert not denoiser.network.training


def test_identity_tells_weights_and_options_apart_but_not_places(tmp_path):
    first = save(tmp_path / "a" / "mine")
    other_weights = unet()
    other_weights.conv_out.bias += 1
    identities = [
        load(str(folder)).identity
        for folder in (
            first,
            save(tmp_path / "b" / "mine", other_weights),
            save(tmp_path / "c" / "mine", traj={"time_scale": 0.25}),
            save(tmp_path / "d" / "mine", unet(center_input_sample=True)),
        )
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4
    shutil.copytree(first, tmp_path / "e" / "mine")
    assert load(str(tmp_path / "e" / "mine")).identity == identities[0]
    assert identities[0]["name"] == "mine"
    assert str(tmp_path) not in json.dumps(identities)


def test_images_need_not_be_square(tmp_path):
    denoiser = load(str(save(tmp_path, unet(sample_size=(4, 8)))))
    assert denoiser.shape == (1, 4, 8)
    assert denoiser(states(3, 1, 4, 8), 0, NONE).pred_x0.shape == (3, 1, 4, 8)


def test_the_network_is_fed_the_scaled_time(tmp_path):
    denoiser = load(str(save(tmp_path, traj={"time_scale": 0.25})))
    expected = denoiser.network(states(), torch.tensor(999 * 0.25)).sample
    assert torch.equal(denoiser(states(), 999, NONE).eps, expected)
    assert not torch.equal(expected, denoiser.network(states(), 249).sample)


def test_learned_range_splits_the_channels():
    schedule = Schedule.from_config({"variance_type": "learned_range"})
    denoiser = NetworkDenoiser(unet(out_channels=2), schedule, identity={"name": "x"})
    output = denoiser.network(states(), 10).sample
    prediction = denoiser(states(), 10, NONE)
    assert torch.equal(prediction.eps, output[:, :1])
    assert torch.equal(prediction.variance_fraction, (output[:, 1:] + 1) / 2)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_prediction_types_are_consistent(kind, timestep):
    schedule = Schedule.from_config({"prediction_type": kind})
    denoiser = NetworkDenoiser(unet().double(), schedule, identity={"name": "x"})
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
    denoiser = load(str(save(tmp_path, unet(num_class_embeds=11), traj={"null_label": 10})))
    assert denoiser.num_classes == 10
    fed = torch.tensor([3, 10, 9])
    expected = denoiser.network(states(), 50, fed).sample
    assert torch.equal(denoiser(states(), 50, torch.tensor([3, -1, 9])).eps, expected)
    other = denoiser(states(), 50, torch.tensor([4, -1, 9])).eps
    assert not torch.equal(other[0], expected[0])
    with pytest.raises(ValueError, match="label 10: expected 0 to 9"):
        denoiser(states(), 50, fed)


def test_a_conditional_network_without_null_label_refuses_none(tmp_path):
    denoiser = load(str(save(tmp_path, unet(num_class_embeds=10))))
    assert denoiser.num_classes == 10
    denoiser(states(), 50, torch.tensor([0, 5, 9]))
    with pytest.raises(ValueError, match="null_label"):
        denoiser(states(), 50, torch.tensor([0, -1, 9]))


@pytest.mark.parametrize("name", ["gaussian:0,1", "mixture:-1,1"])
def test_labels_a_model_does_not_have_are_refused(name):
    with pytest.raises(ValueError, match="label 7"):
        load(name)(states(3, 1, 1, 1), 50, torch.tensor([0, 7, 0]))
    with pytest.raises(ValueError, match="label -2"):
        load(name)(states(3, 1, 1, 1), 50, torch.tensor([-1, -2, -1]))


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "unknown; expected one of digits, digits-iddpm, gaussian"),
        ("gaussian:", "gaussian:MEAN,VAR"),
        ("gaussian:0,-1", "variance"),
        ("gaussian:0,1,8x8", "channels, height and width"),
        ("gaussian:0,1,1x8x8,2", "gaussian:MEAN,VAR"),
        ("mixture:1", "two different"),
        ("mixture:1,nan", "two different"),
        ("mixture:a,b", "mixture:A,B"),
        ("dataset:cats", "dataset:digits"),
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
    assert load("digits").identity["name"] == "digits"


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no diffusers pipeline folder"):
        load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel"),
        ({"vqvae": ["diffusers", "VQModel"]}, r"vqvae \(VQModel\)"),
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
        ({"class_embed_type": "timestep"}, {}, "class_embed_type"),
        ({"num_class_embeds": 11}, {"null_label": 3}, "null_label is 3"),
        ({}, {"null_label": 10}, "null_label is 10"),
        ({}, {"guidance": 2}, "holds guidance"),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, network, traj, message):
    with pytest.raises(ValueError, match=message):
        load(str(save(tmp_path, unet(**network), traj)))


def test_missing_weights_and_broken_json_are_named(tmp_path):
    folder = save(tmp_path)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load(str(folder))
    save(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        load(str(folder))


# --- the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put_in_cache(cache, hub_id, fill):
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return fill(folder / "snapshots" / commit)


@pytest.mark.parametrize("layout", [lambda folder: folder, flatten])
def test_a_cached_hub_model_loads_offline(cache, layout):
    put_in_cache(cache, "someone/ddpm-tiny", lambda folder: layout(save(folder)))
    denoiser = load("someone/ddpm-tiny")
    assert denoiser.identity["name"] == "someone/ddpm-tiny"
    assert torch.equal(denoiser(states(), 3, NONE).eps, unet().eval()(states(), 3).sample)


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


# --- exact denoisers ------------------------------------------------------------------------------------------


def test_gaussian_predicts_the_posterior_mean():
    denoiser = load("gaussian:0.5,0.25,2x3x4")
    assert denoiser.shape == (2, 3, 4)
    assert denoiser.valid_range == (-1.5, 2.5)
    # joint normal of x_0 and x_t: regression of one on the other
    x_t, timestep = states(3, 2, 3, 4).double(), 300
    abar = denoiser.schedule.alpha_bar[timestep]
    slope = math.sqrt(abar) * 0.25 / (abar * 0.25 + 1 - abar)
    prediction = denoiser(x_t, timestep, NONE)
    torch.testing.assert_close(prediction.pred_x0, 0.5 + slope * (x_t - math.sqrt(abar) * 0.5))
    together = math.sqrt(abar) * prediction.pred_x0 + math.sqrt(1 - abar) * prediction.eps
    torch.testing.assert_close(together, x_t)


def test_mixture_weighs_its_points_by_their_likelihood():
    points = np.array([-8.0, -4.0, 6.0, 8.0])
    denoiser = load("mixture:-8,-4,6,8")
    assert (denoiser.num_classes, denoiser.valid_range) == (4, (-8.0, 8.0))
    x_t = torch.tensor([-1.0, 0.3, 2.0]).double().reshape(3, 1, 1, 1)
    for timestep in (0, 500, 999):
        abar = denoiser.schedule.alpha_bar[timestep]
        z = -((x_t.numpy().reshape(3, 1) - math.sqrt(abar) * points) ** 2) / (2 * (1 - abar))
        weights = np.exp(z - z.max(1, keepdims=True))
        expected = (weights @ points) / weights.sum(1)
        np.testing.assert_allclose(denoiser(x_t, timestep, NONE).pred_x0.ravel(), expected, rtol=1e-9)
    named = denoiser(x_t, 500, torch.tensor([0, 2, 3])).pred_x0.ravel()
    np.testing.assert_array_equal(named, points[[0, 2, 3]])


def test_halfway_between_two_points_both_weigh_the_same():
    denoiser = load("mixture:-1,3")
    x_t = torch.full((3, 1, 1, 1), math.sqrt(denoiser.schedule.alpha_bar[200])).double()
    torch.testing.assert_close(denoiser.log_weights(x_t, 200, NONE).exp(), torch.full((3, 2), 0.5).double())


def brute_force(denoiser, x_t, timestep, members):
    """Return the posterior mean with the distances taken one by one."""
    points = denoiser.points.numpy()[members]
    abar = denoiser.schedule.alpha_bar[timestep]
    z = np.array([-((x_t - math.sqrt(abar) * point) ** 2).sum() / (2 * (1 - abar)) for point in points])
    weights = np.exp(z - z.max())
    return weights @ points / weights.sum()


@pytest.mark.parametrize("timestep", [0, 150, 600, 999])
def test_dataset_agrees_with_brute_force_with_and_without_labels(timestep):
    denoiser = load("dataset:digits")
    assert (denoiser.shape, denoiser.num_classes, denoiser.valid_range) == ((1, 8, 8), 10, (-1.0, 1.0))
    abar = denoiser.schedule.alpha_bar[timestep]
    x_t = math.sqrt(abar) * denoiser.points[[3, 500, 1700]].reshape(3, 1, 8, 8)
    x_t = x_t + math.sqrt(1 - abar) * states().double()
    pred_x0 = denoiser(x_t, timestep, torch.tensor([-1, 4, -1])).pred_x0.reshape(3, -1).numpy()
    everyone, fours = slice(None), denoiser.classes.numpy() == 4
    for row, members in enumerate((everyone, fours, everyone)):
        expected = brute_force(denoiser, x_t[row].numpy().ravel(), timestep, members)
        np.testing.assert_allclose(pred_x0[row], expected, rtol=1e-7, atol=1e-9)


def test_dataset_posterior_is_the_nearest_point_without_noise_and_the_mean_without_signal():
    denoiser = load("dataset:digits")
    x_t = 1.5 * states().double()
    denoiser.schedule = Schedule.from_config({"trained_betas": [1e-9, 1 - 1e-9]})
    nearest = torch.cdist(x_t.flatten(1), denoiser.points).argmin(1)
    torch.testing.assert_close(denoiser(x_t, 0, NONE).pred_x0.flatten(1), denoiser.points[nearest])
    mean = denoiser.points.mean(0).expand(3, -1)
    torch.testing.assert_close(denoiser(x_t, 1, NONE).pred_x0.flatten(1), mean, rtol=0, atol=1e-2)


@pytest.mark.parametrize("build", [lambda s: ddim(s, 50), lambda s: ddpm(s, 100, "small")])
def test_sampling_the_dataset_ends_on_training_points(build):
    denoiser = load("dataset:digits")
    label = torch.tensor([-1, 2, 9])
    (x_0,) = reverse(
        denoiser,
        [build(denoiser.schedule)],
        label,
        start=lambda _: states(),
        noise=lambda _, step: torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(step.timestep)),
        keep=lambda *_: None,
    )
    distance, point = torch.cdist(x_0.flatten(1).double(), denoiser.points).min(1)
    assert distance.max() < 1e-4
    assert denoiser.classes[point][1:].tolist() == [2, 9]


def test_identities_of_exact_denoisers_hold_their_numbers():
    names = ["gaussian:0,1", "gaussian:0,2", "gaussian:0,1,1x2x2", "mixture:-1,1", "mixture:-1,2", "dataset:digits"]
    identities = [json.dumps(load(name).identity, sort_keys=True) for name in names]
    assert len(set(identities)) == len(names)
    assert load("gaussian:0.0,1.0,1x1x1").identity == load("gaussian:0,1").identity


def test_a_ddim_scheduler_folder_is_read_like_any_other(tmp_path):
    folder = save(tmp_path)
    DDIMScheduler(set_alpha_to_one=False, timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    schedule = load(str(folder)).schedule
    assert (schedule.final_alpha_bar, schedule.spacing) == (schedule.alpha_bar[0], "trailing")
