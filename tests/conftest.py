"""One thread per process: small networks run no slower, and a busy machine does not slow the suite tenfold."""

import os
import signal
import sys
import types

import pytest

from tests import dear, warm
from traj.pipeline.garbage import search_as_usual, search_rarely
from traj.pipeline.threads import wait_briefly

os.environ["OMP_NUM_THREADS"] = "1"
search_rarely()  # until all is imported and collected
wait_briefly()  # for tests and their subprocesses that ask for more
warm.wait_for_no_disk()

# Started in the background of a shell, this process ignores SIGINT, and so would those that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    listed = dear.listed()
    for item in items:
        if item.nodeid.partition("[")[0] in listed:
            item.add_marker(pytest.mark.dear)


def pytest_collection_finish():
    search_as_usual()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Where processes of `traj` are had at once, see tests/warm.py."""
    own = tmp_path_factory.getbasetemp()
    with warm.shared(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) as path:
        yield path


@pytest.fixture
def without_figures(monkeypatch):
    """Pages whose figures are built but not rendered, for tests of what else is on them: a fifth of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", warm.blank)


@pytest.fixture
def hub(monkeypatch):
    """The package `datasets`, which is not needed to test what is made of it."""
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    return sys.modules["datasets"]
