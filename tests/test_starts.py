"""Runs that start from samples: the state they start from, where it leads by closed forms, and what is refused."""

import csv
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests import families, runs
from tests.data_formats import FORMATS, GREY, LABEL
from tests.sampling import LINEAR, gain
from tests.test_fork import forked
from tests.test_generate import make
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import dataset, generate, times
from traj.pipeline.models import starts
from traj.pipeline.process.noise import NoiseSource, Purpose

NARROW = "gaussian:0,0.25,1x32x32"
SPAN = (-2.0, 2.0)
"""The valid range of NARROW."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Twelve images of 32 x 32 independent normal values, of variance 1, each with a label."""
    x_0 = np.random.default_rng(0).standard_normal((12, 1, 32, 32))
    return runs.dataset(tmp_path_factory.mktemp("data") / "wide.zarr", x_0, label=np.arange(12) % 2, valid_range=SPAN)


def late(out, source, step=500, samples=8, **options):
    options = {"model": NARROW, "seed": 4, "start": str(source), "start_step": step, **options}
    return stores.open(make(out, samples, **options)).compute()


def test_a_run_starts_from_samples_noised_to_the_timestep_asked_for(wide, tmp_path):
    ds = late(tmp_path / "a.zarr", wide)
    assert ds.timestep.values.tolist() == list(range(500, -1, -50))
    assert ds.step.values.tolist() == list(range(11))
    signal, noise_scale = LINEAR.at(500)
    eps = NoiseSource(4, (1, 32, 32))(Purpose.RENOISE, range(8), 500)
    expected = signal * stores.open(wide).x_0.values[:8] + noise_scale * eps
    np.testing.assert_allclose(ds.x_t.sel(timestep=500), expected, rtol=1e-6, atol=1e-6)


def test_the_variance_of_what_comes_out_is_the_recursions(wide, tmp_path):
    """METHODS 2.4 and 7.1: data of variance 1/4, a source of variance 1, ddpm with variance beta."""
    ds = late(tmp_path / "a.zarr", wide, 99, samples=12, block=12, steps=None, variance="large", every=100)
    abar, lam = LINEAR.alpha_bar, 0.25
    x_s = stores.open(wide).x_0.values.var()
    P = abar[99] * x_s + 1 - abar[99]
    for t in range(99, -1, -1):
        alpha = abar[t] / (abar[t - 1] if t else 1)
        P = ((1 - (1 - alpha) / (abar[t] * lam + 1 - abar[t])) / math.sqrt(alpha)) ** 2 * P + (1 - alpha) * (t > 0)
    assert P > 1.1 * lam  # a run from noise ends at lam
    assert float(ds.x_0.var()) == pytest.approx(P, rel=3 * math.sqrt(2 / ds.x_0.size))


def test_without_noise_what_comes_out_is_the_exact_gain(wide, tmp_path):
    ds = late(tmp_path / "a.zarr", wide, sampler_name="ddim")
    levels = [*LINEAR.alpha_bar[ds.timestep.values], 1.0]
    factor = math.prod(gain(t, s, 0.25) for t, s in pairwise(levels))
    expected = factor * ds.x_t.sel(timestep=500).values
    assert np.linalg.norm(ds.x_0.values - expected) < 1e-6 * np.linalg.norm(expected)


def test_a_sample_does_not_depend_on_how_many_are_asked_for(wide, tmp_path):
    few, many = late(tmp_path / "few.zarr", wide, samples=5), late(tmp_path / "many.zarr", wide, samples=12)
    np.testing.assert_array_equal(few.x_t, many.x_t[:5])
    np.testing.assert_array_equal(few.x_0, many.x_0[:5])


def test_a_late_run_forks_like_any_other(wide, tmp_path):
    ds = late(tmp_path / "a.zarr", wide)
    forks = forked(tmp_path / "a.zarr", tmp_path / "f.zarr", at=[500, 200], noise=["shared"], replicas=1)
    for variant in range(2):
        np.testing.assert_array_equal(forks.x_0[variant, 0], ds.x_0)


def test_a_run_from_another_run_is_told_the_labels_of_its_samples(tmp_path):
    mixture = {"model": "mixture:-8,-4,6,8", "samples": 6}
    source = make(tmp_path / "s.zarr", labels="cycle", **mixture)
    ds = late(tmp_path / "a.zarr", source, labels="source", **mixture)
    np.testing.assert_array_equal(ds.label, np.arange(6) % 4)
    np.testing.assert_allclose(ds.x_0.values.ravel(), np.take([-8, -4, 6, 8], np.arange(6) % 4), rtol=1e-5)
    forks = forked(tmp_path / "a.zarr", tmp_path / "f.zarr", at=[500])
    np.testing.assert_array_equal(forks.label, ds.label)


def test_the_start_is_part_of_the_fingerprint_and_runs_from_noise_have_none(wide, tmp_path):
    other = runs.dataset(
        tmp_path / "other.zarr", stores.open(wide).x_0.values, valid_range=SPAN, config={"of": "others"}
    )
    asked = {"model": NARROW, "seed": 4, "samples": 8, "start_step": 500, "steps": 20}
    one, another = (generate.prepare(start=str(source), **asked).config for source in (wide, other))
    assert one["start"] != another["start"]
    assert {**one, "start": another["start"]} == another
    assert "start" not in generate.prepare(model=NARROW).config


def test_no_later_run_takes_a_seed_that_led_to_what_it_starts_from(tmp_path):
    """Through a run of a run, noised data of it, and a dataset of that."""
    asked = {"model": NARROW, "samples": 4, "every": 20}
    a = make(tmp_path / "a.zarr", seed=0, **asked)
    b = make(tmp_path / "b.zarr", seed=1, start=str(a), start_step=50, **asked)
    n = make(tmp_path / "n.zarr", seed=2, start=str(b), noised=True, **asked)
    d = tmp_path / "d.zarr"
    collection = dataset.prepare(str(n))
    with collection.open(d) as store:
        collection.run(store, bar=False)
    for source in (b, n, d):
        for seed in (0, 1):
            with pytest.raises(stores.InputError, match=f"made from, was made with seed {seed} too"):
                generate.prepare(start=str(source), start_step=50, seed=seed, steps=20, **asked)
        assert generate.prepare(start=str(source), start_step=50, seed=2, steps=20, **asked).source.seeds == {0, 1}


@pytest.mark.parametrize("write", FORMATS)
def test_data_in_any_format_start_the_same_run(tmp_path, hub, write):
    source = write(tmp_path, GREY)["source"]
    asked = {"model": "gaussian:0,0.0625,1x5x4", "samples": 4, "block": 4}
    found = late(tmp_path / "found.zarr", source, **asked)
    known = runs.dataset(tmp_path / "d.zarr", GREY[:, None] / np.float32(127.5) - np.float32(1), label=LABEL)
    expected = late(tmp_path / "expected.zarr", known, **asked)
    np.testing.assert_array_equal(found.x_t, expected.x_t)
    np.testing.assert_array_equal(found.x_0, expected.x_0)


def test_data_are_known_by_what_they_hold_and_their_labels_told(tmp_path):
    pixels = GREY / np.float32(127.5) - np.float32(1)
    np.savez(tmp_path / "a.npz", x=pixels, y=LABEL)
    np.save(tmp_path / "same.npy", pixels)
    np.save(tmp_path / "other.npy", pixels[::-1])
    origins = [starts.load(f"{tmp_path}/{name}", 0) for name in ("a.npz", "same.npy", "other.npy")]
    assert [origin.labels for origin in origins] == [LABEL.tolist(), None, None]
    assert len({str(origin.identity) for origin in origins}) == 3  # labels are hashed too
    assert origins[0].identity == {"data": dataset.prepare(f"{tmp_path}/a.npz").config["data"]}


def test_images_are_encoded_for_a_model_of_latents(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{k}.png")
    asked = {"model": str(families.folder("ldm-kl")), "samples": 3, "steps": 4}
    ds = late(tmp_path / "a.zarr", tmp_path / "photos", **asked)
    images = torch.from_numpy(np.moveaxis(pixels, -1, 1) / np.float32(127.5) - np.float32(1))
    with torch.inference_mode():
        x_0 = families.pipeline("ldm-kl").vqvae.encode(images).latent_dist.mean.numpy() * 0.18215
    signal, noise_scale = ds.signal.values[0], ds.noise_scale.values[0]
    eps = NoiseSource(4, x_0.shape[1:])(Purpose.RENOISE, range(3), 500)
    np.testing.assert_allclose(ds.x_t[:, 0], signal * x_0 + noise_scale * eps, rtol=1e-4, atol=1e-5)
    latents = runs.dataset(tmp_path / "d.zarr", ds.x_0.values, valid_range=(-9, 9))
    np.testing.assert_array_equal(late(tmp_path / "n.zarr", latents, noised=True, **asked).x_0, ds.x_0)
    with pytest.raises(stores.InputError, match=r"1x8x8, but the autoencoder of .* takes 3x16x16; .* scale these"):
        generate.prepare(start="digits", start_step=500, **asked)


def test_data_that_change_while_they_are_read_are_found(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    source = starts.load(f"{tmp_path}/a.npy", 0)
    assert source.x_0(range(4, 8)).shape == (4, 1, 5, 4)  # beyond the last, that one again
    np.save(tmp_path / "a.npy", GREY[::-1])
    with pytest.raises(stores.StaleStore, match=r"a.npy was changed while it was read"):
        source.x_0(range(2))


def test_data_that_no_run_made_name_no_seeds(wide):
    assert "seeds" not in dataset.prepare(str(wide)).config
    assert "seeds" not in generate.prepare(model=NARROW, start=str(wide), start_step=500, steps=20).config["start"]


def test_a_gaussian_start_has_the_mean_and_the_covariance_of_the_data(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 4)) + [1, 0, -1, 0]  # of rank 3
    data = runs.dataset(tmp_path / "d.zarr", mixed, valid_range=(-9, 9), block=16)
    monkeypatch.setattr(starts, "READ_BYTES", 8 * 4 * 7)  # seven events at a time
    source = starts.load(f"gaussian:{data}", 0)
    mean, root = source._moments
    np.testing.assert_allclose(mean, np.float32(mixed).mean(0, dtype="f8"), rtol=1e-12)
    np.testing.assert_allclose(root @ root, np.cov(np.float32(mixed).T, bias=True), atol=1e-12)
    drawn = source.x_0(range(4000))
    np.testing.assert_allclose(drawn[:5], source.x_0(range(5)), rtol=1e-6)
    assert drawn.shape == (4000, 4)
    spread = np.sqrt(np.diag(root @ root) / 4000)
    np.testing.assert_array_less(abs(drawn.mean(0) - mean), 4 * spread)
    np.testing.assert_allclose(np.cov(drawn.T), root @ root, atol=5 * (spread.max() ** 2 * 4000) * np.sqrt(2 / 4000))
    assert (np.linalg.norm(drawn - starts.load(f"gaussian:{data}", 1).x_0(range(4000)), axis=1) > 0).all()


def test_more_samples_than_the_data_has_may_start_from_its_gaussian(tmp_path):
    known = np.float32(np.random.default_rng(2).standard_normal((5, 1, 4, 4)))
    data = runs.dataset(tmp_path / "d.zarr", known, valid_range=SPAN)
    start = {"start": f"gaussian:{data}", "start_step": 0, "sampler_name": "ddim"}
    ds = stores.open(make(tmp_path / "a.zarr", 8, model="gaussian:0,0.25,1x4x4", **start)).compute()
    signal, noise_scale = LINEAR.at(0)
    x_0 = (ds.x_t.values[:, 0] - noise_scale * NoiseSource(0, (1, 4, 4))(Purpose.RENOISE, range(8), 0)) / signal
    centred, drawn = (known - known.mean(0)).reshape(5, -1), (x_0 - known.mean(0)).reshape(8, -1)
    within, *_ = np.linalg.lstsq(centred.T, drawn.T)
    np.testing.assert_allclose(centred.T @ within, drawn.T, atol=1e-5)  # in the span of the data


def test_too_large_a_covariance_is_refused_and_its_memory_said(tmp_path):
    data = runs.dataset(tmp_path / "d.zarr", np.zeros((2, 1, 65, 64)))
    with pytest.raises(stores.InputError, match=r"4,160 values, whose covariance would take 0.1 GiB"):
        starts.load(f"gaussian:{data}", 0)


def test_times_are_evaluations_and_seconds_of_a_sample(wide, tmp_path, monkeypatch):
    monkeypatch.setattr(times, "timed_call", lambda *_: 2.0)
    asked = {"model": NARROW, "samples": 8, "block": 4, "steps": 20, "seed": 4}
    rows = {}
    for name, start in (("whole", {}), ("late", {"start": str(wide), "start_step": 450})):
        times.write_run_times(generate.prepare(**asked, **start), tmp_path / f"{name}.csv")
        with (tmp_path / f"{name}.csv").open() as file:
            (rows[name],) = csv.DictReader(file)
    assert [rows[name]["evaluations"] for name in rows] == ["20", "10"]
    assert [float(rows[name]["network_seconds"]) for name in rows] == [10, 5]
    assert [rows[name]["whole_evaluations"] for name in rows] == ["20", "20"]
    assert [float(rows[name]["whole_seconds"]) for name in rows] == [10, 10]
    assert float(rows["whole"]["start_seconds"]) == 0 < float(rows["late"]["start_seconds"])
    assert float(rows["late"]["seconds"]) == pytest.approx(5 + float(rows["late"]["start_seconds"]), rel=1e-4)
    assert rows["late"]["measured"] == "medians of 5 to 25 network calls with 4 samples, device cpu"


BAD = {
    "no such VAE": (["--start", "vae:nothing", "--start-step", 500], "VAE 'nothing': there is no folder"),
    "neither file nor name": (
        ["--start", "cats", "--start-step", 500],
        "'cats': no such file or folder; expected digits",
    ),
    "range": (["--start", "wide.npy", "--start-step", 500], "--range LOW,HIGH, .* make a dataset of wide.npy with it"),
    "axes": (["--start", "odd.npy", "--start-step", 500], "--axes .* make a dataset of odd.npy with it first"),
    "how many": (["--start", "molrg:classes=2", "--start-step", 500], "has as many samples as are drawn"),
    "no data for a Gaussian": (["--start", "gaussian:nothing.zarr", "--start-step", 500], "nothing.zarr"),
    "times at a URL": (["--times", "s3://b/t.csv"], "is a URL"),
    "no step": (["--start", "wide.zarr"], "both --start and --start-step"),
    "no start": (["--start-step", 500], "both --start and --start-step"),
    "not visited": (["--start", "wide.zarr", "--start-step", 480], "the nearest are 500 and 450"),
    "beyond": (["--start", "wide.zarr", "--start-step", 1000], "the nearest are 950 and 900"),
    "too many": (["--start", "wide.zarr", "--start-step", 500, "--samples", 13], "wide.zarr has 12"),
    "other shape": (
        ["--start", "small.zarr", "--start-step", 500],
        "shape 1x8x8, but .* takes 1x32x32; .* --size HEIGHTxWIDTH",
    ),
    "other range": (["--start", "unit.zarr", "--start-step", 500], "lie in 0 to 1, but .* in -2 to 2"),
    "no x_0": (["--start", "readout.zarr", "--start-step", 500], "readout with no x_0"),
    "forks": (["--start", "forks.zarr", "--start-step", 500], r"fork with x_0 \(variant, replica, sample"),
    "no store": (["--start", "nothing.zarr", "--start-step", 500], "nothing.zarr"),
    "incomplete": (["--start", "half.zarr", "--start-step", 500], "half.zarr is incomplete"),
    "URL": (["--start", "s3://b/a.zarr", "--start-step", 500], "is a URL"),
    "its own noise": (
        ["--start", "run.zarr", "--start-step", 500],
        "run.zarr, or what it was made from, was made with seed 0 too",
    ),
    "no labels": (
        ["--start", "unlabelled.zarr", "--start-step", 500, "--labels", "source"],
        "unlabelled.zarr has none",
    ),
    "labels of nothing": (["--labels", "source"], "nothing to start from was given"),
    "labels of no class": (["--start", "wide.zarr", "--start-step", 500, "--labels", "source"], "has no classes"),
}


@pytest.fixture(scope="module")
def folder(wide, tmp_path_factory):
    """Stores that cannot be started from, and `wide`."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "wide.zarr").symlink_to(wide)
    np.save(folder / "wide.npy", stores.open(wide).x_0.values * 5)
    np.save(folder / "odd.npy", np.zeros((12, 5, 5, 2)))
    ones = np.ones((12, 1, 32, 32))
    runs.dataset(folder / "unlabelled.zarr", ones, valid_range=SPAN)
    runs.dataset(folder / "unit.zarr", ones, valid_range=(0, 1))
    runs.dataset(folder / "small.zarr", ones[..., :8, :8], valid_range=SPAN)
    make(folder / "run.zarr", 8, model=NARROW, every=20)
    forked(folder / "run.zarr", folder / "forks.zarr", at=[0], samples=2, block=2)
    half = generate.prepare(model=NARROW, samples=8, block=4, steps=2, seed=9)
    with half.open(folder / "half.zarr", blocks=[0]) as store:
        half.run(store, bar=False)
    read = {"logits": (("sample", "class"), "logits", "1")}
    coords = {"class": ("class", np.arange(2), "1", "class")}
    common = {"samples": 12, "block": 12, "config": {}}
    with stores.create_readout(
        folder / "readout.zarr", of="trajectories", variables=read, coords=coords, **common
    ) as r:
        r.write(0, {"logits": np.zeros((12, 2))})
    return folder


@pytest.mark.parametrize("case", BAD)
def test_a_start_that_cannot_be_is_refused_in_words(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments, words = BAD[case]
    given = ["generate", "out.zarr", "--model", NARROW, "--samples", 8, "--steps", 20, *arguments]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output
    assert re.search(words, " ".join(result.output.split())), result.output
    assert not (folder / "out.zarr").exists()
