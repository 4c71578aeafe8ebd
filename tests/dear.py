"""Tests that take long: measured, listed in dear.txt, and left out of `make test-fast`.

Renew the list from a quiet run: `python -m pytest -m "not slow" --durations=0 > LOG`, then `python -m tests.dear LOG`.
"""

import re
import sys
from collections import Counter
from pathlib import Path

LIST = Path(__file__).with_name("dear.txt")
SECONDS = 0.2
"""Of a test, all its cases together, on one core."""


def listed():
    """Name the tests that take long: file::function."""
    return set(LIST.read_text().split())


def measured(log):
    """Add up the seconds of every test, from what pytest says of durations."""
    seconds = Counter()
    for taken, test in re.findall(r"^([\d.]+)s (?:call|setup|teardown) +(tests/\S+?::\w+)", log, re.M):
        seconds[test] += float(taken)
    return seconds


if __name__ == "__main__":
    found = measured(Path(sys.argv[1]).read_text())
    LIST.write_text("".join(f"{test}\n" for test in sorted(found) if found[test] > SECONDS))
