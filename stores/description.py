"""What a store is to be, in one description: it is made by it, compared with it, and written by it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from traj.stores.arrays import create_array, create_coordinate, write_coordinate
from traj.stores.binding import digest
from traj.stores.kinds import KindName
from traj.stores.layout import (
    FORMAT,
    SAMPLES_PER_CHUNK,
    SHARD_BYTES,
    Coord,
    Layout,
    canonical_json,
    fingerprint,
    seal,
)
from traj.stores.vocabulary import TOLD


class Variable(NamedTuple):
    """A variable of a store: its dims, their lengths, how it is cut, and what is said of it."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    attributes: Mapping[str, Any]
    dtype: str = "float32"
    shards: tuple[int, ...] | None = None


class ReadVariable(NamedTuple):
    """A variable of a readout's store: its dims, `sample` among them, and what is said of it."""

    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    dtype: str = "float32"
    attributes: Mapping[str, Any] = {}

    def cut(self, block: int, shape: tuple[int, ...]) -> Variable:
        """Cut it into chunks: a block of samples by as much of all else as fits a shard, along timesteps first.

        Small types are cut as float32, as which they are read.
        """
        chunks = [block if dim == "sample" else length for dim, length in zip(self.dims, shape, strict=True)]
        others = [axis for axis, dim in enumerate(self.dims) if dim != "sample"]
        for axis in sorted(others, key=lambda axis: self.dims[axis] != "timestep"):
            rest = math.prod(chunks) // chunks[axis] * max(4, np.dtype(self.dtype).itemsize)
            chunks[axis] = max(1, min(chunks[axis], SHARD_BYTES // rest))
        attributes = {"long_name": self.long_name, "units": self.units, **self.attributes}
        return Variable(self.dims, shape, tuple(chunks), attributes, self.dtype)


@dataclass(frozen=True)
class Description:
    """What a store is to be.

    `config` names every input the numbers depend on, the store's own under `store`; `environment` is where its blocks
    are made from now on. `keepbits` are the mantissa bits that states are rounded to. `attributes` are those beside
    kind, format, config and fingerprint.
    """

    kind: KindName
    layout: Layout
    variables: Mapping[str, Variable]
    coords: Mapping[str, Coord]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    keepbits: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the config."""
        return fingerprint(self.config)

    @property
    def told(self) -> dict[str, Coord]:
        """The coordinates that say what samples are made under."""
        return {name: self.coords[name] for name in TOLD if name in self.coords}

    @property
    def states(self) -> tuple[str, ...]:
        """The variables that have a value at each timestep."""
        return tuple(name for name, variable in self.variables.items() if "timestep" in variable.dims)

    def resized(self, samples: int) -> Self:
        """Describe the same store at another number of samples, as to its blocks."""
        return replace(self, layout=self.layout.resized(samples))

    def build(self, path: Path) -> None:
        """Write the store without data into an empty folder: arrays, coordinates, sealed metadata.

        Of `done` and `manifest`, which have one value per block, there is no file until the block is finished.
        """
        shutil.rmtree(path, ignore_errors=True)
        attrs = {
            "kind": self.kind,
            "format": FORMAT,
            "config": canonical_json(dict(self.config)),
            "fingerprint": self.fingerprint,
            "coordinates": " ".join(name for name, coord in self.coords.items() if name != coord.dim),
            "digests": canonical_json({name: digest(coord.values) for name, coord in self.coords.items()}),
        }
        path.mkdir(parents=True)
        group = {"zarr_format": 3, "node_type": "group", "attributes": {**attrs, **self.attributes}}
        (path / "zarr.json").write_text(json.dumps(group))
        for name, variable in self.variables.items():
            create_array(path / name, **variable._asdict(), compressed=True, separator=".")
        for name, coord in self.coords.items():
            chunk = SAMPLES_PER_CHUNK if coord.dim == "sample" else max(len(coord.values), 1)
            write_coordinate(path / name, coord, chunk)
        blocks = self.layout.blocks
        for name, values in (("done", np.zeros(blocks, np.uint8)), ("manifest", np.full(blocks, "", "O"))):
            create_coordinate(path / name, Coord.known(name, values), 1)
        seal(path)
