"""What reads decoded images: quantities, comparisons with a run, a classifier, the report."""

import numpy as np
import pytest
import torch
import xarray as xr

from tests.decoded import decode, forks, in_bytes, latents, linear, traj, write_model
from traj import analysis, stores
from traj.analysis._replicas.forks import parent_of
from traj.pipeline.computing import analyze
from traj.pipeline.making import readout


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_model(tmp_path)


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
