"""Peak memory of the command line against the estimate it prints, while the store grows tenfold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Row, Target
from traj.pipeline.estimate import size

TITLE = "Peak memory of a whole process against the estimate it prints"

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

TRAJ = (sys.executable, "-c", "from traj.pipeline.cli import main; main()")

# A small process of its own starts the command: a child's peak begins at its parent's size.
WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak if sys.platform == "darwin" else peak * 1024)
print(done.stderr)
sys.exit(done.returncode)
"""


def rows(tiny: bool) -> list[Row]:
    """Generate, then analyse, a small run and one of ten times the samples; of toy size, the small one alone."""
    block, steps, shape = (2, 4, "1x8x8") if tiny else (32, 200, "3x32x32")
    generate, analyze = [], []
    with tempfile.TemporaryDirectory(prefix="traj-bench-") as name:
        for samples in (block,) if tiny else (block, 10 * block):
            run = str(Path(name) / f"{samples}.zarr")
            options = (
                f"--model gaussian:0,0.25,{shape} --steps {steps} --samples {samples} --block {block} --device cpu"
            )
            generate.append(estimate_and_peak(["generate", run, *options.split()]))
            analyze.append(estimate_and_peak(["analyze", "entropy,ssim,psnr", run, "-o", f"{name}/results-{samples}"]))
    workers = os.cpu_count() or 1
    return [
        _row(f"traj generate, {shape}, {steps} steps, block {block}", generate),
        _row(f"traj analyze entropy,ssim,psnr, {workers} workers", analyze),
    ]


def _row(what: str, runs: list[tuple[int, int]]) -> Row:
    (_, small), (estimate, large) = runs[0], runs[-1]
    return Row(
        f"{what}: ten times the samples",
        f"{size(small)}, then {size(large)}",
        "the larger run's estimate",
        size(estimate),
        [large / estimate],
        Target("at most", 1.0),
    )


def estimate_and_peak(arguments: list[str]) -> tuple[int, int]:
    """Run `traj` in a process of its own: the memory it announced and the most it held, in bytes."""
    command = [sys.executable, "-c", WATCH, *TRAJ, *arguments]
    watched = subprocess.run(command, capture_output=True, text=True)
    peak, _, messages = watched.stdout.partition("\n")
    announced = re.search(r"memory ([\d.]+) ([KMG]?i?B)", messages)
    if watched.returncode or announced is None:
        raise RuntimeError(f"traj {' '.join(arguments)} ended with {watched.returncode}: {messages}{watched.stderr}")
    return round(float(announced[1]) * UNITS[announced[2]]), int(peak)
