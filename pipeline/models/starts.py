"""What a process may start from other than noise: x_0 by the number of a sample."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import xarray as xr

from traj import stores
from traj.pipeline.models import samples
from traj.pipeline.models.vae import VaeSource
from traj.pipeline.process.denoiser import Denoiser
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.pipeline.sources.surveyed import Surveyed
from traj.pipeline.sources.zarrs import is_ours, seeds_of
from traj.stores import InputError

if TYPE_CHECKING:
    from traj.pipeline.models.repository import Repository

MOST_VALUES = 4096
"""Of an event whose covariance is taken: of so many, it has 128 MiB, a few times over while its root is found."""
READ_BYTES = 32 << 20
"""Of events in float64 that are read together."""


class Source(Protocol):
    """Gives each sample an x_0.

    ``identity`` holds the JSON values that define its numbers, for a store's fingerprint; ``name`` is for people.
    ``shape`` is that of an event, ``valid_range`` the range its x_0 are meant to lie in, None for none. ``samples`` is
    how many it has, None for any number, ``labels`` their classes, None where it has none, and ``seeds`` those of
    the steps that led to its x_0, of every run from the first one on: none for data.
    """

    name: str
    identity: dict[str, Any]
    shape: tuple[int, ...]
    valid_range: tuple[float, float] | None
    samples: int | None
    labels: list[int] | None
    seeds: frozenset[int]

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Give the x_0 of samples: float32 (sample, *event); beyond the last one it has, that one again."""
        ...

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken the place of the one x_0 is read from."""
        ...


def load(name: str, seed: int) -> Source:
    """Find the source of a name: vae:NAME, gaussian:DATA, or DATA, which is all that `traj dataset` reads.

    The first two draw noise with the ``seed``.

    Raises
    ------
    InputError
        When the name means nothing, the store's x_0 are no samples, or the data are clear only with options.
    MissingFile
        When there are no such data, or no such VAE.
    StoreError
        When the store is not complete.
    """
    kind, _, rest = name.partition(":")
    if kind == "vae" and not Path(name).exists():
        return VaeSource(rest, seed)
    if kind == "gaussian" and not Path(name).exists():
        return GaussianSource(_known(rest), seed)
    return _known(name)


def _known(name: str) -> StoredSource | DataSource:
    """Find data by name: a store of ours is known by its fingerprint, all others are gone through once."""
    return StoredSource(Path(name)) if is_ours(Path(name)) else DataSource(samples.surveyed(name))


def fitted(source: Source, denoiser: Denoiser, model: str, variant: str | None, device: str) -> Source:
    """Give the source as a denoiser takes it: images are encoded for one of latents, by the pipeline named ``model``.

    Raises InputError where events have another shape, or are meant for another range, than the denoiser's; MissingFile
    where there is no autoencoder.
    """
    if denoiser.valid_range is None and source.shape != denoiser.shape:
        from traj.pipeline.models import repository  # brings in the hub's package, which takes a while

        if pipeline := repository.named(model, variant):
            return EncodedSource(source, denoiser, pipeline, device)
    _require_fit(source, denoiser.shape, denoiser.valid_range, f"model {denoiser.name}")
    return source


def _require_fit(source: Source, shape: tuple[int, ...], valid_range: tuple[float, float] | None, what: str) -> None:
    if source.shape != shape:
        raise InputError(
            f"{source.name} has events of shape {_times(source.shape)}, but {what} takes {_times(shape)}; expected the "
            "same: name data of that shape, or scale these; a network that takes images of many sizes is told theirs "
            "with --size HEIGHTxWIDTH"
        )
    if source.valid_range and valid_range and not np.allclose(source.valid_range, valid_range):
        raise InputError(
            f"the x_0 of {source.name} lie in {_span(source.valid_range)}, but {what} makes some in "
            f"{_span(valid_range)}; expected the same: scale the data to the model's range, or where they lie in it, "
            "say so with --range of traj dataset, and name what that made"
        )


class StoredSource:
    """The final samples of a store, sample k from its sample k.

    Raises as ``load`` does.
    """

    def __init__(self, path: Path) -> None:
        ds = stores.open(path)
        if "x_0" not in ds or ds.x_0.dims[0] != "sample":
            found = f"x_0 ({', '.join(map(str, ds.x_0.dims))})" if "x_0" in ds else "no x_0"
            raise InputError(
                f"{path} holds {ds.attrs['kind']} with {found}; expected a store such as a dataset or a run, whose x_0 "
                "is (sample, *event)"
            )
        self._path, self._fingerprint = path, ds.attrs["fingerprint"]
        config = json.loads(ds.attrs["config"])
        self.seeds = seeds_of(config)
        self.name = path.name
        self.identity = {"store": self._fingerprint}
        self.shape = tuple(ds.x_0.shape[1:])
        self.valid_range: tuple[float, float] | None = stores.valid_range(ds)
        self.samples: int | None = ds.sizes["sample"]
        labels = ds.label.values.tolist() if "label" in ds.coords else []
        self.labels = labels if any(label >= 0 for label in labels) else None

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Read the x_0 of samples: float32 (sample, *event). Raises DamagedStore."""
        with stores.reading(self._path):
            x_0 = xr.open_zarr(self._path, chunks=None).x_0
            rows: np.ndarray = x_0.isel(sample=np.minimum(samples, x_0.sizes["sample"] - 1)).values
            return rows.astype(np.float32, copy=False)

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken its place."""
        if stores.attributes(self._path)["fingerprint"] != self._fingerprint:
            raise stores.StaleStore(f"{self._path} was changed while it was read; run the same again")


class DataSource:
    """Data as they lie in a file, or wherever a name of `traj dataset` finds them, sample k from the k-th.

    They are known by the hash that a dataset of them has.
    """

    def __init__(self, found: Surveyed) -> None:
        self._found = found
        self.name, self.shape = found.events.name, found.events.shape
        self.valid_range: tuple[float, float] | None = found.valid_range
        self.identity: dict[str, Any] = {"data": found.digest}
        self.samples: int | None = found.samples
        self.labels: list[int] | None = found.label.tolist() if (found.label >= 0).any() else None
        self.seeds = found.events.source.seeds

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Read the x_0 of samples: float32 (sample, *event). Raises StaleStore where the data were changed."""
        rows = np.minimum(samples, self._found.samples - 1)
        x_0: np.ndarray = self._found.read(rows.min(), rows.max() + 1)[rows - rows.min()]
        return x_0

    def require_unchanged(self) -> None:
        """Do nothing: reading finds it out."""


class EncodedSource:
    """Images of a source as latents, encoded by the autoencoder of a pipeline, each by itself.

    Raises as ``fitted`` does.
    """

    valid_range: tuple[float, float] | None = None

    def __init__(self, source: Source, denoiser: Denoiser, pipeline: Repository, device: str) -> None:
        from traj.pipeline.models import autoencoders  # brings in diffusers, which takes seconds

        self._source, self._device = source, device
        self._autoencoder = autoencoders.load(pipeline, device)
        images = self._autoencoder.image_shape(denoiser.shape)
        _require_fit(source, images, autoencoders.VALID_RANGE, f"the autoencoder of {denoiser.name}")
        self.name, self.shape = source.name, denoiser.shape
        self.identity = {**source.identity, "autoencoder": self._autoencoder.identity}
        self.samples, self.labels, self.seeds = source.samples, source.labels, source.seeds

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Encode the images of samples: float32 (sample, *event)."""
        images = torch.from_numpy(self._source.x_0(samples)).to(self._device)
        with torch.inference_mode():
            latents = torch.cat([self._autoencoder.encode(image) for image in images.split(1)])
        encoded: np.ndarray = latents.float().cpu().numpy()
        return encoded

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken the place of the one images are read from."""
        self._source.require_unchanged()


class GaussianSource:
    """Normal x_0 with the mean and the covariance of data: the late start of Raya and Ambrogioni (2023).

    Sample k is mean + root z_k, z_k noise with the address of sample k, and root the symmetric square root of the
    covariance over all samples. Both are float64, found in two passes over the data.

    Raises InputError for events of more than MOST_VALUES values.
    """

    samples: int | None = None
    labels: list[int] | None = None
    seeds: frozenset[int] = frozenset()

    def __init__(self, known: StoredSource | DataSource, seed: int) -> None:
        self._data = known
        self._count, self.shape = int(known.samples or 0), known.shape
        values = math.prod(self.shape)
        if values > MOST_VALUES:
            raise InputError(
                f"{known.name} has events of {values:,} values, whose covariance would take "
                f"{8 * values**2 / 2**30:,.1f} GiB a few times over; expected at most {MOST_VALUES:,}"
            )
        self.name, self.valid_range = f"gaussian:{known.name}", known.valid_range
        self.identity: dict[str, Any] = {"gaussian": {**known.identity, "samples": self._count}}
        self._noise = NoiseSource(seed, (values,))

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Draw the x_0 of samples: float32 (sample, *event). Raises DamagedStore."""
        mean, root = self._moments
        z = self._noise(Purpose.SOURCE, samples, 0).astype(np.float64)
        x_0: np.ndarray = (mean + z @ root).astype(np.float32).reshape(-1, *self.shape)
        return x_0

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken the place of the one that was read."""
        self._data.require_unchanged()

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Find the mean (value,) and the symmetric root of the covariance (value, value)."""
        mean = sum(rows.sum(0) for rows in self._rows()) / self._count
        covariance = sum((rows - mean).T @ (rows - mean) for rows in self._rows()) / self._count
        variances, axes = np.linalg.eigh(covariance)
        # rounding makes variances of 0 a little negative
        return mean, axes * np.sqrt(variances.clip(0)) @ axes.T

    def _rows(self) -> Iterator[np.ndarray]:
        """Read all events in float64, some at a time: (sample, value)."""
        values = math.prod(self.shape)
        at_once = max(1, READ_BYTES // (8 * values))
        for first in range(0, self._count, at_once):
            rows = self._data.x_0(range(first, min(first + at_once, self._count)))
            yield rows.reshape(-1, values).astype(np.float64)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"
