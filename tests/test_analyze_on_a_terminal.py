"""`traj analyze` as a process of its own: what it shows, how Ctrl-C ends it, and that nothing of it is left."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pytest

from tests import offered, runs, warm
from traj.pipeline.cli import main

pytestmark = pytest.mark.slow

TRAJ = Path(sys.executable).with_name("traj")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scratch(monkeypatch):
    """An empty folder for temporary files, with a name short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_processes_say_nothing_of_their_own_and_leave_nothing(server, scratch):
    runs.make("a.zarr")
    command = [server.with_name("traj"), "analyze", "psnr", "a.zarr", "--scheduler", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    # kernels are compiled where no test before this one has needed them
    first, second = (line for line in done.stderr.splitlines() if not line.startswith("compiling, once"))
    assert first.startswith("psnr of a.zarr: 2 processes, memory")
    assert second == "wrote results/a/psnr.zarr"
    assert list(scratch.iterdir()) == []


def on_a_terminal(server, arguments, react=lambda shown, terminal: None, call=None):
    """Run a command on a terminal of its own: all it showed, and its exit status."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = warm.Process(server, arguments, terminal=inside, call=call)
    os.close(inside)
    shown = ""
    try:
        while part := os.read(terminal, 4096):
            shown += part.decode()
            react(shown, terminal)
    except OSError:  # the terminal closes with its last process
        pass
    os.close(terminal)
    return shown, process.wait()


@pytest.mark.parametrize("scheduler", ["threads", "1"])
def test_a_terminal_gets_a_bar(scheduler, server):
    runs.make("a.zarr")
    shown, code = on_a_terminal(server, ["analyze", "psnr", "a.zarr", "--scheduler", scheduler])
    assert code == 0
    assert "100%|" in shown
    assert "task/s" in shown


WAITING = """
import time
import dask.array as da
import numpy as np
import xarray as xr
from traj.analysis._quantity import quantity

def wait(block_info):
    time.sleep(0.2)
    return np.zeros(1)

@quantity(reads="trajectories", numerics=1, title="Waiting", source="nobody")
def waiting(ds: xr.Dataset) -> xr.Dataset:
    \"\"\"Take two minutes of two workers.\"\"\"
    cells = da.map_blocks(wait, chunks=((1,) * 1200,), dtype=float, meta=np.empty(0))
    return xr.Dataset({"waiting": ("cell", cells, {"long_name": "nothing", "units": "1"})})
"""


def with_waiting(folder, *arguments):
    sys.path.insert(0, folder)
    main(arguments)


@pytest.mark.parametrize(("scheduler", "name"), [("threads", "2 threads"), ("2", "2 processes")])
def test_ctrl_c_ends_every_process_and_cleans_up(scheduler, name, server, scratch, tmp_path):
    runs.make("a.zarr")
    # still computing when the key is pressed, however busy the machine is
    folder = offered.install(tmp_path / "site", "long", {"waiting": "waits:waiting"}, waits=WAITING)
    pressed = []

    def press(shown, terminal):
        if name in shown and not pressed:
            pressed.append(time.monotonic())
            os.write(terminal, b"\x03")

    arguments = [folder, "analyze", "waiting,psnr", "a.zarr", "--scheduler", scheduler, "--workers", "2"]
    shown, code = on_a_terminal(server, arguments, press, (__name__, with_waiting.__name__))
    assert code == 130
    assert "stopped; what is finished is kept" in shown
    assert "Traceback" not in shown
    assert "Task" not in shown
    assert list(scratch.iterdir()) == []
    assert not Path("results").exists()
    assert time.monotonic() - pressed[0] < 30


def test_that_kernels_are_compiled_is_said_once_and_only_when_it_is_so(tmp_path):
    runs.make("a.zarr")
    said = []
    for number, (cache, scheduler) in enumerate([("a", "1"), ("a", "threads"), ("b", "threads")]):
        command = [TRAJ, "analyze", "psnr", "a.zarr", "-o", str(number), "--scheduler", scheduler]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / cache)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        said.append([line for line in done.stderr.splitlines() if "compiling" in line])
    once = ["compiling, once: the next analysis finds the compiled code on disk"]
    assert said == [once, [], once]


def test_dasks_query_planning_is_switched_off_for_the_command_and_refused_in_python():
    runs.make("a.zarr")
    environment = os.environ | {"DASK_ARRAY__QUERY_PLANNING": "True"}
    subprocess.run([TRAJ, "analyze", "psnr", "a.zarr"], capture_output=True, check=True, env=environment)
    command = [sys.executable, "-c", "from traj import analysis; analysis.load('psnr')"]
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert refused.returncode == 1
    assert "set DASK_ARRAY__QUERY_PLANNING=False before dask.array is imported" in refused.stderr.splitlines()[-1]
