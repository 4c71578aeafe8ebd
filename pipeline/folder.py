"""What a model's folder holds beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
