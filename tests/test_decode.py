"""Decoded images: the numbers, the bytes, what reads them, what is refused."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from tests import runs, warm
from tests.runs import digest
from tests.test_readout import AT
from traj import analysis, stores
from traj.analysis._replicas.forks import parent_of
from traj.pipeline.cli import main
from traj.pipeline.computing import analyze
from traj.pipeline.making import readout
from traj.pipeline.models.stored import name_of

SHAPE = (4, 2, 3)

MODEL = '''
import os, signal
import numpy as np
import torch
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

MATRIX = torch.from_numpy(np.random.default_rng(0).standard_normal((24, 3 * 8 * 9)).astype("f4") / 4)
calls = []

def linear(x):
    """Images three times as wide and four times as high: a fixed linear map."""
    calls.append(len(x))
    if len(calls) == int(os.environ.get("KILLED_AT", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    return (x.flatten(1) @ MATRIX).reshape(-1, 3, 8, 9)

def latent(decode=linear, shape=(4, 2, 3)):
    return wrap(lambda x, t: 0 * x, tables.named("linear"), shape=shape, predicts="epsilon", decode=decode)

def huge():
    return latent(lambda x: 1e6 * linear(x))

def flat():
    return latent(lambda x: x.flatten(1))

def pixels():
    return latent(None)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def decode(store, out, *options, code=0, model="mine.py:latent"):
    return traj("readout", "decode", store, out, "--model", model, "--device", "cpu", *options, code=code)


def latents(path, samples=6, **options):
    """Six states of a few latents, which have no valid range."""
    return runs.make(path, samples, shape=SHAPE, valid_range=None, **options)


def linear(values):
    """The images of latents (..., channel, y, x), by the same linear map in NumPy."""
    matrix = np.random.default_rng(0).standard_normal((24, 3 * 8 * 9)).astype("f4") / 4
    values = np.asarray(values)
    return (values.reshape(*values.shape[:-3], 24) @ matrix).reshape(*values.shape[:-3], 3, 8, 9)


def in_bytes(images):
    return np.clip(np.round((images + 1) * 127.5), 0, 255)


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


@pytest.mark.parametrize("quantity", ["entropy", "psnr", "ssim"])
def test_quantities_of_a_decoded_store_are_those_of_the_images_in_memory(folder, quantity):
    latents("a.zarr")
    decode("a.zarr", "b.zarr")
    traj("analyze", quantity, "b.zarr", "-o", "result.zarr")
    found, whole = stores.open("result.zarr"), stores.open("b.zarr")
    memory = xr.Dataset(
        {
            name: array.copy(data=(in_bytes(linear(stores.open("a.zarr")[name])) / 127.5 - 1).astype("f4"))
            for name, array in whole.items()
        },
        whole.coords,
    )
    differing = sum(int((abs(memory[name] - whole[name]) > 1e-3).sum()) for name in whole)
    expected = analysis.load(quantity)(memory).compute()
    assert found.attrs["of"] == "trajectories"
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6 if not differing else 1e-2, atol=1e-6, err_msg=name)


def forks(path, states, config=None):
    """Forks of latents; states are NaN above `at`."""
    rng, shape = np.random.default_rng(0), (2, 3, 4, *SHAPE)
    with stores.create_forks(
        path,
        variant={"at": AT},
        replicas=3,
        timestep=runs.TIMESTEPS,
        **runs.preserving(np.linspace(0.01, 0.99, len(runs.TIMESTEPS))),
        shape=SHAPE,
        samples=6,
        block=4,
        config=config or {"made": "up"},
        states=states,
        valid_range=None,
    ) as store:
        for number in list(store.pending):
            for step, timestep in enumerate(runs.TIMESTEPS if states else ()):
                x_t = rng.standard_normal(shape).astype("f4")
                x_t[np.array(AT) < timestep] = np.nan
                store.put(number, step, x_t, np.tanh(x_t))
            store.finish(number, np.tanh(rng.standard_normal(shape)).astype("f4"))


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


def test_forks_are_analysed_decoded_as_forks_are(folder):
    forks("f.zarr", states=True)
    decode("f.zarr", "g.zarr", "--on", "x_0")
    (job,) = analyze.plan_jobs([folder / "g.zarr"], {"consistency": {}}, None)
    assert analysis.load("consistency")(stores.open(job.store)).sizes["sample"] == 6
    with pytest.raises(stores.InputError, match="of kind fork; entropy needs one of kind trajectories"):
        analyze.plan_jobs([folder / "g.zarr"], {"entropy": {}}, None)


def test_decoded_forks_are_compared_with_their_run_decoded_by_the_same_autoencoder(folder):
    run = stores.open(latents("a.zarr"))
    forks("f.zarr", states=False, config={"parent": {"fingerprint": run.attrs["fingerprint"]}})
    latents("other.zarr", seed=1)
    decode("f.zarr", "g.zarr")
    for name, out, model in (("a", "b", "latent"), ("other", "c", "latent"), ("a", "d", "huge")):
        decode(f"{name}.zarr", f"{out}.zarr", "--dtype", "float16", model=f"mine.py:{model}")
    images, decoded = stores.open("g.zarr"), stores.open("b.zarr")
    assert parent_of(images, decoded).identical(decoded)
    for name, said in (("a", "one of the two"), ("c", "is not the run"), ("d", "by different autoencoders")):
        with pytest.raises(stores.InputError, match=said):
            parent_of(images, stores.open(f"{name}.zarr"))
    with pytest.raises(stores.InputError, match="compare images with images"):
        analysis.load("psnr")(decoded, against=run)


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


def test_pictures_of_a_run_are_those_that_it_was_decoded_to(folder, without_figures):
    (folder / "data" / "trajectories").mkdir(parents=True)
    latents("data/trajectories/cat.zarr")
    latents("data/trajectories/dog.zarr", seed=1)
    decode("data/trajectories/cat.zarr", "data/decoded/images.zarr")
    traj("analyze", "psnr", "data/decoded/images.zarr")
    traj("report")
    pages = {name: (folder / "report" / "runs" / f"{name}.html").read_text() for name in ("cat", "images", "dog")}
    for name in ("cat", "images"):
        assert "images that its autoencoder makes of them" in pages[name]
        assert "These are latents, not images" not in pages[name]
        assert "Missing or out of step" not in pages[name]
    assert (
        "no images: run `traj readout decode data/trajectories/dog.zarr data/decoded/dog_images.zarr`" in pages["dog"]
    )


def test_a_run_and_its_forks_of_one_name_are_decoded_side_by_side_as_they_are_told_to(folder, without_figures):
    for place in ("trajectories", "forks"):
        (folder / "data" / place).mkdir(parents=True)
    run = stores.open(latents("data/trajectories/cat.zarr"))
    forks("data/forks/cat.zarr", states=False, config={"parent": {"fingerprint": run.attrs["fingerprint"]}})
    hints = [
        stores.how_to_decode(folder / "data" / place / "cat.zarr", kind).split()
        for kind, place in (("trajectories", "trajectories"), ("fork", "forks"))
    ]
    for _, *hint in hints:
        traj(*hint, "--model", "mine.py:latent", "--device", "cpu")
    made = {path.name: stores.stands_for(stores.attributes(path)) for path in (folder / "data/decoded").glob("*.zarr")}
    assert made == {"cat_images.zarr": "trajectories", "cat_images_of_fork.zarr": "fork"}
    traj("analyze", "psnr", "data/decoded/cat_images.zarr")
    traj("analyze", "consistency", "data/decoded/cat_images_of_fork.zarr")
    traj("report")
    for name, drawn in (("cat_images", "psnr"), ("cat_images_of_fork", "consistency")):
        page = (folder / "report" / "runs" / f"{name}.html").read_text()
        assert f'id="{drawn}"' in page
        assert "Missing or out of step" not in page
    assert "no images" not in (folder / "report" / "runs" / "cat.html").read_text()


def test_a_classifier_reads_decoded_images(folder):
    from traj.pipeline.models import classifiers

    latents("a.zarr", samples=2)
    decode("a.zarr", "b.zarr")

    class Network:
        class_names, identity, environment = ("dark", "bright"), {}, {}

        batch, learned_from = 4096, None

        def fitted(self, path, ds, states, bounds, device):
            assert bounds == (-1, 1)
            return self.classify

        def cautions(self, ds):
            return ()

        def classify(self, images, timestep):
            assert images.shape[1:] == (3, 8, 9)
            bright = images.flatten(1).mean(dim=1)
            return torch.stack([-bright, bright], dim=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "load", lambda *_: Network())
        reading = readout.prepare("classifier", store=folder / "b.zarr", model="mine", device="cpu")
    with reading.open(folder / "c.zarr") as written:
        reading.run(written, bar=False)
    found = stores.open("c.zarr")
    assert found.attrs["of"] == "trajectories"
    bright = stores.open("b.zarr").x_0.mean(("channel", "y", "x"))
    np.testing.assert_allclose(found.x_0_logits.sel({"class": 1}), bright, atol=1e-6)


def test_pictures_need_no_states(folder):
    from traj.analysis._drawing.montages import montage

    latents("a.zarr")
    decode("a.zarr", "b.zarr", "--on", "pred_x0")
    decode("a.zarr", "c.zarr", "--on", "x_0")
    assert montage(stores.open("b.zarr"), "trajectories", None) is not None
    assert montage(stores.open("c.zarr"), "trajectories", None) is None
