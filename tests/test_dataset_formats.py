"""Data in the formats people have: the same data in each, and what is refused in each."""

import gzip
import hashlib
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import pickles
from PIL import Image

from tests import runs
from tests.test_dataset import make
from traj import stores
from traj.pipeline.making.dataset import prepare
from traj.pipeline.sources import streams
from traj.pipeline.sources.events import events_of
from traj.pipeline.sources.source import in_memory

LABEL = np.array([0, 0, 1, 1, 1, 3])
GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), np.uint8)
CLASSES = ("ant", "bee", "cat", "dog")


def idx(values, code=0x08):
    return struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape) + values.tobytes()


def as_npy(folder, values):
    np.save(folder / "a.npy", values)
    np.save(folder / "labels.npy", LABEL)
    return {"source": f"{folder}/a.npy", "labels": f"{folder}/labels.npy"}


def as_columns(folder, values):
    np.save(folder / "a.npy", np.asfortranarray(values))
    (folder / "labels.txt").write_text("\n".join(map(str, LABEL)) + "\n\n")
    return {"source": f"{folder}/a.npy", "labels": f"{folder}/labels.txt"}


def as_npz(folder, values):
    np.savez_compressed(folder / "a.npz", x=values, y=LABEL[:, None])
    return {"source": f"{folder}/a.npz"}


def as_named_npz(folder, values):
    np.savez(folder / "a.npz", x_train=values, y_train=LABEL.astype(float), x_test=values[::-1])
    return {"source": f"{folder}/a.npz:x_train", "labels": "y_train"}


def as_idx(folder, values):
    (folder / "train-images-idx3-ubyte").write_bytes(idx(values))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABEL.astype(np.uint8))))
    return {"source": f"{folder}/train-images-idx3-ubyte"}


def as_idx_gz(folder, values):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABEL.astype(">i4"), 0x0C))
    return {"source": f"{folder}/t10k-images-idx3-ubyte.gz"}


def as_zarr_array(folder, values):
    zarr.create_array(folder / "a.zarr", data=values, chunks=(4, *values.shape[1:]))
    (folder / "labels.idx").write_bytes(idx(LABEL.astype(np.uint8)))
    return {"source": f"{folder}/a.zarr", "labels": f"{folder}/labels.idx"}


def as_zarr_group(folder, values):
    group = zarr.create_group(folder / "a.zarr", zarr_format=2)
    group.create_array("images", data=values)
    group.create_array("labels", data=LABEL)
    return {"source": f"{folder}/a.zarr"}


def as_folder(folder, values):
    for number, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for k in np.flatnonzero(number == LABEL):
            Image.fromarray(values[k]).save(folder / "photos" / name / f"{k}.PNG")
    (folder / "photos" / "ant" / "about.txt").write_text("not a picture")
    return {"source": f"{folder}/photos"}


def as_hub(folder, values):
    rows = Rows({"image": [Image.fromarray(value) for value in values], "label": LABEL.tolist()})
    sys.modules["datasets"].load_dataset = lambda name, split, revision: {("me/pictures", "train", "v1"): rows}[
        name, split, revision
    ]
    return {"source": "hf:me/pictures@v1/train"}


class Rows(UserDict):
    """What the package `datasets` calls a Dataset, as far as it is used."""

    @property
    def features(self):
        kinds = {"image": "Image", "label": "ClassLabel"}
        return {name: type(kinds.get(name, "Value"), (), {})() for name in self.data}

    def __len__(self):
        return len(next(iter(self.data.values())))

    def __getitem__(self, key):
        return {name: column[key] for name, column in self.data.items()}

    def select_columns(self, names):
        return Rows({name: column for name, column in self.data.items() if name in names})

    def with_format(self, name):
        return Rows({key: np.array(column) for key, column in self.data.items()})


class TwoLabels(Rows):
    """The same with two columns of classes."""

    @property
    def features(self):
        return {**super().features, "fine": type("ClassLabel", (), {})()}

    def select_columns(self, names):
        return Rows(self.data).select_columns(names)


@pytest.fixture
def hub(monkeypatch):
    """The package `datasets`, which is not needed to test what is made of it."""
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    return sys.modules["datasets"]


FORMATS = [
    *(as_npy, as_columns, as_npz, as_named_npz, as_idx, as_idx_gz, as_zarr_array, as_zarr_group, as_folder, as_hub),
]


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


# ---- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 3, 4)), r"is empty, of shape \(0, 3, 4\)"),
        (np.zeros((5, 3), int), "values of type int64; expected uint8"),
        (np.zeros((5, 3), bool), "values of type bool; expected uint8"),
        (np.array([{}, {}]), "holds Python objects in a pickle, which is not read: that can run code"),
        (np.array([[0, 1], [np.nan, 0]]), "sample 1 has values that are infinite, NaN or too large"),
        (np.array([[0.0, 1e39]]), "sample 0 has values that are infinite, NaN or too large for float32"),
        (np.array(1.0), r"shape \(\)"),
    ],
)
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_arrays_that_are_no_samples_are_refused(tmp_path, values, message, save):
    name = tmp_path / f"a.{save.__name__.removeprefix('save') or 'npy'}".replace("a.z", "a.npz")
    save(name, values)
    with pytest.raises(stores.InputError, match=message):
        prepare(str(name))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.arange(5), r"labels of .* have shape \(5,\); expected one for each of 6 samples"),
        (np.arange(6) / 2, r"0\.5 of sample 1 is no class"),
        (np.arange(6) - 2, "-2 of sample 0 is no class"),
        (np.full(6, np.nan), "nan of sample 0 is no class"),
        (np.array(list("abcdef")), "labels of .* are of type <U1; expected whole numbers"),
        (np.array(3), r"have shape \(\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, label, message):
    np.savez(tmp_path / "a.npz", x=GREY, y=label)
    with pytest.raises(stores.InputError, match=message):
        prepare(f"{tmp_path}/a.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n1.5\n", r"line 2: '1\.5' is no whole number"),
        ("0\n\n1\n", "line 2: '' is no whole"),
        ("é", "no known format"),
    ],
)
def test_a_text_of_labels_has_one_whole_number_on_each_line(tmp_path, text, message):
    np.save(tmp_path / "a.npy", GREY)
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(stores.InputError, match=message):
        prepare(f"{tmp_path}/a.npy", labels=f"{tmp_path}/labels.txt")


def damaged(tmp_path, name):
    """Files that are not what they seem."""
    file = tmp_path / name
    if name == "short.npy":
        np.save(file, GREY)
        file.write_bytes(file.read_bytes()[:-7])
    elif name == "short.npz":
        np.savez(file, x=GREY)
        file.write_bytes(file.read_bytes()[:-200])
    elif name == "short-idx":
        file.write_bytes(idx(GREY)[:-7])
    elif name == "short-idx.gz":
        file.write_bytes(gzip.compress(idx(GREY)[:-7]))
    elif name == "broken-idx.gz":
        file.write_bytes(gzip.compress(idx(GREY))[:-30])
    elif name == "header-idx":
        file.write_bytes(b"\0\0\x08\x03\0\0")
    elif name == "text":
        file.write_text("hello")
    elif name == "bad.npy":
        file.write_bytes(b"\x93NUMPY\x01\x00\x06\x00hello\n")
    return file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short.npy", "cannot be read: .* it may have been cut short"),
        ("short.npz", "cannot be read: .* damaged or cut short"),
        ("short-idx", "cannot be read: .* it may have been cut short"),
        ("short-idx.gz", "ends after 5 of 6 samples; it was cut short"),
        ("broken-idx.gz", "cannot be read: .* damaged or cut short"),
        ("header-idx", "does not say how many values it has"),
        ("bad.npy", "is no array that np.save wrote"),
        ("text", "is of no known format; expected a .npy or .npz file, an idx file"),
        ("missing", "no such file or folder; expected digits"),
    ],
)
def test_files_that_are_not_what_they_seem_are_refused(tmp_path, name, message):
    with pytest.raises(stores.InputError, match=message):
        prepare(str(damaged(tmp_path, name)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "a.npz"},
            "has the arrays left, right, y, labels; expected one of x, images, arr_0, or its name",
        ),
        ({"source": "a.npz:middle"}, "has the arrays left, right, y, labels, not middle"),
        ({"source": "a.npz:left"}, "expected --labels with the name of one of them, or a file"),
        ({"source": "a.npz:left", "labels": "z"}, "expected --labels with the name of one of them, or a file"),
        ({"source": "a.npy:x"}, "names an array x; expected that of a .npz file or a Zarr group only"),
        ({"source": "a.npy", "labels": "z"}, "labels z: no such file"),
        ({"source": "digits", "labels": "z"}, "labels z: no such file"),
        ({"source": "https://host/a.npy"}, "is a URL"),
        ({"source": "array.zarr:x"}, "is one array; expected --labels FILE for its classes, and no name"),
        ({"source": "group.zarr"}, "has the arrays none; expected one of x, images, arr_0"),
    ],
)
def test_arrays_and_labels_are_named_where_it_is_not_clear_which(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", left=GREY, right=GREY, y=LABEL, labels=LABEL)
    np.save("a.npy", GREY)
    zarr.create_array("array.zarr", data=GREY)
    zarr.create_group("group.zarr")
    with pytest.raises(stores.InputError, match=message):
        prepare(**options)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it does not begin as one"), (b"\0\0\x07\x01\0\0\0\x06", "it does not begin as one")],
    ids=["empty", "type"],
)
def test_a_file_of_labels_beside_images_is_checked(tmp_path, content, message):
    source = as_idx(tmp_path, GREY)["source"]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(stores.InputError, match=message):
        prepare(source)


@pytest.mark.parametrize("form", ["a.npz", "a.zarr", "hub", "idx"])
def test_with_a_file_of_labels_none_are_looked_for_in_the_source(tmp_path, hub, form):
    both = {"x": GREY, "y": LABEL, "label": LABEL}
    (tmp_path / "labels.txt").write_text("\n".join(map(str, LABEL[::-1])))
    source = f"{tmp_path}/{form}"
    if form == "a.npz":
        np.savez(source, **both)
    elif form == "a.zarr":
        group = zarr.create_group(source)
        for name, values in both.items():
            group.create_array(name, data=values)
    elif form == "hub":
        source = as_hub(tmp_path, GREY)["source"]
        rows = hub.load_dataset("me/pictures", "train", "v1")
        hub.load_dataset = lambda *names, **options: TwoLabels({**rows.data, "fine": LABEL.tolist()})
    else:
        source = as_idx(tmp_path, GREY)["source"]
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    made = prepare(source, labels=f"{tmp_path}/labels.txt")
    np.testing.assert_array_equal(made.label, LABEL[::-1])


@pytest.mark.parametrize("form", ["npz", "zarr"])
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((6, 8, 8), "u1", r"have shape \(6, 8, 8\)"),
        ((10**9,), "u1", "expected one for each"),
        ((6,), "?", "of type bool"),
    ],
)
def test_arrays_that_cannot_be_classes_are_not_read(tmp_path, form, shape, dtype, message):
    """Masks are called labels too, and a small file may unfold to any length."""
    if form == "npz":
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for name, values in {"x": GREY, "labels": None}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    if values is None:
                        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)  # and no values, which reading would miss
                    else:
                        np.save(file, values)
    else:
        group = zarr.create_group(tmp_path / "a.zarr")
        group.create_array("x", data=GREY)
        group.create_array("labels", shape=shape, dtype=dtype, chunks=shape)
        (tmp_path / "a.zarr" / "labels" / "c").mkdir()
        (tmp_path / "a.zarr" / "labels" / "c" / "0").write_bytes(b"no chunk")
    with pytest.raises(stores.InputError, match=message):
        prepare(f"{tmp_path}/a.{form}")


def test_zarr_that_cannot_be_read_is_refused(tmp_path):
    folder = tmp_path / "a.zarr"
    zarr.create_array(folder, data=GREY, zarr_format=2, compressors=None)
    about = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps({**about, "compressor": {"id": "unheard-of"}}))
    with pytest.raises(stores.InputError, match=r"a\.zarr cannot be read as Zarr: .*unheard-of"):
        prepare(str(folder))


class Opened:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize(
    ("dtype", "filters", "compressor"),
    [
        ("|O", [{"id": "vlen-utf8"}, {"id": "pickle"}], None),
        ("<f4", [{"id": "pickle"}], None),
        ("<f4", None, {"id": "pickle"}),
    ],
    ids=["objects", "filter", "compressor"],
)
def test_a_pickle_in_a_zarr_array_is_not_opened(tmp_path, monkeypatch, name, dtype, filters, compressor):
    monkeypatch.setattr(pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)  # as older versions do
    trace, group = tmp_path / "trace", zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    for other, values in {"images": GREY, "labels": LABEL}.items():
        if other != name:
            group.create_array(other, data=values)
    shape = list(GREY.shape if name == "images" else LABEL.shape)
    about = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": dtype, "order": "C", "fill_value": None}
    folder = tmp_path / "a.zarr" / name
    folder.mkdir()
    (folder / ".zarray").write_text(json.dumps({**about, "filters": filters, "compressor": compressor}))
    (folder / ".".join("0" * len(shape))).write_bytes(pickle.dumps(Opened(trace)))
    with pytest.raises(stores.InputError, match="pickle"):
        prepare(f"{tmp_path}/a.zarr")
    assert not trace.exists()


def picture(folder, name, values, mode=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(folder / name, **options)


def test_pictures_of_other_sizes_and_kinds_are_refused_by_name(tmp_path):
    for name, write, message in [
        ("size", lambda f: picture(f, "b.png", GREY[1, :3]), "b.png is grey, 3 pixels high and 4 wide, those before"),
        ("kind", lambda f: picture(f, "b.png", COLOUR[1]), "b.png is RGB, 5 pixels high and 4 wide, those before"),
        ("alpha", lambda f: picture(f, "b.png", COLOUR[1], "RGBA"), "b.png has transparent parts; expected pictures"),
        ("deep", lambda f: picture(f, "b.png", GREY[1].astype(np.uint16) * 257), "b.png has mode I;16"),
        ("text", lambda f: (f / "b.png").write_text("hello"), "b.png cannot be read as a picture: cannot identify"),
        ("both", lambda f: picture(f / "sub", "b.png", GREY[1]), "both pictures and subfolders with pictures"),
    ]:
        picture(tmp_path / name, "a.png", GREY[0])
        write(tmp_path / name)
        with pytest.raises(stores.InputError, match=message):
            prepare(str(tmp_path / name))
    (tmp_path / "none").mkdir()
    with pytest.raises(stores.InputError, match=r"none has no pictures; expected files \(\.bmp"):
        prepare(str(tmp_path / "none"))


def test_pictures_with_a_palette_are_colour(tmp_path):
    for k, values in enumerate(COLOUR):
        picture(tmp_path / "a", f"{k}.png", values, "P")
    ds = make(tmp_path / "a", tmp_path / "a.zarr")
    expected = np.asarray(Image.open(tmp_path / "a" / "2.png").convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(ds.x_0.values[2], (expected / np.float32(127.5) - 1).astype("f4"))
    assert (ds.label == -1).all()


def test_forks_have_no_one_sample_each(tmp_path):
    from tests.test_forks_and_readouts_on_disk import make_forks

    with pytest.raises(stores.InputError, match="holds forks; expected a dataset or trajectories"):
        prepare(str(make_forks(tmp_path / "f.zarr")))


# ---- Hugging Face


def test_without_the_package_datasets_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(stores.InputError, match=r"pip install 'traj\[datasets\]'"):
        prepare("hf:me/pictures/train")


def test_columns_of_numbers_are_taken_by_name(tmp_path, hub):
    rows = Rows({"x": np.linspace(-1, 1, 8, dtype="f4").reshape(4, 2), "other": [1, 2, 3, 4], "y": [0, 1, 2, 3]})
    hub.load_from_disk = lambda path: {str(tmp_path): rows}[path]
    ds = make(f"hf:{tmp_path}", tmp_path / "a.zarr")
    np.testing.assert_array_equal(ds.x_0.values, rows.data["x"])
    np.testing.assert_array_equal(ds.label.values, range(4))
    with pytest.raises(stores.InputError, match="has the columns x, other, y; say which one holds the labels"):
        prepare(f"hf:{tmp_path}:x", labels="class")
    with pytest.raises(stores.InputError, match="has the columns x, other, y; say which one holds the samples after a"):
        prepare(f"hf:{tmp_path}:z")


def test_what_the_hub_refuses_is_said_in_one_line(hub):
    def refuse(*arguments, **options):
        raise FileNotFoundError("Dataset 'me/nothing' doesn't exist on the Hub")

    hub.load_dataset = refuse
    with pytest.raises(stores.MissingFile, match="is not to be had: Dataset 'me/nothing' doesn't exist on the Hub"):
        prepare("hf:me/nothing/train")
    for name in ("hf:", "hf:mnist"):
        with pytest.raises(stores.InputError, match=r"expected hf:NAME\[@REVISION\]/SPLIT"):
            prepare(name)


def test_a_stream_goes_back_too(tmp_path):
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(b"head" + np.arange(20, dtype="u1").tobytes())
    with gzip.open(tmp_path / "a.gz") as file:
        file.read(4)
        source = streams.stream("a", file, (10, 2), np.dtype("u1"))
        for first in (6, 0, 3):
            np.testing.assert_array_equal(source.read(first, first + 2).ravel(), np.arange(2 * first, 2 * first + 4))
