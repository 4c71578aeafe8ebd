"""Threads that wait must not keep other work from the processors."""

import os
import subprocess
import sys

import pytest

from traj.pipeline.threads import WAITING

# asks, when torch is about to be imported, what OpenMP is going to read
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(",".join(os.environ.get(key, "unset") for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")))

sys.meta_path.insert(0, Watch())
"""
COMMAND = "from traj.pipeline.cli import main; main(['info', 'gaussian:0,1'])"


@pytest.mark.parametrize(
    ("start", "given", "read"),
    [
        (COMMAND, {}, "PASSIVE,1000"),
        (COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE,unset"),
        (COMMAND, {"GOMP_SPINCOUNT": "0"}, "unset,0"),
        ("import benchmarks.timing, torch", {}, "PASSIVE,1000"),
        ("import tests.conftest, torch", {}, "PASSIVE,1000"),
    ],
)
def test_how_threads_wait_is_said_before_torch_is_there_unless_the_user_has(start, given, read):
    environment = {key: value for key, value in os.environ.items() if key not in WAITING} | given
    done = subprocess.run([sys.executable, "-c", WATCH + start], env=environment, capture_output=True, text=True)
    assert done.stderr.strip() == read
