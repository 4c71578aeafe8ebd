"""Networks from diffusers pipeline folders and from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from pipeline.denoiser import NetworkDenoiser
from pipeline.models.folder import json_object
from pipeline.schedule import Schedule

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def load_folder(folder: Path, name: str, device: str = "cpu", autocast: bool = False) -> NetworkDenoiser:
    """Load a diffusers pipeline folder with a UNet2DModel, without touching the network.

    The parts lie in ``unet`` and ``scheduler`` or, as in older repositories, at the root. An optional traj.json
    holds ``time_scale`` and ``null_label``. ``name`` is what the model is called in a store's fingerprint.

    Raises
    ------
    FileNotFoundError
        When a file that belongs to such a folder is missing.
    ValueError
        When the pipeline has other parts than a UNet2DModel and a scheduler, or a part is not supported.
    """
    _refuse_other_parts(folder, name)
    network_config = _part(folder, "unet", "config.json")
    kind = json_object(network_config).get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"model {name}: the network is a {kind}; expected UNet2DModel")
    weights = [network_config.with_name(file) for file in _WEIGHTS if network_config.with_name(file).is_file()]
    if not weights:
        raise FileNotFoundError(f"model {name}: no weights beside {network_config}; expected {_WEIGHTS[0]}")
    own = folder / "traj.json"
    options = json_object(own) if own.is_file() else {}
    unknown = set(options) - {"time_scale", "null_label"}
    if unknown:
        raise ValueError(f"{own} holds {', '.join(sorted(unknown))}; expected time_scale and null_label only")
    time_scale, null_label = options.get("time_scale", 1.0), options.get("null_label")
    try:
        network = UNet2DModel.from_pretrained(
            network_config.parent,
            local_files_only=True,
            low_cpu_mem_usage=False,
            use_safetensors=weights[0].suffix == ".safetensors",
        )
        return NetworkDenoiser(
            network.to(device),
            Schedule.from_config(json_object(_part(folder, "scheduler", "scheduler_config.json")), time_scale),
            identity={
                "name": name,
                "weights": f"sha256:{_sha256(weights[0].read_bytes())}",
                "network": f"sha256:{_sha256(_canonical(network.config))}",
                "time_scale": time_scale,
                "null_label": null_label,
            },
            null_label=null_label,
            autocast=autocast,
        )
    except ValueError as error:
        raise ValueError(f"model {name}: {error}") from None


def fetch(hub_id: str) -> Path:
    """Download what ``load_folder`` needs of a hub repository, or find it in the cache; return its folder.

    HF_HOME says where the cache is, HF_HUB_OFFLINE=1 that only the cache may be asked.

    Raises
    ------
    FileNotFoundError
        When the repository can't be had.
    ValueError
        When its pipeline is of another kind; nothing large has been downloaded then.
    """
    hub_logging.set_verbosity_error()  # its retries would fill the screen before our one message
    try:
        index = _download(hub_id, "model_index.json")
        if index:
            _refuse_other_parts(index.parent, hub_id)
        config = _download(hub_id, "unet/config.json")
        root_level = config is None
        config = config or _download(hub_id, "config.json")
        if config is None:
            raise ValueError(f"model {hub_id}: the repository holds no unet/config.json or config.json")
        _download(hub_id, "scheduler_config.json" if root_level else "scheduler/scheduler_config.json")
        _download(hub_id, "traj.json")
        any(_download(hub_id, file if root_level else f"unet/{file}") for file in _WEIGHTS)
        return config.parent if root_level else config.parent.parent
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"model {hub_id!r} is neither a folder here, nor in the hub's cache, nor could it be downloaded "
            f"({type(error).__name__}); check the name and the connection. HF_HOME says where the cache is, and "
            "HF_HUB_OFFLINE=1 forbids downloads"
        ) from None


def _download(hub_id: str, path: str) -> Path | None:
    """Return the local copy of a repository's file, None if it has no such file."""
    try:
        return Path(hf_hub_download(hub_id, path))
    except LocalEntryNotFoundError:
        # offline, a file that was never there looks like one that was never downloaded
        if path == "model_index.json":
            raise
        return None
    except EntryNotFoundError:
        return None


def _refuse_other_parts(folder: Path, name: str) -> None:
    """Refuse pipelines that need more than a network and a scheduler, by what model_index.json lists."""
    index = folder / "model_index.json"
    parts = json_object(index) if index.is_file() else {}
    present = {part: entry[-1] for part, entry in parts.items() if isinstance(entry, list) and entry[-1]}
    unet = present.get("unet", "UNet2DModel")
    if unet != "UNet2DModel":
        raise ValueError(f"model {name}: its network is a {unet}; expected a pipeline with a UNet2DModel")
    others = sorted(set(present) - {"unet", "scheduler"})
    if others:
        listed = ", ".join(f"{part} ({present[part]})" for part in others)
        raise ValueError(
            f"model {name}: the pipeline also has {listed}, which is not supported; expected unet and scheduler only"
        )


def _part(folder: Path, part: str, file: str) -> Path:
    for path in (folder / part / file, folder / file):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} is no diffusers pipeline folder: no {part}/{file}, nor {file}")


def _canonical(config: Mapping[str, Any]) -> bytes:
    """Return a network config without what diffusers notes about itself."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return json.dumps(public, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
