"""Parts of a network, by names, in any network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import features_networks
from tests.features_networks import batches, by_hand, made, states
from tests.networks import built, conditional, random_unet, unconditional
from traj import stores
from traj.pipeline import models
from traj.pipeline.info import describe_model
from traj.pipeline.models import parts, surgery
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return features_networks.laid_out(tmp_path_factory.mktemp("features"))


@pytest.fixture(autouse=True)
def here(folder, tmp_path, monkeypatch):
    features_networks.enter(folder, tmp_path, monkeypatch)


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

    def run(x, t):
        network(x, torch.tensor(7), **tell)
        return x  # not every network drawn answers in the shape of a state

    denoiser = wrap(run, tables.named("linear"), shape=x_t.shape[1:], predicts="epsilon", modules=network)
    blocks = surgery.count(network).unet_blocks
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
