"""The features readout: numbers against activations caught by hand, and what a network is told."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import features_networks, runs
from tests.features_networks import LABEL, SHAPE, TIMESTEPS, batches, by_hand, made, prepare, states
from tests.networks import digits
from tests.test_readout import forks
from traj import stores
from traj.pipeline import models
from traj.pipeline.making.passes import Passes
from traj.pipeline.models import parts
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables
from traj.pipeline.process.schedule import Schedule


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return features_networks.laid_out(tmp_path_factory.mktemp("features"))


@pytest.fixture(autouse=True)
def here(folder, tmp_path, monkeypatch):
    features_networks.enter(folder, tmp_path, monkeypatch)


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
    network = Passes.evaluate
    monkeypatch.setattr(Passes, "evaluate", lambda *given: calls.append(1) or network(*given))
    seen, original = [], parts.outputs
    monkeypatch.setattr(parts, "outputs", lambda *given: seen.append(given[4]) or original(*given))
    with reading.open(Path("r.zarr")) as store:
        reading.run(store, bar=False)
    assert sorted(seen) == sorted([*TIMESTEPS, *TIMESTEPS])  # two blocks


def test_timesteps_are_those_asked_for(mean):
    found = made(("first",), timesteps=[100, 900])
    assert found.timestep.values.tolist() == [900, 100]
    np.testing.assert_array_equal(found.features_first, mean.features_first.sel(timestep=[900, 100]))


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
