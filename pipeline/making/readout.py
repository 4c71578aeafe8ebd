"""Read every stored image with a network: a second pass over a store."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from dask.array.core import slices_from_chunks
from tqdm import tqdm

from traj import stores
from traj.pipeline.estimate import MARGIN_BYTES, Cost, disk_free, peak_memory
from traj.pipeline.models import classifiers
from traj.pipeline.models.classifiers import Classifier, Shape
from traj.pipeline.parsing import check_count
from traj.pipeline.process.device import choose_device, environment, inference
from traj.stores import InputError
from traj.stores.layout import Layout

# Raised by hand when the numbers of a readout change for equal inputs.
NUMERICS = 1
STATES = ("x_t", "pred_x0")


@dataclass(frozen=True)
class ImageCost(Cost):
    """What a readout will take; an evaluation is that of a whole batch."""

    images: int

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.images:,} images, {super().__str__()}"


@dataclass(frozen=True)
class Readout:
    """A classifier's pass over the images of a store. Building it touches no file of the readout."""

    classifier: Classifier
    parent: Path
    parent_identity: dict[str, Any]
    ds: xr.Dataset
    on: tuple[str, ...]
    batch: int
    device: torch.device
    tf32: bool

    @property
    def config(self) -> dict[str, Any]:
        """Every input the numbers depend on."""
        return {
            "numerics": NUMERICS,
            "readout": "classifier",
            "parent": {"fingerprint": self.parent_identity["fingerprint"]},
            "classifier": self.classifier.identity,
            "on": list(self.on),
            "batch": self.batch,
            **({"tf32": True} if self.tf32 else {}),
        }

    @cached_property
    def block(self) -> int:
        """Samples in one block of the parent, and of the readout."""
        return int(json.loads(self.ds.attrs["config"])["store"]["block"])

    @property
    def layout(self) -> Layout:
        """How the final samples are cut into blocks, in the parent and in the readout."""
        return Layout.of(
            samples=self.ds.sizes["sample"], block=self.block, timesteps=1, shape=self.shape, dtype="float32"
        )

    @property
    def shape(self) -> Shape:
        """Shape of a stored image: channel, y, x."""
        channel, y, x = (self.ds.sizes[dim] for dim in stores.IMAGE_DIMS)
        return channel, y, x

    @property
    def prepared(self) -> Shape:
        """Shape in which an image reaches the network."""
        return self.classifier.preprocessing.shape(self.shape)

    def open(
        self,
        out: Path,
        *,
        stale: Literal["refuse", "set-aside"] = "refuse",
        blocks: Sequence[int] | None = None,
    ) -> stores.BlockWriter:
        """Create, resume or extend the readout's store."""
        names = self.classifier.class_names
        variables = {"x_0_logits": ((*_lead(self.ds.x_0), "class"), "logits of the final sample", "1")}
        coords = {
            str(name): (str(c.dims[0]), c.values, c.attrs.get("units", "1"), c.attrs.get("long_name", str(name)))
            for name, c in self.ds.coords.items()
        }
        coords["class"] = ("class", np.arange(len(names)), "1", "number of the class")
        coords["class_name"] = ("class", np.array(names), "1", "what the classifier calls the class")
        if self.on:
            dims = ("on", *_lead(self.ds[self.on[0]]), "class")
            variables["logits"] = (dims, "logits of the state or prediction", "1")
            coords["on"] = ("on", np.array(self.on), "1", "variable that was read")
        return stores.create_readout(
            out,
            variables=variables,
            coords=coords,
            samples=self.ds.sizes["sample"],
            block=self.block,
            config=self.config,
            environment={
                "classifier": self.classifier.name,
                **environment(self.device),
                **{name: version(name) for name in self.classifier.packages},
            },
            stale=stale,
            blocks=blocks,
        )

    def images(self, blocks: int) -> int:
        """Count the images of a number of whole blocks."""
        return sum(
            math.prod(self.block if dim == "sample" else self.ds.sizes[dim] for dim in _lead(self.ds[name])) * blocks
            for name in ("x_0", *self.on)
        )

    def cost(self, out: Path, blocks: int | None = None) -> ImageCost:
        """Estimate what a number of blocks will take (all by default), after a few trial batches."""
        images = self.images(self.layout.blocks if blocks is None else blocks)
        batch = min(self.batch, self.images(1))
        logit_bytes = 4 * len(self.classifier.class_names)
        shard = max(math.prod(max(sizes) for sizes in self.ds[name].chunks or ()) * 4 for name in ("x_0", *self.on))
        return ImageCost(
            images=images,
            evaluations=-(-images // batch),
            seconds=images / batch * self.call_seconds,
            disk=images * logit_bytes,
            disk_free=disk_free(out),
            memory=peak_memory() + 3 * shard + 2 * self.images(1) * logit_bytes + MARGIN_BYTES,
        )

    def run(self, store: stores.BlockWriter, *, bar: bool = True) -> None:
        """Read the store's pending blocks.

        Raises DamagedStore where the parent's bytes are wrong, StaleStore where it was changed meanwhile. Finished
        blocks stay whatever happens.
        """
        pending = list(store.pending)
        # disable=None: no bar where stderr is no terminal
        with (
            tqdm(
                total=self.images(len(pending)), unit="image", unit_scale=True, disable=None if bar else True
            ) as progress,
            inference(self.tf32),
        ):
            for block in pending:
                arrays = self._block(block, progress)
                self._require_unchanged()  # before the block is flagged as done
                store.write(block, arrays)

    def _require_unchanged(self) -> None:
        if stores.identity(self.parent) != self.parent_identity:
            raise stores.StaleStore(f"{self.parent} was changed while it was read; run the same command again")

    @cached_property
    def call_seconds(self) -> float:
        """How long a call with a whole batch takes."""
        images = torch.zeros((min(self.batch, self.images(1)), *self.shape))
        with inference(self.tf32):
            seconds = self._trial(images)
            # the first one also warms up
            return seconds if seconds >= 1 else median(self._trial(images) for _ in range(3))

    def _trial(self, images: torch.Tensor) -> float:
        begun = time.perf_counter()
        self.classify(images)
        return time.perf_counter() - begun

    def _block(self, block: int, progress: tqdm) -> dict[str, np.ndarray]:
        part = self.ds.isel(sample=slice(block * self.block, (block + 1) * self.block))
        arrays = {"x_0_logits": self._logits(part.x_0, progress)}
        if self.on:
            arrays["logits"] = np.stack([self._logits(part[name], progress) for name in self.on])
        return arrays

    def _logits(self, array: xr.DataArray, progress: tqdm) -> np.ndarray:
        """Read the images of a block shard by shard: (..., channel, y, x) to (..., class)."""
        logits = np.empty((*array.shape[:-3], len(self.classifier.class_names)), np.float32)
        along = array.dims.index("sample")
        for place in slices_from_chunks(array.chunks):
            images = self._read(array[place])
            kept = images.shape[along]
            # Padded to a whole block: the last bits of a network's answer depend on the shape of its batch, and those
            # of a sample must not depend on how many samples there are.
            missing = [(0, self.block - kept if axis == along else 0) for axis in range(images.ndim)]
            padded = np.pad(images, missing, mode="edge")
            flat = torch.from_numpy(padded.reshape(-1, *self.shape))
            found = self.classify(flat).reshape(*padded.shape[:-3], -1)
            logits[place[:-3]] = found.take(range(kept), axis=along)
            progress.update(len(flat))
        return logits

    def _read(self, array: xr.DataArray) -> np.ndarray:
        try:
            return np.asarray(array, np.float32)
        except ValueError as error:
            raise stores.DamagedStore(f"{self.parent} is damaged: {error}; run `traj verify {self.parent}`") from None

    def classify(self, images: torch.Tensor) -> np.ndarray:
        """Give images (image, channel, y, x) their logits (image, class), in batches.

        Values are clipped to the store's valid range, as pred_x0 is stored unclipped. Images with a NaN were never
        made: their logits are NaN.
        """
        valid_range = tuple(self.ds.x_0.attrs["valid_range"])
        made = ~images.flatten(1).isnan().any(dim=1)
        logits = torch.full((len(images), len(self.classifier.class_names)), math.nan)
        if made.any():
            batches = (images if made.all() else images[made]).split(self.batch)
            logits[made] = torch.cat([self.classifier(batch.to(self.device), valid_range).cpu() for batch in batches])
        return logits.numpy()


def prepare(
    *,
    store: Path,
    model: str,
    on: Sequence[str] | None = None,
    batch: int = 4096,
    device: str = "auto",
    tf32: bool = False,
) -> Readout:
    """Load the classifier and open the store it is to read.

    on names the variables to read beside x_0, all there are by default.

    Raises InputError, MissingFile or StoreError for what cannot be.
    """
    check_count("batch", batch)
    where = choose_device(device)
    ds = stores.open(store)
    if ds.attrs["kind"] not in ("trajectories", "fork"):
        raise InputError(f"{store} holds a store of kind {ds.attrs['kind']}; expected trajectories or forks")
    if (dims := stores.event_dims(ds.x_0.dims)) != stores.IMAGE_DIMS:
        raise InputError(
            f"{store} holds events of dims {', '.join(dims)}; a classifier reads images, expected "
            f"{', '.join(stores.IMAGE_DIMS)}"
        )
    there = [name for name in STATES if name in ds]
    if unknown := [name for name in on or () if name not in there]:
        raise InputError(
            f"{store} has no {' and no '.join(map(repr, unknown))} to read; expected "
            + (f"some of {', '.join(there)}" if there else "nothing: these forks were made without --states")
        )
    readout = Readout(
        classifier=classifiers.load(model, str(where)),
        parent=store,
        parent_identity={"fingerprint": ds.attrs["fingerprint"], "samples": ds.sizes["sample"]},
        ds=ds,
        on=tuple(name for name in there if on is None or name in on),
        batch=batch,
        device=where,
        tf32=tf32 and where.type == "cuda",
    )
    with inference(readout.tf32):
        readout.classifier.check(readout.shape, where)
    return readout


def _lead(array: xr.DataArray) -> tuple[str, ...]:
    """Dims of an array without those of an image."""
    return tuple(str(dim) for dim in array.dims if dim not in stores.IMAGE_DIMS)
