"""Find the stores and the results of a report, by their names, and which was made from which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from traj import analysis, stores
from traj.analysis import Quantity
from traj.pipeline.computing.analyze import kind_of
from traj.pipeline.computing.measured import with_times
from traj.pipeline.report.failures import Failed, attempt, printable, sentence, warn
from traj.stores import KINDS, RESULTS, MissingFile, how_to_decode, stands_for, valid_range

FOLDERS = {name: kind.folder for name, kind in KINDS.items() if name not in ("dataset", "result")}
"""By kind: what may be a parent comes before what is made of it. Nothing is computed of a dataset alone."""


@dataclass(frozen=True)
class Stored:
    """One store under data/.

    described is what `stores.describe` says of it; ds is None where it cannot be opened; of is the store it was made
    from, where that is at hand.
    """

    name: str
    kind: str
    path: Path
    described: dict[str, Any]
    ds: xr.Dataset | None
    of: Stored | None

    @property
    def config(self) -> dict[str, Any]:
        """The inputs the store was made from."""
        config: dict[str, Any] = self.described.get("config", {})
        return config

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


@dataclass(frozen=True)
class Entry:
    """All that is at hand under one name: stores by kind, results by quantity, and what is missing or wrong."""

    name: str
    stored: dict[str, Stored] = field(default_factory=dict)
    results: dict[str, xr.Dataset] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """The name of the run at the beginning of it."""
        return next(iter(self.stored.values())).origin.name if self.stored else self.name


def collect(root: Path, beside: Path | None = None, failed: Failed = warn) -> list[Entry]:
    """Open what a project has under data/ and results/: runs before what was made of them, then by their names.

    Numbers in names are read as numbers. Runs of the project in the folder beside follow those here, if their names are
    not taken; where results here are of such a run, those there are added to them. What is damaged is left out,
    said in the entry's remarks, and told to `failed`.

    Raises MissingFile where there is no result.
    """
    if not any((root / RESULTS).glob("*/*.zarr")):
        raise MissingFile(
            f"there is no result under {root / RESULTS}; run `traj analyze entropy,ssim,psnr` first, or `dvc repro`"
        )
    found: dict[str, Stored] = {}
    runs = set() if beside is None else _names(beside, "trajectories")
    others = [] if beside is None else _entries(beside, runs, found, failed)
    own = set().union(*(_names(root, kind) for kind in FOLDERS), {f.parent.name for f in _results(root)})
    entries = _entries(root, own, found, failed)
    decoded = [entry.stored["decoded"] for entry in entries if "decoded" in entry.stored]
    for entry in entries:
        entry.remarks.extend(_missing(entry, decoded))
    taken = {entry.name: entry for entry in entries}
    for other in others:
        entry = taken.setdefault(other.name, other)
        if any(stored is other.stored["trajectories"] for stored in entry.stored.values()):
            entry.results.update({name: one for name, one in other.results.items() if name not in entry.results})
    return sorted(taken.values(), key=_place)


def of_studies(root: Path, entries: Sequence[Entry], failed: Failed = warn) -> list[Entry]:
    """Open what the studies of a project have under data/ and results/, as STUDY/NAME; entries are its own."""
    found = {
        stored.described["fingerprint"]: stored
        for entry in entries
        for stored in entry.stored.values()
        if "fingerprint" in stored.described
    }
    gathered = []
    for results in sorted((root / "studies").glob(f"*/{RESULTS}")):
        study = results.parent
        names = set().union(*(_names(study, kind) for kind in FOLDERS), {f.parent.name for f in _results(study)})
        gathered += _entries(study, names, found, failed, prefix=f"{study.name}/")
    return gathered


def _names(root: Path, kind: str) -> set[str]:
    paths = (root / FOLDERS[kind]).glob("*.zarr")
    return {path.name.removesuffix(".zarr") for path in paths if ".stale-" not in path.name}


def _results(root: Path) -> list[Path]:
    return sorted((root / RESULTS).glob("*/*.zarr"))


def _entries(root: Path, names: set[str], found: dict[str, Stored], failed: Failed, prefix: str = "") -> list[Entry]:
    """Open everything of these names in one project; found, by fingerprint, has what may be a parent, and grows."""
    entries = {name: Entry(printable(f"{prefix}{name}")) for name in sorted(names, key=_natural)}
    quantities = analysis.usable()
    for kind, folder in FOLDERS.items():
        for name, entry in entries.items():
            path = root / folder / f"{name}.zarr"
            if path.exists() or path.is_symlink():
                stored = _open(entry.name, kind, path, found, failed, entry.remarks)
                entry.stored[kind] = stored
                if fingerprint := stored.described.get("fingerprint"):
                    found.setdefault(fingerprint, stored)
    for file in _results(root):
        if file.parent.name in entries:
            entry = entries[file.parent.name]
            result = attempt(partial(_result, file), str(file), failed, entry.remarks)
            if result is not None:
                entry.results[file.stem] = with_times(result, file.parent / "times.csv", entry.remarks)
                entry.remarks.extend(_out_of_step(file, result, root, quantities))
                _adopt(entry, file, result, found)
    return sorted(entries.values(), key=_place)


def _adopt(entry: Entry, file: Path, result: xr.Dataset, found: Mapping[str, Stored]) -> None:
    """Give results that lie in a study alone the store of another project that they were computed of."""
    made_of = json.loads(result.attrs["config"]).get("store")
    fingerprint = made_of.get("fingerprint") if isinstance(made_of, dict) else None
    stored = found.get(fingerprint) if isinstance(fingerprint, str) else None
    if not entry.stored and stored is not None and stored.path.name == f"{file.parent.name}.zarr":
        entry.stored[stored.kind] = stored


def _place(entry: Entry) -> int:
    """Put runs first, then forks, sweeps and readouts, whether stores of them are at hand or results only."""
    kinds = {*entry.stored, *(result.attrs.get("of") for result in entry.results.values())}
    return min((place for place, kind in enumerate(FOLDERS) if kind in kinds), default=0)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ddim50 before ddim100."""
    digits = "".join(c if c.isdecimal() else f" {c} " for c in name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in digits]


def _open(name: str, kind: str, path: Path, found: Mapping[str, Stored], failed: Failed, remarks: list[str]) -> Stored:
    """Open a store as far as that goes, and say what is wrong with it."""
    described: dict[str, Any] = {}
    ds = None
    try:
        described = stores.describe(path)
        if described["kind"] != kind:
            raise stores.NotAStore(f"{path} is a store of kind {described['kind']}; expected one of kind {kind} here")
        ds = stores.open(path)
    except (stores.NotAStore, stores.IncompleteStore) as error:
        remarks.append(f"no pictures: {error}")
    except Exception as error:
        failed(str(path), error)
        remarks.append(f"no pictures: {sentence(error)}")
    parent = described.get("config", {}).get("parent")
    fingerprint = parent.get("fingerprint") if isinstance(parent, dict) else None
    of = found.get(fingerprint) if isinstance(fingerprint, str) else None
    return Stored(name, kind, path, described, ds, of)


def _result(file: Path) -> xr.Dataset:
    """Open a result; what it holds of every sample stays on disk until it is asked for.

    Raises NotAStore where it is none, besides what `stores.open` raises.
    """
    result = stores.open(file)
    if result.attrs["kind"] != "result":
        raise stores.NotAStore(f"{file} is a store of kind {result.attrs['kind']}; expected a result of `traj analyze`")
    small = [name for name, variable in result.items() if "sample" not in variable.dims]
    return result.assign(result[small].compute())


def _out_of_step(file: Path, result: xr.Dataset, root: Path, quantities: Mapping[str, Quantity]) -> list[str]:
    """Say where a result was computed from something else than its store is now."""
    config: dict[str, Any] = json.loads(result.attrs["config"])
    quantity, made_of = config.get("quantity"), config.get("store")
    if not isinstance(made_of, dict) or not isinstance(quantity, str) or quantity not in quantities:
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


def _baseline(stored: Stored, decoded: Sequence[Stored]) -> Path | str:
    """Name the run that forks are compared with: decoded, where they are."""
    run = stored.of
    if stored.kind == "decoded" and run is not None:
        latents = run.of
        run = next((one for one in decoded if one.of is not None and one.of is latents), None)
    return "RUN" if run is None else run.path


def _missing(entry: Entry, decoded: Sequence[Stored]) -> list[str]:
    """Say of a name of which nothing was computed what could be, and how; what needs data beside it is left out.

    Latents are to be decoded first, if they are not among those that are.
    """
    if entry.results or any(stored.ds is None for stored in entry.stored.values()):
        return []
    commands: dict[str, list[str]] = {}
    for stored in entry.stored.values():
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
    undecoded = [
        stored for stored in entry.stored.values() if stored.latent and all(stored is not one.of for one in decoded)
    ]
    return [
        *(f"no images: run `{how_to_decode(stored.path)}`" for stored in undecoded),
        *(
            f"no {', no '.join(missing)}: run `traj analyze {','.join(missing)} {rest}`"
            for rest, missing in commands.items()
        ),
    ]
