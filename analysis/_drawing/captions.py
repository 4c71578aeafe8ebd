"""What captions of several quantities say alike, in plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from traj.analysis._quantity import Results

BAND = "Bands are 95 % intervals of the mean over samples."

PLACE = "A diamond marks {}; its bar is a 95 % interval."


def either(values: Iterable[Any]) -> str:
    """List alternatives, each once."""
    return " or ".join(dict.fromkeys(map(str, values)))


def samples(results: Results) -> str:
    """Say how many samples there are, once where all runs have as many."""
    return _each(results, "samples", "samples")


def replicas(results: Results) -> str:
    """Say how many replicas there are of each sample, once where all forks have as many."""
    return _each(results, "replicas", "replicas of each")


def _each(results: Results, attribute: str, words: str) -> str:
    counts = {run: int(result.attrs[attribute]) for run, result in results.items()}
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} {words}."
    return f"{words.capitalize()}: {', '.join(f'{run} {count}' for run, count in counts.items())}."
