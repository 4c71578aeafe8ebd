"""A command's imports are not searched for garbage, and its work is as it would be without."""

import gc
import sys

import pytest

from traj.pipeline import garbage
from traj.pipeline.cli import main


@pytest.fixture
def at_exit(monkeypatch):
    """What is to be called at the end of the process."""
    called = []
    monkeypatch.setattr(garbage.atexit, "register", called.append)
    before = gc.get_threshold()
    yield called
    gc.set_threshold(*before)


def test_a_typed_command_searches_rarely_and_never_at_its_end(at_exit, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["traj", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert gc.isenabled()
    assert gc.get_threshold()[0] == garbage.FEW
    assert at_exit == [gc.freeze]


def test_the_process_of_a_caller_is_left_alone(at_exit):
    before = gc.get_threshold()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert gc.get_threshold() == before
    assert not at_exit


def test_work_is_searched_as_usual_and_imports_are_left_out(at_exit):
    garbage.search_rarely()
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    garbage.search_as_usual()
    assert gc.get_threshold() == garbage.USUAL
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_a_threshold_of_the_users_own_stays(at_exit):
    gc.set_threshold(1234, 5, 6)
    garbage.search_as_usual()
    assert gc.get_threshold() == (1234, 5, 6)
