"""Write readouts, decoded images and datasets: whole blocks at once, flagged block by block."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from traj.stores.arrays import fill_of
from traj.stores.binding import Seal, seal_of
from traj.stores.claim import Claim, ranges
from traj.stores.description import Variable
from traj.stores.errors import naming
from traj.stores.events import event_dims
from traj.stores.layout import replace_file, sync
from traj.stores.manifest import Manifest, finish_block, pending_blocks
from traj.stores.shards import clipped, encode, not_finite


class BlockWriter:
    """Takes a readout of one block of samples, and writes it at once.

    `pending` lists the blocks not yet written, `set_aside` where a stale store went.
    """

    def __init__(self, claim: Claim) -> None:
        self.path, self.layout, self.set_aside = claim.path, claim.store.layout, claim.set_aside
        self.bytes_written = 0
        self.pending = pending_blocks(claim.path, claim.store.fingerprint, self.layout, claim.wanted)
        self._store, self._locks = claim.store, claim.locks

    def write(self, block: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a block's arrays, each with the samples of the block that are kept, and flag the block as done.

        Values beyond the range of float16 are clipped to it where that is what is stored.

        Raises ValueError for a block that is not pending, or an array that is missing or has another shape.
        """
        if block not in self.pending:
            raise ValueError(f"block {block} was written; this writer's blocks are {ranges(self.pending) or 'none'}")
        if arrays.keys() != self._store.variables.keys():
            raise ValueError(f"{', '.join(arrays)} were written, expected {', '.join(self._store.variables)}")
        for name, variable in self._store.variables.items():
            kept = self.layout.samples_in(block)
            expected = tuple(
                kept if dim == "sample" else length for dim, length in zip(variable.dims, variable.shape, strict=True)
            )
            if arrays[name].shape != expected:
                raise ValueError(f"{name} of block {block} has shape {arrays[name].shape}, expected {expected}")
        files: dict[str, Seal] = {}
        counts: dict[str, int] = {}
        saturated = 0
        with naming(self.path):
            for name, variable in self._store.variables.items():
                values = arrays[name]
                if variable.dtype == "float16":
                    values, beyond = clipped(values)
                    saturated += int(np.count_nonzero(beyond))
                values = np.asarray(values, variable.dtype)
                files |= self._write(name, variable, block, values)
                counts[name] = not_finite(values, len(event_dims(variable.dims)))
                sync(self.path / name)
            finish_block(
                self.path,
                Manifest(
                    fingerprint=self._store.fingerprint,
                    block=block,
                    samples=self.layout.samples_in(block),
                    files=files,
                    not_finite=counts,
                    saturated=saturated,
                    environment=self._store.environment,
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

    def _write(self, name: str, variable: Variable, block: int, values: NDArray[Any]) -> dict[str, Seal]:
        """Write the chunks of one variable and return their seals; what lies outside is what Zarr fills in."""
        seals: dict[str, Seal] = {}
        lengths = variable.chunks
        counts = [-(-size // length) for size, length in zip(values.shape, lengths, strict=True)]
        along = variable.dims.index("sample")
        for place in np.ndindex(*counts):
            inside = values[tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, lengths, strict=True))]
            chunk = np.full(lengths, fill_of(variable.dtype), variable.dtype)
            chunk[tuple(slice(n) for n in inside.shape)] = inside
            content = b"".join(encode(chunk, None))
            key = ".".join(["c", *(str(block if axis == along else k) for axis, k in enumerate(place))])
            replace_file(self.path / name / key, content)
            seals[f"{name}/{key}"] = seal_of(content)
            self.bytes_written += len(content)
        return seals
