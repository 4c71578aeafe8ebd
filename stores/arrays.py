"""The files of an array as zarr-python makes them: its metadata, and the chunks of a coordinate.

Zarr-python goes through several rounds of its event loop for each file: most of the time of making a store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from traj.stores.layout import SAMPLES_PER_CHUNK, Coord, bitshuffle_lz4, with_crc
from traj.stores.shards import encode

TEXT = "string"
CRC32C = {"name": "crc32c"}


def fill_of(dtype: str) -> Any:
    """Give what stands where nothing was written: NaN, and in whole numbers, which have none, 0."""
    if dtype == TEXT:
        return ""
    return np.nan if np.dtype(dtype).kind == "f" else np.zeros((), dtype).item()


def create_array(
    folder: Path,
    *,
    dtype: str,
    dims: Sequence[str],
    shape: Sequence[int],
    chunks: Sequence[int],
    attributes: Mapping[str, Any],
    compressed: bool,
    shards: Sequence[int] | None = None,
    separator: str = "/",
) -> None:
    """Make the folder of an array of no chunks yet; `seal` gives its metadata their form.

    dtype is NumPy's name of it, or "string". What is not written reads as NaN, 0 or an empty text. separator stands
    between the numbers in the name of a chunk's file; with ".", they lie side by side in one folder.
    """
    itemsize = 1 if dtype == TEXT else np.dtype(dtype).itemsize
    codecs = [_bytes(dtype), *([bitshuffle_lz4(itemsize).to_dict()] if compressed else []), CRC32C]
    if shards is not None:
        inside = {
            "chunk_shape": list(chunks),
            "codecs": codecs,
            "index_codecs": [_bytes("uint64"), CRC32C],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    fill = fill_of(dtype)
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks if shards is None else shards)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": "NaN" if fill != fill else fill,
        "codecs": codecs,
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "storage_transformers": [],
    }
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps(metadata))


def create_coordinate(folder: Path, coord: Coord, chunk: int) -> None:
    """Make the folder of a coordinate of no values yet."""
    create_array(
        folder,
        dtype=_dtype(coord.values),
        dims=[coord.dim],
        shape=coord.values.shape,
        chunks=[chunk],
        attributes={"long_name": coord.long_name, "units": coord.units},
        compressed=_compressed(chunk),
    )


def write_coordinate(folder: Path, coord: Coord, chunk: int) -> None:
    """Make the folder of a coordinate, and write its values."""
    create_coordinate(folder, coord, chunk)
    (folder / "c").mkdir()
    fill = fill_of(_dtype(coord.values))
    for number, begin in enumerate(range(0, len(coord.values), chunk)):
        values = coord.values[begin : begin + chunk]
        padded = np.concatenate([values, np.full(chunk - len(values), fill, values.dtype)])
        (folder / "c" / str(number)).write_bytes(_encoded(padded, _compressed(chunk)))


def _compressed(chunk: int) -> bool:
    """Whether the chunks of a coordinate are compressed: those it may be shorter than, which are padded."""
    return chunk == SAMPLES_PER_CHUNK


def _encoded(values: NDArray[Any], compressed: bool) -> bytes:
    if _dtype(values) == TEXT:
        values = np.frombuffer(VLenUTF8().encode(values.astype(object)), np.uint8)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return b"".join(encode(values, None)) if compressed else with_crc(values.tobytes())


def _dtype(values: NDArray[Any]) -> str:
    return TEXT if values.dtype.kind in "OUT" else values.dtype.name  # T are the texts that zarr reads


def _bytes(dtype: str) -> dict[str, Any]:
    """Name the codec that turns values into bytes."""
    if dtype == TEXT:
        return {"name": "vlen-utf8", "configuration": {}}
    return {"name": "bytes", **({"configuration": {"endian": "little"}} if np.dtype(dtype).itemsize > 1 else {})}
