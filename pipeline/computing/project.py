"""What lies under data/ and results/ of a project: stores, which was made from which, and what could be computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from traj import analysis, stores
from traj.pipeline.computing.analyze import kind_of
from traj.stores import KINDS, RESULTS, how_to_decode, stands_for, valid_range

FOLDERS = {name: kind.folder for name, kind in KINDS.items() if name not in ("dataset", "result")}
"""By kind: what may be a parent comes before what is made of it. Nothing is computed of a dataset alone."""


@dataclass(frozen=True)
class Stored:
    """One store under data/.

    described is what `stores.describe` says of it; ds is None where it cannot be opened, and fault says why; of is the
    store it was made from, where that is at hand.
    """

    name: str
    kind: str
    path: Path
    described: dict[str, Any]
    ds: xr.Dataset | None
    of: Stored | None
    fault: Exception | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The inputs the store was made from."""
        config: dict[str, Any] = self.described.get("config", {})
        return config

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths of its dims."""
        arrays = self.described.get("arrays", {})
        return {dim: size for array in arrays.values() for dim, size in array["dims"].items()}

    @property
    def stands_for(self) -> str:
        """The kind of store it is drawn and analysed as."""
        return self.kind if self.ds is None else stands_for(self.ds.attrs)

    @property
    def latent(self) -> bool:
        """Whether what it holds is to be decoded before there is anything to see."""
        return self.ds is not None and "x_0" in self.ds and valid_range(self.ds) is None

    @property
    def origin(self) -> Stored:
        """The run at the beginning of it, as far as it is at hand."""
        return self if self.of is None else self.of.origin

    def same_as(self, other: Stored) -> bool:
        """Whether another store was made from the same inputs, such as a copy of it."""
        return bool(self.described.get("fingerprint") == other.described.get("fingerprint"))

    def network(self, part: str) -> str | None:
        """Read what a network was called when the store was made; part is its part in that, such as model."""
        for made_in in self.described.get("environments", []):
            if isinstance(name := made_in["environment"].get(part), str):
                return name
        return None


def open_store(name: str, kind: str, path: Path, found: Mapping[str, Stored]) -> Stored:
    """Open a store as far as that goes; found, by fingerprint, has what it may have been made from."""
    described: dict[str, Any] = {}
    ds = fault = None
    try:
        described = stores.describe(path)
        if described["kind"] != kind:
            raise stores.NotAStore(f"{path} is a store of kind {described['kind']}; expected one of kind {kind} here")
        ds = stores.open(path)
    except Exception as error:
        fault = error
    return Stored(name, kind, path, described, ds, _made_of(described.get("config", {}).get("parent"), found), fault)


def open_result(file: Path) -> xr.Dataset:
    """Open a result; what it holds of every sample stays on disk until it is asked for.

    Raises NotAStore where it is none, besides what `stores.open` raises.
    """
    result = stores.open(file)
    if result.attrs["kind"] != "result":
        raise stores.NotAStore(f"{file} is a store of kind {result.attrs['kind']}; expected a result of `traj analyze`")
    small = [name for name, variable in result.items() if "sample" not in variable.dims]
    return result.assign(result[small].compute())


def computed_of(result: xr.Dataset, found: Mapping[str, Stored]) -> Stored | None:
    """Find the store that a result was computed of, among those by fingerprint."""
    return _made_of(json.loads(result.attrs["config"]).get("store"), found)


def _made_of(identity: Any, found: Mapping[str, Stored]) -> Stored | None:
    fingerprint = identity.get("fingerprint") if isinstance(identity, dict) else None
    return found.get(fingerprint) if isinstance(fingerprint, str) else None


def store_names(root: Path, kind: str) -> set[str]:
    """Name the stores of a kind in the project at root, without those set aside."""
    paths = (root / FOLDERS[kind]).glob("*.zarr")
    return {path.name.removesuffix(".zarr") for path in paths if ".stale-" not in path.name}


def all_names(root: Path) -> set[str]:
    """Name everything of which the project at root has a store or a result."""
    return set().union(*(store_names(root, kind) for kind in FOLDERS), {f.parent.name for f in result_files(root)})


def natural(name: str) -> list[tuple[int, str]]:
    """Give the key that sorts ddim50 before ddim100."""
    digits = "".join(c if c.isdecimal() else f" {c} " for c in name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in digits]


def result_files(root: Path) -> list[Path]:
    """List the results of the project at root."""
    return sorted((root / RESULTS).glob("*/*.zarr"))


def out_of_step(file: Path, result: xr.Dataset, root: Path) -> list[str]:
    """Say where a result was computed from something else than its store is now."""
    config: dict[str, Any] = json.loads(result.attrs["config"])
    quantity, made_of = config.get("quantity"), config.get("store")
    if not isinstance(made_of, dict) or not isinstance(quantity, str) or quantity not in analysis.usable():
        return []  # not what `traj analyze` saves
    kind = kind_of({quantity: config})
    path, decoded = (root / FOLDERS[of] / f"{file.parent.name}.zarr" for of in (kind, "decoded"))
    try:
        there = [stores.identity(one) for one in (path, decoded) if one == path or one.exists()]
    except (stores.StoreError, OSError):
        return []
    if any(all(made_of.get(key) == one[key] for key in one) for one in there):
        return []
    return [f"{file} was computed from other {KINDS[kind].contents} than {path} holds now; analyse it again"]


def to_be_computed(some: Sequence[Stored], decoded: Sequence[Stored]) -> list[str]:
    """Say what could be computed of stores, and how; what needs data beside it is left out.

    Latents are to be decoded first, if they are not among those that are.
    """
    commands: dict[str, list[str]] = {}
    for stored in some:
        if stored.latent:
            continue
        for name, quantity in analysis.usable().items():
            if (
                quantity.reads == stored.stands_for
                and quantity.fits(map(str, stored.ds or ()))
                and "dataset" not in quantity.stores
            ):
                given = f" --baseline {_baseline(stored, decoded)}" if "baseline" in quantity.stores else ""
                commands.setdefault(f"{stored.path}{given}", []).append(name)
    undecoded = [stored for stored in some if stored.latent and all(stored is not one.of for one in decoded)]
    return [
        *(f"no images: run `{how_to_decode(stored.path, stored.kind)}`" for stored in undecoded),
        *(
            f"no {', no '.join(missing)}: run `traj analyze {','.join(missing)} {rest}`"
            for rest, missing in commands.items()
        ),
    ]


def _baseline(stored: Stored, decoded: Sequence[Stored]) -> Path | str:
    """Name the run that forks are compared with: decoded, where they are."""
    run = stored.of
    if stored.kind == "decoded" and run is not None:
        latents = run.of
        run = next((one for one in decoded if one.of is not None and one.of is latents), None)
    return "RUN" if run is None else run.path
