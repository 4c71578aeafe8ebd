"""Where things may be written: on local disks, outside of stores, whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests import runs
from tests.test_reader import result as small
from traj import stores
from traj.stores import claim, layout, result
from traj.stores.layout import read_root
from traj.stores.partials import making, write_file
from traj.stores.places import is_url, place, require_writable
from traj.stores.reader import arrays_of


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- places


@pytest.mark.parametrize(
    "url", ["s3://b/a.zarr", "gs://b/a.zarr", "file:///tmp/a.zarr", "https://h/a.zarr", "simplecache::s3://b/a.zarr"]
)
def test_a_url_is_refused_by_name_before_anything_is_made(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for use in (
        runs.create,
        stores.open,
        stores.describe,
        stores.verify,
        lambda path: stores.save(small(), path, {}),
        lambda path: stores.would_keep(path, {}),
    ):
        for path in (url, Path(url)):
            with pytest.raises(stores.NotAStore, match="is a URL"):
                use(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["a.zarr", "/x/a.zarr", "a:b/c.zarr", "./s3:/a.zarr", "params.yaml:sweeps", "C:/a"])
def test_a_path_is_no_url(path):
    assert not is_url(path)


@pytest.mark.parametrize("inside", ["x.zarr", "x_t/x.zarr", "new/folder/x.zarr"])
def test_nothing_is_written_inside_a_store(tmp_path, inside):
    store = runs.make(tmp_path / "a.zarr", 4)
    (tmp_path / "link").symlink_to(store)
    before = runs.digest(store)
    for path in (store / inside, tmp_path / "link" / inside):
        with pytest.raises(stores.NotAStore, match=r"inside the store .*a\.zarr"):
            runs.create(path)
        with pytest.raises(stores.NotAStore, match="inside the store"):
            stores.save(small(), path, {})
    assert runs.digest(store) == before
    assert stores.verify(store) == []


def test_nothing_is_written_inside_a_zarr_group_of_others(tmp_path):
    xr.Dataset({"a": ("b", [1.0])}).to_zarr(tmp_path / "other.zarr", consolidated=False, zarr_format=2)
    with pytest.raises(stores.NotAStore, match="inside the store"):
        runs.create(tmp_path / "other.zarr" / "a.zarr")


def test_a_folder_to_be_filled_must_not_be_a_store_itself(tmp_path):
    store = runs.make(tmp_path / "a.zarr", 4)
    assert place(store) == store
    with pytest.raises(stores.NotAStore, match="inside the store"):
        place(store, folder=True)


def test_a_run_in_the_place_of_a_result_is_not_to_be_deleted(tmp_path):
    store = runs.make(tmp_path / "a.zarr", 4)
    with pytest.raises(stores.NotAStore, match="holds a store of kind trajectories, not a result") as raised:
        stores.would_keep(store, {})
    assert "delete" not in str(raised.value)


def test_a_store_behind_a_link_is_locked_by_its_real_name(tmp_path):
    store = tmp_path / "real" / "a.zarr"
    runs.make(store, 4)
    (tmp_path / "link.zarr").symlink_to(store)
    with (
        runs.create(tmp_path / "link.zarr", 8),
        pytest.raises(stores.LockedStore, match="already being written"),
        runs.create(store, 8),
    ):
        pass
    assert (tmp_path / "real" / "a.zarr.lock").exists()
    assert not (tmp_path / "link.zarr.lock").exists()


def test_setting_aside_behind_a_link_moves_the_store_and_keeps_the_link(tmp_path):
    store = runs.make(tmp_path / "real" / "a.zarr", 4)
    (tmp_path / "link.zarr").symlink_to(store)
    with runs.create(tmp_path / "link.zarr", 4, seed=1, stale="set-aside") as written:
        assert written.set_aside.parent == store.parent
    assert (tmp_path / "link.zarr").resolve() == store


def test_a_place_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for path, error in ((Path("/proc/nowhere/a.zarr"), OSError), (tmp_path / "file" / "a.zarr", stores.InputError)):
        with pytest.raises(OSError, match=str(path)):
            require_writable(path)
        with pytest.raises(error, match=str(path)):
            stores.would_keep(path, {})
    require_writable(tmp_path / "new" / "a.zarr")
    assert os.listdir(tmp_path) == ["file"]


def test_a_whole_store_in_a_read_only_folder_needs_no_lock(tmp_path, monkeypatch):
    path = runs.make(tmp_path / "a.zarr", 8)
    Path(f"{path}.lock").unlink()
    original = os.open

    def read_only(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with runs.create(path, 8) as store:
        assert store.pending == []
    with pytest.raises(PermissionError):
        runs.create(path, 16)
    monkeypatch.undo()
    assert not Path(f"{path}.lock").exists()
    with runs.create(path, 16) as store:
        assert store.pending == [2, 3]


# ---- partial files and folders


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, monkeypatch):
    file = tmp_path / "new" / "times.csv"
    write_file(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*times\.csv"):
        write_file(file, b"new")
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["times.csv"]


def test_what_is_no_file_is_not_replaced_by_one():
    with pytest.raises(FileExistsError, match="/dev/null"):
        write_file(Path("/dev/null"), "")


@pytest.mark.parametrize("where", ["readout", "create", "save"])
def test_a_full_disk_names_the_store(tmp_path, monkeypatch, where):
    path = tmp_path / "a.zarr"
    variables = {"logits": (("sample", "class"), "logits", "1")}
    coords = {"class": ("class", np.arange(3), "1", "class")}
    with stores.create_readout(
        path, of="trajectories", variables=variables, coords=coords, samples=4, block=4, config={}
    ) as store:
        write = {
            "readout": lambda: store.write(0, {"logits": np.zeros((4, 3))}),
            "create": lambda: runs.create(tmp_path / "b.zarr"),
            "save": lambda: stores.save(small(), tmp_path / "b.zarr", {}),
        }[where]
        monkeypatch.setattr(layout.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*zarr"):
            write()
        monkeypatch.undo()
    assert not (tmp_path / "b.zarr").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_setting_aside_that_fails_half_way_says_where_the_old_store_is(tmp_path, monkeypatch):
    path = runs.make(tmp_path / "a.zarr", 4)
    before = runs.digest(path)
    original = Path.rename

    def fails(self, target):
        return full() if self.suffix == ".partial" else original(self, target)

    monkeypatch.setattr(claim.Path, "rename", fails)
    with pytest.raises(OSError, match="No space left") as raised:
        runs.create(path, 4, seed=1, stale="set-aside")
    (aside,) = tmp_path.glob("a.stale-*.zarr")
    assert raised.value.__notes__ == [f"{path} was made from other inputs; it is kept as {aside}"]
    assert runs.digest(aside) == before


def test_nothing_is_set_aside_where_the_new_store_cannot_be_made(tmp_path, monkeypatch):
    path = runs.make(tmp_path / "a.zarr", 4)
    before = runs.digest(path)
    monkeypatch.setattr("traj.stores.description.seal", full)
    with pytest.raises(OSError, match="No space left"):
        runs.create(path, 4, seed=1, stale="set-aside")
    assert runs.digest(path) == before


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_makes_is_not(tmp_path):
    code = textwrap.dedent(f"""
        from pathlib import Path
        from traj.stores.partials import making
        with making(Path({str(tmp_path / "a.zarr")!r}), folder=True) as partial:
            (partial / "x").touch()
            print(partial, flush=True)
            input()
    """)
    root = Path(__file__).parents[1]
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    dead, alive = (Path(process.stdout.readline().strip()) for process in (first, second))
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "b.zarr.1-00000000.partial").mkdir()  # of another store
    (tmp_path / "a.zarr.mine.partial").mkdir()  # not of ours
    assert dead.exists()
    with making(tmp_path / "a.zarr", folder=True) as partial:
        assert partial.is_dir()
        assert not dead.exists()
        assert alive.exists()
    second.communicate("\n", timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr.mine.partial", "b.zarr.1-00000000.partial"]


# ---- results


def test_a_result_saved_by_several_at_once_is_there_for_all(tmp_path, monkeypatch):
    together = threading.Barrier(3)
    original = result.seal
    monkeypatch.setattr(result, "seal", lambda path: (original(path), together.wait()))
    saved = []
    threads = [
        threading.Thread(target=lambda: saved.append(stores.save(small(), tmp_path / "a.zarr", {}))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(saved) == [False, False, True]
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_another_result_saved_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    original = result.seal

    def seal_after_another(path):
        original(path)
        monkeypatch.undo()
        stores.save(small(), tmp_path / "a.zarr", {"bins": 1})

    monkeypatch.setattr(result, "seal", seal_after_another)
    with pytest.raises(stores.StaleStore):
        stores.save(small(), tmp_path / "a.zarr", {"bins": 2})
    assert json.loads(stores.open(tmp_path / "a.zarr").attrs["config"]) == {"bins": 1}


@pytest.mark.parametrize("limit", [8, 100, 1000])
def test_no_chunk_of_a_result_exceeds_the_limit(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(result, "CHUNK_BYTES_MAX", limit)
    rng = np.random.default_rng(0)
    ds = xr.Dataset({"a": (("x", "y", "z"), rng.random((3, 5, 7))), "b": 1.0, "c": ("x", ["one", "two", "three"])})
    path = tmp_path / "a.zarr"
    stores.save(ds, path, {})
    xr.testing.assert_equal(stores.open(path).compute(), ds)
    chunks = {
        name: meta["chunk_grid"]["configuration"]["chunk_shape"] for name, meta in arrays_of(read_root(path)).items()
    }
    assert max(8 * np.prod(chunk) for chunk in chunks.values()) <= max(limit, 8)
    assert stores.verify(path) == []


def test_a_small_variable_of_a_result_is_one_file(tmp_path):
    stores.save(small(), tmp_path / "a.zarr", {})
    assert len(list((tmp_path / "a.zarr" / "entropy").glob("c.*"))) == 1


def test_no_chunk_of_a_readout_exceeds_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("traj.stores.description.SHARD_BYTES", 200)
    values = np.random.default_rng(0).random((3, 5, 4, 2)).astype("f4")
    coords = {name: (name, np.arange(n), "1", name) for name, n in (("variant", 3), ("replica", 5), ("class", 2))}
    with stores.create_readout(
        tmp_path / "a.zarr",
        of="fork",
        variables={"logits": (("variant", "replica", "sample", "class"), "logits", "1")},
        coords=coords,
        samples=4,
        block=4,
        config={},
    ) as store:
        store.write(0, {"logits": values})
    found = stores.open(tmp_path / "a.zarr").logits
    np.testing.assert_array_equal(found, values)
    assert np.prod(found.data.chunksize) * 4 <= 200
    assert stores.verify(tmp_path / "a.zarr") == []
