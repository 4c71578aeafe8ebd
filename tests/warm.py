"""`traj` as a process of its own, forked from one that has imported torch and diffusers: seconds saved per start.

`serve` starts that one and leaves a command `traj` beside its socket, for PATH. What Dask, Numba and torch read from
the environment when they are imported is the server's. Figures are left blank: they take most of the time of a page.
"""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

KILLED = -signal.SIGKILL
IMPORTED = (
    "distributed",  # by Dask, where nobody says what computes
    "matplotlib.pyplot",
    "sklearn.datasets",
    "traj.pipeline.computing.analyze",
    "traj.pipeline.making.fork",
    "traj.pipeline.making.generate",
    "traj.pipeline.making.readout",
    "traj.pipeline.models.pretrained",
    "traj.pipeline.report",
)


class Process:
    """A running `traj`; `stderr` is a file to write its messages to, `terminal` the descriptor of one of its own.

    `call`, a module and a function of it, is called with the arguments in place of `traj`.
    """

    def __init__(self, server, arguments, stderr=None, terminal=None, call=None):
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(300)
        self._connection.connect(str(server))
        asked = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": os.getcwd(),
            "environ": {**os.environ},
            "terminal": terminal is not None,
            "call": call,
        }
        with open(stderr or os.dup(2), "wb") as messages:
            files = [0, 1, messages.fileno()] if terminal is None else [terminal] * 3
            socket.send_fds(self._connection, [json.dumps(asked).encode() + b"\n"], files)
        self._said = self._connection.makefile()
        self.pid = int(self._said.readline())

    def send_signal(self, number):
        os.kill(self.pid, number)

    def ended(self):
        return bool(select.select([self._connection], [], [], 0)[0])

    def wait(self):
        """The exit status, or KILLED where the process could not say one."""
        status = int(self._said.readline() or KILLED)
        self._said.read()  # the connection ends with the process
        self._connection.close()
        return status


@contextmanager
def shared(folder):
    """Give the path of the socket of one server for all workers of a run: the first starts it, and ends it last."""
    with open(Path(folder) / "server", "a+") as place, open(Path(folder) / "server.users", "a") as users:
        fcntl.flock(place, fcntl.LOCK_EX)  # held while a server starts or ends, never while it is used
        fcntl.flock(users, fcntl.LOCK_SH)
        place.seek(0)
        if running := place.read():
            fcntl.flock(place, fcntl.LOCK_UN)
            yield Path(running)
            return
        with tempfile.TemporaryDirectory() as own, serve(own) as server:
            place.write(str(server))
            place.flush()
            fcntl.flock(place, fcntl.LOCK_UN)
            yield server
            fcntl.flock(place, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_EX)  # had when no other worker needs the server
            place.truncate(0)


@contextmanager
def serve(folder):
    """Give the path of the server's socket."""
    server, command = Path(folder) / "socket", Path(folder) / "traj"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{__file__}' '{server}' \"$@\"\n")
    command.chmod(0o755)
    code = f"from tests.warm import answer; answer({str(server)!r})"
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield server
    finally:
        process.communicate()


def wait_for_no_disk():
    """Leave out fsync in this process: a store syncs each of its files, and no test cuts the power.

    What is synced, and in which order, is tested by the calls. Processes that tests start by themselves sync as ever.
    """
    os.fsync = lambda descriptor: None


def answer(server):
    """Fork a `traj` for everyone who connects, until stdin ends."""
    from traj.pipeline.garbage import search_as_usual, search_rarely

    wait_for_no_disk()
    search_rarely()
    for module in IMPORTED:
        import_module(module)
    analysis = import_module("traj.analysis")
    for quantity in analysis.quantities():
        analysis.load(quantity)
    import_module("matplotlib.figure").Figure.savefig = blank
    search_as_usual()  # and processes that fork from here share what was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(server)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection = listener.accept()[0]
            if not os.fork():
                listener.close()
                run(connection)
            connection.close()


def blank(figure, file, **options):
    """Stand in for `Figure.savefig` where nobody looks at the figures."""
    file.write(b"blank")


def run(connection):
    from traj.pipeline.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not asked.endswith(b"\n"):
        asked += connection.recv(1 << 20)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    asked = json.loads(asked)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    tempfile.tempdir = None  # as the environment says, whatever the server's was
    if asked["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    connection.sendall(f"{os.getpid()}\n".encode())
    status = 1
    try:
        if asked["call"]:
            module, function = asked["call"]
            getattr(import_module(module), function)(*asked["arguments"])
            status = 0
        else:
            main(asked["arguments"], prog_name="traj")
    except SystemExit as end:
        status = end.code
        raise
    finally:
        connection.sendall(f"{status}\n".encode())


if __name__ == "__main__":
    sys.exit(Process(sys.argv[1], sys.argv[2:]).wait())
