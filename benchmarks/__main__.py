"""Run the benchmarks and print their rows: `python -m benchmarks [--tiny] [--only NAME] [--write FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    analyzing,
    branches,
    generation,
    kernels,
    machine,
    memory,
    posterior,
    probe,
    recording,
    shortcut,
    small,
    writing,
)
from benchmarks.timing import table
from traj.stores.partials import write_file

TOPICS = {
    "generation": generation,
    "recording": recording,
    "writing": writing,
    "analyzing": analyzing,
    "branches": branches,
    "kernels": kernels,
    "posterior": posterior,
    "probe": probe,
    "memory": memory,
    "small": small,
    "shortcut": shortcut,
}
NUMBERS = "<!-- numbers: everything below is written by `python -m benchmarks --write` -->"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure topic by topic, printing each as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="toy sizes: shows that it runs, the numbers mean nothing")
    parser.add_argument("--only", choices=TOPICS, help="one topic")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the numbers into FILE, below its marker line")
    options = parser.parse_args(arguments)
    if options.write and (options.tiny or options.only):
        parser.error("--write takes a whole run; leave out --tiny and --only")
    if options.write and NUMBERS not in options.write.read_text().splitlines():
        parser.error(f"{options.write} has no line {NUMBERS}")
    begun = time.perf_counter()
    text = "\n".join(f"- {line}" for line in machine.describe()) + "\n"
    print(text, flush=True)
    for name, topic in TOPICS.items():
        if options.only in (None, name):
            section = f"## {topic.TITLE}\n\n{table(topic.rows(options.tiny), judge=not options.tiny)}\n"
            print(section, flush=True)
            text += f"\n{section}"
    print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr)
    if options.write:
        above, _, _ = options.write.read_text().partition(NUMBERS)
        write_file(options.write, f"{above}{NUMBERS}\n\n{text}")


if __name__ == "__main__":
    main()
