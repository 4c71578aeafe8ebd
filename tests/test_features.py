"""The features readout: numbers against activations caught by hand, names of parts in any network, what is refused."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMPipeline, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import runs
from tests.networks import built, conditional, digits, random_unet, unconditional
from tests.test_readout import forks
from traj import stores
from traj.pipeline import models
from traj.pipeline.cli import main
from traj.pipeline.info import describe_model
from traj.pipeline.making import readout
from traj.pipeline.models import parts, surgery
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables
from traj.pipeline.process.schedule import Schedule

SHAPE = (1, 8, 8)
TIMESTEPS = np.array([900, 500, 100])
LABEL = [0, 1, 2, 0, 1, 2]

MINE = '''
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch import nn
from traj.pipeline.models.own import preconditioned, wrap
from traj.pipeline.process import tables

LINEAR = tables.named("linear")


class Net(nn.Module):
    """A convolution that is changed in place afterwards, and a layer that is run twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.twice = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Identity()
        self.pair, self.last, self.idle = Pair(), nn.Conv2d(4, 1, 1), nn.Linear(1, 1)
        self.time, self.words = nn.Linear(1, 3), Words()

    def forward(self, x, t):
        self.time(t[:1, None])
        self.words()
        _, hidden = self.pair(self.relu(self.first(x)))
        return self.twice(self.twice(self.last(hidden)))


class Pair(nn.Module):
    def forward(self, x):
        return 2 * x, x


class Words(nn.Module):
    def forward(self):
        return "no tensor"


def net():
    return wrap(Net(), LINEAR, shape=(1, 8, 8), predicts="epsilon")


def hidden():
    inner = Net()
    return wrap(lambda x, t: inner(x, t), LINEAR, shape=(1, 8, 8), predicts="epsilon")


def shown():
    inner = Net()
    return wrap(lambda x, t: inner(x, t), LINEAR, shape=(1, 8, 8), predicts="epsilon", modules=inner)


def edm(steps):
    inner = Net()
    D = preconditioned(lambda x, c: inner(x, c))
    return wrap(D, tables.edm(steps), shape=(1, 8, 8), predicts="sample", modules=inner)


def text():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4, norm_num_groups=4,
    )
    def embedded(samples):
        return torch.stack([torch.full((3, 12), 0.0 if k is None else 1.0 + k) for k in samples])
    def network(x, t, words):
        return unet(x, t, encoder_hidden_states=words).sample
    return wrap(network, LINEAR, shape=(1, 8, 8), predicts="epsilon", condition=embedded, modules=unet)


def dit():
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=4, norm_num_groups=1,
    )
    def eps(x, t, label):
        return network(x, t, label).sample
    return wrap(eps, LINEAR, shape=(1, 8, 8), predicts="epsilon", num_classes=3, null_label=3, modules=network)


def labelled():
    return wrap(lambda x, t, label: x, LINEAR, shape=(1, 8, 8), predicts="epsilon", num_classes=3, modules=Net())
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and a store of states that go with them."""
    place = tmp_path_factory.mktemp("features")
    (place / "mine.py").write_text(MINE)
    DDPMPipeline(digits(), DDPMScheduler()).save_pretrained(place / "digits")
    (place / "digits" / "traj.json").write_text('{"null_label": 10}')
    states(place / "a.zarr")
    return place


@pytest.fixture(scope="module")
def mean(folder):
    """Features of a network of one's own, averaged."""
    return _features(folder, "mean")


@pytest.fixture(scope="module")
def flat(folder):
    """The same, every value."""
    return _features(folder, "flat")


def _features(folder, pool):
    names = ("first", "relu", "pair")
    return made(names, folder / f"{pool}.zarr", model=f"{folder}/mine.py:net", store=folder / "a.zarr", pool=pool)


@pytest.fixture(autouse=True)
def here(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "digits", "a.zarr"):
        Path(name).symlink_to(folder / name)


def states(path, samples=6, schedule=None, timesteps=TIMESTEPS, **options):
    schedule = schedule or tables.named("linear")
    levels = {"signal": schedule.signal[timesteps], "noise_scale": schedule.noise_scale[timesteps]}
    options = {"label": (LABEL * 12)[:samples], **options}
    return runs.make(path, samples, timesteps=timesteps, levels=levels, **options)


def prepare(names, model="mine.py:net", store="a.zarr", **options):
    return readout.prepare("features", store=Path(store), model=model, parts=names, device="cpu", **options)


def made(names, out="r.zarr", **options):
    reading = prepare(names, **options)
    with reading.open(Path(out)) as store:
        reading.run(store, bar=False)
    return stores.open(Path(out))


def by_hand(module, call, *inputs):
    """What a module gives while a network is called, as one would catch it in a notebook."""
    caught = []
    hook = module.register_forward_hook(lambda _module, _given, output: caught.append(output))
    with torch.inference_mode():
        call(*inputs)
    hook.remove()
    (output,) = caught
    return output


def batches(ds, x):
    """x (sample, timestep, *event) as the network gets it: each block and timestep, and where in the store it lies."""
    for first in range(0, ds.sizes["sample"], 4):
        for step, timestep in enumerate(ds.timestep.values):
            rows = np.minimum(np.arange(first, first + 4), ds.sizes["sample"] - 1)  # a short block is filled up
            yield slice(first, first + 4), step, int(timestep), torch.from_numpy(x[rows, step]), rows


# ---- the numbers


def test_features_of_a_unet_equal_those_caught_by_hand():
    found = made(("mid_block", "up_blocks.1"), model="./digits")
    assert found.features_mid_block.dims == ("sample", "timestep", "feature_mid_block")
    assert found.features_up_blocks_1.dims == ("sample", "timestep", "feature_up_blocks_1")
    ds, network = stores.open("a.zarr"), digits().requires_grad_(False)
    for part, variable in (("mid_block", "features_mid_block"), ("up_blocks.1", "features_up_blocks_1")):
        about = {"part": part, "pool": "mean", "input": "noisy"}
        assert {key: found[variable].attrs[key] for key in about} == about
        assert found[variable].dtype == np.float32
        for block, step, timestep, x, _ in batches(ds, ds.x_t.values):
            null = torch.full((4,), 10)
            whole = by_hand(network.get_submodule(part), network, x, torch.tensor(timestep), null)
            values = found[variable].values[block, step]
            np.testing.assert_array_equal(values, whole.mean((2, 3))[: len(values)])


def test_coordinates_of_the_states_come_along(folder, mean):
    ds = stores.open("a.zarr")
    for name in ("sample", "label", "timestep", "signal", "noise_scale", "log_snr", "sigma"):
        np.testing.assert_array_equal(mean[name], ds[name])
    assert mean.attrs["kind"] == "readout"
    assert stores.verify(folder / "mean.zarr", deep=True) == []


def test_many_noise_levels_are_laid_out_without_a_warning():
    states("levels.zarr", samples=44, timesteps=list(range(110, -1, -10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(("first",), store="levels.zarr")


def test_a_clean_input_is_the_signal_of_x_0_at_each_timestep():
    found, ds = made(("first",), input="clean", pool="flat"), stores.open("a.zarr")
    network = models.load("mine.py:net").network
    clean = (ds.signal * ds.x_0).transpose("sample", "timestep", ...).values.astype("f4")
    for block, step, _, x, _ in batches(ds, clean):
        expected = by_hand(network.first, network.first, x).flatten(1)
        values = found.features_first.values[block, step]
        np.testing.assert_array_equal(values, expected[: len(values)])
    assert found.features_first.attrs["input"] == "clean"


def test_flat_features_keep_every_value_in_the_order_of_the_output(flat, mean):
    every = flat.features_first
    assert every.attrs["shape"] == mean.features_first.attrs["shape"] == "4, 8, 8"
    channels = every.values.reshape(*every.shape[:2], 4, 8, 8)
    np.testing.assert_allclose(channels.mean((-1, -2)), mean.features_first, atol=1e-6)


def test_an_output_is_kept_before_the_network_changes_it_in_place(flat):
    assert (flat.features_first < 0).any()
    np.testing.assert_array_equal(flat.features_relu, np.maximum(flat.features_first, 0))


def test_of_several_tensors_the_first_is_read(mean):
    np.testing.assert_allclose(mean.features_pair, 2 * mean.features_relu, rtol=1e-6)


def test_hidden_features_of_a_mixture_of_low_rank_gaussians_make_its_prediction():
    name, schedule = "molrg:classes=2,dim=2,features=6", tables.named("ve")
    states("m.zarr", 4, schedule=schedule, timesteps=np.array([200, 10]), shape=(6,))
    ds = stores.open("m.zarr")
    denoiser, found = models.load(name), made(("hidden",), model=name, store="m.zarr").features_hidden
    for block, step, timestep, x, _ in batches(ds, ds.x_t.values):
        expected = denoiser(x.double(), timestep, torch.full((4,), -1)).pred_x0
        np.testing.assert_allclose(found.values[block, step] @ denoiser.network.hidden.U.T.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_forks_have_features_of_each_variant_and_replica(kind, monkeypatch):
    forks("f.zarr", samples=4, states=True)
    ds = stores.open("f.zarr")
    levels = runs.preserving(0.99 - 0.0196 * np.arange(51)).values()  # those of the forks, at every timestep
    network = models.load("mine.py:net").network
    own = wrap(network, Schedule({}, *levels, np.arange(51)), shape=SHAPE, predicts="epsilon")
    monkeypatch.setattr(models, "load", lambda *_, **__: own)
    found = made(("first",), store="f.zarr", input=kind).features_first
    assert found.dims == ("variant", "replica", "sample", "timestep", "feature_first")
    x = {"noisy": ds.x_t, "clean": (ds.signal * ds.x_0).astype("f4").transpose(*ds.x_t.dims)}[kind].values
    expected = by_hand(network.first, network.first, torch.from_numpy(x).flatten(0, 3)).mean((2, 3))
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-6)  # NaN where no fork went
    assert prepare(("first",), store="f.zarr").readout.following == "traj info"  # probe and snr read no forks


def test_one_forward_pass_serves_all_parts(monkeypatch):
    reading, calls = prepare(("first", "relu", "last")), []
    network = readout.Reading.evaluate
    monkeypatch.setattr(readout.Reading, "evaluate", lambda *given: calls.append(1) or network(*given))
    seen, original = [], parts.outputs
    monkeypatch.setattr(parts, "outputs", lambda *given: seen.append(given[4]) or original(*given))
    with reading.open(Path("r.zarr")) as store:
        reading.run(store, bar=False)
    assert sorted(seen) == sorted([*TIMESTEPS, *TIMESTEPS])  # two blocks


# ---- names in any network


@pytest.mark.parametrize(
    ("model", "names", "shapes"),
    [
        ("net", ("first", "last"), ["4, 8, 8", "1, 8, 8"]),
        ("shown", ("first",), ["4, 8, 8"]),
        ("text", ("mid_block", "down_blocks.0.attentions.0"), ["16, 4, 4", "8, 8, 8"]),
        ("dit", ("pos_embed", "transformer_blocks.1"), ["16, 8", "16, 8"]),
    ],
)
def test_parts_of_any_network_are_read(model, names, shapes):
    found = made(names, model=f"mine.py:{model}")
    read = [one.attrs for name, one in found.data_vars.items() if name.startswith("features_")]
    assert {one["part"]: one["shape"] for one in read} == dict(zip(names, shapes, strict=True))


def test_an_edm_network_of_ones_own_is_read_at_its_noise_levels():
    states("edm.zarr", schedule=tables.edm(3), timesteps=np.array([2, 1, 0]), config={"schedule": {"T": 3}})
    ds = stores.open("edm.zarr")
    found = made(("first",), model="mine.py:edm", store="edm.zarr", pool="flat")
    network = models.load("mine.py:edm", steps=3).modules
    for block, step, _, x, _ in batches(ds, ds.x_t.values):
        scaled = x / float(np.sqrt(ds.sigma[step] ** 2 + 0.25))
        expected = by_hand(network.first, network.first, scaled).flatten(1)
        values = found.features_first.values[block, step]
        np.testing.assert_allclose(values, expected[: len(values)], rtol=1e-4, atol=1e-5)


def test_features_of_tokens_are_averaged_over_the_tokens():
    options = {"model": "mine.py:dit", "timesteps": [500]}
    flat = made(("transformer_blocks.0",), pool="flat", **options).features_transformer_blocks_0
    mean = made(("transformer_blocks.0",), "m.zarr", **options).features_transformer_blocks_0
    assert mean.shape[-1] == 8
    np.testing.assert_allclose(flat.values.reshape(*flat.shape[:2], 16, 8).mean(2), mean, atol=1e-6)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=st.one_of(unconditional(), conditional()))
def test_every_block_that_info_prints_is_a_part_with_the_output_of_that_block(case):
    network, (x_t, _), arguments = built(case)
    tell = {key: value for key, value in arguments.items() if value is not None}
    denoiser = wrap(
        lambda x, t: network(x, torch.tensor(7), **tell).sample[:, : x.shape[1]],
        tables.named("linear"),
        shape=x_t.shape[1:],
        predicts="epsilon",
        modules=network,
    )
    blocks = surgery.unet_blocks(network)
    names = [block.name.split(" + ")[-1] for block in blocks]
    found = parts.find(denoiser, names)
    with torch.inference_mode():
        outputs = parts.outputs(denoiser, found, torch.clone, x_t, 7, torch.full((2,), -1))
    widths = {name: output.shape[1] for name, output in outputs.items()}
    assert widths == {name: block.shape[0] for name, block in zip(names, blocks, strict=True)}
    assert set(parts.listed(network)) >= {f"down_blocks.{i}" for i in range(len(network.down_blocks))}


def test_names_that_info_lists_can_be_typed(folder):
    said = describe_model("./digits")
    names = said.split("child:\n")[1].replace("\n", " ").split(", ")
    assert {"conv_in", "mid_block", "down_blocks.0", "up_blocks.1"} <= set(names)
    assert set(parts.find(models.load("./digits"), names)) == set(names)
    assert "up_blocks.0.resnets.1 + up_blocks.0.upsamplers.0" in said
    assert "transformer_blocks.1, " in describe_model("mine.py:dit")
    assert "first, relu" in describe_model("mine.py:edm", steps=3)
    assert "Parts" not in describe_model("gaussian:0,1")


def test_a_network_that_wraps_another_shows_the_parts_of_that_one():
    outer = torch.nn.Module()
    outer.model = random_unet()
    assert {"model.conv_in", "model.mid_block", "model.up_blocks.1"} <= set(parts.listed(outer))


# ---- what a network is told


def test_the_label_is_told_where_it_is_asked_for():
    told = made(("up_blocks.1",), model="./digits", labels="stored", timesteps=[500]).features_up_blocks_1
    ds, network = stores.open("a.zarr").sel(timestep=[500]), digits().requires_grad_(False)
    for block, step, timestep, x, rows in batches(ds, ds.x_t.values):
        whole = by_hand(network.up_blocks[1], network, x, torch.tensor(timestep), torch.tensor(LABEL)[rows])
        values = told.values[block, step]
        np.testing.assert_array_equal(values, whole.mean((2, 3))[: len(values)])


def test_a_text_is_not_told_unless_asked_for():
    options = {"model": "mine.py:text", "timesteps": [500]}
    untold = made(("mid_block",), **options).features_mid_block
    told = made(("mid_block",), "t.zarr", labels="stored", **options).features_mid_block
    assert not np.allclose(told, untold)


def test_a_network_that_needs_a_label_would_give_it_away():
    with pytest.raises(ValueError, match=r"trained with labels only, .* give that label away.*--labels stored"):
        prepare(("first",), model="mine.py:labelled")


# ---- its store


def test_interrupted_and_extended_features_equal_those_of_one_pass():
    states("s.zarr", 6)
    made(("first", "relu"), store="s.zarr")
    states("s.zarr", 11)
    reading = prepare(("first", "relu"), store="s.zarr")
    with reading.open(Path("r.zarr"), blocks=[2]) as store:
        reading.run(store, bar=False)
    made(("first", "relu"), store="s.zarr")
    made(("first", "relu"), "straight.zarr", store="s.zarr")
    assert runs.digest("r.zarr") == runs.digest("straight.zarr")


def test_what_changes_the_features_changes_the_fingerprint():
    changes = ({}, {"pool": "flat"}, {"input": "clean"}, {"labels": "stored"}, {"timesteps": [500]}, {"batch": 3})
    assert len({str(prepare(("first",), **options).config) for options in changes}) == len(changes)


def test_the_size_that_is_said_first_is_that_of_the_features():
    cost = prepare(("first", "last"), pool="flat").cost(Path("r.zarr"))
    assert cost.disk == 2 * 4 * 3 * (256 + 64) * 4  # blocks, samples, timesteps, features, bytes
    assert cost.evaluations == 2 * 3


def test_timesteps_are_those_asked_for(mean):
    found = made(("first",), timesteps=[100, 900])
    assert found.timestep.values.tolist() == [900, 100]
    np.testing.assert_array_equal(found.features_first, mean.features_first.sel(timestep=[900, 100]))


# ---- what is refused


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, ["readout", "features", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_sizes_come_first_and_what_to_type_next_last():
    text = traj("a.zarr", "r.zarr", "--model", "mine.py:net", "--parts", "first,last")
    assert text.startswith("first: 4 features of 4 x 8 x 8 last: 1 features of 1 x 8 x 8 r.zarr: 2 of 2 blocks to do;")
    assert text.endswith("r.zarr is complete; next: traj analyze probe r.zarr")


def test_features_larger_than_the_disk_are_refused_before_there_is_a_store(monkeypatch):
    monkeypatch.setattr(readout, "disk_free", lambda out: 1 << 10)
    command = ("a.zarr", "r.zarr", "--model", "mine.py:net", "--parts", "first", "--pool", "flat")
    said = traj(*command, code=2)
    assert "r.zarr takes 24.0 KiB, and its disk has 1.0 KiB free; store less with --pool mean" in said
    assert not Path("r.zarr").exists()
    assert "disk at most 24.0 KiB of 1.0 KiB free" in traj(*command, "--dry-run")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--parts", "frist"], "has no part 'frist'; expected one like first"),
        (["--parts", "xyz"], "has no part 'xyz'; expected one out of first, relu, twice, pair, last, idle"),
        (["--parts", ""], "has no part ''"),
        (["--parts", "first,first"], "part first was given twice"),
        (["--parts", "idle"], "part idle, a Linear, is run 0 times in a forward pass; expected once"),
        (["--parts", "twice"], "part twice, a Identity, is run 2 times"),
        (["--parts", "time"], "part time gives a tensor of shape (1, 3) for 2 events"),
        (["--parts", "words"], "part words gives a str without a tensor"),
        (["--parts", "first", "--pool", "max"], "expected mean | flat"),
        (["--parts", "first", "--batch", 0], "batch 0 was given"),
        (["--parts", "first", "--timesteps", 501], "timestep 501 is not stored in a.zarr; the nearest are 500 and 900"),
        (["--parts", "first", "--timesteps", "500,500"], "some of them twice"),
        (["--parts", "first", "--timesteps", 500, "--every", 2], "expected one of them"),
        (["--parts", "first", "--model", "gaussian:0,1,1x8x8"], "is a closed form, and has none: expected a network"),
        (["--parts", "first", "--model", "mine.py:hidden"], "shows no modules: hand the torch.nn.Module in it to wrap"),
        (["--parts", "conv_in", "--model", "./digits", "--labels", "cycle"], "expected none | stored"),
    ],
)
def test_what_cannot_be_read_is_refused(asked, message):
    model = [] if "--model" in asked else ["--model", "mine.py:net"]
    assert message in traj("a.zarr", "r.zarr", *model, *asked, code=2)
    assert not Path("r.zarr").exists()


def test_states_of_other_noise_levels_or_none_are_refused():
    runs.make("b.zarr", 4, timesteps=TIMESTEPS)
    net = ("--model", "mine.py:net", "--parts", "first")
    assert "has another signal and noise_scale at the timesteps of b.zarr" in traj("b.zarr", "r.zarr", *net, code=2)
    states("c.zarr", 4, schedule=tables.edm(2000), timesteps=np.array([1500, 3]))
    assert "has another signal and noise_scale at the timesteps of c.zarr" in traj("c.zarr", "r.zarr", *net, code=2)
    runs.dataset("d.zarr", np.zeros((2, *SHAPE)))
    assert "d.zarr has no states x_t" in traj("d.zarr", "r.zarr", *net, code=2)
    assert "events of shape (1, 4, 4), and a.zarr has (1, 8, 8)" in traj(
        "a.zarr", "r.zarr", "--model", "gaussian:0,1,1x4x4", "--parts", "first", code=2
    )


def test_parts_whose_variables_would_share_a_name_are_refused(monkeypatch):
    network = torch.nn.Module()
    network.add_module("a_b", torch.nn.Identity())
    network.add_module("a", torch.nn.Module())
    network.a.add_module("b", torch.nn.Identity())
    network.forward = lambda x, t: network.a_b(network.a.b(x))
    mine = wrap(network, tables.named("linear"), shape=SHAPE, predicts="epsilon")
    monkeypatch.setattr(models, "load", lambda *_, **__: mine)
    with pytest.raises(ValueError, match=r"a_b and a\.b would both be called features_a_b"):
        prepare(("a_b", "a.b"))


def test_no_hook_stays_after_an_error():
    denoiser = models.load("mine.py:net")
    chosen = parts.find(denoiser, ["first", "words"])
    with pytest.raises(ValueError, match="words gives a str"):
        parts.outputs(denoiser, chosen, torch.clone, torch.zeros(2, *SHAPE), 5, torch.full((2,), -1))
    assert not any(module._forward_hooks for module in chosen.values())


MEASURED = """
import resource, sys
from pathlib import Path
from traj.pipeline.making import readout

reading = readout.prepare(
    "features", store=Path("big.zarr"), model="wide.py:wide", parts=("layer",), pool="flat", device="cpu",
    input=sys.argv[1],
)
said = reading.cost(Path("r.zarr"))
with reading.open(Path("r.zarr")) as store:
    reading.run(store, bar=False)
print(said.memory, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, said.disk)
"""

WIDE = """
from torch import nn
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.back = nn.Conv2d(1, 64, 1), nn.Conv2d(64, 1, 1)

    def forward(self, x, t):
        return self.back(self.layer(x))

def wide():
    return wrap(Wide(), tables.named("linear"), shape=(1, 16, 16), predicts="epsilon")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux alone")
@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_memory_stays_within_what_was_said(kind):
    """Blocks of 32 samples have 168 MB of features."""
    Path("wide.py").write_text(WIDE)
    states("big.zarr", 64, timesteps=np.arange(80)[::-1] * 10, shape=(1, 16, 16), block=32)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, kind], check=True, capture_output=True, text=True, env=os.environ
    )
    said, peak, disk = map(int, done.stdout.split())
    assert disk == 64 * 80 * 64 * 256 * 4
    assert peak <= said
    assert said < 3 * peak
