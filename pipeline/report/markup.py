"""Pieces of HTML that sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from traj.analysis._drawing import data_uri


def figure(drawn: Figure, caption: str, alt: str) -> str:
    """Show a figure with what it says."""
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt)}" src="{data_uri(drawn)}">{said}</figure>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Set a table, the columns of numbers to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if i in numbers else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>\n{body}</tbody></table></div>'


def named(run: str, colours: Mapping[str, Any]) -> str:
    """Name a run beside its colour."""
    return f'<span class="run"><span class="swatch" style="background:{colours[run]}"></span>{escape(run)}</span>'


def samples(results: Mapping[str, Any]) -> str:
    """Say over how many samples, once where all runs have as many."""
    counts = {run: int(result.attrs["samples"]) for run, result in results.items()}
    if len(set(counts.values())) == 1:
        return f"N = {next(iter(counts.values()))} samples."
    return "Samples: " + ", ".join(f"{escape(run)} {count}" for run, count in counts.items()) + "."


def fed(results: Mapping[str, Any]) -> str:
    """Explain the time axis where a network is fed something else than the timestep."""
    scaled = [
        f"{escape(run)}, whose {int(result['timestep'][0])} is drawn at {float(result['model_time'][0]):g}"
        for run, result in results.items()
        if not np.array_equal(result["model_time"], result["timestep"])
    ]
    return f"Time is the timestep as the network is fed it, which matters for {'; '.join(scaled)}. " if scaled else ""


def either(values: Sequence[Any]) -> str:
    """List alternatives."""
    return " or ".join(map(str, values))


def count(number: int | None) -> str:
    """Write a count, a dash for none."""
    return f"{number:,}" if number else "–"


def number(value: float | None) -> str:
    """Write a number, a dash for none."""
    return "–" if value is None else f"{value:g}".replace("-", "−")
