"""The files of a diffusers pipeline: in a folder here, or fetched from the hub one by one as they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from traj.pipeline.configs import shown
from traj.pipeline.folder import json_object
from traj.pipeline.models import weights
from traj.pipeline.models.weights import Weights
from traj.stores import InputError, MissingFile

STEM = "diffusion_pytorch_model"
NETWORKS = ("unet", "unet_ema", "transformer")
"""The parts that may be the denoising network; of several the first is taken."""
RECORD = "`traj record` keeps the runs of any diffusers pipeline that has a scheduler"

_OLD_NAMES = {"scheduler": "noise_scheduler"}
_HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?P<folder>(/[\w-][\w.-]*)*)(@(?P<revision>[\w./-]+))?")
_VARIANT = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Hub:
    """A folder of a repository on the hub, "" for the repository itself; ``revision`` is None for the newest."""

    id: str
    folder: str = ""
    revision: str | None = None

    @property
    def name(self) -> str:
        """How it is written: ID/FOLDER@REVISION."""
        at = "" if self.revision is None else f"@{self.revision}"
        return "/".join(filter(None, (self.id, self.folder))) + at


@dataclass(frozen=True)
class Repository:
    """A pipeline's folder, or the place of a hub repository in the cache.

    ``name`` is what the model is called in messages and beside a store's fingerprint, ``parts`` the class of every part
    that model_index.json lists, and ``network`` the part that is the denoising network, "" where it lies at the root,
    as in older repositories. ``variant`` of the weights is one such as fp16. ``cautions`` are what a person should
    know.
    """

    folder: Path
    name: str
    parts: dict[str, str]
    network: str
    hub: Hub | None = None
    variant: str | None = None
    cautions: tuple[str, ...] = ()

    def file(self, path: str) -> Path | None:
        """Find a file, None where there is none. Raises MissingFile where the hub cannot be reached."""
        return _download(self.hub, path) if self.hub else _existing(self.folder / path)

    def require(self, part: str, file: str) -> Path:
        """Find a file of a part, by its old name too, or at the root. Raises MissingFile where there is none."""
        folders = [folder for folder in (part, _OLD_NAMES.get(part)) if folder]
        for path in (*(f"{folder}/{file}" for folder in folders), file):
            if found := self.file(path):
                return found
        raise MissingFile(f"{self.folder} is no diffusers pipeline folder: no {part}/{file}, nor {file}")

    def config(self, part: str) -> dict[str, Any]:
        """Read the config.json of a part. Raises MissingFile where there is none."""
        return json_object(self.require(part, "config.json"))

    def weights(self, part: str, safe: str = STEM, pickled: str = STEM) -> tuple[Path, Weights]:
        """Find the folder of a part's weights, and the weights, by the stems of their names; see ``weights.find``.

        The network must have the variant that was asked for, other parts are taken as they are where they have none.
        """
        allowed = [self.variant] if part == self.network or self.variant is None else [self.variant, None]
        has = (one for one in allowed if self._has_weights(part, weights.candidates(safe, pickled, one)))
        return self.folder / part, weights.find(self.folder / part, safe, pickled, next(has, self.variant))

    def _has_weights(self, part: str, names: Iterable[str]) -> bool:
        """Tell whether a file of these names is there, and with an index its shards; the hub's are downloaded."""
        place = f"{part}/" if part else ""
        for name in names:
            found = self.file(place + name)
            if found and name.endswith(".json"):
                listed = json_object(found).get("weight_map")
                for shard in sorted({str(file) for file in listed.values()} if isinstance(listed, dict) else ()):
                    self.file(place + shard)
            if found:
                return True
        return False


def named(name: str, variant: str | None = None) -> Repository | None:
    """Open the folder of a name, or what it is the hub id of; None for what is neither.

    Raises MissingFile, InputError as ``local`` and ``on_hub`` do.
    """
    if Path(name).is_dir():
        return local(Path(name), Path(name).resolve().name or name, variant)
    return on_hub(place, variant) if (place := hub_of(name)) else None


def local(folder: Path, name: str, variant: str | None = None) -> Repository:
    """Open a pipeline's folder, or that of its network, such as unet_ema, where it has several.

    Raises
    ------
    MissingFile
        When it is no such folder.
    InputError
        When it holds no network.
    """
    around = folder.absolute().parent
    alone = (folder / "config.json").is_file() and not (folder / "scheduler_config.json").is_file()
    schedulers = [around / part / "scheduler_config.json" for part in ("scheduler", _OLD_NAMES["scheduler"])]
    if alone and any(file.is_file() for file in schedulers):
        return _opened(around, name, _existing(around / "model_index.json"), [folder.name], variant)
    index = _existing(folder / "model_index.json")
    there = [part for part in (*NETWORKS, "") if (folder / part / "config.json").is_file()]
    if not there and index is None:
        raise MissingFile(f"{folder} is no diffusers pipeline folder: no {NETWORKS[0]}/config.json, nor config.json")
    return _opened(folder, name, index, there, variant, str(folder))


def hub_of(name: str) -> Hub | None:
    """Read ID, ID/FOLDER, ID@REVISION or ID/FOLDER@REVISION; None for what is no such name."""
    read = _HUB_ID.fullmatch(name)
    return Hub(read["id"], read["folder"].strip("/"), read["revision"]) if read else None


def on_hub(place: Hub, variant: str | None = None) -> Repository:
    """Find a pipeline, or one of its networks, in the hub's cache, or on the hub; only its small files are fetched yet.

    HF_HOME says where the cache is; HF_HUB_OFFLINE=1 forbids downloads.

    Raises
    ------
    MissingFile
        When the repository can't be had.
    InputError
        When it holds no network.
    """
    hub_logging.set_verbosity_error()  # its retries would fill the screen before our one message
    folder, _, last = place.folder.rpartition("/")
    around = Hub(place.id, folder, place.revision) if last in NETWORKS else place
    index = _download(around, "model_index.json")
    known = _parts(index) if index else dict.fromkeys(NETWORKS)
    asked = [last] if last in NETWORKS else [part for part in (*NETWORKS, "") if part in known or not part]
    found = {part: config for part in asked if (config := _download(around, f"{part}/config.json".lstrip("/")))}
    at = next((config.parents[bool(part)] for part, config in found.items()), index.parent if index else Path())
    return _opened(at, place.name, index, [*found], variant, place.name, around)


def _opened(
    folder: Path,
    name: str,
    index: Path | None,
    networks: list[str],
    variant: str | None,
    given: str = "",
    hub: Hub | None = None,
) -> Repository:
    """Take the first of the networks that there are, and say which others there are."""
    parts = _parts(index) if index else {}
    if not networks:
        there, expected = listed(parts) or "no parts", ", ".join(NETWORKS)
        raise InputError(f"model {name}: the pipeline has {there}; expected one of {expected} among them. {RECORD}")
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise InputError(f"variant {shown(variant)} was given; expected a name such as fp16")
    network, *others = networks
    cautions = tuple(
        f"{given} holds {network} and {part}; {network} is used, as diffusers does. For the other, name "
        + (Hub(hub.id, f"{hub.folder}/{part}".strip("/"), hub.revision).name if hub else f"{given}/{part}")
        for part in others
        if part
    )
    return Repository(folder, name, parts, network, hub, variant, cautions)


def _parts(index: Path) -> dict[str, str]:
    """Read the class of every part that there is, by the names of today."""
    today = {old: new for new, old in _OLD_NAMES.items()}
    entries = json_object(index).items()
    return {
        today.get(part, part): str(kind[-1]) for part, kind in entries if isinstance(kind, list) and kind and kind[-1]
    }


def listed(parts: Mapping[str, str]) -> str:
    """Write parts and their classes: unet (UNet2DModel), vae (AutoencoderKL)."""
    return ", ".join(f"{part} ({kind})" for part, kind in parts.items())


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _download(place: Hub, path: str) -> Path | None:
    """Return the local copy of a file, None if the repository has no such file."""
    try:
        return Path(hf_hub_download(place.id, f"{place.folder}/{path}".lstrip("/"), revision=place.revision))
    except EntryNotFoundError as error:
        # offline, a file that was never there looks like one that was never downloaded
        if not isinstance(error, LocalEntryNotFoundError) or path != "model_index.json":
            return None
        reason: Exception = error
    except (OSError, HFValidationError) as error:
        reason = error
    raise MissingFile(
        f"model {place.name!r} is neither a folder here, nor in the hub's cache, nor could it be downloaded "
        f"({type(reason).__name__}); check the name and the connection. HF_HOME says where the cache is, and "
        "HF_HUB_OFFLINE=1 forbids downloads"
    ) from None
