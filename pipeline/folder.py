"""What a model's folder holds beside its weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from traj.pipeline.configs import shown
from traj.stores import InputError


def json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises InputError, naming the file, where it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{path} is not JSON that can be read: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, for people to read too."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def losses(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the names and rows of a loss.csv: how the losses fell in training.

    Raises InputError where it is no table of numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        return names, np.array(rows, float)
    except (ValueError, csv.Error) as error:
        raise InputError(f"expected a line of names and lines of as many numbers ({error})") from None


def final_losses(path: Path) -> dict[str, float]:
    """Read the losses of a metrics.json, by name: means over the last tenth of the training.

    Raises InputError where they are no numbers.
    """
    final = {key: x for key, x in json_object(path).items() if key.startswith("final_")}
    if not all(isinstance(x, float | int) for x in final.values()):
        raise InputError(f"final losses {shown(final)}; expected numbers")
    return {key: float(f"{x:.4g}") for key, x in final.items()}
