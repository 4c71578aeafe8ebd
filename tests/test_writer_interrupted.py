"""Kills, failures and other writers at any moment lose nothing and mix nothing up."""

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests import runs, warm
from traj import stores


class Writer(warm.Process):
    """A writer in a process of its own."""

    def __init__(self, server, path, samples=16, *, blocks="", pause=0.0):
        self._messages = path.with_name(f"{path.name}.said{next(COUNT)}")
        arguments = [path, samples, blocks, pause]
        super().__init__(server, arguments, stderr=self._messages, call=("tests.test_writer_interrupted", "write"))

    @property
    def said(self):
        return self._messages.read_text()

    def opened(self):
        while "open" not in self.said and not self.ended():
            time.sleep(0.005)
        return self

    def kill(self):
        self.send_signal(signal.SIGKILL)
        self.wait()


COUNT = count()


def write(path, samples, blocks, pause):
    """Write the blocks that are named, or all, pausing before each step."""
    chosen = [int(block) for block in blocks.split()] or None
    with runs.create(path, int(samples), blocks=chosen) as store:
        print("open", file=sys.stderr, flush=True)
        for block in list(store.pending):
            for step in range(6):
                time.sleep(float(pause))
                store.put(block, step, *runs.states(block, step))
            store.finish(block, runs.states(block, 99)[1])


@pytest.mark.slow
def test_kill_at_random_moments_then_resume_equals_uninterrupted(server, tmp_path):
    path, expected = tmp_path / "run.zarr", runs.digest(runs.make(tmp_path / "straight.zarr", 22))
    rng = np.random.default_rng(int(os.environ.get("TRAJ_TEST_SEED", "0")))
    for _ in range(10):
        process = Writer(server, path, 22, pause=0.02)
        if rng.random() < 0.8:
            process.opened()  # so that the kill falls into the writing
            time.sleep(rng.uniform(0, 0.4))
        else:
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
    runs.make(path, 22)
    assert runs.digest(path) == expected
    assert stores.verify(path, deep=True) == []


@pytest.mark.slow
def test_two_processes_share_a_run_by_blocks(server, tmp_path):
    halves = [Writer(server, tmp_path / "run.zarr", blocks=blocks, pause=0.005) for blocks in ("0 1", "2 3")]
    assert [half.wait() for half in halves] == [0, 0]
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr"))


def test_a_second_writer_of_the_same_blocks_is_refused(server, tmp_path):
    first = Writer(server, tmp_path / "run.zarr", blocks="0 1", pause=0.5).opened()
    try:
        with pytest.raises(stores.LockedStore, match=r"block\(s\) 1 of"):
            runs.create(tmp_path / "run.zarr", blocks=[1, 2])
        with runs.create(tmp_path / "run.zarr", blocks=[2, 3]) as store:
            runs.fill(store)
        with runs.create(tmp_path / "run.zarr", blocks=[2, 3]) as store:
            assert store.pending == []
            with pytest.raises(stores.LockedStore, match="by this process"):
                runs.create(tmp_path / "run.zarr", blocks=[2])
    finally:
        first.kill()
    # The dead writer's blocks are free again.
    runs.make(tmp_path / "run.zarr")


def test_a_store_is_not_moved_while_another_process_writes_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr("traj.stores.claim.LOCK_PATIENCE_S", 0.3)
    first = Writer(server, tmp_path / "run.zarr", blocks="0 1", pause=0.5).opened()
    try:
        with pytest.raises(stores.LockedStore, match="another process is writing"):
            runs.create(tmp_path / "run.zarr", seed=1, stale="set-aside")
        with pytest.raises(stores.LockedStore, match="another process is writing"):
            runs.create(tmp_path / "run.zarr", 32)
    finally:
        first.kill()


@pytest.mark.parametrize("moment", ["before the move", "after the move", "before the new store is in place"])
def test_killed_during_set_aside_loses_nothing(tmp_path, monkeypatch, moment):
    before = runs.digest(runs.make(tmp_path / "run.zarr"))

    class Killed(BaseException):
        pass

    original = Path.rename

    def rename(self, target):
        if moment == "before the move" or (moment.startswith("before the new") and self.suffix == ".partial"):
            raise Killed
        original(self, target)
        if moment == "after the move":
            raise Killed
        return Path(target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        runs.create(tmp_path / "run.zarr", seed=1, stale="set-aside")
    monkeypatch.undo()
    with runs.create(tmp_path / "run.zarr", seed=1, stale="set-aside") as store:
        runs.fill(store)
    (aside,) = tmp_path.glob("run.stale-*.zarr")
    assert runs.digest(aside) == before
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr", seed=1))


def test_a_failed_extension_leaves_a_complete_store_complete(tmp_path, monkeypatch):
    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    before = runs.digest(runs.make(tmp_path / "run.zarr", 10))
    monkeypatch.setattr("traj.stores.description.Description.build", full_disk)
    with pytest.raises(OSError, match="No space"):
        runs.create(tmp_path / "run.zarr", 16)
    assert runs.digest(tmp_path / "run.zarr") == before


def test_a_store_extended_between_look_and_lock_is_looked_at_again(server, tmp_path, monkeypatch):
    with runs.create(tmp_path / "run.zarr", 10) as store:
        runs.fill(store, [0, 1])
    original = stores.locks.BlockLocks.take

    def extended_meanwhile(self, blocks):
        monkeypatch.undo()
        assert Writer(server, tmp_path / "run.zarr", blocks="3").wait() == 0
        return original(self, blocks)

    monkeypatch.setattr("traj.stores.locks.BlockLocks.take", extended_meanwhile)
    runs.make(tmp_path / "run.zarr", 10)
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr", 16))


@pytest.mark.parametrize("name", ["done", "saturated"])
def test_a_store_may_be_called_like_one_of_its_arrays(tmp_path, name):
    runs.make(tmp_path / name, 6)
    assert stores.verify(runs.make(tmp_path / name, 12)) == []


def test_two_spellings_of_a_path_are_one_store(tmp_path):
    (tmp_path / "x").mkdir()
    with runs.create(tmp_path / "run.zarr"), pytest.raises(stores.LockedStore, match="by this process"):
        runs.create(tmp_path / "x" / ".." / "run.zarr")


def test_closing_twice_frees_nothing_of_another_writer(server, tmp_path):
    first = runs.create(tmp_path / "run.zarr")
    first.close()
    with runs.create(tmp_path / "run.zarr") as second:
        first.close()
        other = Writer(server, tmp_path / "run.zarr")
        assert other.wait() != 0
        assert "LockedStore" in other.said
        with pytest.raises(stores.LockedStore, match="by this process"):
            runs.create(tmp_path / "run.zarr")
        runs.fill(second)
    assert stores.verify(tmp_path / "run.zarr") == []


@pytest.fixture
def killed(monkeypatch):
    """Kill an extension at one of its renames: nothing runs after it, neither a clean-up nor a rollback."""

    class Killed(BaseException):
        pass

    def extend(path, samples, moment):
        original, calls = Path.replace, iter(range(1000))

        def replace(self, target):
            if next(calls) == moment:
                raise Killed
            return original(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            patch.setattr("traj.stores.claim._shorten", lambda target: None)
            patch.setattr("traj.stores.claim.shutil.rmtree", lambda *_, **__: None)
            with contextlib.suppress(Killed):
                runs.create(path, samples).close()
                return False
        return True

    return extend


def alarms(path):
    return [line for line in stores.verify(path) if not re.fullmatch(r"block \d+ is not done", line)]


def test_a_killed_extension_raises_no_alarm_and_the_old_command_goes_on(tmp_path, killed):
    samples, base = 10, runs.make(tmp_path / "base.zarr", 10)
    straight = runs.digest(runs.make(tmp_path / "straight.zarr", 16))
    for moment in range(0, 100, 3):
        path = tmp_path / f"{moment}.zarr"
        shutil.copytree(base, path)
        if not killed(path, 16, moment):
            break
        stored = stores.open(path, partial=True).sizes["sample"]
        assert alarms(path) == []
        assert stored > samples or stores.verify(path) == []
        runs.make(path, samples)
        assert alarms(path) == []
        assert stored > samples or runs.digest(path).keys() == runs.digest(base).keys()
        assert stores.open(path, partial=True).sizes["sample"] == stored
        runs.make(path, 16)
        assert runs.digest(path) == straight
    assert moment > 10


def test_verify_raises_no_alarm_while_a_store_is_extended(tmp_path, monkeypatch):
    path, original, looks = runs.make(tmp_path / "run.zarr", 10), Path.replace, []

    def replace(self, target):
        of_the_store = path in Path(target).parents  # what zarr makes elsewhere, on a thread that reading needs
        looks.extend([alarms(path)] if of_the_store else [])
        original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with runs.create(path, 16) as store:
        runs.fill(store)
    assert len(looks) > 10
    assert [look for look in looks if look] == []


def test_every_folder_an_extension_renames_into_is_synced_before_the_root_metadata(tmp_path, monkeypatch):
    path, original, unsynced = runs.make(tmp_path / "run.zarr", 10), Path.replace, set()
    sync = stores.claim.sync

    def replace(self, target):
        if Path(target) == path / "zarr.json":
            assert unsynced == set()
        elif path in Path(target).parents:
            unsynced.add(Path(target).parent)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr("traj.stores.claim.sync", lambda folder: (unsynced.discard(folder), sync(folder)))
    runs.create(path, 16).close()


def test_a_store_says_which_block_was_made_where(tmp_path):
    path = tmp_path / "run.zarr"
    for blocks, machine in (([0, 2], "a"), ([1], "b"), ([3], "a")):
        with runs.create(path, environment={"torch": machine}, blocks=blocks) as store:
            runs.fill(store)
    assert stores.describe(path)["environments"] == [
        {"environment": {"torch": "a"}, "blocks": [0, 2, 3]},
        {"environment": {"torch": "b"}, "blocks": [1]},
    ]
    with runs.create(path, 20, environment={"torch": "c"}) as store:
        runs.fill(store)
    assert [made["blocks"] for made in stores.describe(path)["environments"]] == [[0, 2, 3], [1], [4]]
    assert stores.verify(path) == []
