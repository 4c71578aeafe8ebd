"""Data that are not what they seem, or may be two things, are refused by name, and nothing of them is run."""

import gzip
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import pickles
from PIL import Image

from tests.data_formats import (
    COLOUR,
    GREY,
    LABEL,
    TwoLabels,
    as_hub,
    as_idx,
    idx,
)
from tests.test_dataset import make
from traj import stores
from traj.pipeline.making.dataset import prepare


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
    np.testing.assert_array_equal(made.found.label, LABEL[::-1])


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
