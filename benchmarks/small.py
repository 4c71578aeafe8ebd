"""Small costs that are paid often: the command line's start, and noise by address."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmarks.timing import Row, Target, interleave, per_round, seconds_text
from traj.pipeline.process.noise import NoiseSource, Purpose

TITLE = "Small costs"


def rows(tiny: bool) -> list[Row]:
    """Measure `traj --help` and the noise of one step of a block."""
    return [_help(2 if tiny else 15), _noise(4 if tiny else 512, (3, 32, 32), 2 if tiny else 15)]


def _help(rounds: int) -> Row:
    def python(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    arms = {
        "ours": lambda folder: python("from traj.pipeline.cli import main; main(['--help'])"),
        "click": lambda folder: python("import click"),
    }
    python("import traj.pipeline.cli")
    seconds = interleave(arms, rounds)
    return Row(
        "traj --help, seconds",
        seconds_text(seconds["ours"]),
        "one second (python -c 'import click' beside it)",
        seconds_text(seconds["click"]),
        seconds["ours"],
        Target("at most", 0.3),
    )


def _noise(samples: int, shape: tuple[int, int, int], rounds: int) -> Row:
    source = NoiseSource(0, shape)
    bulk = np.random.Generator(np.random.Philox(0))
    out = np.empty((samples, *shape), np.float32)
    seconds = interleave(
        {
            "ours": lambda folder: source(Purpose.STEP, range(samples), 500),
            "bulk": lambda folder: bulk.standard_normal(dtype=np.float32, out=out),
        },
        rounds,
    )

    def each(name: str) -> str:
        return f"{np.median(seconds[name]) / out.size * 1e9:.1f} ns a normal"

    return Row(
        f"addressed noise, {samples} x {'x'.join(map(str, shape))}",
        each("ours"),
        "one unaddressed Philox draw",
        each("bulk"),
        per_round(seconds["ours"], seconds["bulk"]),
    )
