"""Write readouts: whole blocks at once, flagged block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from traj.stores.binding import Seal, seal_of
from traj.stores.claim import ranges
from traj.stores.errors import naming
from traj.stores.events import event_dims
from traj.stores.layout import FLAT_KEYS, SHARD_BYTES, Coord, Layout, bitshuffle_lz4, build_store, replace_file, sync
from traj.stores.locks import BlockLocks
from traj.stores.manifest import Manifest, finish_block, pending_blocks
from traj.stores.shards import encode, not_finite


class Variable(NamedTuple):
    """A float32 variable of a readout: its dims, their lengths, what it is."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    long_name: str
    units: str

    def chunk(self, block: int) -> tuple[int, ...]:
        """Lengths of a chunk: a block of samples, and what fits a shard of the other dims, timesteps cut first."""
        lengths = [block if dim == "sample" else length for dim, length in zip(self.dims, self.shape, strict=True)]
        others = [axis for axis, dim in enumerate(self.dims) if dim != "sample"]
        for axis in sorted(others, key=lambda axis: self.dims[axis] != "timestep"):
            rest = math.prod(lengths) // lengths[axis] * np.dtype("float32").itemsize
            lengths[axis] = max(1, min(lengths[axis], SHARD_BYTES // rest))
        return tuple(lengths)


def build_readout(
    path: Path,
    layout: Layout,
    variables: Mapping[str, Variable],
    *,
    coords: Mapping[str, Coord],
    attrs: Mapping[str, Any],
) -> None:
    """Write the metadata and coordinates of a readout store into an empty folder."""

    def build(group: zarr.Group) -> None:
        for name, variable in variables.items():
            group.create_array(
                name,
                shape=variable.shape,
                chunks=variable.chunk(layout.block),
                dtype="float32",
                fill_value=np.nan,
                compressors=[bitshuffle_lz4(4), Crc32cCodec()],
                chunk_key_encoding=FLAT_KEYS,
                dimension_names=list(variable.dims),
                attributes={"long_name": variable.long_name, "units": variable.units},
            )

    build_store(path, layout, coords=coords, attrs=attrs, build=build)


class BlockWriter:
    """Takes a readout of one block of samples, and writes it at once.

    `pending` lists the blocks not yet written, `set_aside` where a stale store went.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        variables: Mapping[str, Variable],
        wanted: Sequence[int],
        locks: BlockLocks,
        set_aside: Path | None,
        fingerprint: str,
        environment: Mapping[str, Any],
    ) -> None:
        self.path, self.layout, self.set_aside = path, layout, set_aside
        self.bytes_written = 0
        self.pending = pending_blocks(path, fingerprint, layout, wanted)
        self._fingerprint, self._environment = fingerprint, environment
        self._variables = variables
        self._locks = locks

    def write(self, block: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a block's arrays, each with the samples of the block that are kept, and flag the block as done.

        Raises ValueError for a block that is not pending, or an array that is missing or has another shape.
        """
        if block not in self.pending:
            raise ValueError(f"block {block} was written; this writer's blocks are {ranges(self.pending) or 'none'}")
        if arrays.keys() != self._variables.keys():
            raise ValueError(f"{', '.join(arrays)} were written, expected {', '.join(self._variables)}")
        for name, variable in self._variables.items():
            kept = self.layout.samples_in(block)
            expected = tuple(
                kept if dim == "sample" else length for dim, length in zip(variable.dims, variable.shape, strict=True)
            )
            if arrays[name].shape != expected:
                raise ValueError(f"{name} of block {block} has shape {arrays[name].shape}, expected {expected}")
        files: dict[str, Seal] = {}
        counts: dict[str, int] = {}
        with naming(self.path):
            for name, variable in self._variables.items():
                values = np.asarray(arrays[name], np.float32)
                files |= self._write(name, variable, block, values)
                counts[name] = not_finite(values, len(event_dims(variable.dims)))
                sync(self.path / name)
            finish_block(
                self.path,
                Manifest(
                    fingerprint=self._fingerprint,
                    block=block,
                    samples=self.layout.samples_in(block),
                    files=files,
                    not_finite=counts,
                    environment=self._environment,
                ),
            )
        self.pending = [other for other in self.pending if other != block]

    def close(self) -> None:
        """Give the locks back."""
        self._locks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, name: str, variable: Variable, block: int, values: NDArray[np.float32]) -> dict[str, Seal]:
        """Write the chunks of one variable and return their seals; what lies outside is NaN, as Zarr has it."""
        seals: dict[str, Seal] = {}
        lengths = variable.chunk(self.layout.block)
        counts = [-(-size // length) for size, length in zip(values.shape, lengths, strict=True)]
        along = variable.dims.index("sample")
        for place in np.ndindex(*counts):
            inside = values[tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, lengths, strict=True))]
            chunk = np.full(lengths, np.nan, np.float32)
            chunk[tuple(slice(n) for n in inside.shape)] = inside
            content = b"".join(encode(chunk, None))
            key = ".".join(["c", *(str(block if axis == along else k) for axis, k in enumerate(place))])
            replace_file(self.path / name / key, content)
            seals[f"{name}/{key}"] = seal_of(content)
            self.bytes_written += len(content)
        return seals
