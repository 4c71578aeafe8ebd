"""Data in the formats people have are the same dataset in each; which axis is which."""

import gzip
import hashlib
import json
import zipfile

import numpy as np
import pytest

from tests import runs
from tests.data_formats import (
    COLOUR,
    FORMATS,
    GREY,
    LABEL,
    as_folder,
    as_hub,
    as_npy,
    as_npz,
    as_zarr_array,
)
from tests.test_dataset import make
from traj import stores
from traj.pipeline.making.dataset import prepare
from traj.pipeline.sources import streams, surveyed
from traj.pipeline.sources.events import events_of
from traj.pipeline.sources.source import in_memory


@pytest.mark.parametrize("write", FORMATS)
def test_the_same_pictures_in_any_format_are_the_same_dataset(tmp_path, hub, write):
    ds = make(path=tmp_path / "out.zarr", block=4, **write(tmp_path, GREY))
    expected = (GREY[:, None] / np.float32(127.5) - 1).astype(np.float32)
    np.testing.assert_array_equal(ds.x_0.values, expected)
    np.testing.assert_array_equal(ds.label.values, LABEL)
    assert ds.x_0.dims == ("sample", *stores.IMAGE_DIMS)
    # known by what it holds, not by where that came from
    data = f"sha256:{hashlib.sha256(expected.tobytes() + LABEL.tobytes()).hexdigest()}"
    store = {"block": 4, "shape": [1, 5, 4], "dtype": "float32", "valid_range": [-1, 1]}
    assert json.loads(ds.attrs["config"]) == {"numerics": 1, "data": data, "store": store}


@pytest.mark.parametrize("write", [as_npy, as_npz, as_zarr_array, as_folder, as_hub])
def test_channels_that_lie_last_come_first(tmp_path, hub, write):
    ds = make(path=tmp_path / "out.zarr", **write(tmp_path, COLOUR))
    expected = COLOUR.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    np.testing.assert_array_equal(ds.x_0.values, expected.astype(np.float32))


def test_floats_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).uniform(-2, 3, (7, 3, 5, 5))
    np.save(tmp_path / "a.npy", values.astype(">f8"))
    with pytest.raises(stores.InputError, match=r"values from -1\.9\d* to 2\.9\d*; expected -1 to 1: say .* --range"):
        prepare(f"{tmp_path}/a.npy")
    ds = make(f"{tmp_path}/a.npy", tmp_path / "a.zarr", valid_range=(-2, 3))
    np.testing.assert_array_equal(ds.x_0.values, values.astype(np.float32))
    assert ds.x_0.attrs["valid_range"] == [-2, 3]
    assert (ds.label == -1).all()


def test_samples_of_a_run_are_a_dataset_with_its_labels_and_range(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 8, shape=(2, 3), label=np.arange(8), valid_range=(-0.1, 0.1))
    run, ds = stores.open(path), make(path, tmp_path / "a.zarr")
    np.testing.assert_array_equal(ds.x_0.values, run.x_0.values)
    np.testing.assert_array_equal(ds.label.values, range(8))
    assert ds.x_0.dims == ("sample", "channel", "position")
    assert ds.x_0.attrs["valid_range"] == [-0.1, 0.1]
    assert abs(ds.x_0).max() > 0.5  # what a model ends in may lie outside
    again = make(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert again.attrs["fingerprint"] == ds.attrs["fingerprint"]


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_no_more_than_a_piece_of_a_compressed_file_is_read(tmp_path, monkeypatch, compress):
    compress(tmp_path / "a.npz", x=np.zeros((1000, 64), "f4"))
    sizes, original = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: (sizes.append(n), original(self, n))[1])
    monkeypatch.setattr(surveyed, "READ_BYTES", 100 * 64 * 4)
    make(f"{tmp_path}/a.npz", tmp_path / "a.zarr", block=100)
    assert max(sizes) == 100 * 64 * 4
    assert min(sizes) > 0


# ---- which axis is which


@pytest.mark.parametrize(
    ("shape", "axes", "expected", "dims"),
    [
        ((5,), None, (5,), ("feature",)),
        ((5, 4), None, (1, 5, 4), stores.IMAGE_DIMS),
        ((3, 5, 6), None, (3, 5, 6), stores.IMAGE_DIMS),
        ((5, 6, 3), None, (3, 5, 6), stores.IMAGE_DIMS),
        ((1, 1, 1), None, (1, 1, 1), stores.IMAGE_DIMS),
        ((3, 3, 3), ("y", "x", "channel"), (3, 3, 3), stores.IMAGE_DIMS),
        ((2, 9), ("channel", "position"), (2, 9), ("channel", "position")),
        ((4, 5, 6, 2), ("frame", "y", "x", "channel"), (2, 4, 5, 6), ("channel", "frame", "y", "x")),
    ],
)
def test_channels_are_first_whatever_the_source_has(shape, axes, expected, dims):
    values = np.random.default_rng(0).random((2, *shape), np.float32)
    events = events_of("a", in_memory(values), axes)
    assert (events.shape, events.dims) == (expected, dims)
    found = events.read(0, 2)
    assert found.shape == (2, *expected)
    named = axes or {2: ("y", "x"), 3: ("y", "x", "channel") if shape[-1] == 3 else None}.get(len(shape))
    place = named.index("channel") + 1 if named and "channel" in named else 1
    np.testing.assert_array_equal(np.moveaxis(values, place, 1).ravel(), found.ravel())


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((3, 3, 3), None, r"may be 3 channel\(s\) of 3 x 3 or 3 channel\(s\) of 3 x 3: both .* --axes channel,y,x or"),
        ((2, 5, 7), None, r"may be 2 channel\(s\) of 5 x 7 or 7 channel\(s\) of 2 x 5: neither"),
        ((4, 5, 6, 3), None, r"shape \(4, 5, 6, 3\); expected 1 to 3 axes"),
        ((), None, r"shape \(\); expected 1 to 3 axes"),
        ((4, 5), ("y", "x", "channel"), "axes y,x,channel were given, but a sample of a has shape"),
        ((4, 5), ("y", "y"), "expected a different name for each"),
        ((4, 5), ("sample", "y"), "'sample' cannot name an event's"),
        ((0, 5), None, r"a is empty, of shape \(2, 0, 5\)"),
    ],
)
def test_axes_that_may_be_two_things_are_asked_for(shape, axes, message):
    with pytest.raises(stores.InputError, match=message):
        events_of("a", in_memory(np.zeros((2, *shape), np.float32)), axes)


def test_a_stream_goes_back_too(tmp_path):
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(b"head" + np.arange(20, dtype="u1").tobytes())
    with gzip.open(tmp_path / "a.gz") as file:
        file.read(4)
        source = streams.stream("a", file, (10, 2), np.dtype("u1"))
        for first in (6, 0, 3):
            np.testing.assert_array_equal(source.read(first, first + 2).ravel(), np.arange(2 * first, 2 * first + 4))
