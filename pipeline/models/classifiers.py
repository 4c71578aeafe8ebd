"""Classifiers by name: a name becomes a function from stored images to logits."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import xarray as xr
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor
from torch.nn import functional

from traj.pipeline.configs import Key, Keys, whole
from traj.pipeline.folder import json_object
from traj.pipeline.models import weights
from traj.pipeline.models.digits import CLASSIFIERS, DigitsClassifier
from traj.pipeline.models.noisy_classifier import Bounds, Function, NoisyClassifier, Shape, shape_of
from traj.pipeline.models.openai import encoder
from traj.pipeline.models.silence import silenced
from traj.pipeline.models.weights import Weights
from traj.pipeline.process.device import inference, within_memory
from traj.stores import InputError, MissingFile

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_KNOWN = (
    f"expected {', '.join(CLASSIFIERS)}, the folder of a Hugging Face image classifier or of a converted one of "
    "guided-diffusion, or a hub id like microsoft/resnet-18"
)
_STEMS = ("model", "pytorch_model")
_SIZE = Key(1, whole(1, 1 << 16))
_OWN = Keys({"channels": _SIZE, "width": _SIZE, "classes": _SIZE})
_MODES: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
_FOLLOWED = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


@dataclass(frozen=True)
class Preprocessing:
    """How a stored image is prepared for the network; part of a classifier's identity.

    ``resize`` is (y, x), or the length of the shorter edge; ``crop`` (y, x) is taken from the middle. White becomes
    ``white`` and black 0; then ``mean`` is subtracted and the result divided by ``sd``, per channel.
    """

    channels: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    white: float = 1.0
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    mode: Literal["bilinear", "bicubic"] = "bilinear"

    def __call__(self, images: Tensor, valid_range: tuple[float, float]) -> Tensor:
        """Prepare images (image, channel, y, x) whose black and white are the ends of valid_range."""
        low, high = valid_range
        scaled = (images.clamp(low, high) - low) / (high - low)
        if scaled.shape[1] == 1:
            scaled = scaled.expand(-1, self.channels, -1, -1)
        if (size := self.resized(images.shape[-2], images.shape[-1])) != images.shape[-2:]:
            # Pillow, with which such networks are trained, smooths before it makes an image smaller
            scaled = functional.interpolate(scaled, size, mode=self.mode, antialias=True).clamp(0, 1)
        if self.crop:
            (y, x), (top, left) = self.crop, ((n - m) // 2 for n, m in zip(size, self.crop, strict=True))
            scaled = scaled[:, :, top : top + y, left : left + x]
        mean, sd = (scaled.new_tensor(values)[:, None, None] for values in (self.mean, self.sd))
        return (scaled * self.white - mean) / sd

    def resized(self, y: int, x: int) -> tuple[int, int]:
        """Say how large an image is between resizing and cropping."""
        if isinstance(self.resize, int):
            short = min(y, x)
            return self.resize * y // short, self.resize * x // short
        return self.resize or (y, x)

    def shape(self, image: Shape) -> Shape:
        """Say the shape in which an image reaches the network."""
        return (self.channels if image[0] == 1 else image[0], *(self.crop or self.resized(*image[1:])))


class ImageClassifier(Protocol):
    """What a readout asks of a classifier, whatever images it has learned from."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What it calls its classes."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a store's fingerprint knows of it."""

    @property
    def environment(self) -> dict[str, str]:
        """What the last bits may depend on besides torch and the device."""

    @property
    def batch(self) -> int:
        """Images in one network call, by default."""

    @property
    def learned_from(self) -> str | None:
        """Which images it has learned from, None for finished ones."""

    def fitted(
        self, path: Path, ds: xr.Dataset, states: tuple[str, ...], bounds: Bounds, device: torch.device
    ) -> Function:
        """Give the function that classifies the images of a store with values in ``bounds``, and ``states`` of it.

        It makes logits (image, class), float32, of images (image, channel, y, x) and their timesteps (image,), None for
        images that are not noisy.

        Raises InputError where the images do not fit the network.
        """

    def cautions(self, ds: xr.Dataset) -> tuple[str, ...]:
        """Say what is done to the images of a store before the network sees them."""


@dataclass(frozen=True)
class Classifier:
    """A network of finished images with its own preprocessing: stored images to logits.

    ``name`` is what it is called, ``identity`` what a store's fingerprint knows of it. ``shape`` (channel, y, x) is
    what the network takes; y and x are None where it may take several sizes. ``packages`` are what it needs beside
    torch.
    """

    name: str
    network: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    shape: tuple[int, int | None, int | None]
    class_names: tuple[str, ...]
    identity: dict[str, Any]
    packages: tuple[str, ...] = ()
    batch = 4096
    learned_from = None

    def __call__(self, images: Tensor, valid_range: tuple[float, float]) -> Tensor:
        """Classify images (image, channel, y, x) into logits (image, class), float32.

        Values beyond valid_range are clipped to it.
        """
        return self.network(self.preprocessing(images, valid_range)).float()

    @property
    def environment(self) -> dict[str, str]:
        """What the last bits may depend on besides torch and the device."""
        return {"classifier": self.name, **{package: version(package) for package in self.packages}}

    def fitted(
        self, path: Path, ds: xr.Dataset, states: tuple[str, ...], bounds: Bounds, device: torch.device
    ) -> Function:
        """Give the function that classifies images of a store, noisy or not, by their range alone."""
        with inference():
            self.check(shape_of(ds), device)
        return lambda images, timestep: self(images, bounds)

    def cautions(self, ds: xr.Dataset) -> tuple[str, ...]:
        """Say where the images of a store are resized, or their one channel repeated."""
        image = shape_of(ds)
        given = self.preprocessing.shape(image)
        if given == image:
            return ()
        return (
            f"the classifier takes {_times(given)} (channel, y, x): images of {_times(image)} are resized or repeated "
            "to fit",
        )

    def check(self, image: Shape, device: torch.device) -> None:
        """Raise InputError where images of this shape (channel, y, x) do not fit the network."""
        given = self.preprocessing.shape(image)
        uncropped = self.preprocessing.resized(*image[1:])
        try:
            if any(length < cut for length, cut in zip(uncropped, given[1:], strict=True)):
                raise InputError("they are smaller than what is cut out of them")
            if any(wanted not in (None, got) for wanted, got in zip(self.shape, given, strict=True)):
                raise InputError("they do not fit")
            with within_memory():
                self(torch.zeros((1, *image), device=device), (0.0, 1.0))
        except (ValueError, RuntimeError) as error:
            wanted, stored, prepared = map(_times, (self.shape, image, given))
            raise InputError(
                f"classifier {self.name} takes images of shape {wanted} (channel, y, x), the store's are "
                f"{stored}" + (f", {prepared} after its preprocessing" if given != image else "") + f": {error}"
            ) from None


@within_memory()
def load(name: str, device: str = "cpu") -> ImageClassifier:
    """Load the classifier of a name.

    A name is digits-classifier (a folder under ``models``, or under the folder TRAJ_MODELS names), the folder of one
    trained by ``traj train`` or of guided-diffusion's, converted, or the folder or hub id of a Hugging Face image
    classifier.

    Raises
    ------
    MissingFile
        When it is not there: not trained yet, no such folder, or not to be had from the hub.
    InputError
        When the name means nothing, the model is no image classifier, or a package is missing.
    """
    if not name.strip():
        raise InputError(f"an empty classifier name was given; {_KNOWN}")
    if name in CLASSIFIERS:
        folder = Path(os.environ.get("TRAJ_MODELS", "models")) / name
        if not folder.is_dir():
            raise MissingFile(f"classifier {name} is not trained yet (no folder {folder}): run traj train {name}")
        return _load_folder(folder, name, device)
    if Path(name).is_dir():
        return _load_folder(Path(name), Path(name).resolve().name or name, device)
    if _HUB_ID.fullmatch(name):
        return _load_folder(_fetch(name), name, device)
    if "/" in name or os.sep in name:
        raise MissingFile(f"classifier {name!r}: no such folder; {_KNOWN}")
    raise InputError(f"classifier {name!r} is unknown; {_KNOWN}")


def _load_folder(folder: Path, name: str, device: str) -> ImageClassifier:
    config = json_object(_part(folder, "config.json", name))
    try:
        found = weights.find(folder, *_STEMS)
        identity = {"weights": found.sha256, "network": f"sha256:{_sha256_of(config)}"}
        if config.get("model_type") in [*CLASSIFIERS]:
            return _trained_here(name, config, found, identity, device)
        if config.get("model_type") == encoder.MODEL_TYPE:
            return _of_noisy_images(name, config, found, identity, device)
        return _hugging_face(name, folder, found, identity, device)
    except InputError as error:
        raise type(error)(f"classifier {name}: {error}") from None


def _trained_here(
    name: str, config: dict[str, Any], found: Weights, identity: dict[str, Any], device: str
) -> Classifier:
    """Load a classifier that `traj train` made: black and white of its images are -1 and 1."""
    arguments = _OWN.read({key: value for key, value in config.items() if key != "model_type"}, "its config.json")
    try:
        with within_memory():
            network = DigitsClassifier(**arguments)
            network.load_state_dict(weights.read(found.files[0]))
    except (TypeError, RuntimeError):
        raise InputError(f"{found.files[0]} does not belong to its config.json; train it again") from None
    preprocessing = Preprocessing(channels=arguments["channels"], mean=(0.5,), sd=(0.5,))
    return Classifier(
        name=name,
        network=network.to(device).eval(),
        preprocessing=preprocessing,
        shape=(arguments["channels"], 8, 8),
        class_names=tuple(map(str, range(arguments["classes"]))),
        identity={**identity, "preprocessing": asdict(preprocessing)},
    )


def _of_noisy_images(
    name: str, config: dict[str, Any], found: Weights, identity: dict[str, Any], device: str
) -> NoisyClassifier:
    """Load a classifier of guided-diffusion."""
    with within_memory():
        network, schedule = encoder.load(config, found.files[0])
    return NoisyClassifier(
        name=name,
        network=network.to(device),
        shape=network.shape,
        class_names=tuple(map(str, range(network.num_classes))),
        schedule=schedule,
        identity=identity,
    )


def _hugging_face(name: str, folder: Path, weights_found: Weights, identity: dict[str, Any], device: str) -> Classifier:
    """Load an image classifier with transformers, from local files only; code in its folder is never run."""
    try:
        import transformers
    except ImportError:
        raise InputError(
            "it needs the package transformers, which is not installed: pip install 'traj[transformers]'"
        ) from None
    files = {file: _part(folder, file, name) for file in ("config.json", "preprocessor_config.json")}
    json_object(files["preprocessor_config.json"])
    options = {"local_files_only": True, "trust_remote_code": False}
    with weights.staged({**files, **weights_found.named}) as place, silenced(transformers):
        try:
            network, found = transformers.AutoModelForImageClassification.from_pretrained(
                place, **options, use_safetensors=weights_found.safe, dtype=torch.float32, output_loading_info=True
            )
            processor = transformers.AutoImageProcessor.from_pretrained(place, **options)
        except Exception as error:  # whatever a broken file may lead to
            why = weights.reason(error, place, folder)
            raise InputError(f"{folder} cannot be loaded as an image classifier: {why}") from None
    if absent := sorted({*found["missing_keys"], *found["mismatched_keys"]}):
        raise InputError(f"its weights lack {', '.join(map(str, absent))}; it was not trained as one")
    weights.require_finite(network.state_dict(), folder)
    config = network.config
    channels = getattr(config, "num_channels", 3)
    try:
        preprocessing = _preprocessing(processor, channels)
    except (TypeError, AttributeError, LookupError, OverflowError, ZeroDivisionError) as error:
        raise InputError(f"its preprocessor_config.json cannot be followed: {error}") from None
    network = network.to(device).eval()
    return Classifier(
        name=name,
        network=lambda images: network(images).logits,
        preprocessing=preprocessing,
        shape=(channels, None, None),
        class_names=tuple(str(config.id2label[k]) for k in range(config.num_labels)),
        identity={**identity, "preprocessing": asdict(preprocessing)},
        packages=("transformers",),
    )


def _preprocessing(processor: Any, channels: int) -> Preprocessing:
    """Read a Hugging Face image processor's settings.

    Raises InputError where it does something that ``Preprocessing`` does not.
    """
    flags = {key for key, value in vars(processor).items() if key.startswith("do_") and value}
    flags |= {key for key in ("include_top", "rescale_offset") if getattr(processor, key, False)}
    if other := sorted(flags - _FOLLOWED):
        raise InputError(f"its image processor does {', '.join(other)}, which is not supported")
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    if processor.do_resize:
        size = processor.size
        resize, crop = _size(size), None
        share = getattr(processor, "crop_pct", None)
        if share and isinstance(resize, int):  # ConvNeXT's way: small inputs are cropped out of a larger image
            resize, crop = (int(resize / share), (resize, resize)) if resize < 384 else ((resize, resize), None)
    if getattr(processor, "do_center_crop", False):
        edge = _size(processor.crop_size)
        crop = (edge, edge) if isinstance(edge, int) else edge
    resample = int(processor.resample)
    if resize and resample not in _MODES:
        raise InputError(f"it resizes with Pillow's filter {resample}; expected 2 or 3")
    ones, zeros = (1.0,) * channels, (0.0,) * channels
    mean, sd = (processor.image_mean, processor.image_std) if processor.do_normalize else (zeros, ones)
    if len(mean) not in (1, channels) or len(sd) not in (1, channels):
        raise InputError(f"{channels} channel(s), but its image processor has {len(mean)} means")
    return Preprocessing(
        channels=channels,
        mean=tuple(map(float, mean)),
        sd=tuple(map(float, sd)),
        white=round(255 * processor.rescale_factor, 12) if processor.do_rescale else 255.0,
        resize=resize,
        crop=crop,
        mode=_MODES.get(resample, "bilinear"),
    )


def _size(size: Any) -> tuple[int, int] | int:
    lengths = dict(size)
    match sorted(lengths):
        case ["height", "width"]:
            return lengths["height"], lengths["width"]
        case ["shortest_edge"]:
            return int(lengths["shortest_edge"])
    raise InputError(f"size {lengths}; expected height and width, or shortest_edge")


def _fetch(hub_id: str) -> Path:
    """Download what belongs to a classifier, or find it in the hub's cache; return its folder."""
    hub_logging.set_verbosity_error()  # its retries would fill the screen before our one message
    try:
        for stem, suffix in zip(_STEMS, (weights.SAFE, weights.PICKLED), strict=True):
            listed, single, shards = f"{stem}{suffix}.index.json", f"{stem}{suffix}", f"{stem}-*-of-*{suffix}"
            wanted = ["config.json", "preprocessor_config.json", listed, single, shards]
            folder = Path(snapshot_download(hub_id, allow_patterns=wanted))
            if (folder / listed).is_file() or (folder / single).is_file():
                break
        return folder
    except (OSError, HFValidationError) as error:
        raise MissingFile(
            f"classifier {hub_id!r} is neither a folder here, nor in the hub's cache, nor could it be downloaded "
            f"({type(error).__name__}); check the name and the connection. HF_HOME says where the cache is, and "
            "HF_HUB_OFFLINE=1 forbids downloads"
        ) from None


def _part(folder: Path, file: str, name: str) -> Path:
    if not (folder / file).is_file():
        raise MissingFile(f"classifier {name}: no {file} in {folder}; {_KNOWN}")
    return folder / file


def _sha256_of(config: dict[str, Any]) -> str:
    """Hash a network's config without the library's notes about itself."""
    public = {key: value for key, value in config.items() if not key.startswith(("_", "transformers_version"))}
    return hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()


def _times(shape: Sequence[int | None]) -> str:
    return "x".join("any" if length is None else str(length) for length in shape)
