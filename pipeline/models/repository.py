"""The files of a diffusers pipeline: in a folder here, or fetched from the hub one by one as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from traj.pipeline.models import weights
from traj.pipeline.models.folder import json_object
from traj.pipeline.models.weights import Weights
from traj.stores import InputError, MissingFile

STEM = "diffusion_pytorch_model"
NETWORKS = ("unet", "unet_ema", "transformer")
"""The parts that may be the denoising network."""


@dataclass(frozen=True)
class Repository:
    """A pipeline's folder, or the place of a hub repository in the cache.

    ``name`` is what the model is called in messages and beside a store's fingerprint, ``parts`` the class of every part
    that model_index.json lists, and ``network`` the part that is the denoising network, "" where it lies at the root,
    as in older repositories.
    """

    folder: Path
    name: str
    parts: dict[str, str]
    network: str
    hub_id: str | None = None

    def file(self, path: str) -> Path | None:
        """Find a file, None where there is none. Raises MissingFile where the hub cannot be reached."""
        return _download(self.hub_id, path) if self.hub_id else _existing(self.folder / path)

    def require(self, part: str, file: str) -> Path:
        """Find a file of a part, or at the root. Raises MissingFile where there is none."""
        for path in (f"{part}/{file}" if part else file, file):
            if found := self.file(path):
                return found
        raise MissingFile(f"{self.folder} is no diffusers pipeline folder: no {part}/{file}, nor {file}")

    def config(self, part: str) -> dict[str, Any]:
        """Read the config.json of a part. Raises MissingFile where there is none."""
        return json_object(self.require(part, "config.json"))

    def weights(self, part: str, safe: str = STEM, pickled: str = STEM) -> tuple[Path, Weights]:
        """Find the folder of a part's weights, and the weights, by the stems of their names; see ``weights.find``."""
        if self.hub_id:
            self._fetch_weights(part, safe, pickled)
        return self.folder / part, weights.find(self.folder / part, safe, pickled)

    def _fetch_weights(self, part: str, safe: str, pickled: str) -> None:
        """Download the weights that ``weights.find`` will choose; variants are not asked for."""
        place = f"{part}/" if part else ""
        for name in weights.candidates(safe, pickled):
            found = self.file(place + name)
            if found and name.endswith(".json"):
                listed = json_object(found).get("weight_map")
                for shard in sorted({str(file) for file in listed.values()} if isinstance(listed, dict) else ()):
                    self.file(place + shard)
            if found:
                return


def local(folder: Path, name: str) -> Repository:
    """Open a pipeline's folder, or that of its network, such as unet_ema, where it has several.

    Raises
    ------
    MissingFile
        When it is no such folder.
    InputError
        When it has two networks, and none of them was chosen.
    """
    around = folder.absolute().parent
    alone = (folder / "config.json").is_file() and not (folder / "scheduler_config.json").is_file()
    if alone and (around / "scheduler" / "scheduler_config.json").is_file():
        return Repository(around, name, _parts(_existing(around / "model_index.json"), name), folder.name)
    there = [part for part in NETWORKS if (folder / part / "config.json").is_file()]
    if len(there) > 1:
        raise InputError(
            f"model {name}: {folder} holds {' and '.join(there)}, the latter with averaged weights; give the one "
            f"you mean: {' or '.join(str(folder / part) for part in there)}"
        )
    parts = _parts(_existing(folder / "model_index.json"), name)
    if not there and not (folder / "config.json").is_file():
        raise MissingFile(f"{folder} is no diffusers pipeline folder: no {NETWORKS[0]}/config.json, nor config.json")
    return Repository(folder, name, parts, there[0] if there else "")


def hub(hub_id: str) -> Repository:
    """Find a repository in the hub's cache, or on the hub; only its small files are fetched yet.

    HF_HOME says where the cache is; HF_HUB_OFFLINE=1 forbids downloads.

    Raises
    ------
    MissingFile
        When the repository can't be had.
    InputError
        When it holds no network.
    """
    hub_logging.set_verbosity_error()  # its retries would fill the screen before our one message
    index = _download(hub_id, "model_index.json")
    parts = _parts(index, hub_id)
    for part in (*(part for part in NETWORKS if part in parts or not parts), ""):
        if config := _download(hub_id, f"{part}/config.json" if part else "config.json"):
            return Repository(config.parents[bool(part)], hub_id, parts, part, hub_id)
    raise InputError(f"model {hub_id}: the repository holds no unet/config.json or config.json")


def _parts(index: Path | None, name: str) -> dict[str, str]:
    """Read the class of every part that there is."""
    listed = json_object(index) if index else {}
    parts = {part: entry[-1] for part, entry in listed.items() if isinstance(entry, list) and entry and entry[-1]}
    if "noise_scheduler" in parts:
        raise InputError(
            f"model {name}: model_index.json calls a part noise_scheduler, as old versions did; call it scheduler, "
            "and its folder and scheduler_config.json too"
        )
    return parts


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _download(hub_id: str, path: str) -> Path | None:
    """Return the local copy of a repository's file, None if it has no such file."""
    try:
        return Path(hf_hub_download(hub_id, path))
    except EntryNotFoundError as error:
        # offline, a file that was never there looks like one that was never downloaded
        if not isinstance(error, LocalEntryNotFoundError) or path != "model_index.json":
            return None
        reason: Exception = error
    except (OSError, HFValidationError) as error:
        reason = error
    raise MissingFile(
        f"model {hub_id!r} is neither a folder here, nor in the hub's cache, nor could it be downloaded "
        f"({type(reason).__name__}); check the name and the connection. HF_HOME says where the cache is, and "
        "HF_HUB_OFFLINE=1 forbids downloads"
    ) from None
