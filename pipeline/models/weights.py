"""Which files hold a model's weights. The files that are hashed are loaded, and no others."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from traj.pipeline.configs import shown
from traj.pipeline.models.folder import json_object
from traj.pipeline.process.device import is_out_of_memory
from traj.stores import InputError, MissingFile

SAFE, PICKLED = ".safetensors", ".bin"
_FOREIGN = ("*.safetensors*", "*.bin*", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.onnx")
MOST_REASON = 300


@dataclass(frozen=True)
class Weights:
    """Files with tensors, and the index that lists them where there are several.

    ``named`` are the same files by the names a library looks for.
    """

    files: tuple[Path, ...]
    named: Mapping[str, Path]

    @property
    def safe(self) -> bool:
        """Whether the tensors lie in safetensors rather than in pickles."""
        return self.files[0].suffix == SAFE

    @property
    def sha256(self) -> str:
        """Hash the files one after another; a single one has its usual hash."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return f"sha256:{digest.hexdigest()}"


def candidates(safe: str, pickled: str) -> list[str]:
    """Name the files that may hold weights or list them; the first that exists is used."""
    return [
        f"{stem}{suffix}{index}" for stem, suffix in ((safe, SAFE), (pickled, PICKLED)) for index in (".index.json", "")
    ]


def find(folder: Path, safe: str, pickled: str) -> Weights:
    """Find the weights in a folder by the stems of their names: safetensors first, shards before a single file.

    If there is only a variant (STEM.fp16.safetensors), and only one, it is taken.

    Raises
    ------
    MissingFile
        Where there are no weights, or a shard is missing.
    InputError
        Where an index is no index, or there are several variants, or one in shards.
    """
    for name in candidates(safe, pickled):
        path = folder / name
        if path.is_file():
            return _sharded(path) if name.endswith(".json") else Weights((path,), {name: path})
    for stem, suffix in ((safe, SAFE), (pickled, PICKLED)):
        variants = sorted(folder.glob(f"{stem}.*{suffix}"))
        if len(variants) > 1 or any("-of-" in path.name for path in variants):
            raise InputError(
                f"{folder} holds no {stem}{suffix}, but variants: {', '.join(path.name for path in variants)}; copy "
                f"the one you mean to {stem}{suffix}"
            )
        if variants:
            return Weights((variants[0],), {f"{stem}{suffix}": variants[0]})
    there = sorted({path.name for pattern in _FOREIGN for path in folder.glob(pattern)})
    raise MissingFile(
        f"no weights in {folder}; expected {safe}{SAFE}" + (f", found only {', '.join(there)}" if there else "")
    )


@contextmanager
def staged(files: Mapping[str, Path]) -> Iterator[Path]:
    """Make a folder that holds these files under these names and nothing else, for a library to load from."""
    with tempfile.TemporaryDirectory(prefix="traj-") as place:
        for name, path in files.items():
            Path(place, name).symlink_to(path.resolve())
        yield Path(place)


def reason(error: Exception, place: Path, folder: Path) -> str:
    """Say in one line why a library could not load what was staged.

    Raises the error itself where memory ran out.
    """
    written = " ".join(str(error).replace(str(place), str(folder)).split()) or type(error).__name__
    if is_out_of_memory(error):
        raise error
    return written if len(written) <= MOST_REASON else f"{written[:MOST_REASON]}..."


def _sharded(index: Path) -> Weights:
    listed = json_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise InputError(f"{index} has weight_map {shown(listed)}; expected the file of every tensor by its name")
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    for name in listed.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(f".{suffix}"):
            raise InputError(f"{index} names the file {shown(name)}; expected .{suffix} files beside it")
    files = tuple(index.with_name(name) for name in sorted(set(listed.values())))
    if missing := [path.name for path in files if not path.is_file()]:
        raise MissingFile(f"{index} lists {', '.join(missing)}, which is not beside it; fetch the folder again")
    return Weights(files, {index.name: index, **{path.name: path for path in files}})
