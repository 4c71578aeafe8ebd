"""Find the stores and the results of a report, by their names, and which was made from which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import xarray as xr

from traj.pipeline.computing import project
from traj.pipeline.computing.measured import with_times
from traj.pipeline.computing.project import FOLDERS, Stored
from traj.pipeline.report.failures import Failed, attempt, printable, sentence, warn
from traj.stores import KINDS, RESULTS, IncompleteStore, MissingFile, NotAStore


@dataclass(frozen=True)
class Entry:
    """All that is at hand under one name: stores by kind, results by quantity, and what is missing or wrong."""

    name: str
    stored: dict[str, Stored] = field(default_factory=dict)
    results: dict[str, xr.Dataset] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def run(self) -> Stored | None:
        """The run at the beginning of it, as far as that is at hand."""
        return next((stored.origin for stored in self.stored.values()), None)

    @property
    def origin(self) -> str:
        """The name of the run at the beginning of it."""
        return self.name if self.run is None else self.run.name


def collect(root: Path, beside: Path | None = None, failed: Failed = warn) -> list[Entry]:
    """Open what a project has under data/ and results/: runs before what was made of them, then by their names.

    Numbers in names are read as numbers. Runs of the project in the folder beside follow those here, if their names are
    not taken; where results here are of such a run, those there are added to them. What is damaged is left out,
    said in the entry's remarks, and told to `failed`.

    Raises MissingFile where there is no result.
    """
    if not project.result_files(root):
        raise MissingFile(
            f"there is no result under {root / RESULTS}; run `traj analyze entropy,ssim,psnr` first, or `dvc repro`"
        )
    found: dict[str, Stored] = {}
    others = [] if beside is None else _entries(beside, project.store_names(beside, "trajectories"), found, failed)
    entries = _entries(root, project.all_names(root), found, failed)
    decoded = [entry.stored["decoded"] for entry in entries if "decoded" in entry.stored]
    for entry in entries:
        some = list(entry.stored.values())
        if not entry.results and all(stored.ds is not None for stored in some):
            entry.remarks.extend(project.to_be_computed(some, decoded))
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
        gathered += _entries(study, project.all_names(study), found, failed, prefix=f"{study.name}/")
    return gathered


def _entries(root: Path, names: set[str], found: dict[str, Stored], failed: Failed, prefix: str = "") -> list[Entry]:
    """Open everything of these names in one project; found, by fingerprint, has what may be a parent, and grows.

    A store that was made of another run than the one of its name has an entry apart, as what it tells is of that run.
    """
    entries = {name: Entry(printable(f"{prefix}{name}")) for name in sorted(names, key=project.natural)}
    apart: dict[tuple[str, str], Entry] = {}
    for kind, folder in FOLDERS.items():
        for name, here in entries.items():
            entry, path = here, root / folder / f"{name}.zarr"
            if path.exists() or path.is_symlink():
                stored = project.open_store(entry.name, kind, path, found)
                if stored.of is not None and entry.run is not None and not stored.origin.same_as(entry.run):
                    named = Entry(f"{entry.name} ({KINDS[kind].contents})")
                    entry = apart.setdefault((name, stored.origin.name), named)
                    stored = replace(stored, name=entry.name)
                entry.stored[kind] = stored
                if fingerprint := stored.described.get("fingerprint"):
                    found.setdefault(fingerprint, stored)
                if stored.fault is not None:
                    entry.remarks.append(f"no pictures: {sentence(stored.fault)}")
                    if not isinstance(stored.fault, NotAStore | IncompleteStore):
                        failed(str(path), stored.fault)
    for file in project.result_files(root):
        if file.parent.name in entries:
            entry = entries[file.parent.name]
            result = attempt(partial(project.open_result, file), str(file), failed, entry.remarks)
            if result is not None:
                of = project.computed_of(result, found)
                entry = next(
                    (one for one in apart.values() if any(of is stored for stored in one.stored.values())), entry
                )
                entry.results[file.stem] = with_times(result, file.parent / "times.csv", entry.remarks)
                entry.remarks.extend(project.out_of_step(file, result, root))
                if not entry.stored and of is not None and of.path.name == f"{file.parent.name}.zarr":
                    entry.stored[of.kind] = of  # results in a study, of a store of another project
    return sorted([*entries.values(), *apart.values()], key=_place)


def _place(entry: Entry) -> int:
    """Put runs first, then forks, sweeps and readouts, whether stores of them are at hand or results only."""
    kinds = {*entry.stored, *(result.attrs.get("of") for result in entry.results.values())}
    return min((place for place, kind in enumerate(FOLDERS) if kind in kinds), default=0)
