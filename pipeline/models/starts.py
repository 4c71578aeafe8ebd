"""What a process may start from other than noise: x_0 by the number of a sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from traj import stores
from traj.pipeline.models.vae import VaeSource
from traj.pipeline.process.denoiser import Denoiser
from traj.stores import InputError

KNOWN = "expected a store with x_0, such as a dataset or a run, or vae:NAME"


class Source(Protocol):
    """Gives each sample an x_0.

    ``identity`` holds the JSON values that define its numbers, for a store's fingerprint; ``name`` is for people.
    ``shape`` is that of an event, ``valid_range`` the range its x_0 are meant to lie in, None for none. ``samples`` is
    how many it has, None for any number, ``labels`` their classes, None where it has none, and ``seed`` that of the
    steps its x_0 were made by, None for data.
    """

    name: str
    identity: dict[str, Any]
    shape: tuple[int, ...]
    valid_range: tuple[float, float] | None
    samples: int | None
    labels: list[int] | None
    seed: int | None

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Give the x_0 of samples: float32 (sample, *event); beyond the last one it has, that one again."""
        ...

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken the place of the one x_0 is read from."""
        ...


def load(name: str, seed: int) -> Source:
    """Find the source of a name: a store with x_0 (sample, *event), or vae:NAME, which draws noise with the seed.

    Raises
    ------
    InputError
        When the name means nothing, or the store's x_0 are no samples.
    MissingFile
        When there is no such VAE.
    StoreError
        When there is no complete store.
    """
    kind, _, rest = name.partition(":")
    if kind == "vae" and not Path(name).exists():
        return VaeSource(rest, seed)
    return StoredSource(Path(name))


def require_fit(source: Source, denoiser: Denoiser) -> None:
    """Refuse a source whose events have another shape, or are meant for another range, than the model's."""
    if source.shape != denoiser.shape:
        raise InputError(
            f"{source.name} has events of shape {_times(source.shape)}, but model {denoiser.name} takes "
            f"{_times(denoiser.shape)}; expected the same"
        )
    if source.valid_range and not np.allclose(source.valid_range, denoiser.valid_range):
        raise InputError(
            f"the x_0 of {source.name} lie in {_span(source.valid_range)}, but model {denoiser.name} makes some in "
            f"{_span(denoiser.valid_range)}; expected the same: scale the data to the model's range"
        )


class StoredSource:
    """The final samples of a store, sample k from its sample k.

    Raises as ``load`` does.
    """

    def __init__(self, path: Path) -> None:
        ds = stores.open(path)
        if "x_0" not in ds or ds.x_0.dims[0] != "sample":
            found = f"x_0 ({', '.join(map(str, ds.x_0.dims))})" if "x_0" in ds else "no x_0"
            raise InputError(f"{path} holds {ds.attrs['kind']} with {found}; {KNOWN}, whose x_0 is (sample, *event)")
        self._path, self._fingerprint = path, ds.attrs["fingerprint"]
        config = json.loads(ds.attrs["config"])
        self.seed: int | None = None if "noised" in config else config.get("seed")
        self.name = path.name
        self.identity = {"store": self._fingerprint}
        self.shape = tuple(ds.x_0.shape[1:])
        bounds = ds.x_0.attrs.get("valid_range")
        self.valid_range = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.samples: int | None = ds.sizes["sample"]
        labels = ds.label.values.tolist() if "label" in ds.coords else []
        self.labels = labels if any(label >= 0 for label in labels) else None

    def x_0(self, samples: Sequence[int]) -> np.ndarray:
        """Read the x_0 of samples: float32 (sample, *event). Raises DamagedStore."""
        try:
            x_0 = xr.open_zarr(self._path, chunks=None).x_0
            rows: np.ndarray = x_0.isel(sample=np.minimum(samples, x_0.sizes["sample"] - 1)).values
            return rows.astype(np.float32, copy=False)
        except ValueError as error:
            raise stores.DamagedStore(f"{self._path}: {error}; run `traj verify {self._path}`") from None

    def require_unchanged(self) -> None:
        """Raise StaleStore where another store has taken its place."""
        if stores.attributes(self._path)["fingerprint"] != self._fingerprint:
            raise stores.StaleStore(f"{self._path} was changed while it was read; run the same again")


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"
