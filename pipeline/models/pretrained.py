"""Networks from diffusers pipeline folders and from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from traj.pipeline.configs import Key, Keys, number, optional, shown, whole
from traj.pipeline.models import unet, weights
from traj.pipeline.models.folder import json_object
from traj.pipeline.models.network import NetworkDenoiser
from traj.pipeline.models.weights import Weights
from traj.pipeline.process.schedule import Schedule
from traj.stores import InputError, MissingFile

STEM = "diffusion_pytorch_model"
OWN = Keys({"time_scale": Key(1.0, number(above=0)), "null_label": Key(None, optional(whole(0, 10_000_000)))})
"""The keys of traj.json."""


def load_folder(folder: Path, name: str, device: str = "cpu", autocast: bool = False) -> NetworkDenoiser:
    """Load a diffusers pipeline folder with a UNet2DModel, without touching the network.

    The parts lie in ``unet`` and ``scheduler`` or, as in older repositories, at the root. If a folder has both ``unet``
    and ``unet_ema``, give the path of one of them. An optional traj.json holds ``time_scale`` and ``null_label``.
    ``name`` is what the model is called in messages and beside a store's fingerprint. The network is tried on one
    image.

    Raises
    ------
    MissingFile
        When a file that belongs to such a folder is missing.
    InputError
        When the pipeline has other parts than a UNet2DModel and a scheduler, a part is not supported, or the network
        cannot be loaded or run.
    """
    home = _home(folder)
    network_config = folder / "config.json" if home != folder else _network_config(folder, name)
    _refuse_other_parts(home, name)
    config = json_object(network_config)
    if (kind := config.get("_class_name")) != "UNet2DModel":
        raise InputError(f"model {name}: the network is a {shown(kind)}; expected UNet2DModel")
    own = home / "traj.json"
    options = OWN.read(json_object(own) if own.is_file() else {}, str(own))
    scheduler = json_object(_part(home, "scheduler", "scheduler_config.json"))
    try:
        found = weights.find(network_config.parent, STEM, STEM)
        full = unet.KEYS.read(config, "the network's config.json")
        denoiser = NetworkDenoiser(
            _network(full, found, network_config.parent).to(device),
            Schedule.from_config(scheduler, options["time_scale"]),
            name=name,
            identity={"weights": found.sha256, "network": unet.fingerprint(full), **options},
            null_label=options["null_label"],
            autocast=autocast,
        )
        _try(denoiser, device)
    except InputError as error:
        raise type(error)(f"model {name}: {error}") from None
    return denoiser


def fetch(hub_id: str) -> Path:
    """Download what ``load_folder`` needs of a hub repository, or find it in the cache; return its folder.

    HF_HOME says where the cache is; HF_HUB_OFFLINE=1 forbids downloads.

    Raises
    ------
    MissingFile
        When the repository can't be had.
    InputError
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
            raise InputError(f"model {hub_id}: the repository holds no unet/config.json or config.json")
        _download(hub_id, "scheduler_config.json" if root_level else "scheduler/scheduler_config.json")
        _download(hub_id, "traj.json")
        _download_weights(hub_id, "" if root_level else "unet/")
        return config.parent if root_level else config.parent.parent
    except (OSError, HFValidationError) as error:
        raise MissingFile(
            f"model {hub_id!r} is neither a folder here, nor in the hub's cache, nor could it be downloaded "
            f"({type(error).__name__}); check the name and the connection. HF_HOME says where the cache is, and "
            "HF_HUB_OFFLINE=1 forbids downloads"
        ) from None


def _download_weights(hub_id: str, part: str) -> None:
    """Download the weights that ``weights.find`` will choose; variants are not asked for."""
    for name in weights.candidates(STEM, STEM):
        found = _download(hub_id, part + name)
        if found and name.endswith(".json"):
            listed = json_object(found).get("weight_map")
            for shard in sorted({str(file) for file in listed.values()} if isinstance(listed, dict) else ()):
                _download(hub_id, part + shard)
        if found:
            return


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


def _network(config: dict[str, Any], found: Weights, folder: Path) -> UNet2DModel:
    """Build a network from a whole config, with these weights and no others."""
    whole_config = {"_class_name": "UNet2DModel", **config}
    with weights.staged(found.named) as place, _quiet():
        (place / "config.json").write_text(json.dumps(whole_config), encoding="utf-8")
        try:
            network, loading = UNet2DModel.from_pretrained(
                place,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=found.safe,
                output_loading_info=True,
            )
        except Exception as error:  # whatever a broken file may lead to
            raise InputError(f"{folder} cannot be loaded: {weights.reason(error, place, folder)}") from None
    for key, problem in (("missing_keys", "lack"), ("unexpected_keys", "also hold")):
        if names := sorted(loading[key]):
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise InputError(f"the weights in {folder} {problem} {listed}; they do not belong to its config.json")
    return network


def _try(denoiser: NetworkDenoiser, device: str) -> None:
    """Run a network on one image.

    Raises InputError where it fails, or gives anything but finite numbers in the shape of the image.
    """
    channels, height, width = denoiser.shape
    x_t = torch.zeros(1, channels, height, width, device=device)
    label = torch.full((1,), -1 if denoiser.unconditional else 0, device=device)
    given = f"an image of {channels} x {height} x {width}, the size its config.json says"
    try:
        with torch.inference_mode():
            eps = denoiser(x_t, denoiser.schedule.T - 1, label).eps
    except Exception as error:  # layers that do not fit may raise anything
        written = weights.reason(error, Path(), Path())
        raise InputError(f"the network fails on {given}: {written}{_sizes_that_fit(denoiser)}") from None
    if eps.shape != x_t.shape:
        raise InputError(f"the network gives {tuple(eps.shape[1:])} for {given}{_sizes_that_fit(denoiser)}")
    if not eps.isfinite().all():
        raise InputError(f"the network gives values that are not finite for {given}; its weights are damaged")


def _sizes_that_fit(denoiser: NetworkDenoiser) -> str:
    """Say which sizes a network takes that halves its images, if it does not take this one."""
    halvings = sum(bool(level.downsamplers) for level in denoiser.network.down_blocks)
    factor = 2**halvings
    sides = denoiser.shape[1:]
    if all(side % factor == 0 for side in sides):
        return ""
    fitting = ["x".join(str(max(1, side // factor + more) * factor) for side in sides) for more in (0, 1)]
    return (
        f". It halves images {halvings} times: both sides must be multiples of {factor}, {' or '.join(fitting)} for "
        "example; change sample_size in config.json"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence diffusers while it loads."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)


def _home(folder: Path) -> Path:
    """Find the pipeline folder: the folder that was given, or its parent where a network's folder was given."""
    around = folder.absolute().parent
    alone = (folder / "config.json").is_file() and not (folder / "scheduler_config.json").is_file()
    return around if alone and (around / "scheduler" / "scheduler_config.json").is_file() else folder


def _network_config(folder: Path, name: str) -> Path:
    """Find the network's config in a pipeline folder that holds one network."""
    if (folder / "unet_ema" / "config.json").is_file():
        there = [part for part in ("unet", "unet_ema") if (folder / part / "config.json").is_file()]
        raise InputError(
            f"model {name}: {folder} holds {' and '.join(there)}, the latter with averaged weights; give the one "
            f"you mean: {' or '.join(str(folder / part) for part in there)}"
        )
    return _part(folder, "unet", "config.json")


def _refuse_other_parts(folder: Path, name: str) -> None:
    """Refuse pipelines that need more than a network and a scheduler, by what model_index.json lists."""
    index = folder / "model_index.json"
    parts = json_object(index) if index.is_file() else {}
    present = {part: entry[-1] for part, entry in parts.items() if isinstance(entry, list) and entry and entry[-1]}
    if "noise_scheduler" in present:
        raise InputError(
            f"model {name}: model_index.json calls a part noise_scheduler, as old versions did; call it scheduler, "
            "and its folder and scheduler_config.json too"
        )
    for part in ("unet", "unet_ema"):
        if (kind := present.get(part, "UNet2DModel")) != "UNet2DModel":
            raise InputError(f"model {name}: its network is a {kind}; expected a pipeline with a UNet2DModel")
    others = sorted(set(present) - {"unet", "unet_ema", "scheduler"})
    if others:
        listed = ", ".join(f"{part} ({present[part]})" for part in others)
        raise InputError(
            f"model {name}: the pipeline also has {listed}, which is not supported; expected unet and scheduler only"
        )


def _part(folder: Path, part: str, file: str) -> Path:
    for path in (folder / part / file, folder / file):
        if path.is_file():
            return path
    raise MissingFile(f"{folder} is no diffusers pipeline folder: no {part}/{file}, nor {file}")
