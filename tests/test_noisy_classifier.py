"""guided-diffusion's classifier: against the equations of its layers, and at the noise levels it was trained at."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests import runs
from traj import stores
from traj.analysis.label_variance import label_variance
from traj.pipeline.cli import main
from traj.pipeline.models import classifiers
from traj.pipeline.models.digits import DigitsClassifier
from traj.pipeline.models.openai import convert, encoder
from traj.pipeline.process import tables

SHAPE = (3, 8, 8)
NETWORK = {
    "sample_size": 8,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "num_head_channels": 16,
    "num_classes": 5,
}
TIMESTEPS = np.array([999, 500, 40, 0])
LINEAR = tables.named("linear")
POOLS = ("attention", "adaptive", "spatial", "spatial_v2")


def levels(schedule=LINEAR, timesteps=TIMESTEPS):
    return {"signal": schedule.signal[timesteps], "noise_scale": schedule.noise_scale[timesteps]}


def randomized(network, seed=0):
    """A state dict with random numbers in every tensor, which keep what is normed near 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) / math.sqrt(math.prod(tensor.shape[1:]))
        for name, tensor in network.state_dict().items()
    }


def write(folder, state, **config):
    folder.mkdir(exist_ok=True)
    described = {"model_type": "openai-classifier", **config, "diffusion_steps": 1000, "noise_schedule": "linear"}
    (folder / "config.json").write_text(json.dumps(described))
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The folder of a small classifier."""
    network = encoder.OpenAIEncoder(**NETWORK)
    return write(tmp_path_factory.mktemp("models") / "noisy", randomized(network), **NETWORK)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run at noise levels of the linear schedule."""
    path = tmp_path_factory.mktemp("runs") / "a.zarr"
    return runs.make(path, 8, shape=SHAPE, timesteps=TIMESTEPS, levels=levels())


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def read(source, out, model, *options, code=0):
    return traj("readout", "classifier", source, out, "--model", model, "--device", "cpu", *options, code=code)


# ---- the network


class Plain:
    """The classifier as the equations of Dhariwal and Nichol 2021 have it, over a state dict."""

    def __init__(self, state, *, split_first=False, scale_shift=True, updown=True):
        self.state, self.split_first, self.scale_shift, self.updown = state, split_first, scale_shift, updown

    def norm(self, name, x):
        groups = x.reshape(len(x), 32, -1)
        centred = groups - groups.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
        weight, bias = (self.state[f"{name}.{part}"].reshape(1, -1, *[1] * (x.ndim - 2)) for part in ("weight", "bias"))
        return normed * weight + bias

    def linear(self, name, x):
        return torch.einsum("oc,nc->no", self.state[f"{name}.weight"], x) + self.state[f"{name}.bias"]

    def places(self, name, x):
        weight, bias = self.state[f"{name}.weight"].flatten(1), self.state[f"{name}.bias"]
        return torch.einsum("oc,ncp->nop", weight, x) + bias[:, None]

    def convolution(self, name, x, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def attend(self, qkv, heads, split_first):
        n, channels, places = qkv.shape
        width = channels // 3 // heads
        if split_first:
            q, k, v = qkv.reshape(n, 3, heads, width, places).unbind(1)
        else:
            q, k, v = qkv.reshape(n, heads, 3, width, places).unbind(2)
        weights = torch.einsum("nhwp,nhws->nhps", q, k / math.sqrt(width)).exp()
        attended = torch.einsum("nhps,nhws->nhwp", weights / weights.sum(-1, keepdim=True), v)
        return attended.reshape(n, channels // 3, places)

    def residual(self, name, x, emb, halved=False):
        def half(x):
            n, c, y, x_ = x.shape
            return x.reshape(n, c, y // 2, 2, x_ // 2, 2).mean((3, 5)) if halved else x

        silu = functional.silu
        h = self.convolution(f"{name}.in_layers.2", half(silu(self.norm(f"{name}.in_layers.0", x))))
        told = self.linear(f"{name}.emb_layers.1", silu(emb))[..., None, None]
        if self.scale_shift:
            scale, shift = told[:, : h.shape[1]], told[:, h.shape[1] :]
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        skip = half(x)
        if f"{name}.skip_connection.weight" in self.state:
            skip = self.convolution(f"{name}.skip_connection", skip)
        return skip + self.convolution(f"{name}.out_layers.3", silu(h))

    def attention(self, name, x):
        flat = x.flatten(2)
        qkv = self.places(f"{name}.qkv", self.norm(f"{name}.norm", flat))
        attended = self.attend(qkv, x.shape[1] // 16, self.split_first)
        return x + self.places(f"{name}.proj_out", attended).reshape(x.shape)

    def logits(self, pool, x, time, **variant):
        angles = time[:, None] * 10_000.0 ** (-torch.arange(16) / 16)
        emb = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
        emb = self.linear("time_embed.2", functional.silu(emb))
        blocks = [self.convolution("input_blocks.0.0", x)]
        blocks.append(self.residual("input_blocks.1.0", blocks[-1], emb))
        if self.updown:
            blocks.append(self.residual("input_blocks.2.0", blocks[-1], emb, halved=True))
        else:
            blocks.append(self.convolution("input_blocks.2.0.op", blocks[-1], stride=2))
        blocks.append(self.attention("input_blocks.3.1", self.residual("input_blocks.3.0", blocks[-1], emb)))
        middle = self.attention("middle_block.1", self.residual("middle_block.0", blocks[-1], emb))
        blocks.append(self.residual("middle_block.2", middle, emb))
        return getattr(self, f"{pool}_pool")(blocks, **variant)

    def attention_pool(self, blocks, mean_first=True, split_first=True, positions=True):
        flat = functional.silu(self.norm("out.0", blocks[-1])).flatten(2)
        mean = flat.mean(2, keepdim=True)
        flat = torch.cat([mean, flat] if mean_first else [flat, mean], 2)
        if positions:
            flat = flat + self.state["out.2.positional_embedding"]
        attended = self.attend(self.places("out.2.qkv_proj", flat), flat.shape[1] // 16, split_first)
        return self.places("out.2.c_proj", attended)[:, :, 0 if mean_first else -1]

    def adaptive_pool(self, blocks):
        mean = functional.silu(self.norm("out.0", blocks[-1])).mean((2, 3))
        return self.places("out.3", mean[..., None])[..., 0]

    def spatial_pool(self, blocks):
        means = torch.cat([block.mean((2, 3)) for block in blocks], 1)
        return self.linear("out.2", self.linear("out.0", means).relu())

    def spatial_v2_pool(self, blocks):
        means = torch.cat([block.mean((2, 3)) for block in blocks], 1)
        return self.linear("out.3", functional.silu(self.norm("out.1", self.linear("out.0", means))))


X_T, TIME = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 1, 7, 40, 500, 999])


def apart(found, expected):
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "others",
    [{}, {"use_new_attention_order": True, "use_scale_shift_norm": False, "resblock_updown": False}],
    ids=["usual", "unusual"],
)
@torch.inference_mode()
def test_logits_are_those_of_the_equations(pool, others):
    network = encoder.OpenAIEncoder(**NETWORK, pool=pool, **others).eval()
    state = randomized(network)
    network.load_state_dict(state)
    split_first, scale_shift, updown = bool(others), not others, not others
    plain = Plain(state, split_first=split_first, scale_shift=scale_shift, updown=updown)
    expected = plain.logits(pool, X_T, TIME)
    assert expected.shape == (6, 5)
    assert apart(network(X_T, TIME), expected) < 1e-5
    wrong = Plain(state, split_first=not split_first, scale_shift=scale_shift, updown=updown)
    assert apart(wrong.logits(pool, X_T, TIME), expected) > 1e-3
    assert apart(plain.logits(pool, X_T, TIME.flip(0)), expected) > 1e-2


@pytest.mark.parametrize("wrong", ["mean_first", "split_first", "positions"])
@torch.inference_mode()
def test_the_pool_has_its_own_order(noisy, wrong):
    """The mean before the places, positions added, channels by query, key and value first: else it is another pool."""
    plain = Plain(load_file(noisy / "model.safetensors"))
    other = plain.logits("attention", X_T, TIME, **{wrong: False})
    assert apart(other, plain.logits("attention", X_T, TIME)) > 1e-2


# ---- from a checkpoint


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


@pytest.mark.parametrize("change", ["--classifier_pool attention", "--classifier_depth 2", "--classifier_width 32"])
def test_other_flags_than_those_of_the_checkpoint_are_refused(published, tmp_path, change):
    folder, flags = published
    name = change.split()[0]
    others = " ".join(f"--{flag}" for flag in flags.split("--")[1:] if not flag.startswith(name[2:]))
    with pytest.raises(ValueError, match=r"the classifier that the flags describe|attention over 96 channels"):
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


# ---- the readout


@pytest.fixture(scope="module")
def logits(noisy, store, tmp_path_factory):
    """A readout of the run."""
    out = tmp_path_factory.mktemp("readouts") / "r.zarr"
    read(store, out, noisy)
    return out


@torch.inference_mode()
def test_states_are_read_at_their_times_and_predictions_at_the_least_noise(noisy, store, logits):
    network = encoder.OpenAIEncoder(**NETWORK).eval()
    network.load_state_dict(load_file(noisy / "model.safetensors"))
    ds, found = stores.open(store), stores.open(logits)

    def by_hand(images, times):
        flat = torch.from_numpy(images.reshape(-1, *SHAPE))
        return network(flat, torch.from_numpy(times).expand(8, 4).flatten()).reshape(8, 4, 5).numpy()

    x_t, pred_x0, never = ds.x_t.to_numpy(), ds.pred_x0.to_numpy(), np.zeros(4)
    assert abs(x_t).max() > 3
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(found.logits.sel(on="x_t"), by_hand(x_t, TIMESTEPS * 1.0), **close)
    np.testing.assert_allclose(found.logits.sel(on="pred_x0"), by_hand(pred_x0, never), **close)
    x_0 = network(torch.from_numpy(ds.x_0.to_numpy()), torch.zeros(8)).numpy()
    np.testing.assert_allclose(found.x_0_logits, x_0, **close)
    for images, times in ((x_t, never), (x_t.clip(-1, 1), TIMESTEPS * 1.0)):  # without times; with what is clipped
        assert abs(found.logits.sel(on="x_t").to_numpy() - by_hand(images, times)).max() > 0.01
    assert found.class_name.values.tolist() == list("01234")


def test_label_variance_follows(logits):
    found = label_variance(stores.open(logits))
    p = np.exp(stores.open(logits).logits.astype("f8"))
    p = p / p.sum("class")
    np.testing.assert_allclose(found.label_variance, 1 - (p**2).sum("class"), atol=1e-12)
    assert found["on"].values.tolist() == ["x_t", "pred_x0"]
    clean = found.copy()
    del clean.attrs[stores.LEARNED_FROM]
    (caption,) = (figure.caption for figure in label_variance.figures if figure.name == "label_variance")
    of_noisy, of_clean = "has learned from noisy images, and is told", "has learned from finished images only"
    assert of_noisy in caption({"a": found})
    assert of_clean not in caption({"a": found})
    assert of_clean in caption({"b": clean})
    assert of_noisy not in caption({"b": clean})
    both = caption({"a": found, "b": clean})
    assert f"The classifier of a {of_noisy}" in both
    assert f"The classifier of b {of_clean}" in both


def test_a_run_in_fewer_steps_of_the_same_schedule_fits(noisy, tmp_path):
    """A respaced process has products of its own betas, here in float32: those of the schedule up to rounding."""
    timesteps = np.array([990, 330, 3])
    kept = LINEAR.alpha_bar[timesteps[::-1]]
    betas = (1 - kept / np.append(1, kept[:-1])).astype("f4")
    alpha_bar = np.cumprod(1 - betas)[::-1].astype("f8")
    assert 1e-8 < abs(alpha_bar / LINEAR.alpha_bar[timesteps] - 1).max() < 1e-6
    runs.make(tmp_path / "a.zarr", 4, shape=SHAPE, timesteps=timesteps, levels=runs.preserving(alpha_bar))
    read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy)


VE = tables.ve()


@pytest.mark.parametrize(
    ("timesteps", "others", "says"),
    [
        (
            TIMESTEPS,
            levels(tables.named("cosine")),
            r"noisy was trained with signal 0\.00635\S* and noise_scale 0\.99998 at timestep 999, and x_t of "
            r".*a\.zarr has 4\.9\S*e-05 and 1 there; expected a store of the same process, or --on pred_x0",
        ),
        (
            np.array([400, 0]),
            levels(VE, [400, 0]),
            "was trained with signal .* at timestep 400, and x_t of .* has 1 and",
        ),
        (np.array([2, 1, 0]), levels(tables.flow(3), [2, 1, 0]), "and x_t of .* has 0 and 1 there"),
        (np.array([1000, 0]), levels(), "was trained at 1000 timesteps, and .* has timestep 1000"),
    ],
    ids=["cosine", "ve", "flow", "longer"],
)
def test_states_of_other_noise_levels_are_refused_and_their_predictions_read(noisy, tmp_path, timesteps, others, says):
    others = {name: values[: len(timesteps)] for name, values in others.items()}
    runs.make(tmp_path / "a.zarr", 2, block=2, shape=SHAPE, timesteps=timesteps, levels=others)
    with pytest.raises(AssertionError, match=says):
        read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy)
    assert not (tmp_path / "r.zarr").exists()
    read(tmp_path / "a.zarr", tmp_path / "r.zarr", noisy, "--on", "pred_x0")
    assert stores.open(tmp_path / "r.zarr")["on"].values.tolist() == ["pred_x0"]


def test_a_dataset_and_forks_are_read(noisy, tmp_path):
    rng = np.random.default_rng(0)
    runs.dataset(tmp_path / "d.zarr", rng.uniform(-1, 1, (2, *SHAPE)), label=[0, 1])
    read(tmp_path / "d.zarr", tmp_path / "r.zarr", noisy)
    found = stores.open(tmp_path / "r.zarr")
    assert set(found.data_vars) == {"x_0_logits"}
    assert np.isfinite(found.x_0_logits).all()
    x_t = rng.standard_normal((1, 2, 2, 4, *SHAPE)).astype("f4")  # (variant, replica, sample, timestep, *event)
    x_t[:, :, :, 0] = np.nan  # before the fork
    described = {
        "timestep": TIMESTEPS,
        **levels(),
        "variant": {"at": [500]},
        "replicas": 2,
        "shape": SHAPE,
        "samples": 2,
    }
    with stores.create_forks(tmp_path / "f.zarr", **described, block=2, states=True, config={}) as written:
        for step in range(4):
            written.put(0, step, x_t[:, :, :, step], np.tanh(x_t[:, :, :, step]))
        written.finish(0, np.tanh(x_t[:, :, :, 3]))
    read(tmp_path / "f.zarr", tmp_path / "fr.zarr", noisy)
    found = stores.open(tmp_path / "fr.zarr")
    classifier = classifiers.load(str(noisy))
    with torch.inference_mode():
        flat = torch.from_numpy(x_t[0, :, :, 1:].reshape(-1, *SHAPE))
        expected = classifier(flat, torch.from_numpy(TIMESTEPS[1:]).repeat(4)).reshape(2, 2, 3, 5)
    np.testing.assert_allclose(found.logits.sel(on="x_t")[0, :, :, 1:], expected, atol=1e-5)
    assert np.isnan(found.logits[:, :, :, :, 0]).all()


def test_decoded_states_are_refused_and_decoded_predictions_read(noisy, store):
    ds = stores.open(store).assign_attrs(kind="decoded", of="trajectories")
    classifier = classifiers.load(str(noisy))
    with pytest.raises(ValueError, match=r"x_t of a\.zarr was decoded from noisy latents, .*--on pred_x0"):
        classifier.check(Path("a.zarr"), ds, ("x_t", "pred_x0"))
    classifier.check(Path("a.zarr"), ds, ("pred_x0",))


def test_states_without_their_noise_levels_are_refused(noisy, store):
    ds = stores.open(store).drop_vars("signal")
    with pytest.raises(ValueError, match=r"a\.zarr has no signal along timestep, .*--on pred_x0"):
        classifiers.load(str(noisy)).check(Path("a.zarr"), ds, ("x_t", "pred_x0"))


def test_noisy_images_go_few_at_a_time_unless_told_otherwise(noisy, logits):
    assert json.loads(stores.open(logits).attrs["config"])["batch"] == classifiers.load(str(noisy)).batch == 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (3, 16, 16)}, r"takes images of shape \(3, 8, 8\) .*, those of .* have \(3, 16, 16\)"),
        ({"shape": (1, 8, 8)}, "noisy images cannot be resized"),
        ({"shape": SHAPE, "valid_range": (0.0, 1.0)}, r"takes images in -1 to 1, those of .* are in \(0\.0, 1\.0\)"),
    ],
)
def test_images_of_another_shape_or_range_are_refused(noisy, tmp_path, options, says):
    store = runs.make(tmp_path / "a.zarr", 1, block=1, timesteps=TIMESTEPS, levels=levels(), **options)
    assert re.search(says, read(store, tmp_path / "r.zarr", noisy, code=2))


def test_a_classifier_of_finished_images_makes_the_store_it_always_made(tmp_path):
    """Nothing of its fingerprint or of its attributes has changed."""
    network = DigitsClassifier(channels=3, width=2, classes=5)
    state = {
        name: torch.arange(tensor.numel()).reshape(tensor.shape) / 64 for name, tensor in network.state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "digits-classifier", "channels": 3, "width": 2, "classes": 5})
    )
    store = runs.make(tmp_path / "a.zarr", 2, block=2, shape=SHAPE, timesteps=TIMESTEPS, levels=levels())
    read(store, tmp_path / "r.zarr", tmp_path)
    found = stores.open(tmp_path / "r.zarr")
    assert found.attrs["fingerprint"] == "82d82d5735f9f0e5bd965799f152245fb8a52403fba727351a32d93dde6d0dd1"
    assert found.logits.attrs == {"long_name": "logits of the state or prediction", "units": "1"}


def test_help_tells_of_noisy_images():
    text = traj("readout", "classifier", "--help")
    assert "has learned from noisy images. It is told the timestep of x_t" in text
    assert "--model models/noisy-classifier" in text
