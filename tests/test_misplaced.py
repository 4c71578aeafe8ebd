"""What is whole but in the wrong place is found: by `verify` whatever it is, on opening where that is cheap."""

import json
import shutil
import struct

import numpy as np
import pytest
import zarr

from tests import runs
from tests.test_forks_and_readouts_on_disk import make_forks, make_readout
from tests.test_reader import result
from traj import stores
from traj.stores.layout import read_root, sealed_text, with_crc

TIMESTEPS = np.arange(300)[::-1]


def swap(a, b):
    content, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(content)


def test_shards_of_ordinary_states_are_told_apart_on_opening(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    swap(path / "x_t" / "c.0.0.0.0.0", path / "x_t" / "c.1.0.0.0.0")
    with pytest.raises(stores.DamagedStore, match=r"x_t/c\.0\.0\.0\.0\.0 is not what was written there"):
        stores.open(path)


def make_run(path, seed=0):
    """A run whose shards are all of one size, so that only what is in them can tell them apart."""
    rng = np.random.default_rng(seed)
    prompt = [f"a drawing of {k}" for k in range(8)]
    with runs.create(path, 8, seed=seed, dtype="float16", timesteps=TIMESTEPS[:6], prompt=prompt) as store:
        for block in store.pending:
            for step in range(6):
                noise = rng.integers(0, 0x7C00, (2, 4, *runs.SHAPE)).astype(np.uint16).view(np.float16)
                store.put(block, step, *noise.astype(np.float32))
            store.finish(block, rng.standard_normal((4, *runs.SHAPE)))
    return path


def swapped(*files):
    def change(path, _):
        swap(*(path / file for file in files))

    return change


def copied(file, over):
    def change(path, _):
        shutil.copy(path / file, path / over)

    return change


def taken(file):
    def change(path, other):
        shutil.copy(other / file, path / file)

    return change


def arrays_exchanged(path, _):
    for shard in (path / "x_t").glob("c.*"):
        swap(shard, path / "pred_x0" / shard.name)


def arrays_and_metadata_exchanged(path, _):
    """x_t and pred_x0 are renamed, and the root's metadata is made to fit and sealed again."""
    (path / "x_t").rename(path / "other")
    (path / "pred_x0").rename(path / "x_t")
    (path / "other").rename(path / "pred_x0")
    root = read_root(path)
    metadata = root["consolidated_metadata"]["metadata"]
    metadata["x_t"], metadata["pred_x0"] = metadata["pred_x0"], metadata["x_t"]
    (path / "zarr.json").write_text(sealed_text(root))


def labels_rewritten(path, _):
    zarr.open_array(path / "label", mode="r+")[:] = np.arange(8)


def prompts_rewritten(path, _):
    zarr.open_array(path / "prompt", mode="r+")[2:3] = "a photograph of 2"


def a_folder(path, _):
    (path / "pred_x0" / "c.1.0.0.0.0").unlink()
    (path / "pred_x0" / "c.1.0.0.0.0").mkdir()


def a_block_of_another_run(path, other):
    for file in other.rglob("*1*"):
        if file.is_file() and file.name.partition("1")[0] in ("", "c."):
            shutil.copy(file, path / file.relative_to(other))


RUN = {
    "two shards of an array": swapped("x_t/c.0.0.0.0.0", "x_t/c.1.0.0.0.0"),
    "two shards of x_0": swapped("x_0/c.0.0.0.0", "x_0/c.1.0.0.0"),
    "a shard over another": copied("x_t/c.0.0.0.0.0", "x_t/c.1.0.0.0.0"),
    "a shard over one of another array": copied("x_t/c.0.0.0.0.0", "pred_x0/c.0.0.0.0.0"),
    "all shards of x_t and pred_x0": arrays_exchanged,
    "x_t and pred_x0 with their metadata": arrays_and_metadata_exchanged,
    "alpha_bar and sigma": swapped("alpha_bar/c/0", "sigma/c/0"),
    "sample and label": swapped("sample/c/0", "label/c/0"),
    "step and timestep": swapped("step/c/0", "timestep/c/0"),
    "a shard of another seed": taken("x_t/c.1.0.0.0.0"),
    "the root of another seed": taken("zarr.json"),
    "a manifest of another seed": taken("manifest/c/1"),
    "a whole block of another seed": a_block_of_another_run,
    "two manifests": swapped("manifest/c/0", "manifest/c/1"),
    "labels with a right checksum": labels_rewritten,
    "prompts with a right checksum": prompts_rewritten,
    "label and prompt": swapped("label/c/0", "prompt/c/0"),
    "a folder": a_folder,
}
CHEAP = [name for name in RUN if "shard" not in name and "with their metadata" not in name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    two = {name: (make_run(folder / name, seed=0), make_run(folder / f"{name}-1", seed=1)) for name in ("run",)}
    two["fork"] = (
        make_forks(folder / "fork", states=True),
        make_forks(folder / "fork-1", states=True, seed=1),
    )
    two["readout"] = (make_readout(folder / "readout"), make_readout(folder / "readout-1", seed=1))
    for number in (0, 1):
        stores.save(result() + number, folder / f"result-{number}", {"seed": number})
    two["result"] = (folder / "result-0", folder / "result-1")
    return two


@pytest.fixture
def copies(made, tmp_path):
    def copy(kind):
        for number, path in enumerate(made[kind]):
            shutil.copytree(path, tmp_path / f"{number}.zarr")
        return tmp_path / "0.zarr", tmp_path / "1.zarr"

    return copy


@pytest.mark.parametrize("change", RUN.values(), ids=RUN)
def test_what_is_whole_but_in_the_wrong_place_is_found_in_a_run(copies, change):
    path, other = copies("run")
    assert stores.verify(path, deep=True) == []
    change(path, other)
    assert stores.verify(path)


@pytest.mark.parametrize("name", CHEAP)
def test_opening_finds_what_is_cheap_to_find(copies, name):
    path, other = copies("run")
    stores.open(path)
    RUN[name](path, other)
    with pytest.raises(stores.StoreError):
        stores.open(path)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("fork", swapped("x_0/c.0.0.0.0.0.0", "x_0/c.0.0.1.0.0.0")),
        ("fork", copied("x_t/c.0.0.0.0.0.0.0", "pred_x0/c.0.0.0.0.0.0.0")),
        ("fork", swapped("at/c/0", "variant/c/0")),
        ("fork", taken("zarr.json")),
        ("readout", swapped("x_0_logits/c.0.0", "x_0_logits/c.1.0")),
        ("readout", copied("logits/c.0.0.0.0", "logits/c.0.1.0.0")),
        ("readout", swapped("label/c/0", "sample/c/0")),
        ("readout", taken("logits/c.0.1.0.0")),
        ("readout", taken("zarr.json")),
        ("result", swapped("on/c.0", "timestep/c.0")),
        ("result", taken("entropy/c.0.0")),
        ("result", taken("zarr.json")),
    ],
)
def test_what_is_whole_but_in_the_wrong_place_is_found_in_other_stores(copies, kind, change):
    path, other = copies(kind)
    assert stores.verify(path) == []
    if kind == "readout":  # the made-up logits of two seeds are alike
        other_logits = other / "logits" / "c.0.1.0.0"
        other_logits.write_bytes((other / "logits" / "c.0.0.0.0").read_bytes())
    change(path, other)
    assert stores.verify(path)
    with pytest.raises(stores.StoreError):
        stores.open(path)


def test_a_manifest_reads_as_one_string_of_json_per_block(made):
    texts = zarr.open_array(made["run"][0] / "manifest", mode="r")[:]
    manifests = [json.loads(text) for text in texts]
    assert [manifest["block"] for manifest in manifests] == [0, 1]
    assert set(manifests[1]["files"]) == {"x_t/c.1.0.0.0.0", "pred_x0/c.1.0.0.0.0", "x_0/c.1.0.0.0"}
    stored = (made["run"][0] / "manifest" / "c" / "0").read_bytes()
    assert stored == with_crc(struct.pack("<II", 1, len(texts[0].encode())) + texts[0].encode())


def test_a_store_of_another_format_is_refused_in_one_line(copies):
    path, _ = copies("run")
    root = read_root(path)
    root["attributes"]["format"] = 1
    (path / "zarr.json").write_text(sealed_text(root))
    with pytest.raises(stores.NotAStore, match=r"^\S+ \(trajectories\) has store format 1, this version.*reads 2.*$"):
        stores.open(path)


@pytest.mark.parametrize("kind", ["run", "fork", "readout"])
def test_a_whole_file_of_another_array_in_the_place_of_a_coordinate_is_found_whatever_it_reads_as(copies, kind):
    path, _ = copies(kind)
    coordinates = stores.open(path).coords
    for name in coordinates:
        (place,) = (path / name).glob("c/*")
        kept = place.read_bytes()
        for source in ("done/c/0", "manifest/c/0", "label/c/0"):
            other = (path / source).read_bytes()
            if name == source.partition("/")[0] or other == kept:
                continue
            place.write_bytes(other)
            (problem,) = stores.verify(path, deep=True)
            assert problem.startswith(name), (name, source)
            with pytest.raises(stores.DamagedStore):
                stores.open(path)
        place.write_bytes(kept)


def test_shards_of_arrays_with_other_chunks_are_told_apart_before_they_are_read(copies):
    path, _ = copies("readout")
    shards = [next((path / name).glob("c.0*")) for name in ("logits", "x_0_logits")]
    swap(*shards)
    problems = stores.verify(path, deep=True)
    assert all(any(problem.startswith(f"{file.parent.name}/") for problem in problems) for file in shards)
