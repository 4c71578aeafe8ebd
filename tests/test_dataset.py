"""`traj dataset`: data in whatever format become one store of x_0 and classes."""

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests import runs
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making.dataset import prepare
from traj.pipeline.models.digits import held_out_images, images, training_images


def make(source, path, **options):
    """The dataset of a source, opened."""
    with (collection := prepare(str(source), **options)).open(path) as store:
        collection.run(store, bar=False)
    return stores.open(path)


def data_of(ds):
    """The hash of the data by which a dataset is known."""
    return json.loads(ds.attrs["config"])["data"]


# ---- built-in data


def test_digits_are_the_images_and_classes_networks_learn(tmp_path):
    ds = make("digits", tmp_path / "a.zarr")
    points, classes = images()
    np.testing.assert_array_equal(ds.x_0.values, points)
    np.testing.assert_array_equal(ds.label.values, classes)
    assert (ds.x_0.dims, ds.x_0.attrs["valid_range"]) == (("sample", "channel", "y", "x"), [-1, 1])
    assert stores.verify(tmp_path / "a.zarr", deep=True) == []


def test_parts_of_the_digits_are_what_networks_learn_from_and_what_they_are_tested_on(tmp_path):
    for name, expected in (("train", training_images(32)), ("test", held_out_images())):
        ds = make(f"digits:{name}", tmp_path / f"{name}.zarr", samples=len(expected[0]))
        np.testing.assert_array_equal(ds.x_0.values, expected[0])
        np.testing.assert_array_equal(ds.label.values, expected[1])
        assert ds.x_0.attrs["valid_range"] == [-1, 1]
    with pytest.raises(stores.InputError, match=r"samples 1438 was given; digits:train has 1,437"):
        prepare("digits:train", samples=1438)
    with pytest.raises(stores.MissingFile, match=r"'digits:tset': .* expected digits, digits:train, digits:test"):
        prepare("digits:tset")


def test_points_of_a_mixture_are_a_class_each(tmp_path):
    ds = make("mixture:-8,-4,6,8", tmp_path / "a.zarr")
    assert ds.x_0.shape == (4, 1, 1, 1)
    np.testing.assert_array_equal(ds.x_0.values.ravel(), [-8, -4, 6, 8])
    np.testing.assert_array_equal(ds.label.values, range(4))
    assert ds.x_0.attrs["valid_range"] == [-8, 8]


def test_a_dataset_is_known_by_the_hash_of_its_values(tmp_path):
    points, classes = images()
    expected = hashlib.sha256(points.tobytes() + classes.tobytes()).hexdigest()
    for block in (100, 1797, 4000):
        assert data_of(make("digits", tmp_path / f"{block}.zarr", block=block)) == f"sha256:{expected}"


# ---- the store


@pytest.mark.parametrize(("shape", "block"), [((1, 28, 28), 1024), ((3, 32, 32), 256), ((3, 1024, 1024), 1)])
def test_a_block_is_a_chunk_within_the_bounds_of_the_contract(tmp_path, shape, block):
    from traj.pipeline.making.dataset import usual_block

    assert usual_block(60_000, shape) == block
    assert (1 << 20 <= 4 * block * np.prod(shape) <= 8 << 20) or block == 1
    assert usual_block(3, (1, 8, 8)) == 3


def test_blocks_are_lazy_chunks_and_a_short_last_one_is_cut(tmp_path):
    ds = make("digits", tmp_path / "a.zarr", samples=10, block=4)
    assert ds.x_0.chunks[0] == (4, 4, 2)
    np.testing.assert_array_equal(ds.x_0.values, images()[0][:10])


def test_a_dataset_interrupted_goes_on_with_what_is_missing(tmp_path):
    whole, path = make("digits", tmp_path / "a.zarr", block=500), tmp_path / "b.zarr"
    collection = prepare("digits", block=500)
    with collection.open(path, blocks=[1, 3]) as store:
        collection.run(store, bar=False)
    with pytest.raises(stores.IncompleteStore, match=r"run the same `traj dataset` again"):
        stores.open(path)
    with collection.open(path) as store:
        assert store.pending == [0, 2]
        collection.run(store, bar=False)
    assert stores.open(path).identical(whole)
    assert runs.digest(path) == runs.digest(tmp_path / "a.zarr")


def test_other_data_in_the_place_of_a_dataset_are_refused(tmp_path):
    make("digits", tmp_path / "a.zarr", block=500)
    with pytest.raises(stores.StaleStore, match="data: "):
        make("digits", tmp_path / "a.zarr", block=500, samples=600)


def test_data_that_change_between_the_passes_are_not_written(tmp_path, monkeypatch):
    collection = prepare("digits")
    monkeypatch.setattr(type(collection.events), "read", lambda self, first, end: np.zeros((1797, 1, 8, 8), "f4"))
    with (
        collection.open(tmp_path / "a.zarr") as store,
        pytest.raises(stores.StaleStore, match="digits was changed while it was read"),
    ):
        collection.run(store, bar=False)


def test_a_block_is_no_larger_than_a_shard(tmp_path):
    with pytest.raises(stores.InputError, match=r"blocks of 600,000 samples were asked for, chunks of 146 MiB; expect"):
        make("digits", tmp_path / "a.zarr", block=600_000)


def test_chunks_in_one_anothers_place_are_found(tmp_path):
    make("digits", path := tmp_path / "a.zarr", block=500)
    chunk, other = path / "x_0" / "c.0.0.0.0", path / "x_0" / "c.1.0.0.0"
    chunk.rename(tmp_path / "kept")
    other.rename(chunk)
    (tmp_path / "kept").rename(other)
    assert len(stores.verify(path)) == 2
    with pytest.raises(stores.DamagedStore, match=r"x_0/c\.0\.0\.0\.0 is not what was written there"):
        stores.open(path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("cats", {}, "source 'cats': no such file or folder; expected digits"),
        ("mixture:1", {}, "expected at least two different numbers"),
        ("digits", {"samples": 0}, "samples 0 was given; digits has 1,797"),
        ("digits", {"samples": 1798}, "samples 1798 was given; digits has 1,797"),
        ("digits", {"block": 0}, "block 0 was given"),
        ("digits", {"block": 2**32}, r"blocks of 4,294,967,296 samples were asked for; one needs .* GiB of memory"),
        ("digits", {"valid_range": (0, 1)}, "values from -1 to 1; --range 0,1 was given"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_store(source, options, message):
    with pytest.raises(stores.InputError, match=message):
        prepare(source, **options)


# ---- the command


def traj(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_says_what_it_costs_and_what_it_made(tmp_path):
    out = tmp_path / "a.zarr"
    tried = traj("dataset", "mixture:-1,2.5", out, "--dry-run")
    assert tried.output.startswith(f"{out}: 2 samples, about 0 s; disk at most 8 B of ")
    assert not out.exists()
    made = traj("dataset", "mixture:-1,2.5", out, "--block", 1)
    assert made.exit_code == 0
    assert "2 of 2 blocks to do; 2 samples" in made.output
    assert f"{out} is complete; next: traj info {out}" in made.output
    assert "nothing to do" in traj("dataset", "mixture:-1,2.5", out, "--block", 1).output
    assert "source=mixture:-1,2.5: block 0, 1" in traj("info", out).output
    assert traj("verify", out, "--deep").output == f"{out} is whole\n"
    assert "1 channel(s) of 1 x 1, 2 classes" in traj("info", f"dataset:{out}").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--range", "1"], "'1' was given, expected LOW,HIGH"),
        (["--range", "1,0"], "'1,0' was given, expected LOW,HIGH"),
        (["--range", "0,inf"], "'0,inf' was given, expected LOW,HIGH"),
        (["--labels", "s3://bucket/labels.npy"], "is a URL; expected a path on a local disk"),
        (["--axes", "y,x"], "axes y,x were given, but a sample of digits has shape (1, 8, 8)"),
        (["--block", "0"], "block 0 was given, expected at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, arguments, message):
    result = traj("dataset", "digits", tmp_path / "a.zarr", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "a.zarr").exists()


def test_a_path_after_the_form_of_a_model_is_no_url(tmp_path):
    refused = traj("generate", tmp_path / "a.zarr", "--model", f"dataset:{tmp_path}/b.zarr")
    assert "b.zarr': no such file or folder" in " ".join(refused.output.split())
    for name in ("dataset://host/a.zarr", "s3:/bucket/a.zarr"):
        assert "is a URL" in traj("generate", tmp_path / "a.zarr", "--model", name).output
