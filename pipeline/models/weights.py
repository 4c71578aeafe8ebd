"""Which files hold a model's weights. The files that are hashed are loaded, and no others."""

from __future__ import annotations

import errno
import hashlib
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from traj.pipeline.configs import shown
from traj.pipeline.folder import json_object
from traj.pipeline.process.device import is_out_of_memory
from traj.stores import InputError, MissingFile

if TYPE_CHECKING:
    from torch import Tensor

SAFE, PICKLED = ".safetensors", ".bin"
_FOREIGN = ("*.safetensors*", "*.bin*", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.onnx")
MOST_REASON = 300
MOST_NAMED = 3


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


def candidates(safe: str, pickled: str, variant: str | None = None) -> dict[str, str]:
    """Name the files that may hold weights or list them, and how each is named where it is no variant.

    The first that exists is used.
    """
    dotted = "" if variant is None else f".{variant}"
    found = {}
    for stem, suffix in ((safe, SAFE), (pickled, PICKLED)):
        found[f"{stem}{suffix}.index{dotted}.json"] = f"{stem}{suffix}.index.json"
        found[f"{stem}{dotted}{suffix}"] = f"{stem}{suffix}"
    return found


def find(folder: Path, safe: str, pickled: str, variant: str | None = None) -> Weights:
    """Find the weights in a folder by the stems of their names: safetensors first, shards before a single file.

    ``variant`` is one such as fp16, of STEM.fp16.safetensors. If there are only variants, and only one, it is taken.

    Raises
    ------
    MissingFile
        Where there are no weights, or a shard is missing.
    InputError
        Where an index is no index, or there is no such variant, or several, and none was named.
    """
    for name, plain in candidates(safe, pickled, variant).items():
        path = folder / name
        if path.is_file():
            return _sharded(path, plain) if name.endswith(".json") else Weights((path,), {plain: path})
    variants = variants_in(folder, safe, pickled)
    if variant is not None:
        known = f"only {', '.join(variants)}" if variants else "none"
        raise InputError(f"{folder} holds no variant {variant} of its weights, {known}")
    if len(variants) == 1:
        return find(folder, safe, pickled, variants[0])
    if variants:
        raise InputError(
            f"{folder} holds no {safe}{SAFE}, but variants: {', '.join(variants)}; name one of them, as in --variant "
            f"{variants[0]}"
        )
    there = sorted({path.name for pattern in _FOREIGN for path in folder.glob(pattern)})
    raise MissingFile(
        f"no weights in {folder}; expected {safe}{SAFE}" + (f", found only {', '.join(there)}" if there else "")
    )


def variants_in(folder: Path, safe: str, pickled: str) -> list[str]:
    """Name the variants of the weights in a folder: those of safetensors, or where there are none, of pickles."""
    for stem, suffix in ((safe, SAFE), (pickled, PICKLED)):
        single = re.compile(rf"{re.escape(stem)}\.(.+){re.escape(suffix)}")
        listed = re.compile(rf"{re.escape(stem + suffix)}\.index\.(.+)\.json")
        there = [path.name for path in folder.glob(f"{stem}.*") if "-of-" not in path.name]
        matches = [form.fullmatch(name) for name in there for form in (single, listed)]
        if variants := sorted({match[1] for match in matches if match}):
            return variants
    return []


@contextmanager
def staged(files: Mapping[str, Path]) -> Iterator[Path]:
    """Make a folder that holds these files under these names and nothing else, for a library to load from."""
    with tempfile.TemporaryDirectory(prefix="traj-") as place:
        for name, path in files.items():
            Path(place, name).symlink_to(path.resolve())
        yield Path(place)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn what safetensors makes of a full disk, say, back into the error of the system that it is."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error), str(folder)) from None


def read(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of safetensors. Raises InputError where it is none, or they are not finite."""
    from safetensors.torch import load_file  # brings in torch, which a report does not wait for

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read: {error}; fetch it again, or train it again") from None
    require_finite(tensors, file)
    return tensors


def require_finite(tensors: Mapping[str, Tensor], place: str | Path) -> None:
    """Raise InputError, with the first three names, where tensors of a place hold NaN or infinite values."""
    # a sum is finite only where all values are; one of finite values may overflow, and is looked at closely
    odd = [
        name
        for name, tensor in tensors.items()
        if not math.isfinite(tensor.sum().item()) and not tensor.isfinite().all()
    ]
    if odd:
        raise InputError(
            f"{place} holds NaN or infinite values in {first(odd)}; expected finite weights: it is damaged, or of a "
            "training that failed; fetch it again, or take an earlier one"
        )


def first(names: Iterable[str]) -> str:
    """Write the first three of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def reason(error: Exception, place: Path, folder: Path) -> str:
    """Say in one line why a library could not load what was staged.

    Raises the error itself where memory ran out.
    """
    written = " ".join(str(error).replace(str(place), str(folder)).split()) or type(error).__name__
    if is_out_of_memory(error):
        raise error
    return written if len(written) <= MOST_REASON else f"{written[:MOST_REASON]}..."


def _sharded(index: Path, plain: str) -> Weights:
    listed = json_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise InputError(f"{index} has weight_map {shown(listed)}; expected the file of every tensor by its name")
    suffix = plain.removesuffix(".index.json").rpartition(".")[2]
    for name in listed.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(f".{suffix}"):
            raise InputError(f"{index} names the file {shown(name)}; expected .{suffix} files beside it")
    files = tuple(index.with_name(name) for name in sorted(set(listed.values())))
    if missing := [path.name for path in files if not path.is_file()]:
        raise MissingFile(f"{index} lists {', '.join(missing)}, which is not beside it; fetch the folder again")
    return Weights(files, {plain: index, **{path.name: path for path in files}})
