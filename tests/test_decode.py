"""Decoded images: the numbers, the bytes, what is refused."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from tests import runs, warm
from tests.decoded import decode, forks, in_bytes, latents, linear, traj, write_model
from tests.runs import digest
from traj import analysis, stores
from traj.pipeline.making import readout
from traj.pipeline.models.stored import name_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_model(tmp_path)


def test_images_of_a_linear_map_are_its_matrix_product(folder):
    parent = stores.open(latents("a.zarr"))
    said = decode("a.zarr", "b.zarr")
    assert "104 events" in said
    assert "next: traj analyze entropy,ssim,psnr b.zarr" in said
    found = stores.open("b.zarr")
    raw = xr.open_zarr("b.zarr", mask_and_scale=False)
    for name in ("x_t", "pred_x0", "x_0"):
        expected = in_bytes(linear(parent[name]))
        assert raw[name].dtype == np.uint8
        assert (np.abs(raw[name].values - expected) <= 1).all()  # a value on the edge of two bytes
        assert (raw[name].values == expected).mean() > 0.999
        np.testing.assert_allclose(found[name], raw[name] / 127.5 - 1, atol=1e-6)
        assert found[name].dtype == np.float32
        assert found[name].dims == (*parent[name].dims,)
    assert found.attrs["kind"] == "decoded"
    assert stores.stands_for(found.attrs) == "trajectories"


def test_a_decoded_store_has_the_coordinates_of_its_parent(folder):
    parent = stores.open(latents("a.zarr", label=np.arange(6) % 3, prompt=[f"a cat {k}" for k in range(6)]))
    decode("a.zarr", "b.zarr", "--every", 2)
    found = stores.open("b.zarr")
    expected = parent.isel(timestep=[0, 2, 4, 5])
    assert set(found.coords) == set(parent.coords)
    for name, coord in expected.coords.items():
        xr.testing.assert_identical(found[name].variable, coord.variable)


def test_plain_xarray_reads_floats_without_a_word(folder, recwarn):
    latents("a.zarr")
    decode("a.zarr", "b.zarr")
    recwarn.clear()
    with xr.open_zarr("b.zarr") as plain:
        assert plain.x_t.dtype.kind == "f"
        assert float(plain.x_t.min()) >= -1
        assert float(plain.x_t.max()) <= 1
        np.testing.assert_allclose(plain.x_t, stores.open("b.zarr").x_t, atol=1e-6)
        assert plain.x_t.attrs["valid_range"] == [-1, 1]
    assert not recwarn.list


def test_float16_keeps_what_lies_beyond_the_range(folder):
    parent = stores.open(latents("a.zarr"))
    decode("a.zarr", "b.zarr", "--dtype", "float16", "--on", "pred_x0")
    found = stores.open("b.zarr")
    assert set(found.data_vars) == {"pred_x0", "x_0"}
    assert found.pred_x0.dtype == np.float16
    np.testing.assert_allclose(found.pred_x0, linear(parent.pred_x0), rtol=1e-3, atol=1e-5)


def test_values_beyond_float16_are_clipped_and_counted(folder):
    parent = stores.open(latents("a.zarr", samples=5))
    said = decode("a.zarr", "b.zarr", "--dtype", "float16", "--on", "x_0", model="mine.py:huge")
    beyond = np.abs(1e6 * linear(parent.x_0)) > 65504
    assert f"{beyond.sum()} values were clipped to the range of float16" in said
    found = stores.open("b.zarr").x_0.values
    assert np.isfinite(found).all()
    assert (np.abs(found[beyond]) == 65504).all()


@pytest.mark.parametrize(("family", "dtype"), [("ldm-vq", "uint8"), ("dit", "float16")])
def test_images_are_those_of_the_pipeline(folder, family, dtype):
    from tests import families  # takes seconds

    pipeline = str(families.folder(family))
    condition = ["--labels", "7"] if family == "dit" else []
    common = ["--samples", 3, "--block", 3, "--device", "cpu", "--sampler", "ddim", "--steps", 2, *condition]
    traj("generate", "--model", pipeline, *common, "a.zarr")
    decode("a.zarr", "b.zarr", "--batch", 9, "--dtype", dtype, model=pipeline)
    parent, found = stores.open("a.zarr"), stores.open("b.zarr")
    theirs = families.pipeline(family)
    autoencoder = theirs.vqvae if family == "ldm-vq" else theirs.vae
    for name in ("x_0", "pred_x0"):
        latents = torch.from_numpy(parent[name].values.reshape(-1, *parent.x_0.shape[1:]))
        with torch.inference_mode():
            images = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample.numpy()
        images = images.reshape(found[name].shape)
        if dtype == "uint8":
            raw = xr.open_zarr("b.zarr", mask_and_scale=False)[name].values
            assert np.ptp(raw) > 20
            assert (np.abs(raw - in_bytes(images)) <= 1).all()
            assert (raw == in_bytes(images)).mean() > 0.999
        else:
            np.testing.assert_allclose(found[name], images, rtol=2e-3, atol=2e-3)


def test_states_that_forks_never_visited_stay_nan_in_float16_and_are_refused_in_uint8(folder):
    forks("f.zarr", states=True)
    said = decode("f.zarr", "g.zarr", code=2)
    assert "uint8 cannot say so; expected --dtype float16, or --on x_0" in said
    assert not (folder / "g.zarr").exists()
    decode("f.zarr", "g.zarr", "--dtype", "float16")
    parent, found = stores.open("f.zarr"), stores.open("g.zarr")
    visited = parent.timestep <= parent["at"]
    assert (found.x_t.notnull().all(("channel", "y", "x")) == visited).all()
    assert (found.x_t.isnull().all(("channel", "y", "x")) == ~visited).all()
    np.testing.assert_allclose(found.x_t, linear(parent.x_t), rtol=1e-3, atol=1e-5)
    assert stores.verify("g.zarr", deep=True) == []
    assert stores.describe("g.zarr")["not_finite"] == {}


def test_latents_are_said_to_be_latents_by_what_takes_images(folder):
    ds = stores.open(latents("a.zarr"))
    for quantity in ("entropy", "psnr"):
        with pytest.raises(stores.InputError, match="traj readout decode"):
            analysis.load(quantity)(ds)


def test_a_store_that_names_no_weights_names_what_may_be_its_model(folder):
    latents("a.zarr", environment={"model": "sd"})
    with pytest.raises(
        stores.InputError, match="names sd as its model, but not its weights; give it, or another, with"
    ):
        name_of(folder / "a.zarr", {"parent": {}})


def test_a_killed_decode_goes_on_to_equal_bytes(folder, server, monkeypatch):
    latents("a.zarr", samples=10)
    decode("a.zarr", "whole.zarr", "--batch", 7)
    command = ["readout", "decode", "a.zarr", "b.zarr", "--model", "mine.py:latent", "--device", "cpu", "--batch", 7]
    with monkeypatch.context() as patch:
        patch.setenv("KILLED_AT", "20")
        assert warm.Process(server, command, folder / "said").wait() == warm.KILLED
    made = stores.describe("b.zarr")
    assert 0 < made["blocks_done"] < made["blocks"]
    partial = stores.open("b.zarr", partial=True)  # no byte says that nothing was written
    assert partial.x_t.isel(sample=slice(4 * made["blocks_done"])).notnull().all()
    assert partial.x_t.isel(sample=slice(4 * made["blocks_done"], None)).isnull().all()
    assert "of 3 blocks to do" in decode("a.zarr", "b.zarr", "--batch", 7)
    assert digest("b.zarr") == digest("whole.zarr")
    assert stores.verify("b.zarr", deep=True) == []


def test_a_decode_extends_with_its_parent(folder):
    latents("a.zarr", samples=6)
    decode("a.zarr", "b.zarr")
    latents("a.zarr", samples=11)
    decode("a.zarr", "b.zarr")
    decode("a.zarr", "whole.zarr")
    assert digest("b.zarr") == digest("whole.zarr")


def test_a_block_of_large_images_is_made_in_parts(folder, monkeypatch):
    latents("a.zarr", samples=6)
    decode("a.zarr", "whole.zarr", "--batch", 6)
    monkeypatch.setattr("traj.pipeline.readouts.decode.BLOCK_BYTES", 2 * 6 * 4 * 3 * 8 * 9)
    reading = readout.prepare("decode", store=folder / "a.zarr", model="mine.py:latent", device="cpu", batch=6)
    assert reading.block == 2
    with reading.open(folder / "b.zarr") as written:
        reading.run(written, bar=False)
    xr.testing.assert_equal(stores.open("b.zarr").compute(), stores.open("whole.zarr").compute())


def test_a_parent_that_changes_meanwhile_is_found_before_a_block_is_flagged(folder, monkeypatch):
    latents("a.zarr")
    reading = readout.prepare("decode", store=folder / "a.zarr", model="mine.py:latent", device="cpu")
    with reading.open(folder / "b.zarr") as written:
        (folder / "a.zarr").rename("old.zarr")
        latents("a.zarr", seed=1)
        with pytest.raises(stores.StaleStore, match="changed while it was read"):
            reading.run(written, bar=False)
    assert stores.describe("b.zarr")["blocks_done"] == 0


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        (["--on", "x_t,eps"], "mine.py:latent", "a.zarr has no 'eps' to decode; expected some of x_t, pred_x0, x_0"),
        ([], "mine.py:flat", "made (1, 24) of one latent (4, 2, 3); expected an image"),
        ([], "mine.py:pixels", "has no autoencoder; expected a denoiser with decode, see wrap()"),
        ([], "gaussian:0,1", "there is no such folder"),
    ],
)
def test_what_cannot_be_decoded_is_refused_before_anything_is_written(folder, options, model, said):
    latents("a.zarr")
    assert said in decode("a.zarr", "b.zarr", *options, code=2, model=model)
    assert not (folder / "b.zarr").exists()


def test_a_pixel_store_and_decoded_images_are_refused_in_one_line(folder):
    runs.make("pixels.zarr", 4)
    said = "holds no latents but values in -1 to 1, as images are; expected a store of a latent model"
    assert said in decode("pixels.zarr", "b.zarr", code=2)
    latents("a.zarr")
    decode("a.zarr", "b.zarr")
    assert said in decode("b.zarr", "c.zarr", code=2)


def test_code_is_not_run_because_a_store_names_it(folder):
    latents("a.zarr", environment={"model": "mine.py:latent"})
    said = traj("readout", "decode", "a.zarr", "b.zarr", code=2)
    assert "whose code would run; give --model mine.py:latent if it is yours" in said


def test_a_disk_that_is_too_small_is_said_first(folder, monkeypatch):
    latents("a.zarr")
    monkeypatch.setattr(readout, "disk_free", lambda path: 1000)
    assert "and its disk has 1000 B free; store less with --on pred_x0" in decode("a.zarr", "b.zarr", code=2)
    assert not (folder / "b.zarr").exists()


def test_the_store_says_how_it_was_made(folder):
    latents("a.zarr")
    decode("a.zarr", "b.zarr")
    config = json.loads(stores.attributes("b.zarr")["config"])
    assert config["parent"] == {"fingerprint": stores.attributes("a.zarr")["fingerprint"]}
    assert (config["readout"], config["dtype"], config["on"]) == ("decode", "uint8", ["x_t", "pred_x0"])
    assert config["autoencoder"]["function"] == "latent"
    assert stores.environment_of("b.zarr", 0)["model"] == "mine.py:latent"
    assert "b.zarr: decoded" in traj("info", "b.zarr")
